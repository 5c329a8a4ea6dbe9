"""Whether a sweep was begun before: the same one is gone on with, a changed one is asked about."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Container, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from launchers.compose import Checked, Job
from launchers.config import Config, Resume
from launchers.outputs import Outputs
from launchers.preparing import Prepared
from launchers.records import Status
from launchers.redaction import redacted_words
from launchers.scripting import absolute, moved, source_place
from launchers.sweeps.frozen import FOLDER as CODE
from launchers.sweeps.frozen import run_from
from launchers.sweeps.identity import child_identity, command_of, parts_of, sweep_id
from launchers.sweeps.record import DONE, Child, SweepFolder, SweepRecord, all_sweeps, folder_of
from videolift.errors import ConfigError

AS_IT_WAS = "VIDEOLIFT_SWEEP"  # environment variable: the id of the sweep to go on with from its own source
BUILDERS = "builders"  # folder, in that of a sweep, of users' own models and scripts
OF_SWEEPS = ("sweep", "hydra")  # settings that a run by itself has none of
OTHER = "other"  # sampler of a sweep that is neither a grid nor ours
PLACES = "places.json"  # where each of them was
WORDS = {
    "settings": "its settings (conf/ or a file of yours)",
    "data": "the data",
    "source": "the source, the libraries, or your own model or script",
}


def new_record(
    checked: Checked, jobs: Sequence[Job], runs: Sequence[Prepared], typed: Sequence[str], code: str
) -> SweepRecord:
    """Return the record of a sweep as its command asks for it now."""
    config = jobs[0].config
    sampled = not checked.is_grid
    identities = [child_identity(run) for run in runs]
    children = [
        Child(number, job.label, job.parameters, identity, alone(job.overrides, job.parameters, typed))
        for number, (job, identity) in enumerate(zip(jobs, identities, strict=True))
    ]
    return SweepRecord(
        id=sweep_id(identities, _chosen_by(checked, config) if sampled else None),
        name=config.name or _name(checked, jobs, typed),
        command=redacted_words(typed),
        experiment=config.tracking.experiment,
        metric=config.sweep.metric,
        goal=config.sweep.better,
        sampler=config.sweep.name if checked.is_grid or checked.space else OTHER,
        children=[] if sampled else children,
        parts=parts_of(runs, _chosen_by(checked, config) if sampled else None),
        code=code,
        tags=dict(config.tags),
    )


def alone(overrides: Sequence[str], parameters: Container[str], typed: Sequence[str]) -> list[str]:
    """Return what makes a child by itself, as it was typed but for what differs between children; without secrets."""
    common = [text for text in typed if _key(text) not in parameters and _key(text).split(".")[0] not in OF_SWEEPS]
    return redacted_words([*common, *(t for t in overrides if _key(t) in parameters)])


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _chosen_by(checked: Checked, config: Config) -> object:
    if checked.space is None:  # another sweeper of Hydra's: what it was told
        return command_of(checked.overrides)
    sweep, space = config.sweep, checked.space.distributions
    distributions = {key: [type(found).__name__, asdict(found)] for key, found in space.items()}
    knobs = ("name", "metric", "better", "random_trials", "prune", "prune_after")
    return {"space": distributions, **{key: str(getattr(sweep, key)) for key in knobs}}


def _name(checked: Checked, jobs: Sequence[Job], typed: Sequence[str]) -> str:
    """Return what to call a sweep that was given no name: what it sweeps over, as it was typed."""
    config = jobs[0].config
    if checked.space is not None:
        return f"{config.sweep.name}: {' '.join(checked.space.distributions)}"
    differs = {key for job in jobs for key in job.parameters}
    return " ".join(redacted_words([text for text in typed if _key(text) in differs])) or "sweep"


def find(
    checked: Checked, jobs: Sequence[Job], runs: Sequence[Prepared], typed: Sequence[str], root: Path, outputs: Outputs
) -> SweepRecord:
    """Return the record of the sweep to go on with, else a new one.

    Does not return where the sweep is gone on with as it was: then its own source runs in place of this process.

    Raises:
        ConfigError: if an unfinished sweep of the same command is another one now, and nothing says what to do.
    """
    wanted = new_record(checked, jobs, runs, typed, code=root.name)
    folder = folder_of(outputs.root, wanted.id)
    started_for = os.environ.pop(AS_IT_WAS, None)
    if started_for not in (None, wanted.id):
        changed = _changed(folder_of(outputs.root, str(started_for)).load(), wanted)
        raise ConfigError(
            f"sweep.resume=frozen: sweep {started_for} cannot go on as it was, because {changed} changed since; bring "
            "it back, or say sweep.resume=new"
        )
    if folder.record_file.is_file():
        return gone_on_with(folder.load(), wanted)
    other = next((record for _, record in all_sweeps(outputs.root) if _is_the_same_command(record, wanted)), None)
    resume = jobs[0].config.sweep.resume
    if other is None or resume is Resume.new:
        return wanted
    if resume is Resume.frozen:
        place = outputs.root / CODE / other.code
        if not place.is_dir():
            raise ConfigError(
                f"sweep.resume=frozen: {place} is gone, the source of sweep {other.id}; say sweep.resume=new"
            )
        os.environ[AS_IT_WAS] = other.id
        run_from(place, sys.argv[1:])
    raise ConfigError(
        f"sweep: {other.id} of the same command is not finished ({other.count(*DONE)} of {len(other.children)} "
        f"children are), and {_changed(other, wanted)} changed since; say sweep.resume=frozen to go on with it as it "
        "was, or sweep.resume=new to start another one"
    )


def gone_on_with(known: SweepRecord, wanted: SweepRecord) -> SweepRecord:
    """Return the record of a sweep that goes on: what does not make it another one is as it is said now."""
    return replace(known, metric=wanted.metric, goal=wanted.goal, command=wanted.command, code=wanted.code)


def _is_the_same_command(record: SweepRecord, wanted: SweepRecord) -> bool:
    if record.status is Status.FINISHED or record.sampler != wanted.sampler:
        return False
    typed = command_of(record.command) == command_of(wanted.command)
    return typed or record.parts.get("settings") == wanted.parts["settings"]


def _changed(before: SweepRecord, now: SweepRecord) -> str:
    return " and ".join(w for part, w in WORDS.items() if before.parts.get(part) != now.parts[part]) or "something"


def keep_builders(folder: SweepFolder, runs: Sequence[Prepared]) -> None:
    """Keep users' own models and scripts with the sweep, once: it goes on with them whatever becomes of their files."""
    if (folder.path / BUILDERS).is_dir():
        return
    places = {}
    partial = folder.path / f"{BUILDERS}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    for run in runs:
        builder = next((stage.builder for stage in run.planned.values() if stage.builder), {})
        if builder:
            digest = hashlib.sha256(repr(sorted(builder.items())).encode()).hexdigest()[:8]
            script = run.config.script
            own = str(run.config.model.builder).rpartition(":")[0]
            places[own if script.path is None else source_place(script)] = digest
            for name, content in builder.items():
                file = partial / digest / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
    if places:
        (partial / PLACES).write_text(json.dumps(places), encoding="utf-8")
        partial.rename(folder.path / BUILDERS)


def with_kept_builders(jobs: Sequence[Job], folder: SweepFolder | None) -> list[Job]:
    """Return jobs with users' own models and scripts as a sweep keeps them, where it does."""
    if folder is None or not (folder.path / BUILDERS / PLACES).is_file():
        return list(jobs)
    kept = folder.path / BUILDERS
    places: dict[str, str] = json.loads((kept / PLACES).read_text(encoding="utf-8"))
    return [replace(job, config=_with_kept_builder(job.config, places, kept)) for job in jobs]


def as_it_was(outputs: Outputs) -> SweepFolder | None:
    """Return the folder of the sweep that this process was started for, to go on with it as it was."""
    sweep = os.environ.get(AS_IT_WAS)
    return folder_of(outputs.root, sweep) if sweep else None


def _with_kept_builder(config: Config, places: dict[str, str], kept: Path) -> Config:
    if config.script.path is not None:
        script = absolute(config.script)
        digest = places.get(source_place(script))
        return config if digest is None else replace(config, script=moved(script, kept / digest))
    place, colon, function = (config.model.builder or "").rpartition(":")
    where = str(Path(place).expanduser().absolute()) if place.endswith(".py") else place
    if where not in places:
        return config
    folder = kept / places[where]
    if not place.endswith(".py"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))  # where a package is looked for
        return config
    return replace(config, model=replace(config.model, builder=f"{folder / Path(place).name}{colon}{function}"))
