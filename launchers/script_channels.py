"""Gives a user's script its channels as SageMaker does: as files of its own, which it may change.

Copies lie where the job finds its channels, and are removed after it. Files that do not fit on the disk are given as
links, or mounted read-only; what a script can reach through links is compared afterwards.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launchers.base import Dealt, Stage
from launchers.byte_progress import megabytes, shown_bytes
from launchers.cache import StageFolder, earlier_folder
from videolift.copies import copy_file
from videolift.errors import DataError, StorageError
from videolift.files import SCRIPT_LOG
from videolift.listing import files_below, some
from videolift.manifest import sha256_file
from videolift.script_files import ELSEWHERE, GIVEN, LINKS, MODEL, WORK, collect
from videolift.workspace import Kind, Workspace

if TYPE_CHECKING:
    from rich.console import Console

PLAN = "plan"  # our own channel, which is copied whatever there is room for
RESERVE_BYTES = 1 << 30  # left free on the disk, for results
SHOWN_BYTES = 256 << 20  # from which on copying is shown; less takes about a second
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Given:
    """The hosts of a script, ready to start."""

    spaces: dict[str, Workspace]
    originals: Originals | None  # what they can change


class Originals:
    """Files of the user's that a script can reach, as they were before it."""

    def __init__(self, known: Mapping[Path, tuple[int | str, ...]], channels: Sequence[str]) -> None:
        self._known = known
        self._channels = channels

    @classmethod
    def of(cls, files: Sequence[Path], channels: Sequence[str], progress: Progress) -> Originals:
        """Read files; no checksum that was remembered is believed."""
        total, done, known = sum(file.stat().st_size for file in files), 0, {}
        for file in files:
            known[file] = _state(file)
            done += file.stat().st_size
            progress(done, total)
        return cls(known, channels)

    def refuse_changes(self, failure: str) -> None:
        """Raise DataError with the names of the files that are not what they were.

        Args:
            failure: why the script failed, where it did.
        """
        changed = [str(file) for file, before in self._known.items() if _state(file) != before]
        if changed:
            raise DataError(
                f"{_settings(self._channels)}: the script has changed your own files: {some(changed)}. They did not "
                "fit on the disk a second time, so the script was given links to them. Restore them, let the script "
                "write to {output_dir}, or choose an outputs= on a disk with more room, where it is given copies."
                + (f"\nThe script failed, too: {failure}" if failure else "")
            )


def _state(file: Path) -> tuple[int | str, ...]:
    try:
        status = file.stat()
        return status.st_size, status.st_mtime_ns, stat.S_IMODE(status.st_mode), sha256_file(file)
    except (OSError, StorageError):
        return ("cannot be read",)


def is_of_script(stage: Stage) -> bool:
    return stage.plan.script.path is not None


def lay_out(stage: Stage, console: Console, *, mounted: bool = False) -> Given:
    """Lay out the workspace of every host, with copies of what it is given.

    Args:
        mounted: the hosts are containers, which are shown read-only what is not copied.

    Raises:
        StorageError: if there is no room, or something cannot be copied.
    """
    if (aside := set_aside(stage.folder)) is not None:
        console.print(f"what an earlier try of {stage.name} wrote is kept in {aside}", soft_wrap=True)
    given = _given(stage)
    too_large = _too_large(stage, given)
    try:
        _copy_all(stage, {name: hosts for name, hosts in given.items() if name not in too_large}, console)
        linked: list[Path] = []
        folders: dict[str, dict[str, Path]] = {host: {} for host in stage.hosts}
        for name, hosts in given.items():
            for host, dealt in hosts.items():
                place = stage.workspace(host, {}).inputs / name
                if name in too_large and mounted:
                    place = stage.folder.share(name, host)
                    _hard_link(name, dealt, place)
                elif name in too_large:
                    linked += _link(dealt, place)
                folders[host][name] = place
        _tell_too_large(too_large, console, mounted=mounted)
        with _shown(console, "reading what the script must not change", sum(too_large.values())) as progress:
            originals = Originals.of(list(dict.fromkeys(linked)), list(too_large), progress) if linked else None
        spaces = {host: stage.workspace(host, folders[host]) for host in stage.hosts}
        for space in spaces.values():
            space.lay_out(mounted=mounted)
    except BaseException:
        clear(stage.folder)
        raise
    return Given(spaces, originals)


def _given(stage: Stage) -> dict[str, dict[str, Dealt]]:
    """Return what each host finds in each channel."""
    given = dict(stage.dealt)
    for name, folder in stage.channels.items():
        names = tuple(one for one, _ in files_below(folder, left_out=lambda _: False))
        given[name] = dict.fromkeys(stage.hosts, Dealt(folder, names, whole=False))
    return given


def _too_large(stage: Stage, given: Mapping[str, Mapping[str, Dealt]]) -> dict[str, int]:
    """Return the bytes of the channels that do not fit on the disk, the largest of all; clones take no room."""
    room = shutil.disk_usage(stage.folder.path).free - RESERVE_BYTES
    needed = {name: sum(map(_bytes, hosts.values())) for name, hosts in given.items() if name != PLAN}
    found = {}
    for name in sorted(needed, key=lambda name: needed[name]):
        if needed[name] <= room:
            room -= needed[name]
        elif not _can_be_cloned(next(iter(given[name].values())), stage.folder.path):
            found[name] = needed[name]
    return found


def _bytes(dealt: Dealt) -> int:
    return sum((dealt.root / name).stat().st_size for name in dealt.names)


def _can_be_cloned(dealt: Dealt, folder: Path) -> bool:
    """Try it with the smallest file: the answer is that of the two file systems."""
    smallest = min((dealt.root / name for name in dealt.names), key=lambda file: file.stat().st_size)
    probe = folder / ".clone"
    probe.unlink(missing_ok=True)
    try:
        return copy_file(smallest, probe)
    except OSError:  # no room to try it: no clone either
        return False
    finally:
        probe.unlink(missing_ok=True)


def _copy_all(stage: Stage, given: Mapping[str, Mapping[str, Dealt]], console: Console) -> None:
    total, done = sum(_bytes(dealt) for hosts in given.values() for dealt in hosts.values()), 0
    with _shown(console, f"copying what {stage.name} is given", total) as progress:
        for channel, hosts in given.items():
            for host, dealt in hosts.items():
                place = stage.workspace(host, {}).inputs / channel
                place.mkdir(parents=True)
                for name in dealt.names:
                    done += _copy(channel, dealt.root / name, place / name)
                    progress(done, total)


def _copy(channel: str, source: Path, target: Path) -> int:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(source, target)
        return target.stat().st_size
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"{_settings([channel])}: the disk of {target.parent} became full while {source} was copied for the "
                "script. Free some space, or choose an outputs= on another disk."
            ) from error
        raise StorageError(
            f"{_settings([channel])}: {source} cannot be copied to {target.parent} ({error.strerror})."
        ) from error


def _link(dealt: Dealt, folder: Path) -> list[Path]:
    """Make a folder of links, and return the files that they lead to."""
    folder.mkdir(parents=True)
    for name in dealt.names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(Path(os.path.realpath(dealt.root / name)))
    return [(folder / name).readlink() for name in dealt.names]


def _hard_link(channel: str, dealt: Dealt, folder: Path) -> None:
    """Make a folder of hard links, for a mount that nobody can write to."""
    folder.mkdir(parents=True)
    for name in dealt.names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        source = Path(os.path.realpath(dealt.root / name))
        try:
            os.link(source, folder / name)
        except OSError as error:
            raise StorageError(
                f"{_settings([channel])}: there is no room for a copy of it on the disk of {folder}, and {source} "
                f"cannot be linked there ({error.strerror}). Free some space, or choose an outputs= on another disk."
            ) from error


def _tell_too_large(too_large: Mapping[str, int], console: Console, *, mounted: bool) -> None:
    for name, size in too_large.items():
        how = (
            "the script can read it, and not write to it"
            if mounted
            else "the script is given links to your files, and the run fails if it changes them"
        )
        console.print(
            f"{_settings([name])}: no room for a copy of {megabytes(size)}: {how}", style="yellow", soft_wrap=True
        )


def _settings(channels: Sequence[str]) -> str:
    return ", ".join(f"script.channels.{name}" for name in channels)


@contextmanager
def _shown(console: Console, what: str, total: int) -> Iterator[Progress]:
    with shown_bytes(console, what) if total >= SHOWN_BYTES else nullcontext(lambda _done, _total: None) as progress:
        yield progress


def clear(folder: StageFolder) -> None:
    """Bring together what a script wrote that was killed with its job, and remove what hosts were given.

    Raises:
        StorageError: something cannot be moved or removed.
    """
    for root in folder.path.glob("hosts/*"):
        space = folder.workspace(root.name)
        try:
            collect(space)
            for place in space.inputs.glob("*"):
                _remove(place) if place.is_dir() and not place.is_symlink() else place.unlink()
        except OSError as error:
            raise StorageError(f"{error.filename}: cannot be moved or removed ({error.strerror}).") from error
    shutil.rmtree(folder.shares, ignore_errors=True)


def _remove(folder: Path) -> None:
    """Remove a folder, whatever permissions a script gave what is in it."""
    for parent, names, _ in os.walk(folder):
        for path in (Path(parent), *(Path(parent, name) for name in names)):
            if not path.is_symlink() and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                path.chmod(stat.S_IRWXU)
    shutil.rmtree(folder)


def set_aside(folder: StageFolder) -> Path | None:
    """Move what an earlier try of a script has left to a folder of its own, and return that; None: there is nothing."""
    clear(folder)
    aside = earlier_folder(folder.path)
    moved = False
    for root in folder.path.glob("hosts/*"):
        space = folder.workspace(root.name)
        results = [space.output / name for name in (GIVEN, WORK, ELSEWHERE, MODEL)]
        results += [space.model] if space.kind is Kind.training else []
        if not any(any(place.glob("**/*")) for place in results):
            continue
        for place in (*results, space.output / LINKS, space.output / SCRIPT_LOG):
            if place.exists():
                target = aside / root.name / place.relative_to(space.root)
                target.parent.mkdir(parents=True, exist_ok=True)
                place.replace(target)
                moved = True
    return aside if moved else None
