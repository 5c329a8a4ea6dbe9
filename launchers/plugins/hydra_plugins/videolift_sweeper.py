"""What Hydra runs ``sweep=optuna`` with: trials of a study, whichever launcher runs them.

Hydra takes plugins from the package ``hydra_plugins`` only, which is spread over several folders.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from hydra._internal.config_loader_impl import ConfigLoaderImpl  # bounded by hydra-core <1.4
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from launchers.sweeps.record import Child, SweepRecord
    from launchers.sweeps.source import Ready
    from launchers.sweeps.study import Make, Study

OURS = "VideoliftLauncher"


class OptunaSweeper(Sweeper):
    """Chooses the values of each run from what the runs before it have shown."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials of a study; those that failed in an earlier session once more."""
        from launchers.compose import groups_of
        from launchers.sweeps import session as sessions
        from launchers.sweeps.space import space_of
        from launchers.sweeps.study import Study, StudySource
        from videolift.errors import ConfigError

        session = sessions.current()
        if session is None:
            raise ConfigError("sweep=optuna: makes new runs, and this action makes none; leave it out")
        assert self.hydra_context is not None and self.launcher is not None
        loader = self.hydra_context.config_loader
        assert isinstance(loader, ConfigLoaderImpl)
        space = space_of(arguments, session.config.sweep, groups_of(loader.repository))
        with Study(session.folder.path, session.config.sweep, space, session.config.seed) as study:
            study.retry_failed()
            if type(self.launcher).__name__ == OURS:
                session.run(StudySource(study, session.make, session.record))
            else:
                run_in_batches(study, session.make, session.record, self.launcher, session.folder.save)


def run_in_batches(
    study: Study, make: Make, record: SweepRecord, launcher: Launcher, save: Callable[[SweepRecord], None]
) -> None:
    """Run trials by a launcher that knows nothing of children, and tells how they ended when all of a batch have."""
    from launchers.config import OnFailure
    from launchers.sweeps.others import in_a_row
    from launchers.sweeps.record import State
    from launchers.sweeps.study import StudySource

    overrides: dict[int, list[str]] = {}  # by the child's number

    def remembered(chosen: list[str], parameters: dict[str, str], trial: int) -> Ready:
        ready = make(chosen, parameters, trial)
        overrides[ready.child.number] = chosen
        return ready

    source = StudySource(study, remembered, record)
    while batch := [ready.child for ready in iter(source.next, None)]:
        children_of = {child.number: child for child in batch}
        for row in in_a_row(sorted(children_of)):
            children = [children_of[number] for number in row]
            save(record)
            jobs = [overrides[child.number] for child in children]
            returns = launcher.launch(jobs, initial_job_idx=children[0].number)
            for child, returned in zip(children, returns, strict=True):
                _note_end(child, returned)
                source.ended(child)
            save(record)
            stops = study.sweep.on_failure is OnFailure["stop"]
            if stops and any(child.state is State.failed for child in children):
                return


def _note_end(child: Child, returned: JobReturn) -> None:
    from launchers.sweeps.record import State

    child.value, child.error = None, ""
    try:
        value = float(returned.return_value)
    except Exception as error:  # whatever the job raised
        child.error = f"{type(error).__name__}: {error}"
    else:
        if math.isnan(value):
            child.error = "it failed, or has no value of the metric; its own output says more"
        else:
            child.value = value
    child.state = State.finished if child.value is not None else State.failed
