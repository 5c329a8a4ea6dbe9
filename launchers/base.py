"""The seam: what a backend is. A new one is one file and one line in ``launchers/preparing.py``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from launchers.cache import StageFolder
from videolift.plan import Plan
from videolift.settings import Precision
from videolift.workspace import Kind, Workspace

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Dealt:
    """One host's share of an input: files below a folder."""

    root: Path
    names: tuple[str, ...]  # posix paths below root
    whole: bool  # the host may see all of root


@dataclass
class Stage:
    """One stage, ready to be submitted."""

    plan: Plan
    kind: Kind
    folder: StageFolder
    hosts: tuple[str, ...]  # algo-1, algo-2, ...: SageMaker's names
    channels: dict[str, Path] = field(default_factory=dict)  # channel -> folder, the same for every host
    dealt: dict[str, dict[str, Dealt]] = field(default_factory=dict)  # channel -> host -> its share

    def workspace(self, host: str, shares: Mapping[str, Path]) -> Workspace:
        """Return a host's workspace.

        Args:
            shares: folders that hold what the host was dealt, by channel.
        """
        return self.folder.workspace(host, self.hosts, {**self.channels, **shares})


@dataclass(frozen=True)
class HostEnd:
    """How one host's process ended."""

    host: str
    exit_code: int  # negative: killed by that signal
    failure: str  # what the job wrote to its failure file
    remark: str = ""  # what the backend knows of the reason


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

    def close(self) -> None:
        """Leave nothing behind but the stage's files; ends what still runs."""


class Backend(Protocol):
    """Somewhere a stage can run."""

    name: str

    def check(self) -> list[str]:
        """Return everything that keeps stages from running here, each with its remedy; nothing is changed."""

    def settle(self, stages: Sequence[str], console: Console) -> None:
        """Find out what the stages will run in, as far as that takes no building."""

    def libraries(self, stage: str) -> dict[str, str]:
        """Return the versions that make a stage's bytes here; they belong to its id."""

    def precision(self) -> Precision:
        """Return what ``model.precision=auto`` is here."""

    def make_ready(self, stages: Sequence[str], console: Console) -> None:
        """Make what the stages need and is not there yet; afterwards :meth:`libraries` may answer differently."""

    def environments(self, stages: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the library versions that stages run with, by what they run in; empty where that is this machine."""

    def submit(self, stage: Stage) -> Job: ...
