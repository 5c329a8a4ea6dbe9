"""What is kept of a sweep in ``outputs/sweeps/<id>/sweep.json``: enough to go on with it, and to show it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from launchers.config import Goal
from launchers.records import HeldFolder, Status


class State(str, Enum):
    """How far a child is."""

    waiting = "waiting"
    running = "running"
    finished = "finished"
    failed = "failed"
    pruned = "pruned"  # stopped early, because it promised too little
    stopped = "stopped"  # by Ctrl-C, or because its launcher died: goes on from there
    detached = "detached"  # its job on SageMaker goes on without a launcher


DONE = (State.finished, State.pruned)  # what the same command does not do again


@dataclass
class Child:
    """One run of a sweep."""

    number: int  # from 0; stays the same when the sweep goes on
    label: str  # its overrides: model.batch=16 preprocess.interval=2
    parameters: dict[str, str]  # what differs between children: setting, or group -> value
    identity: str  # digest of what determines its result
    overrides: list[str]  # what `python run.py` takes to make this run alone, without secrets
    state: State = State.waiting
    run: str | None = None  # id, in outputs/runs
    mlflow_run: str | None = None  # id
    value: float | None = None  # of the sweep's metric, at the epoch whose weights are kept
    epoch: int | None = None  # whose weights are kept
    metrics: dict[str, float] = field(default_factory=dict)  # others at that epoch, and those of the test set
    host: str = ""  # where it ran: this machine's name, or instance_count x instance_type
    started: float | None = None  # Unix seconds
    ended: float | None = None
    error: str = ""
    exit_code: int = 0
    trial: int | None = None  # its number in the study of a sampler


@dataclass
class SweepRecord:
    """A sweep and its children."""

    id: str
    name: str  # for people
    command: list[str]  # the overrides that were typed, without secrets
    experiment: str  # in MLflow
    metric: str
    goal: Goal
    sampler: str  # grid | optuna | other
    children: list[Child] = field(default_factory=list)
    parts: dict[str, str] = field(default_factory=dict)  # digests of what the id is made from: settings, data, source
    code: str = ""  # digest of the source that it runs with, a folder of outputs/code
    created: float = field(default_factory=time.time)
    ended: float | None = None
    status: Status = Status.RUNNING
    tags: dict[str, str] = field(default_factory=dict)
    mlflow_run: str | None = None  # id of the run that the children's are below
    mlflow_uri: str | None = None  # tracking URI that mlflow_run belongs to

    @property
    def parameters(self) -> list[str]:
        """Return what differs between children, in the order in which it was asked for."""
        return list(dict.fromkeys(key for child in self.children for key in child.parameters))

    def count(self, *states: State) -> int:
        return sum(child.state in states for child in self.children)

    @property
    def best(self) -> Child | None:
        """Return the finished child with the best value of the metric, the first of several; None without any."""
        found = [child for child in self.children if child.state is State.finished and child.value is not None]
        if not found:
            return None
        sign = 1 if self.goal is Goal.maximize else -1
        return max(found, key=lambda child: (sign * (child.value or 0.0), -child.number))


class SweepFolder(HeldFolder):
    """``outputs/sweeps/<id>/``."""

    @property
    def record_file(self) -> Path:
        return self.path / "sweep.json"

    def log(self, number: int) -> Path:
        """Return the file with what a child printed."""
        return self.path / "children" / f"{number:04}.log"

    def save(self, record: SweepRecord) -> None:
        self.write(self.record_file, record)

    def load(self) -> SweepRecord:
        """Raise FileNotFoundError where there is no such sweep."""
        raw = json.loads(self.record_file.read_text(encoding="utf-8"))
        raw["children"] = [Child(**{**child, "state": State(child["state"])}) for child in raw["children"]]
        raw |= {"status": Status(raw["status"]), "goal": Goal(raw["goal"])}
        return SweepRecord(**raw)


def folder_of(outputs: Path, sweep: str) -> SweepFolder:
    """Return the folder of a sweep below ``outputs``."""
    return SweepFolder(outputs / "sweeps" / sweep)


def all_sweeps(outputs: Path) -> Iterator[tuple[SweepFolder, SweepRecord]]:
    """Yield every sweep that was begun, the newest first."""
    folders = [SweepFolder(file.parent) for file in (outputs / "sweeps").glob("*/sweep.json")]
    yield from sorted(((f, f.load()) for f in folders), key=lambda found: -found[1].created)
