"""Runs as run.py makes them, with events from the real writer and no stage behind them."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launchers.config import Tracking
from launchers.records import RunFolder, RunRecord, StageRecord, Status
from launchers.tracking import MlflowTracker
from videolift.events import Events, read

CONFIG = {
    "backend": {"name": "local", "preprocess": {"instance_count": 1}},
    "model": {"name": "cnn3d", "epoch": 3, "learning_rate": None, "dropout": True, "args": {}},
    "stages": ["preprocess", "train"],
}
DATA = {
    "source": "folder",
    "root": "/videos/camera motions",
    "digest": "0123456789abcdef" * 4,
    "clips": 96,
    "classes": ["pan", "tilt", "zoom"],
    "splits": {"train": 64, "val": 8, "test": 24},
}


@dataclass
class FakeRun:
    """A run with one train stage, told event by event."""

    outputs: Path
    folder: RunFolder
    record: RunRecord
    stage: StageRecord
    events: Events
    output: Path  # the job's output folder

    def tracker(self, **tracking: Any) -> MlflowTracker:
        return MlflowTracker(Tracking(**tracking), self.outputs, self.folder)

    def epochs(self, *numbers: int) -> None:
        for epoch in numbers:
            losses = {"loss": 1 / epoch, "val_loss": 1.2 / epoch, "system/train/cpu_utilization_percentage": 90.0 + epoch}
            self.events.metrics(losses, step=epoch)

    def picture(self, content: bytes, name: str = "contact_sheet.png") -> None:
        (self.output / name).write_bytes(content)
        self.events.artifact(name, "pictures")

    def tell(self, tracker: MlflowTracker) -> None:
        """Tell everything that was said so far, as a launcher does after a stage."""
        for event in read(self.output / "events-algo-1.jsonl"):
            tracker.event(self.stage, event, self.output)

    def finish(self, tracker: MlflowTracker, status: Status = Status.FINISHED) -> None:
        self.end(status)
        tracker.finish(self.record)

    def end(self, status: Status = Status.FINISHED) -> None:
        self.stage.status = self.record.status = status
        self.stage.ended = self.record.ended = time.time()
        self.folder.save(self.record)


def new_run(outputs: Path, name: str = "cnn3d", run_id: str = "2026-11-23_10-00-00_ab12", **fields: Any) -> FakeRun:
    stage_folder = outputs / "cache" / f"train-{run_id}"
    output = stage_folder / "hosts" / "algo-1" / "output" / "data"
    stage = StageRecord("train", f"train-{run_id}", str(stage_folder), started=time.time())
    record = RunRecord(run_id, name, "fingerprint", fields.pop("config", CONFIG), data=DATA, stages=[stage], **fields)
    folder = RunFolder(outputs / "runs" / run_id)
    folder.save(record)
    return FakeRun(outputs, folder, record, stage, Events(output / "events-algo-1.jsonl", "algo-1", io.StringIO()), output)
