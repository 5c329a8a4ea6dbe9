"""Every command of the README's section on SageMaker, in its order and in one folder, against the emulator.

They are parsed from the README, so that neither can drift. What is appended to them is small budgets: 24 videos instead
of the demo's 288 where the command names no data, 16 by 16 pixels, one epoch, no MLflow, a look at the job every 0.3
seconds; another number of frames for each command, so that none finds its work done by the one before; and the stages
preprocess and train alone, or preprocess where the command is about the videos, but all of them in the plain run. The
run id of ``action=resume`` is that of the run before it.

``action=push`` is exempt: it needs Docker and a registry, and tests/docker/test_push.py runs it against both.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launchers.config import Backend
from launchers.emulator.client import Emulator
from tests import runs
from tests.emulators import Account
from tests.guarded import Guard

EXEMPT = "python run.py backend=remote action=push"
DEMO, PLAIN = "make remote-demo", "python run.py backend=remote backend.role=videolift-job"
ALL_STAGES = ["preprocess", "train", "evaluate", "visualize"]
IN_S3 = re.compile(r"s3://([^/]+)/(\S+)")


def commands() -> list[str]:
    text = (runs.REPOSITORY / "README.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"^### On Amazon SageMaker\n(.*?)^### ", text, re.DOTALL | re.MULTILINE)
    lines = re.findall(r"^    (.+)$", section, re.MULTILINE)
    return [re.split(r"\s+# ", line)[0] for line in lines]


RUN = [command for command in commands() if command != EXEMPT]


def test_all_commands_but_one_are_run() -> None:
    assert len(commands()) == len(RUN) + 1
    assert {DEMO, PLAIN} <= set(RUN)
    assert [command for command in RUN if command != DEMO and not command.startswith("python run.py ")] == []
    assert (runs.REPOSITORY / "tests" / "docker" / "test_push.py").is_file()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all commands are typed."""
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def account(emulator: Emulator, videos: Path) -> Account:
    """An account in which the README's bucket has the videos and UCF-101's lists."""
    found = Account(emulator)
    (bucket, prefix) = IN_S3.findall("\n".join(RUN))[0]
    found.s3.create_bucket(Bucket=bucket)
    names = sorted(file.relative_to(videos).as_posix() for file in videos.rglob("v_*"))
    classes = sorted({name.partition("/")[0] for name in names})
    tested = [name for name in names if "_g04_" in name]
    lists = {
        "classInd.txt": [f"{number} {name}" for number, name in enumerate(classes, 1)],
        "trainlist01.txt": [f"{n} {classes.index(n.partition('/')[0]) + 1}" for n in names if n not in tested],
        "testlist01.txt": tested,
    }
    files = {name: (videos / name).read_bytes() for name in names}
    files |= {name: "\n".join(lines).encode() for name, lines in lists.items()}
    for name, content in files.items():
        found.s3.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=content)
    return found


@pytest.mark.parametrize("command", RUN)
def test_a_command_of_the_readme(
    command: str, account: Account, folder: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = _small(command, videos)
    before, known = _jobs(account), runs.records(folder)
    if command == DEMO:
        _make(command, [*small, f"outputs={folder / 'demo'}"])
        return
    words = shlex.split(command)[2:]
    if "action=plan" in words:
        _plan([*words, *small], folder, monkeypatch)
        return
    if "action=resume" in words:
        words, small = [re.sub("^run=.*", f"run={known[-1]['id']}", word) for word in words], []
    ended = runs.run(*words, *small, cwd=folder)
    record = runs.records(folder)[-1]
    created = _jobs(account) - before
    if "backend.wait=false" in words:
        assert record["status"] == "RUNNING"
        assert f"come back with: python run.py action=resume run={record['id']}" in ended.out
        assert len(created) == 1
        return
    assert record["status"] == "FINISHED"
    assert [stage["name"] for stage in record["stages"]] == _stages(command)
    assert not any(stage["cached"] for stage in record["stages"])
    if "action=resume" in words:
        assert record["id"] == known[-1]["id"]
        assert len(created) == 1  # the job that was there was found
        return
    _check_jobs(words, _stages(command), ended.out, [_described(account, name) for name in created])


def test_the_buckets_rules_in_docs_are_rules_of_s3(account: Account) -> None:
    text = (runs.REPOSITORY / "docs" / "remote.md").read_text(encoding="utf-8")
    (rules,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    account.s3.create_bucket(Bucket="rules")
    account.s3.put_bucket_lifecycle_configuration(Bucket="rules", LifecycleConfiguration=json.loads(rules))
    kept = account.s3.get_bucket_lifecycle_configuration(Bucket="rules")["Rules"]
    assert [rule.get("Expiration", rule.get("AbortIncompleteMultipartUpload")) for rule in kept] == [
        *({"DaysAfterInitiation": 7}, {"Days": 30}, {"Days": 30}),
    ]
    assert {rule["Filter"]["Prefix"].split("/")[0] for rule in kept} == {Backend.prefix}


def _small(command: str, videos: Path) -> list[str]:
    data = [] if " data=" in command else ["data=folder", f"data.root={videos}", "data.val_share=0.3"]
    pixels = [f"preprocess.depth={4 + RUN.index(command)}", "preprocess.height=16", "preprocess.width=16"]
    stages = f"stages=[{','.join(_stages(command))}]"
    return [*data, *pixels, stages, "model.epoch=1", "model.batch=8", "backend.poll_s=0.3", "tracking=none"]


def _stages(command: str) -> list[str]:
    """Return the stages that a command is run with."""
    if command == PLAIN:
        return ALL_STAGES
    return ALL_STAGES[: 1 if IN_S3.search(command) else 2]


def _jobs(account: Account) -> set[str]:
    """Return the names of all jobs."""
    return {job.name for job in (account.emulator.root / "jobs").glob("*")}


def _described(account: Account, name: str) -> dict[str, Any]:
    return account.describe("Processing" if "-preprocess-" in name else "Training", name)


def _check_jobs(words: list[str], stages: list[str], out: str, jobs: list[dict[str, Any]]) -> None:
    """Check that the jobs were what the command asked for."""
    training = [job for job in jobs if "TrainingJobName" in job]
    processing = [job for job in jobs if "ProcessingJobName" in job]
    asked = dict(word.split("=", 1) for word in words)
    assert len(processing) == (asked.get("backend.preprocess.where") != "local")
    assert len(training) == (len(stages) > 1)
    for job in training:
        assert job["ResourceConfig"]["InstanceType"] == asked.get("backend.train.instance_type", "ml.m5.xlarge")
        assert job.get("EnableManagedSpotTraining", False) == ("backend.train.spot" in asked)
    for job in processing:
        cluster = job["ProcessingResources"]["ClusterConfig"]
        assert cluster["InstanceCount"] == int(asked.get("backend.preprocess.instance_count", 1))
        root = asked.get("data.root", "")
        sources = [given["S3Input"]["S3Uri"] for given in job["ProcessingInputs"]]
        # Where other files lie there, too, the job gets a list of the videos; either way none is sent.
        assert not root or "uploading videos" not in out
        assert not root or any(source.startswith(root) or source.endswith("videos.manifest") for source in sources)


def _plan(words: list[str], cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a plan where there is neither an account nor a network."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(cwd))  # where no AWS configuration is
    guard = Guard(cwd / "refused.log", loopback=False)
    for name, value in guard.variables.items():
        monkeypatch.setenv(name, value)
    ended = runs.run(*words, cwd=cwd)
    assert guard.refused == []
    for shown in ("CreateProcessingJob", "CreateTrainingJob", ".amazonaws.com.cn/", "<unresolved>", "USD at most"):
        assert shown in ended.out


def _make(command: str, small: list[str]) -> None:
    """Run the line that the Makefile has for a target, with nothing of our environment."""
    told = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", *command.split()[1:]],
        cwd=runs.REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (line,) = (line for line in told.splitlines() if "launchers.emulator" in line)
    words = [sys.executable if word.endswith("bin/python") else word for word in shlex.split(line)]
    clean = {name: os.environ[name] for name in ("PATH", "HOME")}
    clean["DOCKER_HOST"] = "unix:///nowhere/docker.sock"  # hosts are processes
    done = subprocess.run([*words, *small], cwd=runs.REPOSITORY, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hosts: namespaces" in done.stdout
    assert re.search(r"^stages +preprocess, train\b", done.stdout, re.MULTILINE)
