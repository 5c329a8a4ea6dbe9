"""What Hydra runs a sweep with by default: every combination, its jobs as children of one sweep.

Hydra takes plugins from the package ``hydra_plugins`` only, which is spread over several folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

# Bounded by hydra-core <1.4. Jobs that are no part of a sweep (action=sync run=A,B) are Hydra's own launcher's to run.
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, JobStatus

if TYPE_CHECKING:
    from launchers.sweeps.source import Ready


class VideoliftLauncher(BasicLauncher):
    """Runs jobs side by side, and goes on with those that an earlier session left."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs; what each returns is the value of the sweep's metric, NaN where it failed or has none."""
        from launchers.sweeps import session as sessions
        from launchers.sweeps.source import Grid

        session = sessions.current()
        if session is None:
            jobs: Sequence[JobReturn] = super().launch(job_overrides, initial_job_idx)
            return jobs
        children = session.children(job_overrides, initial_job_idx)
        session.run(Grid(children))
        return [_returned(ready, overrides) for ready, overrides in zip(children, job_overrides, strict=True)]


def _returned(ready: Ready, overrides: Sequence[str]) -> JobReturn:
    value = ready.child.value if ready.child.state.value == "finished" else None
    job = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
    job.return_value = float("nan") if value is None else value
    return job


class VideoliftGrid(BasicSweeper):
    """Runs every combination; that each can be composed was checked before."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing is left to be checked."""
