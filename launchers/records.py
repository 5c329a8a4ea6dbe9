"""What is kept of a run in ``outputs/runs/<id>/run.json``: enough to record it again, anywhere, later."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from launchers.locking import take_lock
from launchers.redaction import redacted
from videolift.errors import ConfigError
from videolift.events import Event

DETACHED_TAG, DETACHED = "videolift.detached", "yes"  # the run goes on without its launcher
SWEEP_TAG, CHILD_TAG = (
    "videolift.sweep",
    "videolift.child",
)  # of a sweep's run: whose, which one
SYSTEM = "system/"  # before the metrics of a machine
MODEL_OF_TAG = "videolift.model_of"  # of a run that asks another one's model: that one's id


class Status(str, Enum):
    """MLflow's run statuses."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


@dataclass
class StageRecord:
    """One stage of a run."""

    name: str  # unique in the run
    id: str
    folder: str  # of the stage: absolute; its job roots, events and results lie below
    cached: bool = False
    origin: str | None = None  # run id that computed it, where cached
    status: Status = Status.RUNNING
    started: float = 0.0  # Unix seconds
    ended: float | None = None

    def as_told(self, event: Event) -> Event:
        """Return one of its events as the run tells it: those of a member of an ensemble go by the member's name."""
        if stage_of(self.name) == self.name:
            return event
        told = {**event, "stage": self.name}
        if event["type"] == "metric":
            told["key"] = self._key(event["key"])
        elif event["type"] == "tag":
            told["key"] = f"{self.name}.{event['key']}"
        elif event["type"] == "artifact":
            told["folder"] = f"{self.name}/{event.get('folder', '')}"
        return told

    def _key(self, key: str) -> str:
        """Return what the run calls a metric of a member: MLflow looks for those of a machine below system/."""
        machine = f"{SYSTEM}{stage_of(self.name)}/"
        if key.startswith(machine):
            return f"{SYSTEM}{self.name}/{key.removeprefix(machine)}"
        return f"{self.name}/{key}"


def stage_of(name: str) -> str:
    """Return what a run's stage is by its name: train-2, which trains the second member of an ensemble, is a train."""
    return re.sub(r"-\d+$", "", name)


@dataclass
class RunRecord:
    """One run."""

    id: str
    name: str
    fingerprint: str  # equal for runs of the same command on the same data and code
    config: dict[str, Any]  # resolved, nested, plain values
    created: float = field(default_factory=time.time)
    ended: float | None = None
    status: Status = Status.RUNNING
    error: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)  # source, root, digest, clips, classes, splits
    stages: list[StageRecord] = field(default_factory=list)
    parent: str | None = None  # MLflow run id of a sweep's parent
    mlflow_run: str | None = None  # MLflow run id, once there is one
    mlflow_uri: str | None = None  # tracking URI that mlflow_run belongs to
    registered: str | None = None  # the last version in the model registry that its model became
    synced: bool = False  # everything above is in MLflow

    @property
    def has_trained(self) -> bool:
        """Whether its training is finished."""
        return any(stage.name == "train" and stage.status is Status.FINISHED for stage in self.stages)


class Tagged(Protocol):
    """A run, or a sweep."""

    tags: dict[str, str]


def is_detached(record: Tagged) -> bool:
    """Tell whether a run or a sweep goes on without its launcher."""
    return record.tags.get(DETACHED_TAG) == DETACHED


class HeldFolder:
    """A folder with the record of something that a launcher works on; it holds the folder meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, file: Path, record: Any) -> None:
        """Write a record, a dataclass, whole or not at all, and without credentials."""
        self.path.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(redacted(asdict(record)), indent=1, ensure_ascii=False), encoding="utf-8")
        temporary.replace(file)

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Hold the folder while its launcher lives; yields False where another process does.

        Raises:
            StorageError: if the file system knows no locks.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as lock:
            yield take_lock(lock)


class RunFolder(HeldFolder):
    """``outputs/runs/<id>/``."""

    @property
    def record_file(self) -> Path:
        return self.path / "run.json"

    def save(self, record: RunRecord) -> None:
        self.write(self.record_file, record)

    def load(self) -> RunRecord:
        """Raise ConfigError where there is no such run."""
        if not self.record_file.is_file():
            known = ", ".join(sorted(p.name for p in self.path.parent.glob("*/") if (p / "run.json").is_file())[-3:])
            raise ConfigError(
                f"run: no run {self.path.name!r} in {self.path.parent}; the newest are: {known or 'none'}"
            )
        raw = json.loads(self.record_file.read_text(encoding="utf-8"))
        raw["stages"] = [StageRecord(**{**s, "status": Status(s["status"])}) for s in raw["stages"]]
        raw["status"] = Status(raw["status"])
        return RunRecord(**raw)
