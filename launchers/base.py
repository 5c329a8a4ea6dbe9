"""The seam: what a backend is. A new one is one file and one line in ``launchers/preparing.py``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from launchers.cache import StageFolder
from videolift.errors import Stopped, VideoliftError
from videolift.plan import Plan
from videolift.settings import Precision
from videolift.workspace import Kind, Workspace

if TYPE_CHECKING:
    from rich.console import Console


def host_names(count: int) -> tuple[str, ...]:
    """Return what SageMaker calls the hosts of a job: algo-1, algo-2, ..."""
    return tuple(f"algo-{number + 1}" for number in range(count))


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
    hosts: tuple[str, ...]
    channels: dict[str, Path] = field(default_factory=dict)  # channel -> folder, the same for every host
    dealt: dict[str, dict[str, Dealt]] = field(default_factory=dict)  # channel -> host -> its share
    places: dict[str, str] = field(default_factory=dict)  # channel -> s3://..., where the job gets it from by itself
    shared: str | None = "videos"  # the channel that the hosts of a processing job divide
    name: str = ""  # what the run calls it: train-2 is what trains the second member of an ensemble

    def __post_init__(self) -> None:
        self.name = self.name or self.plan.stage

    @property
    def is_member(self) -> bool:
        """Whether it trains a member of an ensemble."""
        return self.name != self.plan.stage

    def workspace(self, host: str, shares: Mapping[str, Path]) -> Workspace:
        """Return a host's workspace.

        Args:
            shares: folders that hold what the host was dealt, by channel.
        """
        return self.folder.workspace(host, self.hosts, {**self.channels, **shares})


class Detached(Stopped):
    """The launcher leaves a job to itself; the run goes on."""


class Pruned(Stopped):
    """A run of a sweep is stopped early, because it promises too little."""


class LostTouch(VideoliftError):
    """A lasting job cannot be followed any more; it goes on."""


@dataclass(frozen=True)
class Described:
    """A part of what a backend would do, for a plan."""

    title: str
    rows: Sequence[Sequence[str]]  # a table, its head first
    text: str
    usd: float | None = None  # of a cost: the sum; None where a price is not known


@dataclass(frozen=True)
class HostEnd:
    """How one host's process ended."""

    host: str
    exit_code: int  # negative: killed by that signal
    failure: str  # what the job wrote to its failure file
    remark: str = ""  # what the backend knows of the reason


class Job(Protocol):
    """Stages that were submitted together."""

    @property
    def stages(self) -> Sequence[Stage]:
        """What it computes: the first ones of those that it was asked for."""

    @property
    def lasting(self) -> bool:
        """Whether it goes on without this process."""

    @property
    def finished(self) -> Sequence[Stage]:
        """What is finished although a later one of the job's stages failed."""

    def follow(self) -> Iterator[tuple[str, str]]:
        """Yield (host, line of output) until every host has ended; a failing host ends the others.

        Afterwards the results are in the stages' folders.

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

    def check(self, stages: Sequence[str], *, planning: bool) -> list[str]:
        """Return everything that keeps the stages from running here, each with its remedy; nothing is changed.

        Args:
            planning: they are not going to run now.
        """

    def settle(self, stages: Sequence[str], console: Console) -> None:
        """Find out what the stages will run in, as far as that takes no building."""

    def libraries(self, stage: str) -> dict[str, str]:
        """Return the versions that make a stage's bytes here; they belong to its id."""

    def precision(self) -> Precision:
        """Return what ``model.precision=auto`` is here."""

    def make_ready(self, stages: Mapping[str, Collection[str]], console: Console, *, at_once: int = 1) -> None:
        """Make what the stages need and is not there yet; afterwards :meth:`libraries` may answer differently.

        Args:
            stages: name -> ids of those that have to be computed, by one run or by all runs of a sweep.
            at_once: how many runs go on at the same time.
        """

    def cost(self, stages: Mapping[str, Collection[str]]) -> Described | None:
        """Return the most that it can cost to compute stages, by name and id; None where it costs nothing."""

    def environments(self, stages: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the library versions that stages run with, by what they run in; empty where that is this machine."""

    def jobs(self, stages: Sequence[str]) -> list[list[str]]:
        """Divide stages, which are in order and none a member of an ensemble, into those that share a job."""

    def origin(self, stage_id: str) -> str | None:
        """Return the run that computed a stage which is finished elsewhere and can be fetched; None: there is none.

        A plan gets None, too, where that cannot be told: see :meth:`unknown_origin`.

        Raises:
            VideoliftError: if that cannot be told, and it is no plan: what is finished is not to be computed again.
        """

    def unknown_origin(self, stage_id: str) -> str | None:
        """Return why a plan cannot tell whether a stage is finished elsewhere, None where it can."""

    def fetch(self, stage_id: str, console: Console) -> None:
        """Bring a stage that is finished elsewhere into the cache here."""

    def machine(self, stage: str) -> str:
        """Return what a stage runs on, for people: a host's name, or a number and kind of instances."""

    def describe(self, jobs: Sequence[Sequence[Stage]]) -> list[Described]:
        """Return exactly what would be asked for to run jobs, without any secret; asks for nothing."""

    def busy(self, folder: Path) -> str | None:
        """Return what still computes the stage of a folder without a launcher, and how it is stopped."""

    def submit(self, stages: Sequence[Stage], console: Console) -> Job:
        """Start the stages as one job, or find the one that computes them already."""

    def keep(self, stage_id: str, console: Console) -> None:
        """Take note of a stage that was computed here and is in the cache now."""
