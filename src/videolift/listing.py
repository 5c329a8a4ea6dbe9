"""What a data source yields, and how folders and lists are read: shared by all sources."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from videolift.errors import SHORTAGES, ConfigError, DataError, StorageError
from videolift.settings import Data, Source

VIDEO_SUFFIXES = tuple(
    f".{suffix}"
    for suffix in (
        *("3g2", "3gp", "asf", "avi", "divx", "f4v", "flv", "m2ts", "m4v", "mkv", "mov", "mp4", "mpe", "mpeg", "mpg"),
        *("mts", "mxf", "ogv", "ts", "vob", "webm", "wmv"),
    )
)
UCF_STEM = re.compile(r"v_(?P<label>[^_]+)_g(?P<group>\d+)_c\d+")

_NAMED = 5  # of a long list in a message
_LINES = 10


@dataclass(frozen=True)
class Entry:
    """A clip before it is divided and checksummed.

    Args:
        id: posix path below the root, or ``row-000012``.
        group: None where nothing tells which recording the clip shows.
        given: the split that the data set's own lists say.
        row: place in the arrays of ``path``; None for a video.
        size: bytes.
    """

    id: str
    label: str
    group: str | None
    path: Path
    size: int
    given: str | None = None
    row: int | None = None


@dataclass(frozen=True)
class Listing:
    """What a source has: classes in label order, entries sorted by id, remarks for the user."""

    classes: tuple[str, ...]
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()


def root_of(data: Data) -> Path:
    """Return the folder that clip ids are relative to."""
    if data.root:
        return Path(data.root).expanduser()
    if data.source is Source.manifest and data.csv:
        return Path(data.csv).expanduser().parent
    if data.source is Source.npz and data.npz:
        return Path(data.npz).expanduser().parent
    raise ConfigError(f"data.root: data={data.source.value} needs it; say data.root=PATH")


def group_of(clip_id: str) -> str | None:
    """Return ``g01`` for a name by UCF-101's rule; other names do not tell the group."""
    match = UCF_STEM.fullmatch(PurePosixPath(clip_id).stem)
    return f"g{int(match['group']):02d}" if match else None


def videos(data: Data) -> list[Entry]:
    """Return an entry, without label, for each video file below the root; hidden and other files are passed over.

    Links to files and folders are followed.

    Raises:
        DataError: no folder, no videos, or names and links that cannot be used.
        StorageError: a folder cannot be listed.
    """
    root = root_of(data)
    if not root.is_dir():
        what = "is a file" if root.is_file() else "does not exist"
        raise DataError(f"data.root={root}: {what}. Say data.root=FOLDER, the one that holds the videos.")
    files = files_below(root)
    found = [(name, size) for name, size in files if _suffix(name) in VIDEO_SUFFIXES]
    if not found:
        others = Counter(_suffix(name) or "no suffix" for name, _ in files)
        seen = ", ".join(f"{number} x {suffix}" for suffix, number in others.most_common(_NAMED)) or "no files at all"
        raise DataError(
            f"data.root={root}: no videos. Looked in all folders below it for {' '.join(VIDEO_SUFFIXES)}; "
            f"found {seen}. "
            "Say data.root=FOLDER, the one that holds the videos."
        )
    refuse_not_utf8([name for name, _ in found], f"data.root={root}")
    broken = [name for name, size in found if size is None]
    if broken:
        raise DataError(
            f"data.root={root}: {count(broken, 'video')} a link that leads nowhere or not a regular file: "
            f"{some(broken)}. Mend or remove them."
        )
    return [Entry(name, "", group_of(name), root / name, size or 0) for name, size in found]


def is_hidden(path: str) -> bool:
    """Tell whether the last part of a posix path begins with a dot."""
    return path.rpartition("/")[2].startswith(".")


def files_below(
    root: Path, left_out: Callable[[str], bool] = is_hidden, apart: Sequence[Path] = (), *, closed: bool = False
) -> list[tuple[str, int | None]]:
    """Return (posix path below a folder, bytes or None where it is no regular file) of all that is not left out.

    Links to files and folders are followed.

    Args:
        left_out: tells by the posix path of a file, or of a folder with all that is in it.
        apart: folders that are not entered, wherever a path to them begins.
        closed: whether a file that cannot be looked at, as a link to where this user may not go, is no error but listed
            as one that is no regular file.

    Raises:
        StorageError: a folder cannot be listed, or a file not be looked at; the OSError is its cause.
    """
    passed = tuple(_identity(folder) for folder in apart if folder.exists())
    return list(_files(root, "", left_out, passed, closed))


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _files(
    folder: Path, prefix: str, left_out: Callable[[str], bool], passed: tuple[tuple[int, int], ...], closed: bool
) -> Iterator[tuple[str, int | None]]:
    """Yield (path below the root, bytes or None where it is no regular file)."""
    try:
        here = _identity(folder)
        if here in passed:  # a link that leads back up
            return
        with os.scandir(folder) as scan:
            entries = sorted(
                (entry for entry in scan if not left_out(prefix + entry.name)), key=lambda entry: entry.name
            )
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be listed ({error.strerror}). Give this user permission to read and enter it, or move "
            "it away from the videos."
        ) from error
    for entry in entries:
        status = _status(entry, closed)
        if status is not None and stat.S_ISDIR(status.st_mode):
            yield from _files(folder / entry.name, f"{prefix}{entry.name}/", left_out, (*passed, here), closed)
        else:
            is_regular = status is not None and stat.S_ISREG(status.st_mode)
            yield prefix + entry.name, status.st_size if status is not None and is_regular else None


def _status(entry: os.DirEntry[str], closed: bool) -> os.stat_result | None:
    """Return what an entry leads to; None for nothing, as it does that was deleted meanwhile."""
    try:
        return entry.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP) or (closed and error.errno not in SHORTAGES):
            return None
        raise StorageError(
            f"{entry.path}: cannot be looked at ({error.strerror}). Give this user permission to what it leads to, or "
            "move it away from the videos."
        ) from error


def refuse_not_utf8(names: Iterable[str], where: str) -> None:
    """Raise DataError with the first names that are not UTF-8, where there are any; ``where`` begins the message."""
    foreign = [name for name in names if not _is_utf8(name)]
    if foreign:
        raise DataError(
            f"{where}: {count(foreign, 'file name')} not UTF-8: {some(foreign)}. Rename them (convmv does it)."
        )


def text_of(path: Path, key: str) -> str:
    """Read a UTF-8 file, with or without a byte order mark, that setting ``key`` names."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(f"{path}: no such file. {key} names it; correct the setting or add the file.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8. Save the file as UTF-8.") from error


def lines_of(path: Path, key: str) -> list[tuple[str, str]]:
    """Return (``file:line``, text) for each line that is not blank."""
    lines = enumerate(re.split(r"\r\n|\r|\n", text_of(path, key)), start=1)
    return [(f"{path}:{number}", line.strip()) for number, line in lines if line.strip()]


def refuse_lines(wrong: Sequence[str], remedy: str) -> None:
    """Raise DataError with the first lines that are wrong, where there are any."""
    if wrong:
        more = [f"and {len(wrong) - _LINES} more"] if len(wrong) > _LINES else []
        raise DataError("\n".join([*wrong[:_LINES], *more, remedy]))


def shown(name: str) -> str:
    """Return a name as it is where it can be printed on a line, else quoted and escaped."""
    return name if name.isprintable() else ascii(name)


def some(names: Sequence[str]) -> str:
    """Return the first five names and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(shown, names[:_NAMED])) + more


def count(things: Sequence[object], noun: str) -> str:
    """Return ``1 clip is`` or ``7 clips are``."""
    return f"1 {noun} is" if len(things) == 1 else f"{len(things)} {noun}s are"


def sorted_listing(entries: Iterable[Entry], notes: Iterable[str] = ()) -> Listing:
    """Return a listing whose classes are the sorted labels of its entries."""
    entries = tuple(entries)
    return Listing(tuple(sorted({entry.label for entry in entries})), entries, tuple(notes))


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
