"""Jobs that a launcher lost sight of: none is paid for without anybody knowing, and none is started twice."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from launchers.cache import HANDLE
from launchers.emulator.client import Emulator
from tests import runs
from tests.emulators import ENDED, Account

PREPROCESS = "stages=[preprocess]"
# Seconds of work for one worker.
SLOW = (PREPROCESS, "preprocess.workers=1", "preprocess.height=1200", "preprocess.width=1600", "preprocess.depth=16")


@pytest.fixture(autouse=True)
def account(emulator: Emulator) -> Iterator[Account]:
    account = Account(emulator)
    yield account
    emulator.clear_faults()
    for folder in (f for f in (emulator.root / "jobs").glob("videolift-preprocess-*") if f.is_dir()):
        if account.describe("Processing", folder.name)["ProcessingJobStatus"] not in ENDED:
            account.sagemaker.stop_processing_job(ProcessingJobName=folder.name)
            account.ended("Processing", folder.name)


def created(emulator: Emulator) -> int:
    return sum(call["operation"] == "CreateProcessingJob" and call["status"] == 200 for call in emulator.calls())


def run_id(ended: runs.Ended) -> str:
    found = re.search(r"run=(\S+)", ended.out)
    assert found, ended.text
    return found[1]


def test_a_lost_answer_is_no_lost_job(tmp_path: Path, quick: list[str], emulator: Emulator) -> None:
    before = len(emulator.calls())
    emulator.fault("lose", operation="CreateProcessingJob", times=1)
    runs.run(*quick, PREPROCESS, cwd=tmp_path)
    assert runs.records(tmp_path)[0]["status"] == "FINISHED"
    asked = [call["operation"] for call in emulator.calls()[before:] if call["status"] == 200]  # and done
    created = asked.index("CreateProcessingJob")
    assert asked[created + 1] == "DescribeProcessingJob", "it is looked for"
    assert asked.count("CreateProcessingJob") == 1, "and found"


def test_a_refused_job_leaves_nothing_to_attach_to(tmp_path: Path, quick: list[str], emulator: Emulator) -> None:
    emulator.fault("error", operation="CreateProcessingJob", status=400, code="ResourceLimitExceeded", message="0 left")
    refused = runs.run(*quick, PREPROCESS, cwd=tmp_path, code=1)
    assert "sagemaker:CreateProcessingJob: 0 left (ResourceLimitExceeded)" in refused.err
    assert not list((tmp_path / "outputs" / "cache").glob(f"*/{HANDLE}"))


def test_a_job_for_what_was_changed_since_is_not_forgotten(
    tmp_path: Path, quick: list[str], videos: Path, emulator: Emulator
) -> None:
    root = tmp_path / "videos"
    shutil.copytree(videos, root)
    settings = [*quick, *SLOW, f"data.root={root}"]
    left = run_id(runs.run(*settings, "backend.wait=false", cwd=tmp_path))
    before = created(emulator)
    clip = sorted((videos / "PanLeft").iterdir())[0]
    (root / "PanLeft" / clip.name).unlink()
    refused = runs.run("action=resume", f"run={left}", "tracking=none", cwd=tmp_path, code=2)
    assert re.search(
        r"is being computed by job (videolift-preprocess-\S+) \(aws sagemaker stop-processing-job", refused.err
    )
    assert created(emulator) == before
    # Where it was started, nowhere else.
    handle = next((tmp_path / "outputs" / "cache").glob(f"*/{HANDLE}"))
    found = json.loads(handle.read_text())
    handle.write_text(json.dumps({**found, "region": "eu-west-1"}))
    shutil.copyfile(clip, root / "PanLeft" / clip.name)
    elsewhere = runs.run("action=resume", f"run={left}", "tracking=none", cwd=tmp_path, code=2)
    assert "backend.region=eu-west-1 to follow it" in elsewhere.err
    assert created(emulator) == before
    handle.write_text(json.dumps(found))
    assert "is at it already" in runs.run("action=resume", f"run={left}", "tracking=none", cwd=tmp_path).out


def test_a_job_whose_time_was_over_says_so(tmp_path: Path, quick: list[str]) -> None:
    ended = runs.run(*quick, *SLOW, "backend.preprocess.max_run_s=2", cwd=tmp_path, code=5)
    assert "backend.preprocess.max_run_s was over" in ended.err
    assert "raise backend.preprocess.max_run_s" in ended.err
    assert runs.records(tmp_path)[0]["status"] == "FAILED"


def test_results_that_are_gone_are_computed_anew(tmp_path: Path, quick: list[str], account: Account) -> None:
    train = [*quick, "stages=[preprocess,train]"]
    runs.run(*quick, PREPROCESS, cwd=tmp_path)
    left = run_id(runs.run(*train, "backend.wait=false", cwd=tmp_path))
    job = json.loads(next((tmp_path / "outputs" / "cache").glob(f"train-*/{HANDLE}")).read_text())["job"]
    account.ended("Training", job)
    prefix = account.describe("Training", job)["OutputDataConfig"]["S3OutputPath"].split("/", 3)[3]
    bucket = account.describe("Training", job)["OutputDataConfig"]["S3OutputPath"].split("/")[2]
    account.s3.delete_object(Bucket=bucket, Key=f"{prefix}/{job}/output/model.tar.gz")
    gone = runs.run("action=resume", f"run={left}", "tracking=none", cwd=tmp_path, code=5)
    assert "its results are gone" in gone.err
    assert "train: done" in runs.run(*train, cwd=tmp_path).out


def test_a_plan_needs_no_bucket(tmp_path: Path, quick: list[str]) -> None:
    planned = runs.run(*quick, "action=plan", "backend.bucket=there-is-none", cwd=tmp_path)
    assert "CreateTrainingJob" in planned.out
    assert "at most" in planned.out
