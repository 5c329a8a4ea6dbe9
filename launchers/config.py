"""The configuration of an experiment: the dataclass that Hydra composes, and what can be told wrong from it alone.

The groups that ship with a job are in ``videolift.settings``; those that stay on the laptop are here. Field names are
the command line: ``python run.py tracking.enabled=false``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from videolift import settings
from videolift.errors import ConfigError
from videolift.settings import Data, Model, Preprocess

if TYPE_CHECKING:
    from omegaconf import DictConfig

STAGES = ("preprocess", "train", "evaluate", "visualize")
STAGES_ON_A_FINISHED_RUN = ("evaluate", "visualize")
BACKENDS = ("local", "sagemaker-local", "sagemaker-remote")
MAX_SEED = 2**32 - 1  # what numpy and Keras take


class Action(str, Enum):
    """What ``python run.py`` does."""

    run = "run"
    plan = "plan"  # say what would run
    resume = "resume"  # go on with an unfinished run
    sync = "sync"  # record in MLflow what could not be recorded


@dataclass
class Resources:
    """What a stage's job is given."""

    instance_count: int = 1


@dataclass
class Backend:
    """Where the stages run."""

    name: str = "local"  # local | sagemaker-local | sagemaker-remote
    preprocess: Resources = field(default_factory=Resources)
    train: Resources = field(default_factory=Resources)
    grace_s: float = 120  # from SIGTERM to SIGKILL, as on SageMaker


@dataclass
class Tracking:
    """How a run is recorded in MLflow."""

    enabled: bool = True
    uri: str | None = None  # null: sqlite in outputs
    experiment: str = "videolift"
    timeout_s: float = 5  # how long a server that does not answer holds the run up
    log_model: bool = True
    system_metrics: bool = True  # processor, memory and GPU of the stages
    system_interval_s: float = 5


@dataclass
class Config:
    """One experiment: its groups, and what belongs to none of them."""

    action: Action = Action.run
    run: str | None = None  # a run id, for resume, sync, and stages that work on a finished run
    stages: list[str] = field(default_factory=lambda: list(STAGES))
    outputs: str = "outputs"  # folder of runs, cache and records
    seed: int = 0
    name: str | None = None  # null: made from what was asked for
    tags: dict[str, str] = field(default_factory=dict)
    backend: Backend = field(default_factory=Backend)
    data: Data = field(default_factory=Data)
    preprocess: Preprocess = field(default_factory=Preprocess)
    model: Model = field(default_factory=Model)
    tracking: Tracking = field(default_factory=Tracking)


def register() -> None:
    """Make Config known to Hydra as ``schema``, the first of the defaults in conf/config.yaml."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="schema", node=Config)


def to_object(composed: DictConfig) -> Config:
    """Return what Hydra composed as plain dataclasses, interpolations resolved.

    Raises:
        ConfigError: the primary configuration does not start from ``schema``.
        omegaconf.errors.OmegaConfBaseException: a value is missing or an interpolation leads nowhere.
    """
    from omegaconf import OmegaConf

    config = OmegaConf.to_object(composed)
    if not isinstance(config, Config):
        raise ConfigError(
            "the primary configuration does not have `- schema` first in its defaults; see conf/config.yaml"
        )
    return config


def problems(config: Config) -> list[str]:
    """Return every mistake that the values make together, each as ``key: what; what to do``."""
    return [*_own_problems(config), *settings.problems(config.data, config.preprocess, config.model)]


def _own_problems(config: Config) -> Iterator[str]:
    yield from _action_problems(config)
    yield from _stage_problems(config.stages)
    for name in ("outputs", "name", "run"):
        value = getattr(config, name)
        if value is not None and not value.strip():
            yield f"{name}: is empty; give it a value{'' if name == 'outputs' else ' or leave it out'}"
    if not 0 <= config.seed <= MAX_SEED:
        yield f"seed: must be from 0 to {MAX_SEED}, got {config.seed}"
    yield from _backend_problems(config.backend)
    yield from _tracking_problems(config.tracking)


def _action_problems(config: Config) -> Iterator[str]:
    if config.action in (Action.resume, Action.sync):
        if config.run is None:
            yield f"run: action={config.action.value} needs the id of a run; say run=ID"
    elif config.run is not None and not set(config.stages) <= set(STAGES_ON_A_FINISHED_RUN):
        yield (
            f"run: a finished run is for stages=[{','.join(STAGES_ON_A_FINISHED_RUN)}] or some of them; "
            "to go on with an unfinished one say action=resume"
        )


def _stage_problems(stages: list[str]) -> Iterator[str]:
    if not stages:
        yield f"stages: is empty; there are {', '.join(STAGES)}"
    for stage in dict.fromkeys(stages):
        if stage not in STAGES:
            near = difflib.get_close_matches(stage, STAGES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield f"stages: there is no stage {stage!r}, there are {', '.join(STAGES)}{hint}"
        elif stages.count(stage) > 1:
            yield f"stages: {stage} is there {stages.count(stage)} times; once is enough"


def _backend_problems(backend: Backend) -> Iterator[str]:
    if backend.name not in BACKENDS:
        yield f"backend.name: there is no backend {backend.name!r}, there are {', '.join(BACKENDS)}"
    for name, resources in (("preprocess", backend.preprocess), ("train", backend.train)):
        if resources.instance_count < 1:
            yield f"backend.{name}.instance_count: must be at least 1, got {resources.instance_count}"
    if backend.grace_s < 0:
        yield f"backend.grace_s: must be at least 0 seconds, got {backend.grace_s}"


def _tracking_problems(tracking: Tracking) -> Iterator[str]:
    for name in ("timeout_s", "system_interval_s"):
        value = getattr(tracking, name)
        if not 0 < value < math.inf:
            yield f"tracking.{name}: must be above 0 seconds, got {value}"
    for name in ("uri", "experiment"):
        value = getattr(tracking, name)
        if value is not None and not value.strip():
            yield f"tracking.{name}: is empty; give it a value or leave it out"
