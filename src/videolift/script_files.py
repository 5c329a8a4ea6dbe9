"""What a user's script wrote anywhere below the root of its job, brought together where it is kept.

The service keeps the model, the output and the checkpoints of a job, and drops the rest with the machine. What a script
wrote beside these places is therefore moved into the output, whole, whatever its size and however the script ended.
The state of the files before the script is itself a file, so that a later process can do this for a job that was
killed.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from videolift.copies import copy_file
from videolift.files import SCRIPT_LOG
from videolift.workspace import PROCESSING_OUTPUT, TRAINING_OUTPUT, Kind, Workspace

# In the output folder of a script:
GIVEN = "files"  # what it wrote to SM_OUTPUT_DATA_DIR, or directly to the folder that the service keeps
WORK = "work"  # beside itself
ELSEWHERE = "elsewhere"  # anywhere else below the root
MODEL = "model"  # of a processing job, which has no other place for one, and of a training job that failed
LINKS = "links.txt"  # links that are not kept as such

SOURCE = "work"  # in the scratch folder: where the script runs
ENVIRONMENT = "venv"  # in the scratch folder: libraries, never results
BEFORE = "before.json"  # in the scratch folder, while nothing is brought together yet
NOT_COLLECTED = ("__pycache__", ".ipynb_checkpoints")
OF_THE_SERVICE = ("output/metrics", "output/profiler")  # where SageMaker's own agents write

State = tuple[int, ...]  # bytes, time of change of the content and of the entry in ns; empty for a folder


@dataclass
class Collected:
    """What was brought together."""

    elsewhere: list[str] = field(default_factory=list)  # paths below the root that lie in ELSEWHERE now
    links: list[str] = field(default_factory=list)  # what LINKS has been given


def work_folder(space: Workspace) -> Path:
    """Return the folder that a script runs in."""
    return space.scratch / SOURCE


def remember(space: Workspace) -> None:
    """Note the state of everything below the root that is not a place of results."""
    (space.scratch / BEFORE).write_text(json.dumps(_state(space, _kept(space))), encoding="utf-8")


def collect(space: Workspace, *, finished: bool = False) -> Collected:
    """Move what is new or changed below the root to the results, and remove the scratch folder.

    May be called again, after a crash too; does nothing where no script has run.

    Args:
        finished: the script needs no checkpoints any more. The service does not keep those of a processing job.

    Raises:
        OSError: a file cannot be moved, as on a full disk of its own; nothing is removed then.
    """
    found = Collected()
    note = space.scratch / BEFORE
    if note.is_file():
        before = {name: tuple(state) for name, state in json.loads(note.read_text(encoding="utf-8")).items()}
        kept = _kept(space)
        if finished and space.kind is Kind.processing:
            kept = kept - {_below(space, space.checkpoints)}
        _bring_together(space, kept, before, note.stat().st_mtime_ns, found)
    shutil.rmtree(space.scratch, ignore_errors=True)
    return found


def keep_model(space: Workspace) -> None:
    """Move the model of a training job that failed to the output: the service drops the model then."""
    for entry in list(space.model.iterdir()):
        places = (space.output / MODEL / (f"~{n}" if n else "") / entry.name for n in itertools.count())
        target = next(place for place in places if not os.path.lexists(place))  # the script may have written there, too
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(entry, target)  # the service may have mounted the two places apart


def files_of(folder: Path) -> dict[str, int]:
    """Return the bytes of every file below a folder, by its path there, but for caches of Python."""
    found = _walk(folder, "", frozenset())
    return {name: state[0] for name, state, mode in found if stat.S_ISREG(mode)}


def _bring_together(
    space: Workspace, kept: frozenset[str], before: Mapping[str, State], started_ns: int, found: Collected
) -> None:
    root = space.root
    new = [(name, mode) for name, state, mode in _walk(root, "", kept) if before.get(name) != state]
    links = [root / name for name, mode in new if stat.S_ISLNK(mode)] + _links_in_results(space)
    leads = {link: Path(os.path.realpath(link)) for link in links}  # before anything is moved
    moved: dict[Path, Path] = {}
    for name, mode in new:
        if stat.S_ISREG(mode) or (stat.S_ISDIR(mode) and not any((root / name).iterdir())):
            moved[Path(os.path.realpath(root / name))] = _move(space, name, found)
    for link, content in leads.items():
        _resolve(space, link, moved.get(content, content), started_ns, found)
    for path in _further_names(space):
        _replace_by_copy(path, path)
    if found.links:
        with (space.output / LINKS).open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(f"{line}\n" for line in found.links)


def _resolve(space: Workspace, link: Path, content: Path, started_ns: int, found: Collected) -> None:
    """Put a file in the place of a link to one that the script wrote; list any other link.

    An archive of the results would hold links, which are not unpacked, since they could lead anywhere.
    """
    name = _below(space, link)
    is_result = _is_in_results(space, link)
    try:
        status = content.stat()
        is_written = stat.S_ISREG(status.st_mode) and status.st_ctime_ns >= started_ns
    except OSError:  # it leads nowhere
        is_written = False
    if is_written:
        _replace_by_copy(content, link if is_result else _free_place(space, name, found))
        return
    found.links.append(f"{name} -> {link.readlink()}")
    if is_result:
        link.unlink()


def _replace_by_copy(content: Path, place: Path) -> None:
    aside = place.with_name(f".{uuid.uuid4().hex}")
    copy_file(content, aside)
    aside.replace(place)


def _state(space: Workspace, kept: frozenset[str]) -> dict[str, State]:
    return {name: state for name, state, _ in _walk(space.root, "", kept)}


def _kept(space: Workspace) -> frozenset[str]:
    """Return the paths below the root that stay where they are: places of results, and what is ours."""
    ours = [space.output / name for name in (LINKS, SCRIPT_LOG, space.events_file.name)]
    scratch = [space.scratch / ENVIRONMENT, space.scratch / BEFORE]
    places = [*_results(space), *ours, *scratch, space.checkpoints, space.failure_file]
    return frozenset([*(_below(space, place) for place in places), *OF_THE_SERVICE])


def _below(space: Workspace, place: Path) -> str:
    return place.relative_to(space.root).as_posix()


def _walk(folder: Path, prefix: str, left_out: frozenset[str]) -> Iterator[tuple[str, State, int]]:
    """Yield (path, state, mode) of every file, link and folder below a folder; links are not followed."""
    with suppress(OSError):  # a script may have closed it
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            folder.chmod(folder.stat().st_mode | stat.S_IRWXU)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if name in left_out:
            continue
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            yield name, (status.st_size, status.st_mtime_ns, status.st_ctime_ns), status.st_mode
        elif entry.name not in NOT_COLLECTED:
            yield name, (), status.st_mode
            yield from _walk(Path(entry.path), f"{name}/", left_out)


def _move(space: Workspace, name: str, found: Collected) -> Path:
    """Move a file or an empty folder to where it is kept, and return that place."""
    target = _free_place(space, name, found)
    with suppress(FileNotFoundError):  # of a process that the script left behind
        shutil.move(space.root / name, target)  # the service may have mounted the two places apart
    return target


def _free_place(space: Workspace, name: str, found: Collected) -> Path:
    """Return where what lies at a path below the root is kept: nothing is there yet, but for the folder."""
    place = next(place for place in _places(space, name) if _is_free(space.output / place))
    if place.startswith(f"{ELSEWHERE}/"):
        found.elsewhere.append(name)
    return space.output / place


def _places(space: Workspace, name: str) -> Iterator[str]:
    yield _place(space, name)
    yield f"{ELSEWHERE}/{name}"
    yield from (f"{ELSEWHERE}/~{number}/{name}" for number in itertools.count(2))


def _place(space: Workspace, name: str) -> str:
    """Return where in the output a file is kept that lies at a path below the root."""
    top = TRAINING_OUTPUT if space.kind is Kind.training else PROCESSING_OUTPUT
    places = ((_below(space, work_folder(space)), WORK), (_below(space, space.output), GIVEN), (top, GIVEN))
    path = PurePosixPath(name)
    for above, place in places:
        if path.is_relative_to(above):
            return f"{place}/{path.relative_to(above)}"
    return f"{ELSEWHERE}/{name}"


def _is_free(target: Path) -> bool:
    """Create the folder of a place; return False where something is in the way."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        return False
    return not os.path.lexists(target)


def _results(space: Workspace) -> list[Path]:
    """Return the folders whose content is kept as it is."""
    own = [space.output / name for name in (GIVEN, WORK, ELSEWHERE, MODEL)]
    return [*own, *([space.model] if space.kind is Kind.training else [])]


def _is_in_results(space: Workspace, path: Path) -> bool:
    return any(path.is_relative_to(top) for top in _results(space))


def _links_in_results(space: Workspace) -> list[Path]:
    return [
        top / name for top in _results(space) for name, _, mode in _walk(top, "", frozenset()) if stat.S_ISLNK(mode)
    ]


def _further_names(space: Workspace) -> list[Path]:
    """Return the results that are further names of one file, which an archive would hold as links, too."""
    seen, found = set(), []
    for top in _results(space):
        for name, _, mode in _walk(top, "", frozenset()):
            status = (top / name).lstat()
            if stat.S_ISREG(mode) and status.st_nlink > 1:
                if (one := (status.st_dev, status.st_ino)) in seen:
                    found.append(top / name)
                seen.add(one)
            elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a pipe or a socket holds nothing
                (top / name).unlink()
    return found
