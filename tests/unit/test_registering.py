"""A model can be registered where there is one, and nowhere else silently."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from launchers import actions, experiment
from launchers.config import Action, Config, Tracking, problems
from launchers.outputs import Outputs
from launchers.records import RunFolder, RunRecord, StageRecord, Status
from launchers.report import print_registered
from videolift.errors import ConfigError
from videolift.plan import to_plain
from videolift.settings import Predict

REGISTER = Tracking(register="motions")


@pytest.mark.parametrize("stages", [["preprocess"], ["predict"], ["evaluate"]])
def test_a_run_that_trains_nothing_registers_nothing(stages: list[str]) -> None:
    asked = Config(stages=stages, tracking=REGISTER)
    if stages == ["predict"]:
        asked.run, asked.predict = "x", Predict(input="clips")
    assert [line.partition(",")[0] for line in problems(asked)] == [
        "tracking.register: is for what the stage train makes"
    ]


def test_the_model_of_a_finished_run_may_be_registered_with_further_stages() -> None:
    assert problems(Config(run="x", stages=["evaluate"], tracking=REGISTER)) == []
    assert problems(Config(run="x", action=Action.sync, tracking=REGISTER)) == []
    assert problems(Config(stages=["train"], tracking=REGISTER)) == []


@pytest.mark.parametrize("stages", [["preprocess"], ["predict"], ["script"]])
@pytest.mark.parametrize("action", [Action.sync, Action.resume])
def test_an_earlier_run_without_a_model_registers_nothing(tmp_path: Path, stages: list[str], action: Action) -> None:
    done = [StageRecord(name, f"{name}-0", str(tmp_path / name), status=Status.FINISHED) for name in stages]
    record = RunRecord("run-1", "x", "", to_plain(Config(stages=stages)), stages=done, status=Status.FINISHED)
    RunFolder(tmp_path / "runs" / record.id).save(record)
    asked = Config(action=action, run=record.id, outputs=str(tmp_path), tracking=REGISTER)
    with pytest.raises(ConfigError, match=r"tracking\.register: run-1 .*leave it out"):
        experiment.run(asked)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_training_that_is_not_finished_registers_nothing(tmp_path: Path) -> None:
    record = RunRecord("run-1", "x", "", {}, stages=[StageRecord("train", "train-0", "", status=Status.FAILED)])
    RunFolder(tmp_path / "runs" / record.id).save(record)
    with pytest.raises(ConfigError, match="run-1 has no finished training"):
        actions.sync(Console(), Outputs(tmp_path), Config(run=record.id, tracking=REGISTER))


def test_the_version_is_told_where_there_is_one() -> None:
    out = io.StringIO()
    record = RunRecord("run-1", "x", "", {}, registered="motions version 3", synced=True)
    print_registered(Console(file=out), record, REGISTER)
    print_registered(Console(file=out), record, Tracking())
    assert out.getvalue() == "registered motions version 3\n"
