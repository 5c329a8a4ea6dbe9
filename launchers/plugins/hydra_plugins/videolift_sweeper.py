"""What Hydra runs ``sweep=optuna`` with: trials of a study, whichever launcher runs them.

Hydra takes plugins from the package ``hydra_plugins`` only, which is spread over several folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hydra._internal.config_loader_impl import ConfigLoaderImpl  # bounded by hydra-core <1.4
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from launchers.sweeps.study import Asked, Study

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
        from launchers.config import Sweep
        from launchers.sweeps import session
        from launchers.sweeps.space import space_of
        from launchers.sweeps.study import Study, StudySource

        assert self.config is not None and self.hydra_context is not None and self.launcher is not None
        loader, sweep = self.hydra_context.config_loader, OmegaConf.to_object(self.config.sweep)
        assert isinstance(loader, ConfigLoaderImpl) and isinstance(sweep, Sweep)
        space = space_of(arguments, sweep, groups_of(loader.repository))
        running = session.current()
        folder = running.folder.path if running is not None else Path(self.config.hydra.sweep.dir)
        with Study(folder, sweep, space, self.config.seed) as study:
            study.retry_failed()
            if running is not None and type(self.launcher).__name__ == OURS:
                running.run(StudySource(study, running.make, running.record))
            else:
                run_in_batches(study, self.launcher)


def run_in_batches(study: Study, launcher: Launcher) -> None:
    """Run trials by a launcher that tells how they ended only when all of a batch have."""
    begun = 0
    while batch := list(_batch(study)):
        returns = launcher.launch([asked.overrides for asked in batch], initial_job_idx=begun)
        begun += len(batch)
        for asked, returned in zip(batch, returns, strict=True):
            _tell(study, asked, returned)


def _batch(study: Study) -> Iterator[Asked]:
    for _ in range(study.sweep.parallel):
        if not study.exhausted:
            yield study.ask()


def _tell(study: Study, asked: Asked, returned: JobReturn) -> None:
    try:
        study.finished(asked.number, float(returned.return_value))
    except Exception as error:  # whatever the job raised
        study.failed(asked.number, f"{type(error).__name__}: {error}")
