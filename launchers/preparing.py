"""From a checked configuration to what would run: data present, manifest made, stages planned. Nothing expensive."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launchers.base import Backend
from launchers.cache import Cache
from launchers.checksums import open_checksums
from launchers.config import Action, Config, Parity
from launchers.containers import ContainerBackend
from launchers.local import SOURCE, LocalBackend
from launchers.outputs import Outputs
from launchers.parity import Table, differences, parity_table
from launchers.planning import PlannedStage, finished_stages, plan_stages, planned_names
from launchers.remote.aws import Aws
from launchers.remote.backend import RemoteBackend
from launchers.remote.s3 import Location, is_s3
from launchers.remote.s3_data import Shadow, shadow
from videolift.errors import ConfigError, DataError, StageError
from videolift.manifest import Manifest, make_manifest
from videolift.settings import CHANNELS, Data, Model, Precision, Preprocess, Source, problems

if TYPE_CHECKING:
    from rich.console import Console

TELL_INTERVAL_S = 5.0
BACKENDS: dict[str, Callable[[Config, Cache], Backend]] = {
    "local": lambda config, cache: LocalBackend(config.backend, cache),
    "sagemaker-local": lambda config, cache: ContainerBackend(config.backend, cache),
    "sagemaker-remote": RemoteBackend,
}


@dataclass
class Prepared:
    """An experiment that is ready to run."""

    config: Config  # with the data's place and, for existing arrays, their shape filled in
    data: Data  # where the videos, or what stands for them, are on this machine
    backend: Backend
    manifest: Manifest
    planned: dict[str, PlannedStage]
    parity: Table | None = (
        None  # versions in what the stages run in against those here; None where that is this machine
    )


def prepare(config: Config, outputs: Outputs, console: Console) -> Prepared:
    """Find everything that is wrong before the first expensive step.

    Raises:
        ConfigError: if a setting does not fit the backend or the data.
        DataError: if the data cannot be used as asked.
    """

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    backend = find_backend(config, outputs)
    config = replace(
        config, data=_present_data(_absolute(config.data), outputs, say), model=_absolute_builder(config.model)
    )
    if config.data.source is Source.npz:
        config = replace(config, preprocess=_shape_of_arrays(config.data, config.preprocess))
        wrong = problems(config.data, config.preprocess, config.model)
        if wrong:
            raise ConfigError("the arrays do not fit the settings:\n" + "\n".join(f"  {line}" for line in wrong))
    if is_s3(config.data.root):
        image = shadow_of(config, outputs, say)
        data, checksum = replace(config.data, root=str(image.root)), image.checksum
        manifest = make_manifest(data, config.seed, checksum, _telling(say))
    else:
        data = config.data
        with open_checksums(outputs.checksums) as checksums:
            manifest = make_manifest(data, config.seed, checksums.of, _telling(say))
    backend.settle(planned_names(config.stages), console)
    return Prepared(config, data, backend, manifest, _plan(config, backend, manifest))


def shadow_of(config: Config, outputs: Outputs, say: Callable[[str], None]) -> Shadow:
    """Return what stands here for videos that lie in S3."""
    location = Location.parse(str(config.data.root))
    say(f"listing {location}")
    folder = outputs.root / "data" / f"s3-{hashlib.sha256(location.uri.encode()).hexdigest()[:8]}"
    return shadow(Aws(config.backend).client("s3"), location, folder)


def _plan(config: Config, backend: Backend, manifest: Manifest) -> dict[str, PlannedStage]:
    precision = backend.precision() if config.model.precision is Precision.auto else config.model.precision
    return plan_stages(config, manifest, precision, backend.libraries)


def make_ready(prepared: Prepared, outputs: Outputs, console: Console) -> Prepared:
    """Make what the stages that have to be computed run in, and plan again with what it turns out to hold.

    Raises:
        ConfigError: if that cannot be made, or holds other libraries than here and ``backend.parity`` is strict.
    """
    backend, config = prepared.backend, prepared.config
    finished = finished_stages(prepared.planned, outputs.cache, backend)
    stages = [name for name in prepared.planned if name in config.stages and name not in finished]
    backend.make_ready({name: [prepared.planned[name].id] for name in stages}, console)
    environments = backend.environments(stages)
    parity = parity_table(environments) if environments else None
    different = differences(parity) if parity else []
    if different and config.backend.parity is Parity.strict:
        raise ConfigError(f"backend.parity=strict: {'; '.join(different)}; make them equal, or say backend.parity=warn")
    return replace(prepared, planned=_plan(config, backend, prepared.manifest), parity=parity)


def _telling(say: Callable[[str], None]) -> Callable[[int, int], None]:
    """Return what tells now and then how far the checksums of a large data set are."""
    told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_INTERVAL_S:
            told = time.monotonic()
            say(f"checksums: {done} of {total} clips")

    return tell


def find_backend(config: Config, outputs: Outputs) -> Backend:
    """Return the backend, having asked it whether stages can run on it."""
    backend = BACKENDS[config.backend.name](config, outputs.cache)
    wrong = backend.check(planned_names(config.stages), planning=config.action is Action.plan)
    if config.data.source is Source.npz and config.backend.preprocess.instance_count > 1:
        wrong.append("backend.preprocess.instance_count: data=npz is one file, which cannot be divided; leave it at 1")
    if wrong:
        raise ConfigError("\n".join(wrong))
    return backend


def _absolute(data: Data) -> Data:
    """Return the settings with absolute paths, so that a run can be resumed from another folder."""
    places = {name: getattr(data, name) for name in ("root", "lists", "csv", "npz", "classes")}
    absolute: dict[str, Any] = {
        name: str(Path(p).expanduser().absolute()) for name, p in places.items() if p and not is_s3(p)
    }
    return replace(data, **absolute)


def _absolute_builder(model: Model) -> Model:
    place, colon, function = (model.builder or "").rpartition(":")
    if not place.endswith(".py"):
        return model
    return replace(model, builder=f"{Path(place).expanduser().absolute()}{colon}{function}")


def _present_data(data: Data, outputs: Outputs, say: Callable[[str], None]) -> Data:
    if data.source is not Source.demo:
        return data
    if not outputs.demo.is_dir():
        say(f"generating the demo videos in {outputs.demo} (once)")
        # A process of its own: the launcher imports no video library.
        command = [sys.executable, "-m", "videolift.demo", str(outputs.demo)]
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if made.returncode:
            raise StageError(f"{outputs.demo}: the demo videos could not be generated:\n{made.stderr.strip()}")
    return replace(data, root=str(outputs.demo))


def _shape_of_arrays(data: Data, p: Preprocess) -> Preprocess:
    """Return the settings with the arrays' own shape: nothing is decoded or resized."""
    from videolift.npz import npz_shape, resolve_axes

    file = Path(str(data.npz))
    shape = npz_shape(file)
    original = resolve_axes(shape, data.axes) == "original"
    channels = shape[4] if len(shape) > 4 else 1
    if channels not in CHANNELS.values():
        raise DataError(
            f"{file}: X has {channels} channels in shape {shape}; must be 1 (gray) or 3 (RGB); check data.axes"
        )
    height, width, depth = shape[1:4] if original else (shape[2], shape[3], shape[1])
    return replace(p, depth=depth, height=height, width=width, color=channels == CHANNELS[True])
