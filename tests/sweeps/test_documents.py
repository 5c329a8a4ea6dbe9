"""Every command of the README's section on sweeps, in its order and in one folder.

They are parsed from the README, so that neither can drift. What is appended is small budgets: 24 videos instead of the
demo's 288, 16 by 16 pixels, one epoch, the stages preprocess and train, no MLflow, three trials. The jobs of
``backend=remote`` run on the emulator.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from launchers.emulator.client import Emulator
from tests import runs
from tests.sweeps.sweeps import TRAIN, records, states

TRIALS = 3


def commands() -> list[str]:
    text = (runs.REPOSITORY / "README.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"^### Sweeps\n(.*?)^### ", text, re.DOTALL | re.MULTILINE)
    return [re.split(r"\s+# ", line)[0] for line in re.findall(r"^    (python run.py .+)$", section, re.MULTILINE)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all commands are typed."""
    return tmp_path_factory.mktemp("readme")


def test_the_readme_shows_grids_samplers_and_a_plan() -> None:
    assert {"-m", "sweep=optuna", "action=plan", "backend=remote"} <= {w for c in commands() for w in c.split()}


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme(
    command: str, folder: Path, videos: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(command)[2:]
    small = ["data=folder", f"data.root={videos}", "data.val_share=0.3", "preprocess.height=16", "preprocess.width=16"]
    small += ["preprocess.depth=4", "model.epoch=1", TRAIN, "tracking=none"]
    small += [] if any(word.startswith("model=") for word in words) else ["model=cnn2d"]
    small += [f"sweep.trials={TRIALS}", "sweep.parallel=2"] if "sweep=optuna" in words else []
    small += ["backend.poll_s=0.3"] if "backend=remote" in words else []
    before = len(records(folder))
    ended = runs.run(*words, *small, cwd=folder)
    if "action=plan" in words:
        assert "computed once for" in ended.out
        assert len(records(folder)) == before
        return
    assert len(records(folder)) == before + 1
    record = records(folder)[-1]
    assert set(states(record)) == {"finished"}
    swept = [word.partition("=")[2].split(",") for word in words if "," in word and "sweep=optuna" not in words]
    number = TRIALS
    if "sweep=optuna" not in words:
        number = 1
        for values in swept:
            number *= len(values)
    assert len(record.children) == number
