"""Children that a launcher of Hydra's runs, which knows jobs only, counts them on from a first one, and runs all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from launchers.sweeps.record import DONE, State

if TYPE_CHECKING:
    from launchers.sweeps.record import Child
    from launchers.sweeps.source import Ready


class Chooses(Protocol):
    """Who knows the children that a sweeper has chosen by their overrides, the first of which has a number."""

    def children(self, overrides: Sequence[Sequence[str]], first: int) -> Sequence[Ready]: ...


class OnlyWhatIsLeft(Launcher):
    """Has another launcher run the children that are not done; each keeps its number."""

    def __init__(self, launcher: Launcher, session: Chooses) -> None:
        self._launcher = launcher
        self._session = session

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run what is left; what is done returns what it returned before."""
        jobs = dict(enumerate(job_overrides, initial_job_idx))
        known = {
            number: ready.child
            for number, ready in enumerate(self._session.children(job_overrides, initial_job_idx), initial_job_idx)
        }
        returned: dict[int, JobReturn] = {}
        for row in in_a_row(number for number, child in known.items() if child.state not in DONE):
            returns = self._launcher.launch([jobs[number] for number in row], initial_job_idx=row[0])
            returned |= zip(row, returns, strict=True)
        return [returned.get(number) or returned_by(child, jobs[number]) for number, child in known.items()]


def in_a_row(numbers: Iterable[int]) -> Iterator[list[int]]:
    """Cut ascending numbers where they leap."""
    for _, group in groupby(enumerate(numbers), lambda place: place[1] - place[0]):
        yield [number for _, number in group]


def returned_by(child: Child, overrides: Sequence[str]) -> JobReturn:
    """Return what Hydra's sweepers are told of a child: the value of the metric, NaN where it failed or has none."""
    value = child.value if child.state is State.finished else None
    job = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
    job.return_value = float("nan") if value is None else value
    return job
