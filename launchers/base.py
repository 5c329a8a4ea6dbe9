"""The seam: what a backend is. A new one is one file and one line in ``launchers/experiment.py``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from launchers.cache import StageFolder
from videolift.plan import Plan
from videolift.settings import Precision
from videolift.workspace import Kind


@dataclass
class Stage:
    """One stage, ready to be submitted."""

    plan: Plan
    kind: Kind
    folder: StageFolder
    hosts: tuple[str, ...]  # algo-1, algo-2, ...: SageMaker's names
    channels: dict[str, Path] = field(default_factory=dict)  # channel -> folder, the same for every host
    shares: dict[str, dict[str, Path]] = field(default_factory=dict)  # channel -> host -> its folder

    def channels_of(self, host: str) -> dict[str, Path]:
        return {**self.channels, **{name: folders[host] for name, folders in self.shares.items()}}


@dataclass(frozen=True)
class HostEnd:
    """How one host's process ended."""

    host: str
    exit_code: int  # negative: killed by that signal
    failure: str  # what the job wrote to its failure file


class Job(Protocol):
    """A submitted stage."""

    def follow(self) -> Iterator[tuple[str, str]]:
        """Yield (host, line of output) until every host has ended; a failing host ends the others.

        May be called again after an interruption and then goes on.
        """

    def stop(self, grace_s: float) -> None:
        """Ask every host to stop, and kill those that have not after ``grace_s`` seconds. Returns at once."""

    def ends(self) -> list[HostEnd]:
        """Return how the hosts ended, the one that failed first at the front."""


class Backend(Protocol):
    """Somewhere a stage can run."""

    name: str

    def check(self, stage: str, hosts: int) -> list[str]:
        """Return what keeps a stage from running here; nothing is changed."""

    def precision(self) -> Precision:
        """Return what ``model.precision=auto`` is here."""

    def submit(self, stage: Stage) -> Job: ...
