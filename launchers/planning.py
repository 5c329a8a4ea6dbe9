"""What would run: the stages of an experiment, their ids, channels and what is finished already."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launchers import shares
from launchers.base import Backend, Dealt, Stage, host_names
from launchers.cache import Cache, StageFolder
from launchers.config import PREDICT, Config
from launchers.records import stage_of
from videolift.errors import ConfigError
from videolift.listing import root_of
from videolift.manifest import Manifest
from videolift.plan import MANIFEST_FILE, MEMBER_CHANNEL, SOURCE_FOLDER, Plan, digest_of, to_plain
from videolift.provenance import module_of, source_digest
from videolift.settings import (
    QUICK_PICTURES,
    Augment,
    Data,
    Model,
    Precision,
    Preprocess,
    Source,
    Visualize,
    resolved_optimizer,
    resolved_sampling,
)
from videolift.workspace import Kind

if TYPE_CHECKING:
    from launchers.scripting import Channel

ID_LENGTH = 16  # hex digits of a stage's id
KINDS = {
    "preprocess": Kind.processing,
    "train": Kind.training,
    "evaluate": Kind.training,
    "visualize": Kind.training,
    "predict": Kind.processing,
    "script": Kind.training,
    "preprocess-script": Kind.processing,
}
NEEDS = {
    "preprocess": (),
    "train": ("preprocess",),
    "evaluate": ("preprocess", "train"),
    "visualize": ("preprocess", "train", "evaluate"),
    "predict": ("train",),
    "script": (),  # and preprocess, where it is given arrays
    "preprocess-script": (),
}
OF_THE_NETWORK = ("train", "evaluate", "visualize")  # stages that need the source of a user's own model
# Knobs that cannot change the bytes of finished arrays: speed, and when to give up.
NOT_IN_PREPROCESS_ID = ("workers", "bad_video", "max_bad_share", "sampling")


@dataclass
class PlannedStage:
    """One stage of the plan."""

    name: str  # unique in the run: that of the stage, or train-2 for what trains the second member of an ensemble
    id: str
    plan: Plan
    hosts: tuple[str, ...]
    builder: dict[str, bytes] = field(default_factory=dict)  # a user's own source: relative path -> content
    channels: tuple[Channel, ...] = ()  # of a user's own script
    needs: tuple[str, ...] = ()  # names of the stages whose results it takes

    @property
    def stage(self) -> str:
        """What it is: a key of :data:`KINDS`."""
        return self.plan.stage

    @property
    def is_member(self) -> bool:
        """Whether it trains a member of an ensemble."""
        return self.name != self.stage


@dataclass(frozen=True)
class OwnStages:
    """What of a finished run its further stages work on."""

    ids: Mapping[str, str]  # by name
    builder: dict[str, bytes]  # source of the user's own model, as it was


def plan_stages(
    config: Config,
    manifest: Manifest,
    precision: Precision,
    libraries: Callable[[str], dict[str, str]],
    own: OwnStages | None = None,
) -> dict[str, PlannedStage]:
    """Return every stage up to the last one asked for, in order; inputs of a stage come before it.

    Args:
        precision: what ``auto`` is on the backend.
        libraries: returns the versions that a stage runs with on the backend.
        own: the stages of a finished run, which are what they are.
    """
    precision = precision if config.model.precision is Precision.auto else config.model.precision
    model = replace(config.model, precision=precision, optimizer=resolved_optimizer(config.model))
    config = replace(config, model=model)
    builder = own.builder if own else builder_source(model)
    ids: dict[str, str] = dict(own.ids) if own else {}
    planned = {}
    for name, stage, needs, settings in _stages_of(config, trained="train" in ids):
        if name not in ids:
            shared = {"source": source_digest(module_of(stage)), "libraries": libraries(stage)}
            inputs = {need: ids[need] for need in needs}
            ids[name] = stage_id(stage, {**shared, **_determinants(stage, settings, manifest, inputs, builder)})
        plan = Plan(
            stage=stage,
            id=ids[name],
            data=config.data,
            preprocess=config.preprocess,
            model=settings.model,
            augment=config.augment,
            visualize=_drawn(config),
            seed=settings.seed,
            manifest_digest=manifest.digest,
            system_interval_s=config.tracking.sampled_every_s,
        )
        hosts = host_names(_host_count(stage, settings))
        source = builder if stage in OF_THE_NETWORK else {}
        planned[name] = PlannedStage(name, ids[name], plan, hosts, source, needs=needs)
    return planned


def _stages_of(config: Config, *, trained: bool) -> Iterator[tuple[str, str, tuple[str, ...], Config]]:
    """Yield name, stage, names of the stages that it needs, and settings of everything that is planned, in order.

    A member of an ensemble is what a training with its seed alone would be, so that one is taken for the other. Their
    data is divided by the experiment's own seed.

    Args:
        trained: the training is finished, whatever it was made of.
    """
    for stage in planned_names(config.stages):
        needs = NEEDS[stage]
        if stage == "train" and config.model.members > 1 and not trained:
            names = [f"{stage}-{number + 1}" for number in range(config.model.members)]
            for number, name in enumerate(names):
                alone = replace(config, seed=config.seed + number, model=replace(config.model, members=1))
                yield name, stage, needs, alone
            needs = (*needs, *names)
        yield stage, stage, needs, config


def _host_count(stage: str, config: Config) -> int:
    if stage == "preprocess":
        return config.backend.preprocess.instance_count
    trains = stage == "train" and config.model.members == 1  # members are put together on one host
    return config.backend.train.instance_count if trains else 1


def place_of(name: str) -> tuple[int, float]:
    """Return what planned stages are sorted by: members of an ensemble come before what they are put together in."""
    stage = stage_of(name)
    return list(KINDS).index(stage), math.inf if stage == name else float(name.removeprefix(f"{stage}-"))


def planned_names(stages: Sequence[str]) -> list[str]:
    """Return the stages asked for and those that they need, in order."""
    return [name for name in KINDS if any(name == s or name in NEEDS[s] for s in stages)]


def stage_id(name: str, determinants: dict[str, Any]) -> str:
    return f"{name}-{digest_of(determinants)[:ID_LENGTH]}"


def _determinants(
    stage: str, config: Config, manifest: Manifest, inputs: dict[str, str], builder: dict[str, bytes]
) -> dict[str, Any]:
    if stage == "preprocess":
        return {
            "settings": preprocess_determinants(config.data, config.preprocess),
            "data": manifest.data_digest,
        }
    model = config.model
    if stage == "train" and model.members == 1:
        settings = {**to_plain(model), "builder": _builder_determinants(model, builder)}
        hosts = config.backend.train.instance_count
        # Each host drops units of its own, and sums are rounded in another order.
        divided = {"hosts": hosts} if hosts > 1 else {}
        changed = {"augment": to_plain(config.augment)} if config.augment != Augment() else {}
        own = {"settings": settings, "seed": config.seed, **divided, **changed}
        return {"inputs": inputs, "manifest": manifest.digest, **own}
    if stage == "visualize":
        return {"inputs": inputs, "settings": to_plain(_drawn(config))}
    return {"inputs": inputs}


def _drawn(config: Config) -> Visualize:
    return replace(config.visualize, pictures=config.visualize.pictures or list(QUICK_PICTURES))


def _builder_determinants(model: Model, builder: dict[str, bytes]) -> list[object] | None:
    if not model.builder:
        return None
    place, _, function = model.builder.rpartition(":")
    name = Path(place).name if place.endswith(".py") else place  # where a file lies does not matter
    return [name, function, {path: _sha256(content) for path, content in builder.items()}]


def preprocess_determinants(data: Data, p: Preprocess) -> dict[str, Any]:
    """Return the settings that decide the bytes of the arrays."""
    settings = {key: value for key, value in to_plain(p).items() if key not in NOT_IN_PREPROCESS_ID}
    settings["sampling"] = resolved_sampling(p).value
    return {**settings, "source": data.source.value, "axes": data.axes if data.source is Source.npz else None}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def builder_source(model: Model) -> dict[str, bytes]:
    """Return the source files of ``model.builder``: relative path -> content.

    Raises:
        ConfigError: if it names no file or package.
    """
    if not model.builder:
        return {}
    place, _, function = model.builder.rpartition(":")
    if not place or not function:
        raise ConfigError(f"model.builder: must be file.py:function or package.module:function, got {model.builder!r}")
    if place.endswith(".py"):
        file = Path(place)
        if not file.is_file():
            raise ConfigError(f"model.builder: no file {file.resolve()}")
        return {file.name: file.read_bytes()}
    top = place.split(".")[0]
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"model.builder: no package {top!r} can be imported here; install it or name a file.py:function"
        )
    origin = Path(spec.origin)
    if not spec.submodule_search_locations:
        return {origin.name: origin.read_bytes()}
    folder = origin.parent
    return {str(f.relative_to(folder.parent)): f.read_bytes() for f in sorted(folder.rglob("*.py"))}


def in_jobs(stages: Sequence[PlannedStage], backend: Backend) -> list[list[PlannedStage]]:
    """Divide stages, which are in order, into those that share a job; a member of an ensemble has one of its own."""
    others = {one.name: one for one in stages if not one.is_member}
    jobs = [[others[name] for name in names] for names in backend.jobs(list(others))]
    place = next((n for n, job in enumerate(jobs) if any(one.stage == "train" for one in job)), len(jobs))
    return [*jobs[:place], *([one] for one in stages if one.is_member), *jobs[place:]]


def inputs_of(planned: dict[str, PlannedStage], name: str, together: Sequence[str], cache: Cache) -> dict[str, Path]:
    """Return the folders of the stages that one needs; those of the same job have none yet."""
    return {need: cache.path(planned[need].id) for need in planned[name].needs if need not in together}


def prepare_stage(
    planned: PlannedStage, folder: Path, manifest: Manifest, data: Data, inputs: dict[str, Path]
) -> Stage:
    """Write the plan into the stage's folder and return what a backend submits.

    Args:
        data: where the videos are on this machine.
        inputs: the folders of the finished stages that this one needs, but for those of the same job.
    """
    stage_folder = StageFolder(folder, KINDS[planned.stage])
    shutil.rmtree(stage_folder.plan, ignore_errors=True)
    stage_folder.plan.mkdir(parents=True)
    planned.plan.write(stage_folder.plan)
    (stage_folder.plan / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    for path, content in planned.builder.items():
        file = stage_folder.plan / SOURCE_FOLDER / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    for left in (folder / "hosts").glob("*"):  # of an earlier try on more hosts
        if left.name not in planned.hosts:
            shutil.rmtree(left)
    shutil.rmtree(stage_folder.shares, ignore_errors=True)  # of an earlier try
    given = {} if planned.channels else input_channels(planned.stage, inputs)
    stage = Stage(
        *(planned.plan, KINDS[planned.stage], stage_folder, planned.hosts, {"plan": stage_folder.plan, **given}),
        name=planned.name,
    )
    if planned.channels:
        _give_channels(stage, planned.channels, inputs)
    elif stage.kind is Kind.processing:
        stage.dealt["videos"] = _deal(planned, manifest, data)
    return stage


def _give_channels(stage: Stage, channels: Sequence[Channel], inputs: dict[str, Path]) -> None:
    """Give a script what its channels hold, and nothing that lies beside it: it sees the same wherever it runs."""
    stage.shared = next((channel.name for channel in channels if channel.shared), None)
    for channel in channels:
        if channel.uri is not None:
            stage.places[channel.name] = channel.uri
        elif channel.root is None:
            stage.channels[channel.name] = StageFolder(inputs["preprocess"], Kind.processing).arrays
        elif channel.shared:
            dealt = shares.deal(channel.root, channel.names, stage.hosts)
            stage.dealt[channel.name] = {host: replace(share, whole=False) for host, share in dealt.items()}
        else:
            stage.dealt[channel.name] = dict.fromkeys(stage.hosts, Dealt(channel.root, channel.names, whole=False))


def input_channels(stage: str, inputs: dict[str, Path]) -> dict[str, Path]:
    """Return the channels that carry the results of earlier stages to one, by whose they are."""
    channels = {}
    for name, folder in inputs.items():
        if stage_of(name) != name:
            member = StageFolder(folder, Kind.training).first
            channels[MEMBER_CHANNEL.format(name.rpartition("-")[2])] = member.model
    if "preprocess" in inputs:
        channels["arrays"] = StageFolder(inputs["preprocess"], Kind.processing).arrays
    if "train" in inputs:
        trained = StageFolder(inputs["train"], Kind.training).first
        channels |= {"model": trained.model} | ({} if stage == PREDICT else {"training": trained.output})
    if "evaluate" in inputs:
        channels["evaluation"] = StageFolder(inputs["evaluate"], Kind.training).first.output
    return channels


def _deal(planned: PlannedStage, manifest: Manifest, data: Data) -> dict[str, Dealt]:
    """Give each host its share of the input."""
    hosts = planned.hosts
    if data.source is Source.npz:
        file = Path(str(data.npz)).resolve()
        return {hosts[0]: Dealt(file.parent, (file.name,), whole=False)}
    dealt = shares.deal(root_of(data), [clip.id for clip in manifest.clips], hosts)
    if planned.stage != PREDICT or root_of(data).is_relative_to(str(planned.plan.predict.input)):
        return dealt
    # The folder that all names are below, often the current one, holds what nobody asked about.
    return {host: replace(share, whole=False) for host, share in dealt.items()}


def refuse_missing_inputs(
    planned: dict[str, PlannedStage], wanted: Sequence[str], cache: Cache, backend: Backend
) -> None:
    """Raise ConfigError where a stage that is wanted needs one that is neither wanted nor finished."""
    known = {**finished_stages(planned, cache, backend), **unknown_stages(planned, cache, backend)}
    missing = {
        need: name
        for name in wanted
        for need in planned[name].needs
        if stage_of(need) not in wanted and need not in known
    }
    if missing:
        lines = [
            f"stages: {name} needs {need}, which is not finished for these settings" for need, name in missing.items()
        ]
        raise ConfigError("\n".join(lines) + f"\n  say stages=[{','.join([*missing, *wanted])}]")


def to_compute(
    planned: dict[str, PlannedStage], wanted: Sequence[str], finished: Collection[str]
) -> list[PlannedStage]:
    """Return what of the stages that are wanted has to be computed: of a finished ensemble no member."""
    return [
        one
        for name, one in planned.items()
        if one.stage in wanted and name not in finished and not (one.is_member and one.stage in finished)
    ]


def finished_stages(planned: dict[str, PlannedStage], cache: Cache, backend: Backend) -> dict[str, str]:
    """Return the stages that need not run, with the id of the run that computed each."""
    found = {name: cache.finished(stage.id) or backend.origin(stage.id) for name, stage in planned.items()}
    return {name: origin for name, origin in found.items() if origin is not None}


def unknown_stages(planned: dict[str, PlannedStage], cache: Cache, backend: Backend) -> dict[str, str]:
    """Return the stages of which a plan cannot tell whether they are finished elsewhere, with the reasons."""
    here = {name for name, stage in planned.items() if cache.finished(stage.id)}
    found = {name: backend.unknown_origin(stage.id) for name, stage in planned.items() if name not in here}
    return {name: reason for name, reason in found.items() if reason is not None}
