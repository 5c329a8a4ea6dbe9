"""What Hydra runs ``sweep=optuna`` with: trials of a study, whichever launcher runs them.

Hydra takes plugins from the package ``hydra_plugins`` only, which is spread over several folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from launchers.sweeps.study import Asked, Study


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
        from launchers.sweeps import session
        from launchers.sweeps.space import space_of
        from launchers.sweeps.study import Study, StudySource

        assert self.config is not None and self.hydra_context is not None
        sweep = OmegaConf.to_object(self.config.sweep)
        space = space_of(arguments, sweep, groups_of(self.hydra_context.config_loader.repository))
        running = session.current()
        folder = running.folder.path if running is not None else Path(self.config.hydra.sweep.dir)
        with Study(folder, sweep, space, self.config.seed) as study:
            study.retry_failed()
            if running is not None and _is_ours(self.launcher):
                running.run(StudySource(study, running.make, running.record))
            else:
                self._run_in_batches(study)

    def _run_in_batches(self, study: Study) -> None:
        """Run trials by a launcher that knows nothing of children, and tells how they ended when all of a batch have."""
        assert self.launcher is not None
        begun = 0
        while batch := _next_batch(study):
            returns = self.launcher.launch([asked.overrides for asked in batch], initial_job_idx=begun)
            begun += len(batch)
            for asked, returned in zip(batch, returns, strict=True):
                _tell(study, asked, returned)


def _is_ours(launcher: Launcher | None) -> bool:
    return type(launcher).__name__ == "VideoliftLauncher"


def _next_batch(study: Study) -> Sequence[Asked]:
    batch: list[Asked] = []
    while len(batch) < study.sweep.parallel and not study.exhausted:
        batch.append(study.ask())
    return batch


def _tell(study: Study, asked: Asked, returned: JobReturn) -> None:
    try:
        study.finished(asked.number, float(returned.return_value))
    except Exception as error:  # whatever the job raised
        study.failed(asked.number, f"{type(error).__name__}: {error}")
