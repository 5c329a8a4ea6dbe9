"""From a checked configuration to what would run: data present, manifest made, stages planned. Nothing expensive."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launchers import script_settings, scripting
from launchers.base import Backend, Described
from launchers.checksums import open_checksums
from launchers.config import Config, Parity
from launchers.machine import members_at_once, threads_of
from launchers.outputs import Outputs
from launchers.parity import Table, differences, parity_table
from launchers.planning import PlannedStage, finished_stages, plan_stages, planned_names, to_compute
from launchers.remote.aws import Aws
from launchers.remote.cost import cost_problem
from launchers.remote.s3 import Location, is_s3
from launchers.remote.s3_data import Shadow, shadow
from launchers.repository import SOURCE
from launchers.script_secrets import missing_secrets
from videolift.errors import ConfigError, DataError, StageError
from videolift.manifest import Manifest, make_manifest
from videolift.plan import digest_of, to_plain
from videolift.settings import CHANNELS, Data, Model, Precision, Preprocess, Source, problems

if TYPE_CHECKING:
    from rich.console import Console

TELL_INTERVAL_S = 5.0


FindBackend = Callable[[Config, Outputs, Sequence[str]], Backend]  # checks that stages can run on it


@dataclass
class Prepared:
    """An experiment that is ready to run."""

    config: Config  # with the data's place and, for existing arrays, their shape filled in
    data: Data  # where the videos, or what stands for them, are on this machine
    backend: Backend
    manifest: Manifest
    planned: dict[str, PlannedStage]
    plan: Callable[[Config, Backend, Manifest], dict[str, PlannedStage]]  # how that came about
    # Versions in what the stages run in against those here; None where that is this machine.
    parity: Table | None = None


class Preparing:
    """Prepares experiments; what several of them have in common is done once."""

    def __init__(self, outputs: Outputs, console: Console, find_backend: FindBackend) -> None:
        self._outputs = outputs
        self._console = console
        self._find_backend = find_backend
        self._backends: dict[str, Backend] = {}
        self._listed: dict[str, tuple[Data, Manifest]] = {}

    def prepare(self, config: Config) -> Prepared:
        """Find everything that is wrong with an experiment before the first expensive step.

        Raises:
            ConfigError: if a setting does not fit the backend or the data.
            DataError: if the data cannot be used as asked.
        """
        if config.script.path is not None:
            return self._prepare_script(config)
        backend = self._backend(config)
        data = _present_data(_absolute(config.data), self._outputs, self._say)
        config = replace(config, data=data, model=_absolute_builder(config.model))
        if config.data.source is Source.npz:
            config = replace(config, preprocess=_shape_of_arrays(config.data, config.preprocess))
            wrong = problems(config.data, config.preprocess, config.model)
            if wrong:
                raise ConfigError("the arrays do not fit the settings:\n" + "\n".join(f"  {line}" for line in wrong))
        data, manifest = self._manifest(config)
        if config.augment.flip:
            _refuse_mirror_images(manifest)
        return Prepared(config, data, backend, manifest, _plan(config, backend, manifest), _plan)

    def _prepare_script(self, config: Config) -> Prepared:
        """Find everything that is wrong with a user's own script, and with what it is given."""
        script = scripting.absolute(config.script)
        source = scripting.read_source(script, self._outputs.root)  # first: it is what a person has just written
        config = replace(config, script=script)
        if config.stages != (stages := script_settings.stages_of(script)):
            raise ConfigError(f"stages: a run of a script has {' and '.join(stages)}, not {', '.join(config.stages)}")
        if problems_found := missing_secrets(config):
            raise ConfigError("\n".join(problems_found))
        backend = self._backend(config)
        data, manifest = config.data, Manifest((), (), "script")
        if script_settings.needs_data(script):
            config = replace(config, data=_present_data(_absolute(config.data), self._outputs, self._say))
            if config.data.source is Source.npz:
                config = replace(config, preprocess=_shape_of_arrays(config.data, config.preprocess))
            given = replace(config, data=replace(config.data, val_share=0.0))
            # A script that is given videos divides them by itself.
            data, manifest = self._manifest(given, divided=script_settings.ARRAYS in script.channels.values())
        with open_checksums(self._outputs.checksums) as checksums:
            channels = scripting.find_channels(
                script, data, manifest, checksums.of, lambda: Aws(config.backend).client("s3")
            )
        plan = partial(scripting.plan_script, source, channels)
        if problem := scripting.network_problem(source, config, backend):
            raise ConfigError(problem)
        return Prepared(config, data, backend, manifest, plan(config, backend, manifest), plan)

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def _backend(self, config: Config) -> Backend:
        """Return the backend, having asked it whether the stages can run on it, and what in."""
        asked = {"backend": config.backend, "tracking": config.tracking, "action": config.action}
        asked |= {"stages": config.stages, "threads": threads_of(config), "source": config.data.source}
        place = config.data.root if is_s3(config.data.root) else None
        key = digest_of({**{name: to_plain(value) for name, value in asked.items()}, "place": place})
        if key not in self._backends:
            stages = planned_names(config.stages)
            backend = self._find_backend(config, self._outputs, stages)
            backend.settle(stages, self._console)
            self._backends[key] = backend
        return self._backends[key]

    def _manifest(self, config: Config, *, divided: bool = True) -> tuple[Data, Manifest]:
        """Return where the videos, or what stands for them, are on this machine, and their manifest."""
        key = digest_of({"data": to_plain(config.data), "seed": config.seed, "divided": divided})
        if key not in self._listed:
            self._listed[key] = self._list(config, divided=divided)
            for note in self._listed[key][1].notes:
                self._console.print(f"note: {note}", style="yellow", soft_wrap=True)
        return self._listed[key]

    def _list(self, config: Config, *, divided: bool) -> tuple[Data, Manifest]:
        make = partial(make_manifest, seed=config.seed, progress=_telling(self._say), divided=divided)
        if is_s3(config.data.root):
            image = shadow_of(config, self._outputs, self._say)
            data = replace(config.data, root=str(image.root))
            return data, make(data, checksum=image.checksum, content=image.content)
        with open_checksums(self._outputs.checksums) as checksums:
            return config.data, make(config.data, checksum=checksums.of, rows=checksums.of_rows)


def _refuse_mirror_images(manifest: Manifest) -> None:
    from videolift.augment import mirror_images  # numpy, which a plan does not need

    if pairs := mirror_images(manifest.classes):
        one, other = pairs[0]
        raise ConfigError(
            f"augment.flip: mirrored, {one} looks like {other}, and would be trained as what it is not; leave flip out"
        )


def shadow_of(config: Config, outputs: Outputs, say: Callable[[str], None]) -> Shadow:
    """Return what stands here for videos that lie in S3."""
    location = Location.parse(str(config.data.root))
    say(f"listing {location}")
    folder = outputs.root / "data" / f"s3-{hashlib.sha256(location.uri.encode()).hexdigest()[:8]}"
    return shadow(Aws(config.backend).client("s3"), location, folder)


def _plan(config: Config, backend: Backend, manifest: Manifest) -> dict[str, PlannedStage]:
    precision = backend.precision() if config.model.precision is Precision.auto else config.model.precision
    return plan_stages(config, manifest, precision, backend.libraries)


Wanted = dict[str, list[str]]  # ids of the stages that have to be computed, by name


def make_ready(
    runs: Sequence[Prepared],
    outputs: Outputs,
    console: Console,
    *,
    at_once: int = 1,
    wanted: Callable[[Sequence[Prepared]], Wanted] | None = None,
) -> list[Prepared]:
    """Make what the stages that have to be computed run in, and plan again with what it turns out to hold.

    Args:
        at_once: how many of the runs go on at the same time.
        wanted: returns what has to be computed for runs of one backend; None: what is not finished.

    Raises:
        ConfigError: if that cannot be made, holds other libraries than here and ``backend.parity`` is strict, or may
            cost more than ``backend.max_cost``.
    """
    wanted = wanted or partial(to_be_computed, outputs=outputs)
    _refuse_too_dear(runs, wanted)
    parities = {}
    for backend, mine in _by_backend(runs):
        stages = wanted(mine)
        backend.make_ready(stages, console, at_once=at_once * max(members_at_once(run.config) for run in mine))
        parities[id(backend)] = _parity(backend, list(stages), mine[0].config.backend.parity)
    return [
        replace(run, planned=run.plan(run.config, run.backend, run.manifest), parity=parities[id(run.backend)])
        for run in runs
    ]


def _by_backend(runs: Sequence[Prepared]) -> list[tuple[Backend, list[Prepared]]]:
    backends = {id(run.backend): run.backend for run in runs}
    return [(backend, [run for run in runs if run.backend is backend]) for backend in backends.values()]


def _refuse_too_dear(runs: Sequence[Prepared], wanted: Callable[[Sequence[Prepared]], Wanted]) -> None:
    """Raise ConfigError where all runs together may cost more than any of them allows."""
    limits = [limit for run in runs if (limit := run.config.backend.max_cost) is not None]
    if limits and (problem := cost_problem(min(limits), costs(runs, wanted), several=len(runs) > 1)):
        raise ConfigError(problem)


def costs(runs: Sequence[Prepared], wanted: Callable[[Sequence[Prepared]], Wanted]) -> list[Described]:
    """Return the most that runs can cost, on each backend where they cost anything.

    What runs on several backends need is computed on one of them only, maybe on the dearest: there it is counted.
    """
    backends = [(backend, wanted(mine)) for backend, mine in _by_backend(runs)]
    needs: dict[tuple[str, str], list[Backend]] = {}  # by name and id of a stage
    for backend, stages in backends:
        for name, ids in stages.items():
            for one in ids:
                needs.setdefault((name, one), []).append(backend)
    counted = {
        stage: max(those, key=partial(_cost_of, stage)) if len(those) > 1 else those[0]
        for stage, those in needs.items()
    }
    found = []
    for backend, stages in backends:
        mine = {name: [one for one in ids if counted[name, one] is backend] for name, ids in stages.items()}
        found.append(backend.cost(mine))
    return [one for one in found if one is not None]


def _cost_of(stage: tuple[str, str], backend: Backend) -> float:
    """Return what one stage, by name and id, can cost; one whose price is not known is the dearest."""
    name, stage_id = stage
    cost = backend.cost({name: [stage_id]})
    return 0.0 if cost is None else math.inf if cost.usd is None else cost.usd


def to_be_computed(runs: Sequence[Prepared], outputs: Outputs) -> Wanted:
    """Return the ids of the stages that are not finished, by name, each once."""
    found: Wanted = {}
    for run in runs:
        finished = finished_stages(run.planned, outputs.cache, run.backend)
        for one in to_compute(run.planned, run.config.stages, finished):
            if one.id not in found.setdefault(one.stage, []):
                found[one.stage].append(one.id)
    return found


def _parity(backend: Backend, stages: Sequence[str], wanted: Parity) -> Table | None:
    environments = backend.environments(stages)
    parity = parity_table(environments) if environments else None
    different = differences(parity) if parity else []
    if different and wanted is Parity.strict:
        raise ConfigError(f"backend.parity=strict: {'; '.join(different)}; make them equal, or say backend.parity=warn")
    return parity


def _telling(say: Callable[[str], None]) -> Callable[[int, int], None]:
    """Return what tells now and then how far the checksums of a large data set are."""
    told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_INTERVAL_S:
            told = time.monotonic()
            say(f"checksums: {done} of {total} clips")

    return tell


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
        outputs.demo.parent.mkdir(parents=True, exist_ok=True)
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
