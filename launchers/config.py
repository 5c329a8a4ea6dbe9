"""The configuration of an experiment: the dataclass that Hydra composes, and what can be told wrong from it alone.

The groups that ship with a job are in ``videolift.settings``; those that stay on the laptop are here. Field names are
the command line: ``python run.py tracking.enabled=false``.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
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
    build = "build"  # build the images of a backend that runs containers


class Mode(str, Enum):
    """What a container brings."""

    byoc = "byoc"  # bring your own container: libraries and our source
    byos = "byos"  # bring your own script: libraries only; our source is shipped to it


class Parity(str, Enum):
    """What to do when libraries in an image are not those here."""

    warn = "warn"
    strict = "strict"  # refuse


@dataclass
class Resources:
    """What a stage's job is given. All but ``instance_count`` is for backends that run containers."""

    instance_count: int = 1
    mode: Mode = Mode.byoc
    image: str | None = None  # null: built from launchers/images
    base_image: str = "python:3.11-slim"  # of the one that is built: has Python, maybe TensorFlow
    memory: str | None = None  # limit of one container: 512m, 8g; null: what the machine has
    cpus: float | None = None  # limit of one container, in cores


@dataclass
class Build:
    """Where images get their libraries from."""

    pip_index_url: str | None = None  # a mirror of the package index
    pip_trusted_host: str | None = None  # host of a mirror without a certificate
    wheels: str | None = None  # folder of wheels to install from, with no network at all


@dataclass
class Backend:
    """Where the stages run."""

    name: str = "local"  # local | sagemaker-local | sagemaker-remote
    preprocess: Resources = field(default_factory=Resources)  # of the preprocess stage
    train: Resources = field(default_factory=Resources)  # of train, evaluate and visualize
    gpus: str | None = None  # of this machine, for training in containers: all, or a number
    network_isolation: bool = True  # containers reach nothing, and at most each other
    parity: Parity = Parity.warn
    build: Build = field(default_factory=Build)
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
    if config.action is Action.build and config.backend.name == "local":
        yield "action: there are no images to build with backend=local; say backend=sagemaker-local"
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
    if backend.grace_s < 0:
        yield f"backend.grace_s: must be at least 0 seconds, got {backend.grace_s}"
    for name, resources in (("preprocess", backend.preprocess), ("train", backend.train)):
        if resources.instance_count < 1:
            yield f"backend.{name}.instance_count: must be at least 1, got {resources.instance_count}"
    if backend.name == "local":
        yield from _container_settings(backend)
    else:
        yield from _container_problems(backend)


def _container_settings(backend: Backend) -> Iterator[str]:
    """Name what would silently do nothing where there are no containers."""
    plain = Backend()
    groups: list[tuple[str, object, object]] = [
        ("backend", replace(backend, preprocess=plain.preprocess, train=plain.train, build=plain.build), plain),
        ("backend.preprocess", backend.preprocess, plain.preprocess),
        ("backend.train", backend.train, plain.train),
        ("backend.build", backend.build, plain.build),
    ]
    for prefix, given, default in groups:
        for key, value in vars(given).items():
            if key not in ("name", "grace_s", "instance_count") and value != getattr(default, key):
                yield f"{prefix}.{key}: is for containers, of which backend=local has none; say backend=sagemaker-local"


def _container_problems(backend: Backend) -> Iterator[str]:
    for name, resources in (("preprocess", backend.preprocess), ("train", backend.train)):
        if resources.memory is not None and not re.fullmatch(r"[1-9]\d*[bkmgBKMG]?", resources.memory):
            yield f"backend.{name}.memory: must be a size like 512m or 8g, got {resources.memory}"
        if resources.cpus is not None and resources.cpus <= 0:
            yield f"backend.{name}.cpus: must be above 0 cores, got {resources.cpus}"
        for key in ("image", "base_image"):
            reference = getattr(resources, key)
            if reference is not None and not re.fullmatch(r"[\w][\w.:/@-]*", reference, re.ASCII):
                yield f"backend.{name}.{key}: is no image's name: {reference!r}; say NAME:TAG"
    if backend.gpus is not None and backend.gpus != "all" and not backend.gpus.isdecimal():
        yield f"backend.gpus: must be all or a number, got {backend.gpus!r}"
    wheels = backend.build.wheels
    if wheels is not None and not Path(wheels).expanduser().is_dir():
        yield f"backend.build.wheels: no folder {wheels}; say where the wheels are"


def _tracking_problems(tracking: Tracking) -> Iterator[str]:
    for name in ("timeout_s", "system_interval_s"):
        value = getattr(tracking, name)
        if not 0 < value < math.inf:
            yield f"tracking.{name}: must be above 0 seconds, got {value}"
    for name in ("uri", "experiment"):
        value = getattr(tracking, name)
        if value is not None and not value.strip():
            yield f"tracking.{name}: is empty; give it a value or leave it out"
