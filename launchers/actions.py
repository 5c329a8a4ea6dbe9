"""What ``action=`` does besides running an experiment."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from launchers import report
from launchers.base import Described
from launchers.config import Config
from launchers.outputs import Outputs
from launchers.parity import parity_table
from launchers.planning import finished_stages, in_jobs, inputs_of, planned_names, prepare_stage, to_compute
from launchers.preparing import FindBackend, Prepared
from launchers.signals import terminate_as_interrupt
from videolift.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console


def described(prepared: Prepared, outputs: Outputs) -> list[Described]:
    """Return what the backend would do, from plans that are thrown away again."""
    finished = finished_stages(prepared.planned, outputs.cache, prepared.backend)
    waiting = to_compute(prepared.planned, prepared.config.stages, finished)
    with tempfile.TemporaryDirectory() as folder:
        jobs = []
        for group in in_jobs(waiting, prepared.backend):
            stages = []
            for one in group:
                inputs = inputs_of(prepared.planned, one.name, [s.name for s in group], outputs.cache)
                stages.append(prepare_stage(one, Path(folder) / one.id, prepared.manifest, prepared.data, inputs))
            jobs.append(stages)
        return prepared.backend.describe(jobs)


def sync(console: Console, outputs: Outputs, config: Config) -> int:
    """Record a run again from its own files, and say where.

    Raises:
        ConfigError: if a model is to be registered and the run has none.
    """
    from launchers import tracking

    folder = outputs.run(str(config.run))
    if config.tracking.register is not None and not folder.load().has_trained:
        raise ConfigError(
            f"tracking.register: {config.run} has no finished training whose model it could be; leave it out"
        )
    tracking.sync(folder, config.tracking, outputs.root)
    record = folder.load()
    console.print(f"run {config.run} is recorded in {record.mlflow_uri}", soft_wrap=True)
    report.print_registered(console, record, config.tracking)
    return 0


def build(console: Console, outputs: Outputs, config: Config, find_backend: FindBackend) -> int:
    """Make the images of all stages asked for, and say what is in them."""
    stages = planned_names(config.stages)
    backend = find_backend(config, outputs, stages)
    with terminate_as_interrupt():
        backend.settle(stages, console)
        backend.make_ready(dict.fromkeys(stages, ()), console)
    report.print_parity(console, parity_table(backend.environments(stages)))
    return 0


def push(console: Console, config: Config) -> int:
    """Send the images of all stages asked for to the account's registry, and say what they are called there."""
    from launchers.image import PURPOSES
    from launchers.remote.aws import Aws
    from launchers.remote.registry import push_images

    purposes = list(dict.fromkeys(PURPOSES[stage] for stage in planned_names(config.stages)))
    with terminate_as_interrupt():
        for uri in push_images(Aws(config.backend), config.backend, purposes, console):
            console.print(uri, soft_wrap=True)
    return 0
