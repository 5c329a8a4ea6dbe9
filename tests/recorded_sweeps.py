"""Sweeps as run.py records them, whose children are runs with events from the real writer and no stage behind them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launchers.config import Goal, Tracking
from launchers.records import Status
from launchers.sweeps.measured import measure
from launchers.sweeps.parent import Parent
from launchers.sweeps.record import Child, State, SweepFolder, SweepRecord
from tests.recorded_runs import CONFIG, FakeRun, new_run

RATES, BATCHES = ("0.0003", "0.001", "0.003"), ("16", "32")
SWEEP_ID = "5eed0123abcd"
STATUSES = {State.finished: Status.FINISHED, State.failed: Status.FAILED, State.pruned: Status.KILLED}


@dataclass
class FakeSweep:
    """A sweep over learning rate and batch size."""

    outputs: Path
    folder: SweepFolder
    record: SweepRecord
    tracking: Tracking
    runs: dict[int, FakeRun] = field(default_factory=dict)

    def parent(self) -> Parent:
        return Parent(self.tracking, self.outputs, self.folder)

    def child(self, number: int, accuracy: float | None = None, *, state: State = State.finished) -> None:
        """Run a child with three epochs, the second of which has the accuracy."""
        child = self.record.children[number]
        run_id = f"2026-11-23_10-00-00_{number:04d}"
        config = {**CONFIG, "model": {**CONFIG["model"], "name": "cnn3d"}, "tracking": {"enabled": True}}
        tags = {"videolift.sweep": self.record.id}
        run = new_run(self.outputs, child.label, run_id, config=config, parent=self.record.mlflow_run, tags=tags)
        self.runs[number] = run
        tracker = run.tracker(**vars(self.tracking))
        child.started = time.time()
        tracker.start(run.record)
        tracker.stage(run.stage)
        if accuracy is not None:
            for epoch, share in enumerate((0.7, 1.0, 0.9), start=1):
                found = {"loss": 2 / epoch, "val_loss": 3 / epoch, "val_accuracy": accuracy * share}
                run.metrics(found, step=epoch)
            run.metrics({"chosen_epoch": 2, "test_accuracy": accuracy - 0.05})
        run.tell(tracker)
        run.finish(tracker, STATUSES[state])
        measured = measure(run.record, self.record.metric)
        child.value, child.epoch, child.metrics = measured.value, measured.epoch, measured.metrics
        child.state, child.run, child.mlflow_run, child.host = state, run_id, run.record.mlflow_run, "laptop"
        child.error = "TrainingError: the loss became nan in epoch 3" if state is State.failed else ""
        child.ended = child.started + 60 + 10 * number

    def end(self, status: Status = Status.FINISHED) -> None:
        self.record.status, self.record.ended = status, time.time()


def new_sweep(outputs: Path, children: int = 6, **fields: Any) -> FakeSweep:
    tracking = Tracking(**fields.pop("tracking", {}))
    combined = [(rate, batch) for rate in RATES for batch in BATCHES][:children]
    made = []
    for number, (rate, batch) in enumerate(combined):
        overrides = [f"model.learning_rate={rate}", f"model.batch={batch}"]
        chosen = {"model.learning_rate": rate, "model.batch": batch}
        made.append(Child(number, " ".join(overrides), chosen, f"identity-{number}", ["data=demo", *overrides]))
    command = ["data=demo", f"model.learning_rate={','.join(RATES)}", f"model.batch={','.join(BATCHES)}"]
    given: dict[str, Any] = {"name": "rates and batches, 视频", "command": command, "experiment": tracking.experiment}
    given |= {"metric": "val_accuracy", "goal": Goal.maximize, "sampler": "grid"}
    record = SweepRecord(SWEEP_ID, children=made, **{**given, **fields})
    folder = SweepFolder(outputs / "sweeps" / record.id)
    folder.save(record)
    return FakeSweep(outputs, folder, record, tracking)
