"""What ``stages=[evaluate,visualize] run=ID`` works on: the finished run's own arrays and model.

They are what they are: our source may be another one since, and the run's data need not be there any more.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from launchers.base import Backend
from launchers.cache import Cache, StageFolder
from launchers.config import Config
from launchers.outputs import Outputs
from launchers.planning import KINDS, NEEDS, OwnStages, PlannedStage, plan_stages, planned_names
from launchers.preparing import FindBackend, Prepared
from launchers.records import RunRecord, Status
from videolift.files import MODEL_FILE
from videolift.layers import layers_of, refuse_missing_layers
from videolift.manifest import Manifest
from videolift.plan import MANIFEST_FILE, SOURCE_FOLDER, read_plan

if TYPE_CHECKING:
    from rich.console import Console


def prepare(config: Config, outputs: Outputs, console: Console, find_backend: FindBackend) -> Prepared | None:
    """Plan the stages that are wanted after those that the run has finished; None where these are not all here.

    Raises:
        ConfigError: if the backend cannot run the stages, or the model lacks what pictures are wanted of.
    """
    own = _own_stages(outputs.run(str(config.run)).load(), config, outputs.cache)
    if own is None:
        return None
    orders = _orders(outputs.cache, own.ids["train"])
    # As it was trained: what is chosen by the machine, as precision is, is settled there.
    config = replace(config, model=read_plan(orders).model)
    if "visualize" in config.stages:
        trained = StageFolder(outputs.cache.path(own.ids["train"]), KINDS["train"]).first
        refuse_missing_layers(config.visualize, layers_of(trained.model / MODEL_FILE))
    manifest = Manifest.from_json((orders / MANIFEST_FILE).read_text(encoding="utf-8"))
    stages = planned_names(config.stages)
    backend = find_backend(config, outputs, stages)
    backend.settle(stages, console)
    plan = partial(_plan, own)
    return Prepared(config, config.data, backend, manifest, plan(config, backend, manifest), plan)


def _plan(own: OwnStages, config: Config, backend: Backend, manifest: Manifest) -> dict[str, PlannedStage]:
    return plan_stages(config, manifest, config.model.precision, backend.libraries, own)


def _own_stages(record: RunRecord, config: Config, cache: Cache) -> OwnStages | None:
    needed = {need for name in config.stages for need in NEEDS[name]} - set(config.stages)
    finished = {stage.name: stage.id for stage in record.stages if stage.status is Status.FINISHED}
    ids = {name: finished[name] for name in needed if name in finished and cache.finished(finished[name])}
    if ids.keys() != needed:
        return None
    source = _orders(cache, ids["train"]) / SOURCE_FOLDER
    files = sorted(source.rglob("*.py"))  # what was compiled since is not the user's
    return OwnStages(ids, {file.relative_to(source).as_posix(): file.read_bytes() for file in files})


def _orders(cache: Cache, train_id: str) -> Path:
    return StageFolder(cache.path(train_id), KINDS["train"]).plan
