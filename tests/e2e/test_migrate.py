"""Every command of docs/migrate.md that says so, in its order and in one folder: the guide is what happens.

What is appended is small budgets: two epochs, no MLflow, a look at the job every 0.3 seconds.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import remote_side, runs

GUIDE = runs.REPOSITORY / "docs" / "migrate.md"
COMMANDS = re.findall(r"^<!-- run in CI -->\n {4}(python .+)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
EMULATOR = "python -m launchers.emulator -- "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Path:
    """Where all commands are typed: it has the videos, and the project where the guide has it."""
    root = tmp_path_factory.mktemp("guide")
    shutil.copytree(videos, root / "videos")
    shutil.copytree(GUIDE.parent / "migrate", root / "docs" / "migrate")
    return root


def test_the_guide_goes_from_here_to_sagemaker() -> None:
    assert len(COMMANDS) == 4 and sum(command.startswith(EMULATOR) for command in COMMANDS) == 1


@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_a_command_of_the_guide(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote_side.forget_aws(monkeypatch)
    words = shlex.split(command.removeprefix(EMULATOR))[2:]
    words = [word.replace("--epoch 20", "--epoch 2") for word in words]
    before = len(runs.records(folder))
    if command.startswith(EMULATOR):
        monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")  # hosts are processes
        whole = [sys.executable, "-m", "launchers.emulator", "--", sys.executable, str(runs.RUN)]
        paths = {"PYTHONPATH": os.pathsep.join([str(runs.REPOSITORY), str(runs.REPOSITORY / "src")])}
        done = subprocess.run(
            [*whole, *words, "tracking=none", "backend.poll_s=0.3", "outputs=there"],
            cwd=folder, env={**os.environ, **paths}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "script: Completed" in done.stdout
        assert [*folder.glob("there/cache/script-*/hosts/algo-1/model/3dcnn.keras")] != []
        return
    ended = runs.run(*words, "tracking=none", cwd=folder)
    if "action=plan" in words:
        assert "to compute: 2 script" in ended.out and len(runs.records(folder)) == before
        return
    record = runs.records(folder)[-1]
    assert record["status"] == "FINISHED" and len(runs.records(folder)) == before + 1
    if "script.stage=preprocess" in words:
        made = Path(runs.stage(record, "preprocess-script")["folder"]) / "arrays"
        assert len([*made.rglob("*.npz")]) == len([*(folder / "videos").rglob("*_c*")])
        assert str(made.relative_to(folder)) in ended.out
    else:
        model = Path(runs.stage(record, "script")["folder"]) / "hosts" / "algo-1" / "model"
        assert {file.name for file in model.iterdir()} == {"3dcnn.keras", "history.json", "dataset_10_32_0.npz"}
        assert {("val_accuracy", 1), ("val_accuracy", 2)} <= runs.metrics(record, "script").keys()
        assert re.search(r"^metrics +accuracy .*\(step 2\) *$", ended.out, re.MULTILINE)
