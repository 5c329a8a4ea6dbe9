"""Sweeps whose children are jobs on the emulator."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from launchers.backend_registry import find_backend
from launchers.base import Pruned
from launchers.compose import compose
from launchers.emulator.client import Emulator
from launchers.outputs import Outputs
from launchers.preparing import Preparing, make_ready
from launchers.running import Run
from launchers.sweeps.record import State
from tests import runs
from tests.emulators import Account
from tests.sweeps.sweeps import TRAIN, in_mlflow, records, states, wait_until
from videolift.events import Event

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def account(emulator: Emulator) -> Account:
    return Account(emulator)


def new_jobs(account: Account, before: set[str], stage: str) -> list[str]:
    return sorted(job.name for job in jobs_of(account, stage) if job.name not in before)


def jobs_of(account: Account, stage: str) -> list[Path]:
    return [job for job in (account.emulator.root / "jobs").glob(f"videolift-{stage}-*") if job.is_dir()]


def at_the_gate(account: Account, names: list[str]) -> bool:
    """Tell whether all jobs are training: then they wait for the gate to be opened."""
    return all(account.describe("Training", name)["SecondaryStatus"] == "Training" for name in names)


def test_four_children_at_once_are_left_and_found_again(account: Account, quick: list[str], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    held = [f"model.builder={HERE / 'held.py'}:build", f"+model.args.file={gate}", "+model.args.batches=1"]
    settings = [s for s in quick if s != "tracking=none"]
    swept = ["-m", *settings, TRAIN, *held, "model.epoch=1", "model.learning_rate=1e-2,3e-3,1e-3,3e-4"]
    swept += ["sweep.parallel=4", "backend.on_interrupt=detach", "tracking.log_model=false"]
    before = {job.name for stage in ("preprocess", "train") for job in jobs_of(account, stage)}
    process = runs.start(*swept, cwd=tmp_path)
    wait_until(process, tmp_path, lambda record: record.count(State.running) == 4)
    while len(names := new_jobs(account, before, "train")) < 4 or not at_the_gate(account, names):
        assert process.poll() is None, runs.wait(process).text
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    ended = runs.wait(process)
    assert ended.code == 130
    (left,) = records(tmp_path)
    assert states(left) == ["detached"] * 4
    assert left.status.value == in_mlflow(tmp_path)[0].info.status == "RUNNING"
    again = runs.start(*swept, cwd=tmp_path)
    wait_until(again, tmp_path, lambda record: record.count(State.running) == 4)
    gate.touch()
    assert runs.wait(again).code == 0
    (record,) = records(tmp_path)
    assert states(record) == ["finished"] * 4
    assert [child.run for child in record.children] == [child.run for child in left.children]
    assert {child.host for child in record.children} == {"1 x ml.m5.xlarge"}
    assert new_jobs(account, before, "train") == names
    assert len(new_jobs(account, before, "preprocess")) == 1
    parent, children = in_mlflow(tmp_path)
    assert [parent.info.status, len(children)] == ["FINISHED", 4]


def test_a_child_that_promises_too_little_is_stopped_where_it_runs(
    account: Account, quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_FOLDER", tmp_path.name)
    config = compose([*quick, TRAIN, "model.epoch=1000", f"outputs={tmp_path}", "backend.on_interrupt=detach"])
    outputs, before = Outputs(tmp_path), {job.name for job in jobs_of(account, "train")}

    def watch(event: Event) -> None:
        if event["type"] == "metric" and event["key"] == "val_accuracy":
            raise Pruned("it promises too little")

    from rich.console import Console

    with (tmp_path / "said.txt").open("w") as said:
        console = Console(file=said)
        (prepared,) = make_ready([Preparing(outputs, console, find_backend).prepare(config)], outputs, console)
        run = Run(console, outputs, prepared, watch=watch)
        with pytest.raises(Pruned):
            run.execute()
    assert run.record is not None
    assert (run.record.status.value, run.record.error) == ("KILLED", "it promises too little")
    (job,) = new_jobs(account, before, "train")
    account.ended("Training", job)
    assert account.describe("Training", job)["TrainingJobStatus"] == "Stopped"


def test_the_most_that_a_sweep_can_cost_is_shown_and_held_to_a_limit(quick: list[str], tmp_path: Path) -> None:
    limits = ["backend.preprocess.max_run_s=1800", "backend.train.max_run_s=3600", "backend.price_per_hour=1"]
    priced = ["-m", *quick, *limits, "seed=1,2,3"]
    shown = runs.run(*priced, "action=plan", cwd=tmp_path).out
    assert "3 x training" in shown and "at most 3.50 USD" in shown
    refused = runs.run(*priced, "backend.max_cost=3", cwd=tmp_path, code=2)
    assert "backend.max_cost: the jobs can cost 3.50 USD" in refused.err
    assert not (tmp_path / "outputs" / "runs").exists()
