"""A user's own script on its way to a job: its source, its channels, its stage's id; and what is done with its results.

Nothing of it is imported or run here. Its source travels in the plan channel, as that of ``model.builder`` does.
"""

from __future__ import annotations

import ast
import filecmp
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from launchers.base import Backend, Stage, host_names
from launchers.cache import EARLIER, StageFolder, event_files
from launchers.config import SCRIPT, Config, Mode
from launchers.image import PURPOSES
from launchers.planning import PlannedStage, plan_stages, stage_id
from launchers.remote.s3 import Location, is_s3, list_keys
from launchers.script_settings import ARRAYS, VIDEOS, channels_of, shared_channel, stages_of
from videolift.errors import ConfigError, DataError, StorageError
from videolift.events import Events, read
from videolift.files import SCRIPT_LOG
from videolift.listing import files_below, root_of
from videolift.manifest import Manifest
from videolift.plan import Plan, digest_of
from videolift.provenance import module_of, source_digest
from videolift.script_arguments import placeholders
from videolift.script_files import ELSEWHERE, GIVEN, LINKS, MODEL, WORK
from videolift.script_output import Numbers
from videolift.script_requirements import REQUIREMENTS, requirements_of
from videolift.settings import Data, Precision, Script
from videolift.workspace import Kind

EXCLUDED = (  # never part of a project's source, as names of files or of folders above them
    *(".git", ".hg", ".svn", "__pycache__", "*.pyc", ".venv", "venv", ".env", ".tox", "node_modules", ".DS_Store"),
    *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", "outputs", "mlruns", "mlflow.db", "wandb"),
    *(".env.*", ".netrc", ".pypirc", ".aws", ".ssh", "id_rsa*", "id_ed25519*", "*.pem"),  # secrets
)
MAX_FILE, MAX_SOURCE = 100 << 20, 200 << 20  # bytes; wheels of what reads videos have 60 MB
MAX_FILES = 2000
MAX_OBJECTS = 200_000
DATA_PLACE = "give it to the script as a channel (script.channels.NAME=FOLDER), or leave it out by script.exclude"


@dataclass(frozen=True)
class Source:
    """What of a user's project is sent."""

    files: dict[str, bytes]  # by posix path
    entry: str  # the script among them
    requirements: str | None  # the requirement file among them


@dataclass(frozen=True)
class Channel:
    """What a script finds in one of its channels."""

    name: str
    holds: str  # videos, arrays, folder or s3
    digest: str  # of names and contents
    root: Path | None = None  # on this machine, or what stands for it
    names: tuple[str, ...] = ()  # below root
    uri: str | None = None  # s3://..., where the job gets it from by itself
    shared: bool = False  # divided among the hosts


def absolute(script: Script) -> Script:
    """Return the settings with absolute paths, so that a run can be resumed from another folder."""
    folder = Path(script.source_dir).expanduser().absolute() if script.source_dir is not None else None
    file = Path(str(script.path)).expanduser()
    if folder is not None and (folder / file).is_file():
        file = folder / file
    channels = {
        name: content if content in (VIDEOS, ARRAYS) or is_s3(content) else str(Path(content).expanduser().absolute())
        for name, content in channels_of(script).items()
    }
    return replace(
        script, path=_normal(file), source_dir=_normal(folder) if folder is not None else None, channels=channels
    )


def source_place(script: Script) -> str:
    """Return where a script's source is, of one with absolute paths: its folder, or the file alone."""
    return str(script.source_dir or script.path)


def moved(script: Script, folder: Path) -> Script:
    """Return the settings of a script, which have absolute paths, for a copy of what is sent of it."""
    file = Path(str(script.path))
    if script.source_dir is None:
        return replace(script, path=str(folder / file.name))
    return replace(script, path=str(folder / file.relative_to(script.source_dir)), source_dir=str(folder))


def _normal(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - resolves .., and no links


def read_source(script: Script, outputs: Path) -> Source:
    """Return what is sent of a script's project.

    Args:
        script: with absolute paths.
        outputs: folder of our own outputs, which are no part of it.

    Raises:
        ConfigError: lists everything that is wrong with it.
    """
    file = Path(str(script.path))
    folder = Path(script.source_dir) if script.source_dir is not None else file.parent
    wrong = list(_misplaced(script, file, folder))
    if wrong:
        raise ConfigError("\n".join(wrong))
    names = {file.relative_to(folder).as_posix(): file.stat().st_size}
    if script.source_dir is not None:
        names |= _project(folder, script.exclude, outputs)
    named = script.requirements or REQUIREMENTS
    if script.source_dir is None and (folder / named).is_file():
        names[named] = (folder / named).stat().st_size
    wrong = [*_too_much(folder, names)]
    if script.requirements is not None and script.requirements not in names:
        wrong.append(
            f"script.requirements: {script.requirements} is not in {folder}, or left out; say where it is there"
        )
    if not wrong:
        files = {name: _content(folder / name) for name in sorted(names)}
        entry = file.relative_to(folder).as_posix()
        wrong += _unreadable(entry, files[entry])
        if not wrong and script.source_dir is None:
            wrong += _left_behind(file, files[entry])
    if wrong:
        raise ConfigError("\n".join(wrong))
    found = requirements_of(folder, replace(script, path=entry))
    requirements = found.relative_to(folder).as_posix() if found is not None else None
    return Source(files, entry, requirements if requirements in files else None)


def _misplaced(script: Script, file: Path, folder: Path) -> Iterator[str]:
    if not folder.is_dir():
        yield f"script.source_dir: no folder {folder}"
    elif not file.is_file():
        beside = sorted(one.name for one in file.parent.glob("*.py"))[:5] if file.parent.is_dir() else []
        yield f"script.path: no file {file}" + (f"; there are {', '.join(beside)}" if beside else "")
    elif not file.is_relative_to(folder):
        yield f"script.path: {file} is not in script.source_dir={folder}; name the folder that holds all of the project"


def _project(folder: Path, exclude: Sequence[str], outputs: Path) -> dict[str, int]:
    """Return the bytes of each file of a project's folder that is not left out; links are followed."""
    patterns = (*EXCLUDED, *exclude)
    try:
        found = files_below(folder, lambda path: _is_excluded(path, patterns), apart=[outputs])
    except StorageError as error:
        cause = error.__cause__
        assert isinstance(cause, OSError)
        raise _closed(Path(cause.filename), cause) from error
    return {name: size for name, size in found if size is not None}


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _closed(file, error) from error


def _closed(place: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"script.source_dir: {place} cannot be read ({error.strerror}); give this user permission, or leave it out by "
        "script.exclude"
    )


def _is_excluded(path: str, patterns: Sequence[str]) -> bool:
    name = PurePosixPath(path).name
    return any(fnmatchcase(name, one.rstrip("/")) or fnmatchcase(path, one.rstrip("/")) for one in patterns)


def _too_much(folder: Path, names: Mapping[str, int]) -> Iterator[str]:
    for name, size in names.items():
        if size > MAX_FILE:
            yield (
                f"script.source_dir: {folder / name} has {size / 1e6:.0f} MB, and a file of a project's source has "
                f"{MAX_FILE / 1e6:.0f} at most; {DATA_PLACE}"
            )
    total = sum(names.values())
    if len(names) > MAX_FILES or total > MAX_SOURCE:
        largest = sorted(names, key=lambda name: names[name])[-3:]
        yield (
            f"script.source_dir: {folder} has {len(names)} files and {total / 1e6:.0f} MB; a project's source has "
            f"{MAX_FILES} files and {MAX_SOURCE / 1e6:.0f} MB at most. The largest: {', '.join(reversed(largest))}. If "
            f"it is data, {DATA_PLACE}"
        )


def _unreadable(entry: str, content: bytes) -> Iterator[str]:
    try:
        compile(content, entry, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        yield f"script.path: {entry}{line}: no Python that this version reads ({message})"


def _left_behind(file: Path, content: bytes) -> Iterator[str]:
    """Yield what is wrong with a script that is sent alone and imports what lies beside it."""
    imported: list[str] = []
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported.append(node.module)
    for name in sorted({name.partition(".")[0] for name in imported} - {file.stem}):
        beside = file.parent / name
        if beside.with_suffix(".py").is_file() or any(beside.glob("*.py")):
            yield (
                f"script.path: {file.name} imports {name}, which lies beside it and would not be sent; "
                f"say script.source_dir={file.parent}, the folder of the whole project"
            )


def find_channels(
    script: Script, data: Data, manifest: Manifest, checksum: Callable[[Path], str], s3: Callable[[], Any]
) -> list[Channel]:
    """Return what the script's channels hold.

    Args:
        script: with absolute paths.
        data: where the videos, or what stands for them, are on this machine.
        checksum: SHA-256 of a file; a caller may remember.
        s3: returns a client.

    Raises:
        ConfigError, DataError: where a channel has nothing.
    """
    shared = shared_channel(script)
    found = []
    for name, content in script.channels.items():
        if content == VIDEOS:
            names = tuple(clip.id for clip in manifest.clips)
            one = Channel(name, VIDEOS, manifest.data_digest, root_of(data), names)
        elif content == ARRAYS:
            one = Channel(name, ARRAYS, "")  # what they are the preprocess stage's id tells
        elif is_s3(content):
            one = _in_s3(name, content, s3())
        else:
            one = _folder(name, Path(content), checksum)
        found.append(replace(one, shared=name == shared))
    return found


def _in_s3(name: str, uri: str, client: Any) -> Channel:
    objects = list_keys(client, Location.parse(uri), limit=MAX_OBJECTS)
    if not objects:
        raise DataError(
            f"script.channels.{name}: nothing lies at {uri}; say s3://BUCKET/PREFIX, the place that holds it"
        )
    told = [(key, info.size, info.etag) for key, info in sorted(objects.items())]
    return Channel(name, "s3", digest_of(told), names=tuple(objects), uri=uri)


def _folder(name: str, place: Path, checksum: Callable[[Path], str]) -> Channel:
    if not place.exists():
        raise ConfigError(f"script.channels.{name}: there is no {place}; say {VIDEOS}, {ARRAYS}, a folder, or s3://...")
    root, listed = (place.parent, [(place.name, 0)]) if place.is_file() else (place, files_below(place))
    if not listed:
        raise DataError(f"script.channels.{name}: no files in {place}")
    broken = [one for one, size in listed if size is None]
    if broken:
        raise DataError(
            f"script.channels.{name}: {place / broken[0]} is no file, or a link that leads nowhere; remove it"
        )
    names = tuple(sorted(one for one, _ in listed))
    try:
        digest = digest_of([(one, checksum(root / one)) for one in names])
    except OSError as error:
        raise StorageError(f"{error.filename}: cannot be read ({error.strerror})") from error
    return Channel(name, "folder", digest, root, names)


def plan_script(
    source: Source, channels: Sequence[Channel], config: Config, backend: Backend, manifest: Manifest
) -> dict[str, PlannedStage]:
    """Return the script's stage, after that of preprocessing where it is given arrays."""
    planned: dict[str, PlannedStage] = {}
    inputs: dict[str, str] = {}
    if "preprocess" in config.stages:
        # Nothing of the model is part of a preprocessing.
        before = replace(config, stages=["preprocess"], script=Script())
        planned = plan_stages(before, manifest, Precision.float32, backend.libraries)
        inputs = {"preprocess": planned["preprocess"].id}
    name, script = stages_of(config.script)[-1], config.script
    job = config.backend.train if name == SCRIPT else config.backend.preprocess
    hosts = host_names(job.instance_count)
    sent = replace(
        script,
        path=source.entry,
        source_dir=None,
        exclude=[],
        requirements=source.requirements,
        channels={channel.name: channel.holds for channel in channels},
    )
    # Neither the secrets nor where they come from: a new token makes no new result.
    determinants = {
        "source": source_digest(module_of("script")),
        "libraries": backend.libraries(name),
        "inputs": inputs,
        "script": {path: hashlib.sha256(content).hexdigest() for path, content in source.files.items()},
        "entry": [source.entry, source.requirements],
        "args": script.args,
        "channels": {channel.name: [channel.holds != ARRAYS, channel.digest, channel.shared] for channel in channels},
        **({"hosts": len(hosts)} if len(hosts) > 1 else {}),
        **({"seed": config.seed} if "seed" in placeholders(script.args) else {}),
    }
    plan = Plan(
        stage=name,
        id=stage_id(name, determinants),
        data=config.data,
        preprocess=config.preprocess,
        script=sent,
        seed=config.seed,
        manifest_digest=manifest.digest,
        system_interval_s=config.tracking.sampled_every_s,
    )
    planned[name] = PlannedStage(name, plan.id, plan, hosts, source.files, tuple(channels), tuple(inputs))
    return planned


def network_problem(source: Source, config: Config, backend: Backend) -> str | None:
    """Return what is wrong where requirements would have to be fetched by a job that reaches nothing."""
    if source.requirements is None or config.backend.name == "local" or not config.backend.network_isolation:
        return None
    name = stages_of(config.script)[-1]
    missing = _missing(source.files[source.requirements].decode("utf-8", "replace"), backend.libraries(name))
    if not missing:
        return None
    purpose = PURPOSES[name]
    image = f"backend.{purpose}.image=IMAGE" + (
        "" if config.backend.resources(purpose).mode is Mode.byos else f" backend.{purpose}.mode=byos"
    )
    return (
        f"{source.requirements}: {', '.join(missing[:5])} would have to be installed when the job starts, and "
        "backend.network_isolation=true lets it reach nothing; say backend.network_isolation=false, give an image that "
        f"has them ({image}), or ship wheels with the source: `--no-index` and `--find-links FOLDER` in the file"
    )


def _missing(requirements: str, libraries: Mapping[str, str]) -> list[str]:
    """Return the requirements that libraries do not satisfy; none where pip is told to ask no index."""
    from packaging.requirements import InvalidRequirement, Requirement

    lines = [line.partition(" #")[0].strip() for line in requirements.replace("\\\n", " ").splitlines()]
    if any(line.split()[:1] == ["--no-index"] for line in lines):
        return []
    missing = []
    for line in (line for line in lines if line and not line.startswith(("#", "--"))):
        try:
            wanted = Requirement(line.split(" --hash")[0])
        except InvalidRequirement:  # an option like -r, or an address
            missing.append(line)
            continue
        version = libraries.get(wanted.name.lower().replace("_", "-"))
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            missing.append(line)
    return missing


def merge(stage: Stage) -> None:
    """Bring what the hosts of a preprocessing script wrote side by side into one folder.

    A name that several hosts gave to different contents is kept once for each, below the host's name; below that of the
    host's folder, too, where one host has written both, or one's file is another one's folder.
    """
    target = stage.folder.arrays
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    written: dict[str, list[_Written]] = {}
    for host in stage.hosts:
        output = stage.workspace(host, {}).output
        for top in (GIVEN, WORK, MODEL):
            for file in (one for one in sorted((output / top).rglob("*")) if one.is_file()):
                name = file.relative_to(output / top).as_posix()
                written.setdefault(name if top != MODEL else f"{MODEL}/{name}", []).append(_Written(host, top, file))
    for name, place, file in _places(written):
        copy = target / place / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, copy)
        except FileExistsError:  # never written over: it may be the only copy
            raise
        except OSError:  # a file system without hard links
            shutil.copyfile(file, copy)


@dataclass(frozen=True)
class _Written:
    """A file that a host wrote."""

    host: str
    top: str  # in which of its folders
    file: Path


def _places(written: Mapping[str, Sequence[_Written]]) -> Iterator[tuple[str, str, Path]]:
    """Yield name, folder that it is put into, and file of what is kept."""
    folders = {above.as_posix() for name in written for above in PurePosixPath(name).parents}
    for name, found in written.items():
        is_both = name in folders or any(above.as_posix() in written for above in PurePosixPath(name).parents)
        first, *others = found
        if not is_both and all(filecmp.cmp(first.file, other.file, shallow=False) for other in others):
            yield name, "", first.file
            continue
        twice = is_both or len({one.host for one in found}) < len(found)
        for one in found:
            place = f"{one.host}/{one.top}" if twice else one.host
            while _is_taken(PurePosixPath(place, name), written, folders):
                place = f"~{place}"
            yield name, place, one.file


def _is_taken(path: PurePosixPath, written: Mapping[str, Sequence[_Written]], folders: set[str]) -> bool:
    """Tell whether a script has itself written a file or folder at the place for a host's file."""
    return path.as_posix() in folders or any(one.as_posix() in written for one in (path, *path.parents))


def retell(folder: Path, metrics: Mapping[str, str]) -> None:
    """Look for metrics in what the script of a finished stage printed: the expressions may be new since it ran."""
    for file, output in event_files(folder) if metrics else ():
        log = output / SCRIPT_LOG
        told = output / f"events-{digest_of(dict(metrics))[:8]}-{file.name.removeprefix('events-')}"
        said = list(read(file))
        end = next((event for event in reversed(said) if event["type"] == "end"), None)
        if told.exists() or not log.is_file() or end is None:
            continue
        known = {(event["key"], event["step"]) for event in said if event["type"] == "metric"}
        numbers = Numbers(metrics)
        with (
            Path(os.devnull).open("w") as nowhere,
            closing(Events(told, end["host"], nowhere, stage=end["stage"])) as new,
        ):
            for line in log.read_text(encoding="utf-8").splitlines():
                for metric in numbers.read(line):
                    if (metric.key, metric.step) not in known:
                        new.metric(metric.key, metric.value, metric.step)


def results(folder: Path, kind: Kind) -> list[tuple[str, Path]]:
    """Return (what, where) of what a script has left, finished or not, for people."""
    stage = StageFolder(folder, kind)
    spaces = [stage.first, *(stage.workspace(root.name) for root in sorted(folder.glob("hosts/*")))]
    spaces = list({space.root: space for space in spaces}.values())
    places = [("output", stage.arrays)]
    if kind is Kind.training:
        places = [("model", stage.first.model), *(("model", space.output / MODEL) for space in spaces)]
        places += [("output", space.output / GIVEN) for space in spaces]
    if kind is Kind.training or not stage.arrays.is_dir():  # of a preprocessing all lies there together
        places += [("beside it", space.output / WORK) for space in spaces]
    if kind is Kind.processing and not stage.arrays.is_dir():
        places += [("output", space.output / top) for space in spaces for top in (GIVEN, MODEL)]
    places += [("elsewhere", space.output / ELSEWHERE) for space in spaces]
    filled = [(what, place) for what, place in [*places, ("earlier tries", folder / EARLIER)] if _is_filled(place)]
    files = [(what, space.output / name) for space in spaces[:1] for what, name in _FILES]
    return [*filled, *((what, file) for what, file in files if file.is_file())]


_FILES = (("links", LINKS), ("printed", SCRIPT_LOG))


def _is_filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())
