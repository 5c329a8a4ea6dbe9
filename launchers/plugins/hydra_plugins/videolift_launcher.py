"""What Hydra runs a sweep with by default: every combination, its jobs as children of one sweep.

Hydra takes plugins from the package ``hydra_plugins`` only, which is spread over several folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

# Bounded by hydra-core <1.4. Jobs that are no part of a sweep (action=sync run=A,B) are Hydra's own launcher's to run.
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn


class VideoliftLauncher(BasicLauncher):
    """Runs jobs side by side, and goes on with those that an earlier session left."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs; what each returns is the value of the sweep's metric, NaN where it failed or has none."""
        from launchers.sweeps import session as sessions
        from launchers.sweeps.others import returned_by
        from launchers.sweeps.source import Grid

        session = sessions.current()
        if session is None:
            jobs: Sequence[JobReturn] = super().launch(job_overrides, initial_job_idx)
            return jobs
        children = session.children(job_overrides, initial_job_idx)
        session.run(Grid(children))
        return [returned_by(ready.child, overrides) for ready, overrides in zip(children, job_overrides, strict=True)]


class VideoliftGrid(BasicSweeper):
    """Runs every combination that is not done yet; that each can be composed was checked before."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher, which jobs are composed by; what is kept here is written to ``multirun.yaml``."""
        from launchers.redaction import redacted

        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.config = OmegaConf.create(redacted(OmegaConf.to_container(config, resolve=False, enum_to_str=True)))

    def sweep(self, arguments: list[str]) -> object:
        from launchers.sweeps import session as sessions
        from launchers.sweeps.others import OnlyWhatIsLeft

        session = sessions.current()
        assert self.launcher is not None
        if session is not None and not isinstance(self.launcher, VideoliftLauncher):
            self.launcher = OnlyWhatIsLeft(self.launcher, session)
        return super().sweep(arguments)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing is left to be checked."""
