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
from videolift.settings import PICTURES, Augment, Data, Model, Predict, Preprocess, Script, Visualize

if TYPE_CHECKING:
    from omegaconf import DictConfig

STAGES = ("preprocess", "train", "evaluate", "visualize")
STAGES_ON_A_FINISHED_RUN = ("evaluate", "visualize")
PREDICT = "predict"  # the stage that asks a finished run's model about other videos; goes alone
SCRIPT, PREPROCESS_SCRIPT = "script", "preprocess-script"  # the stage of a user's own script, by script.stage
BACKENDS = ("local", "sagemaker-local", "sagemaker-remote")
PLUGINS = "hydra_plugins"  # the only package that Hydra takes launchers and sweepers from
MAX_SEED = 2**32 - 1  # what numpy and Keras take
MAX_MEMBERS = 16  # InputDataConfig of CreateTrainingJob takes 20 channels; plan, arrays and the SDK's two are others


class Action(str, Enum):
    """What ``python run.py`` does."""

    run = "run"
    plan = "plan"  # say what would run
    resume = "resume"  # go on with an unfinished run
    sync = "sync"  # record in MLflow what could not be recorded
    build = "build"  # build the images of a backend that runs containers
    push = "push"  # send them to the account's registry


class Mode(str, Enum):
    """What a container brings."""

    byoc = "byoc"  # bring your own container: libraries and our source
    byos = "byos"  # bring your own script: libraries only; our source is shipped to it


class Parity(str, Enum):
    """What to do when libraries in an image are not those here."""

    warn = "warn"
    strict = "strict"  # refuse


class OnInterrupt(str, Enum):
    """What Ctrl-C does to a job on SageMaker."""

    detach = "detach"  # leave it running; a second Ctrl-C stops it
    stop = "stop"


class Where(str, Enum):
    """Where a stage of a remote experiment runs."""

    job = "job"
    local = "local"  # on this machine; its result is uploaded


# A word of Python's is among them, so this is not written as a class.
OnFailure = Enum("OnFailure", {"continue": "continue", "stop": "stop"}, type=str)
OnFailure.__doc__ = "What a sweep does after a child has failed: go on with the others, or start no more of them."


class Resume(str, Enum):
    """What becomes of an unfinished sweep whose source, settings or data have changed since."""

    frozen = "frozen"  # go on with it as it was
    new = "new"  # leave it, and start another one as it is now


class Goal(str, Enum):
    """Which of two values of ``sweep.metric`` is the better one."""

    maximize = "maximize"
    minimize = "minimize"


@dataclass
class Resources:
    """What a stage's job is given. All but ``instance_count`` is for backends that run containers."""

    instance_count: int = 1
    mode: Mode = Mode.byoc
    image: str | None = None  # null: built from launchers/images, or on SageMaker AWS's own where the mode is byos
    base_image: str = "python:3.11-slim"  # of the one that is built: has Python, maybe TensorFlow
    memory: str | None = None  # limit of one container on this machine: 512m, 8g; null: what the machine has
    cpus: float | None = None  # limit of one container on this machine, in cores
    instance_type: str = "ml.m5.xlarge"  # on SageMaker
    volume_gb: int = 30  # of each instance, for input, output and scratch
    max_run_s: int = 86400  # the service ends a job that takes longer


@dataclass
class PreprocessJob(Resources):
    """What the job of the preprocess stage is given."""

    where: Where = Where.job


@dataclass
class TrainJob(Resources):
    """What the job of train, evaluate and visualize is given."""

    parallel: int = 1  # members of an ensemble that train at a time
    spot: bool = False  # spare capacity: cheaper, interrupted at any time, goes on from a checkpoint
    max_wait_s: int | None = None  # for spare capacity, running included; null: max_run_s and an hour
    checkpoints: bool = True  # kept in S3 while the job runs
    keep_alive_s: int = 0  # keep the instances warm for the next job; they are billed
    framework_version: str = "2.21.0"  # of AWS's TensorFlow image

    @property
    def in_image_of_aws(self) -> bool:
        """Whether the job runs in AWS's TensorFlow image."""
        return self.image is None and self.mode is Mode.byos


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
    preprocess: PreprocessJob = field(default_factory=PreprocessJob)  # of the preprocess stage
    train: TrainJob = field(default_factory=TrainJob)  # of train, evaluate and visualize
    predict: Resources = field(default_factory=Resources)  # of the predict stage
    gpus: str | None = None  # of this machine, for training in containers: all, or a number
    network_isolation: bool = True  # containers reach nothing, and at most each other
    parity: Parity = Parity.warn
    build: Build = field(default_factory=Build)
    grace_s: float = 120  # from SIGTERM to SIGKILL, as on SageMaker
    # Amazon SageMaker only, from here on.
    region: str | None = None  # null: the AWS configuration's
    profile: str | None = None  # of ~/.aws/config
    role: str | None = None  # name or ARN of the role that jobs run as; null: the one that this notebook runs as
    bucket: str | None = None  # null: sagemaker-REGION-ACCOUNT
    prefix: str = "videolift"  # of all keys in the bucket
    kms_key: str | None = None  # encrypts what is stored in S3 and on the instances' volumes
    subnets: list[str] = field(default_factory=list)
    security_groups: list[str] = field(default_factory=list)
    encrypt_traffic: bool = False  # between the hosts of one job
    environment: dict[str, str] = field(default_factory=dict)  # variables of the jobs; no place for secrets
    job_tags: dict[str, str] = field(default_factory=dict)  # for cost allocation
    wait: bool = True  # false: submit and return; action=resume goes on
    on_interrupt: OnInterrupt = OnInterrupt.detach
    poll_s: float = 5  # between two looks at a job
    max_cost: float | None = None  # US dollars; a run that may cost more is refused
    price_per_hour: float | None = None  # US dollars an instance, instead of the price list

    def resources(self, purpose: str) -> Resources:
        """Return what the stages of a purpose are given: those of ``launchers.image.PURPOSES``."""
        return self.jobs()[purpose]

    def jobs(self) -> dict[str, Resources]:
        """Return what each kind of job is given, by its purpose."""
        return {"preprocess": self.preprocess, "train": self.train, "predict": self.predict}


@dataclass
class Tracking:
    """How a run is recorded in MLflow."""

    enabled: bool = True
    uri: str | None = None  # null: sqlite in outputs
    experiment: str = "videolift"
    timeout_s: float = 5  # how long a server that does not answer holds the run up
    log_model: bool = True
    register: str | None = None  # name in the model registry that the trained model becomes a version of
    system_metrics: bool = True  # processor, memory and GPU of the stages
    system_interval_s: float = 5

    @property
    def sampled_every_s(self) -> float:
        """Seconds between two samples of a stage's machine; 0 takes none."""
        return self.system_interval_s if self.system_metrics else 0.0


@dataclass
class Sweep:
    """How the runs of ``-m`` are made."""

    name: str = "grid"  # grid | optuna
    parallel: int = 1  # children at a time
    threads: int | None = None  # of TensorFlow for each child on this machine; null: the cores, divided
    on_failure: OnFailure = OnFailure["continue"]
    resume: Resume | None = None  # null: ask where something has changed
    metric: str = "val_accuracy"  # by which children are compared; at the epoch whose weights are kept
    goal: Goal | None = None  # null: minimize a loss, maximize anything else
    # sweep=optuna only, from here on.
    trials: int = 20
    space: dict[str, str] = field(default_factory=dict)  # setting -> choice(...), range(...) or interval(...)
    random_trials: int = 8  # before the sampler learns from what came before
    prune: bool = True  # stop a child that is worse than the median of the others at the same epoch
    prune_after: int = 3  # epochs that every child gets

    @property
    def better(self) -> Goal:
        """Which of two values of the metric is the better one."""
        return self.goal or (Goal.minimize if "loss" in self.metric else Goal.maximize)


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
    augment: Augment = field(default_factory=Augment)
    predict: Predict = field(default_factory=Predict)
    visualize: Visualize = field(default_factory=Visualize)
    script: Script = field(default_factory=Script)
    tracking: Tracking = field(default_factory=Tracking)
    sweep: Sweep = field(default_factory=Sweep)

    def __post_init__(self) -> None:
        """Give a script its stages, where others were not asked for."""
        from launchers.script_settings import stages_of

        if self.script.path is not None and self.stages == list(STAGES):
            self.stages = stages_of(self.script)


def register() -> None:
    """Make known to Hydra what conf/config.yaml begins with: Config as ``schema``, and what runs sweeps."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance().store
    store(name="schema", node=Config)
    grid = {"_target_": f"{PLUGINS}.videolift_launcher.VideoliftGrid", "max_batch_size": None, "params": None}
    store(
        group="hydra/launcher", name="videolift", node={"_target_": f"{PLUGINS}.videolift_launcher.VideoliftLauncher"}
    )
    store(group="hydra/sweeper", name="videolift_grid", node=grid)
    store(
        group="hydra/sweeper", name="videolift_optuna", node={"_target_": f"{PLUGINS}.videolift_sweeper.OptunaSweeper"}
    )


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
    groups = (config.data, config.preprocess, config.model, config.augment, config.predict)
    return [*_own_problems(config), *settings.problems(*groups)]


def _own_problems(config: Config) -> Iterator[str]:
    from launchers.script_secrets import literal_secrets
    from launchers.script_settings import script_problems

    yield from _action_problems(config)
    if config.script.path is None:
        yield from _stage_problems(config.stages)
    yield from script_problems(config)
    yield from literal_secrets(config)
    for name in ("outputs", "name", "run"):
        value = getattr(config, name)
        if value is not None and not value.strip():
            yield f"{name}: is empty; give it a value{'' if name == 'outputs' else ' or leave it out'}"
    most = MAX_SEED - max(1, config.model.members) + 1  # every member has the next one
    if not 0 <= config.seed <= most:
        yield f"seed: must be from 0 to {most}, got {config.seed}"
    yield from _s3_problems(config)
    yield from _backend_problems(config.backend)
    if config.backend.name == "sagemaker-remote" and config.model.members > MAX_MEMBERS:
        yield (
            f"model.members: at most {MAX_MEMBERS} on SageMaker, got {config.model.members}: what puts them together "
            "has a channel a member, and a training job has 20 at most"
        )
    yield from _tracking_problems(config.tracking)
    yield from _register_problems(config)
    yield from _sweep_problems(config.sweep)
    yield from _metric_problems(config)
    yield from _visualize_problems(config)


def _action_problems(config: Config) -> Iterator[str]:
    if config.action is Action.build and config.backend.name != "sagemaker-local":
        other = "say backend=sagemaker-local" if config.backend.name == "local" else "action=push builds and sends them"
        yield f"action: there are no images to build on this machine for backend={config.backend.name}; {other}"
    if config.action is Action.push and config.backend.name != "sagemaker-remote":
        yield f"action: images are pushed for backend=remote, not for {config.backend.name}"
    if config.action in (Action.resume, Action.sync):
        if config.run is None:
            yield f"run: action={config.action.value} needs the id of a run; say run=ID"
    elif PREDICT in config.stages:
        yield from _predict_problems(config)
    elif config.run is not None and not set(config.stages) <= set(STAGES_ON_A_FINISHED_RUN):
        yield (
            f"run: a finished run is for stages=[{','.join(STAGES_ON_A_FINISHED_RUN)}] or some of them; "
            "to go on with an unfinished one say action=resume"
        )


def _predict_problems(config: Config) -> Iterator[str]:
    if config.action in (Action.build, Action.push):
        return
    if config.stages != [PREDICT]:
        yield f"stages: {PREDICT} goes alone, after a run that has trained; say stages=[{PREDICT}] run=ID"
    if config.run is None:
        yield f"run: {PREDICT} needs the id of a run whose model is to classify; say run=ID"
    if config.predict.input is None:
        yield "predict.input: which videos? say predict.input=FILE, a folder, or a pattern in quotes: 'clips/*.mp4'"


def _stage_problems(stages: list[str]) -> Iterator[str]:
    if not stages:
        yield f"stages: is empty; there are {', '.join(STAGES)}"
    known = (*STAGES, PREDICT)
    for stage in dict.fromkeys(stages):
        if stage not in known:
            near = difflib.get_close_matches(stage, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield f"stages: there is no stage {stage!r}, there are {', '.join(known)}{hint}"
        elif stages.count(stage) > 1:
            yield f"stages: {stage} is there {stages.count(stage)} times; once is enough"


def _visualize_problems(config: Config) -> Iterator[str]:
    if "visualize" not in config.stages:
        for key, value in vars(config.visualize).items():
            if value is not None:
                yield f"visualize.{key}: is for the stage visualize, which is not in stages; leave it out"
    else:
        yield from settings.visualize_problems(drawn(config))


def drawn(config: Config) -> Visualize:
    """Return what is drawn: of a finished run everything that nobody chose from."""
    again = config.run is not None and config.action in (Action.run, Action.plan)
    everything = again and config.visualize.pictures is None
    return replace(config.visualize, pictures=list(PICTURES)) if everything else config.visualize


def _s3_problems(config: Config) -> Iterator[str]:
    from launchers.remote.s3 import is_s3

    for key in ("lists", "csv", "npz", "classes"):
        if is_s3(getattr(config.data, key)):
            yield f"data.{key}: only videos can lie in S3 (data.root=s3://...); fetch it first"
    if not is_s3(config.data.root):
        return
    if config.backend.name != "sagemaker-remote":
        yield f"data.root: videos in S3 are for backend=remote, not for {config.backend.name}; fetch them first"
    elif config.backend.preprocess.where is Where.local:
        yield "backend.preprocess.where: is local, and the videos are in S3; say where=job, or fetch them first"


def _backend_problems(backend: Backend) -> Iterator[str]:
    if backend.name not in BACKENDS:
        yield f"backend.name: there is no backend {backend.name!r}, there are {', '.join(BACKENDS)}"
    if backend.grace_s < 0:
        yield f"backend.grace_s: must be at least 0 seconds, got {backend.grace_s}"
    for name, resources in backend.jobs().items():
        if resources.instance_count < 1:
            yield f"backend.{name}.instance_count: must be at least 1, got {resources.instance_count}"
    if backend.train.parallel < 1:
        yield f"backend.train.parallel: must be at least 1, got {backend.train.parallel}"
    yield from _settings_of_other_backends(backend)
    if backend.name == "sagemaker-local":
        yield from _container_problems(backend)
    if backend.name == "sagemaker-remote":
        from launchers.remote.settings import setting_problems

        yield from setting_problems(backend)
        yield from _image_problems(backend)


SWEEPS = ("grid", "optuna")
OF_SAMPLERS = ("trials", "space", "random_trials", "prune", "prune_after")  # settings


def _sweep_problems(sweep: Sweep) -> Iterator[str]:
    if sweep.name not in SWEEPS:
        yield f"sweep.name: there is no sweep {sweep.name!r}, there are {', '.join(SWEEPS)}"
    for key, least in (("parallel", 1), ("threads", 1), ("trials", 1), ("random_trials", 0), ("prune_after", 0)):
        value = getattr(sweep, key)
        if value is not None and value < least:
            yield f"sweep.{key}: must be at least {least}, got {value}"
    if sweep.name == "grid":
        for key in OF_SAMPLERS:
            if getattr(sweep, key) != getattr(Sweep(), key):
                yield f"sweep.{key}: is for sweep=optuna, not for grid; leave it out"


# Metrics by which children can be compared: those of the train stage, and those of evaluate.
OF_THE_TRAINING_SET = ("loss", "accuracy")
OF_AN_EPOCH = (*OF_THE_TRAINING_SET, "val_loss", "val_accuracy")
OF_THE_TEST = (
    "test_loss",
    "test_accuracy",
    "test_top5_accuracy",
    "test_video_loss",
    "test_video_accuracy",
)  # of evaluate


def _metric_problems(config: Config) -> Iterator[str]:
    """Tell where no child can have what children are compared by; a grid does without, a sampler cannot."""
    metric, known = config.sweep.metric, (*OF_AN_EPOCH, *OF_THE_TEST)
    if config.script.path is not None:
        return  # which ones it prints is not known
    if metric not in known:
        near = next(iter(difflib.get_close_matches(metric, known, n=1)), None)
        hint = f"; did you mean {near}?" if near else ""
        yield f"sweep.metric: there is no metric {metric!r} of a run, there are {', '.join(known)}{hint}"
    elif config.sweep.name != "grid":
        stage = "train" if metric in OF_AN_EPOCH else "evaluate"
        if stage not in config.stages:
            yield f"sweep.metric: {metric} is told by the stage {stage}, which is not in stages"
        if metric.startswith("val_") and config.data.val_share == 0:
            yield f"sweep.metric: without a validation set (data.val_share=0) there is no {metric}"
        if metric in OF_THE_TRAINING_SET and config.model.members > 1:
            yield (
                f"sweep.metric: an ensemble (model.members={config.model.members}) has no {metric}, its members have; "
                f"say val_{metric} or test_{metric}"
            )


# Which backends a setting is for, where not for all; the others would silently ignore it.
EVERYWHERE = ("name", "preprocess", "train", "predict", "build", "instance_count", "parallel")
IN_CONTAINERS = ("mode", "image", "base_image", "network_isolation", "pip_index_url", "pip_trusted_host", "wheels")
ON_DOCKER = ("memory", "cpus", "gpus", "parity")


def _settings_of_other_backends(backend: Backend) -> Iterator[str]:
    """Name what would silently do nothing."""
    plain = Backend()
    groups: list[tuple[str, object, object]] = [
        ("backend", backend, plain),
        ("backend.preprocess", backend.preprocess, plain.preprocess),
        ("backend.train", backend.train, plain.train),
        ("backend.predict", backend.predict, plain.predict),
        ("backend.build", backend.build, plain.build),
    ]
    for prefix, given, default in groups:
        for key, value in vars(given).items():
            if value == getattr(default, key) or key in EVERYWHERE:
                continue
            homes = _backends_with(key)
            if backend.name.replace("sagemaker-remote", "remote") not in homes:
                yield f"{prefix}.{key}: is for backend={' and '.join(homes)}, not for {backend.name}; leave it out"


def _backends_with(key: str) -> tuple[str, ...]:
    if key in IN_CONTAINERS:
        return ("sagemaker-local", "remote")
    if key == "grace_s":
        return ("local", "sagemaker-local")
    return ("sagemaker-local",) if key in ON_DOCKER else ("remote",)


def _container_problems(backend: Backend) -> Iterator[str]:
    for name, resources in backend.jobs().items():
        if resources.memory is not None and not re.fullmatch(r"[1-9]\d*[bkmgBKMG]?", resources.memory):
            yield f"backend.{name}.memory: must be a size like 512m or 8g, got {resources.memory}"
        if resources.cpus is not None and resources.cpus <= 0:
            yield f"backend.{name}.cpus: must be above 0 cores, got {resources.cpus}"
    if backend.gpus is not None and backend.gpus != "all" and not backend.gpus.isdecimal():
        yield f"backend.gpus: must be all or a number, got {backend.gpus!r}"
    yield from _image_problems(backend)


def _image_problems(backend: Backend) -> Iterator[str]:
    for name, resources in backend.jobs().items():
        for key in ("image", "base_image"):
            reference = getattr(resources, key)
            if reference is not None and not re.fullmatch(r"[\w][\w.:/@-]*", reference, re.ASCII):
                yield f"backend.{name}.{key}: is no image's name: {reference!r}; say NAME:TAG"
    wheels = backend.build.wheels
    if wheels is not None and not Path(wheels).expanduser().is_dir():
        yield f"backend.build.wheels: no folder {wheels}; say where the wheels are"


def _register_problems(config: Config) -> Iterator[str]:
    if config.tracking.register is None or config.script.path is not None or "train" in config.stages:
        return
    of_earlier = config.run is not None and config.stages != [PREDICT]  # then its own model may be meant
    if config.action in (Action.run, Action.plan) and not of_earlier:
        yield (
            "tracking.register: is for what the stage train makes, which is not in stages; leave it out, or register "
            "the model of a run that has trained: action=sync run=ID"
        )


def _tracking_problems(tracking: Tracking) -> Iterator[str]:
    for name in ("timeout_s", "system_interval_s"):
        value = getattr(tracking, name)
        if not 0 < value < math.inf:
            yield f"tracking.{name}: must be above 0 seconds, got {value}"
    if tracking.register is not None and not re.fullmatch(r"[^/:\s][^/:]*", tracking.register):
        yield f"tracking.register: is no name of a model: {tracking.register!r}; it has no / and no : in it"
    if tracking.register is not None and not (tracking.enabled and tracking.log_model):
        yield "tracking.register: needs the model to be logged; leave it, tracking=none or log_model=false out"
    for name in ("uri", "experiment"):
        value = getattr(tracking, name)
        if value is not None and not value.strip():
            yield f"tracking.{name}: is empty; give it a value or leave it out"
