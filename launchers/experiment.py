"""One experiment from configuration to recorded run: prepare, submit, follow, record."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from launchers import actions, finished, predicting, report
from launchers.backend_registry import find_backend
from launchers.base import Detached
from launchers.config import PREDICT, Action, Config, drawn
from launchers.console import new_console
from launchers.outputs import Outputs
from launchers.planning import refuse_missing_inputs
from launchers.preparing import Preparing, make_ready
from launchers.records import RunRecord
from launchers.redaction import redacted_text
from launchers.running import Run, resume_command
from launchers.signals import terminate_as_interrupt
from videolift.errors import ConfigError, as_expected
from videolift.plan import from_plain

if TYPE_CHECKING:
    from rich.console import Console

CloseSweeps = Callable[["Console", Outputs, Config], None]


@dataclass
class Place:
    """A run's place in a sweep that another launcher of Hydra's runs."""

    parent: str | None  # MLflow run id of the sweep
    label: str | None  # what tells this run from the others; names it
    tags: dict[str, str]
    record: RunRecord | None = None  # of the run, once it has ended well


def run(config: Config, place: Place | None = None, close_sweeps: CloseSweeps | None = None) -> int:
    """Do what ``config.action`` says and return the exit code.

    Args:
        close_sweeps: closes the sweeps whose launcher process was killed, before the first stage.

    Raises:
        VideoliftError: for everything that a person can act on.
    """
    try:
        return _run(config, place or Place(None, None, {}), close_sweeps)
    except OSError as error:
        expected = as_expected(error)
        if expected is None:
            raise
        raise expected from error


def _run(config: Config, place: Place, close_sweeps: CloseSweeps | None) -> int:
    console = new_console()
    outputs = Outputs(Path(config.outputs).expanduser().resolve())
    if config.action is Action.sync:
        return actions.sync(console, outputs, config)
    if config.action is Action.build:
        return actions.build(console, outputs, config, find_backend)
    if config.action is Action.push:
        return actions.push(console, config)
    if config.run is not None and (config.action is Action.resume or config.stages != [PREDICT]):
        config = _again(config, outputs)
    with terminate_as_interrupt():
        return _run_or_plan(console, outputs, config, place, close_sweeps)


def _run_or_plan(
    console: Console, outputs: Outputs, config: Config, place: Place, close_sweeps: CloseSweeps | None
) -> int:
    asked = config.stages == [PREDICT]
    if asked:
        prepared = predicting.prepare(config, outputs, console, find_backend)
    else:
        further = config.run is not None and config.action is not Action.resume
        of_its_own = finished.prepare(config, outputs, console, find_backend) if further else None
        prepared = of_its_own or Preparing(outputs, console, find_backend).prepare(config)
    if config.action is Action.plan:
        report.print_plan(console, prepared, outputs)
        report.print_described(console, actions.described(prepared, outputs))
        return 0
    refuse_missing_inputs(prepared.planned, config.stages, outputs.cache, prepared.backend)
    (prepared,) = make_ready([prepared], outputs, console)
    close_dead(console, outputs, config)
    if close_sweeps is not None:
        close_sweeps(console, outputs, config)
    try:
        run = Run(console, outputs, prepared, parent=place.parent, label=place.label, tags=place.tags)
        record = place.record = run.execute()
    except Detached as detached:
        console.print(str(detached), soft_wrap=True)
        return 0 if not config.backend.wait else detached.exit_code
    open_with = _open_with(config, record)
    if asked:
        predicting.keep_table(record, outputs.run(record.id))
        report.print_predictions(console, record, outputs, open_with)
    else:
        report.print_summary(console, record, prepared, outputs, open_with)
    report.print_registered(console, record, config.tracking)
    return 0


def _again(config: Config, outputs: Outputs) -> Config:
    """Return the configuration of an earlier run; with ``action=run`` only its stages are other ones.

    Raises:
        ConfigError: if a model is to be registered and there is going to be none.
    """
    record = outputs.run(str(config.run)).load()
    earlier = from_plain(Config, record.config)
    resumed = config.action is Action.resume
    stages = earlier.stages if resumed else config.stages
    if config.tracking.register is not None and "train" not in stages and not record.has_trained:
        raise ConfigError(f"tracking.register: {record.id} trains no model that could be registered; leave it out")
    backend = replace(earlier.backend, wait=True)  # who comes back wants to see the end
    return replace(
        earlier,
        backend=backend,
        action=config.action,
        run=config.run,
        stages=stages,
        visualize=earlier.visualize if resumed or "visualize" not in stages else drawn(config),
        outputs=config.outputs,
        tracking=config.tracking,
    )


def close_dead(console: Console, outputs: Outputs, config: Config) -> None:
    """Report the runs whose launcher process was killed, and mark them as what they are."""
    from launchers import tracking

    for run_id in tracking.leave_lasting(outputs.root, config.tracking):
        console.print(
            f"run {run_id} was left by a launcher that died, and its job goes on; come back with: "
            f"{resume_command(config, run_id)}",
            soft_wrap=True,
        )
    for run_id in tracking.close_dead(outputs.root, config.tracking):
        console.print(f"run {run_id} was left by a launcher that died; it is marked KILLED", soft_wrap=True)


def _open_with(config: Config, record: RunRecord) -> str | None:
    if not config.tracking.enabled:
        return None
    if not record.synced:
        again = ["action=sync", f"run={record.id}"]
        again += [f"outputs={config.outputs}"] if config.outputs != Config.outputs else []
        again += [f"tracking.uri={redacted_text(config.tracking.uri)}"] if config.tracking.uri else []
        return f"not in MLflow yet: python run.py {shlex.join(again)}"
    if config.tracking.uri is not None:
        return record.mlflow_uri
    return "make ui" if config.outputs == Config.outputs else f"make ui OUTPUTS={shlex.quote(config.outputs)}"
