"""Runs as run.py makes them, with events from the real writer and no stage behind them."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
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
    output: Path  # the job's output folder

    @property
    def events_file(self) -> Path:
        return self.output / "events-algo-1.jsonl"

    @contextmanager
    def events(self) -> Iterator[Events]:
        with closing(Events(self.events_file, "algo-1", io.StringIO())) as events:
            yield events

    def tracker(self, **tracking: Any) -> MlflowTracker:
        return MlflowTracker(Tracking(**tracking), self.outputs, self.folder)

    def epochs(self, *numbers: int) -> None:
        for epoch in numbers:
            losses = {
                "loss": 1 / epoch,
                "val_loss": 1.2 / epoch,
                "system/train/cpu_utilization_percentage": 90.0 + epoch,
            }
            self.metrics(losses, step=epoch)

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        with self.events() as events:
            events.metrics(values, step)

    def tag(self, key: str, value: str) -> None:
        with self.events() as events:
            events.tag(key, value)

    def announce(self, path: str, folder: str) -> None:
        with self.events() as events:
            events.artifact(path, folder)

    def picture(self, content: bytes, name: str = "contact_sheet.png") -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / name).write_bytes(content)
        self.announce(name, "pictures")

    def tell(self, tracker: MlflowTracker) -> None:
        """Tell everything that was said so far, as a launcher does after a stage."""
        for event in read(self.events_file):
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
    return FakeRun(outputs, folder, record, stage, output)
