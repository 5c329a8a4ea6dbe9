"""Every command of the README's section on SageMaker, in its order and in one folder, against the emulator.

They are parsed from the README, so that neither can drift. What is appended to them is small budgets: 24 videos instead
of the demo's 288 where the command names no data, 16 by 16 pixels, one epoch, no MLflow, a look at the job every 0.3
seconds; and another number of frames for each command, so that none finds its work done by the one before. The run id
of ``action=resume`` is that of the run before it.

``action=push`` is exempt: it needs Docker and a registry, and tests/docker/test_push.py runs it against both.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launchers.emulator import Emulator
from tests import runs
from tests.emulators import Account
from tests.guarded import Guard

EXEMPT = "python run.py backend=remote action=push"
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
    assert [command for command in RUN if not command.startswith(("make remote-demo", "python run.py "))] == []
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
    if command.startswith("make "):
        _make(command, [*small, f"outputs={folder / 'demo'}"], monkeypatch)
        return
    words = shlex.split(command)[2:]
    if "action=plan" in words:
        _plan([*words, *small], folder, monkeypatch)
        return
    if "action=resume" in words:
        words, small = [re.sub("^run=.*", f"run={known[-1]['id']}", word) for word in words], []
    ended = runs.run(*words, *small, cwd=folder)
    record = runs.records(folder)[-1]
    created = [job for job in _jobs(account) if job not in before]
    if "backend.wait=false" in words:
        assert record["status"] == "RUNNING"
        assert f"come back with: python run.py action=resume run={record['id']}" in ended.out
        assert len(created) == 1
        return
    assert record["status"] == "FINISHED"
    assert [stage["name"] for stage in record["stages"]] == ALL_STAGES
    assert not any(stage["cached"] for stage in record["stages"])
    if "action=resume" in words:
        assert record["id"] == known[-1]["id"]
        assert len(created) == 1  # the job that was there was found
        return
    _check_jobs(words, ended.out, [_described(account, name) for name in created])


def _small(command: str, videos: Path) -> list[str]:
    data = [] if " data=" in command else ["data=folder", f"data.root={videos}", "data.val_share=0.3"]
    pixels = [f"preprocess.depth={4 + RUN.index(command)}", "preprocess.height=16", "preprocess.width=16"]
    return [*data, *pixels, "model.epoch=1", "model.batch=8", "backend.poll_s=0.3", "tracking=none"]


def _jobs(account: Account) -> list[str]:
    """Return the names of all jobs, the oldest first."""
    folders = (account.emulator.root / "jobs").glob("*")
    return sorted((job.name for job in folders if job.is_dir()), key=lambda name: name.split("-")[-2])


def _described(account: Account, name: str) -> dict[str, Any]:
    return account.describe("Processing" if "-preprocess-" in name else "Training", name)


def _check_jobs(words: list[str], out: str, jobs: list[dict[str, Any]]) -> None:
    """Check that the jobs were what the command asked for."""
    (training,) = (job for job in jobs if "TrainingJobName" in job)
    processing = [job for job in jobs if "ProcessingJobName" in job]
    asked = dict(word.split("=", 1) for word in words)
    assert len(processing) == (asked.get("backend.preprocess.where") != "local")
    resources = training["ResourceConfig"]
    assert resources["InstanceType"] == asked.get("backend.train.instance_type", "ml.m5.xlarge")
    assert training.get("EnableManagedSpotTraining", False) == ("backend.train.spot" in asked)
    for job in processing:
        cluster = job["ProcessingResources"]["ClusterConfig"]
        assert cluster["InstanceCount"] == int(asked.get("backend.preprocess.instance_count", 1))
        root = asked.get("data.root", "")
        sources = [given["S3Input"]["S3Uri"] for given in job["ProcessingInputs"]]
        # A bucket that holds other files, too, is read by a list of the videos; either way none is sent.
        assert ("uploading videos" in out) == (not root)
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


def _make(command: str, small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the line that the Makefile has for a target."""
    told = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", *command.split()[1:]],
        cwd=runs.REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (line,) = (line for line in told.splitlines() if "launchers.emulator" in line)
    words = [sys.executable if word.endswith("bin/python") else word for word in shlex.split(line)]
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")  # hosts are processes
    done = subprocess.run([*words, *small], cwd=runs.REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hosts: namespaces" in done.stdout
    assert "test accuracy" in done.stdout
