"""Every command of docs/migrate.md that says so, in its order and in one folder: the guide is what happens.

What is appended is small budgets: two epochs, no MLflow. On containers and on the emulator the contract tests run other
scripts in the same way.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests import runs

GUIDE = runs.REPOSITORY / "docs" / "migrate.md"
COMMANDS = re.findall(r"^<!-- run in CI -->\n {4}(python .+)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Path:
    """Where all commands are typed: it has the videos, and the project where the guide has it."""
    root = tmp_path_factory.mktemp("guide")
    shutil.copytree(videos, root / "videos")
    shutil.copytree(GUIDE.parent / "migrate", root / "docs" / "migrate")
    return root


def test_the_guide_has_commands_that_are_run() -> None:
    assert len(COMMANDS) == 3


@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_a_command_of_the_guide(command: str, folder: Path) -> None:
    words = [word.replace("--epoch 20", "--epoch 2") for word in shlex.split(command)[2:]]
    before = len(runs.records(folder))
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
