"""Files whose names come from elsewhere, put below a folder and nowhere else, each of them whole or not at all."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from videolift.errors import DataError, StorageError

MAX_PART_BYTES = 255  # of a name between two slashes, on every file system of Linux
PARTIAL_SUFFIX = ".partial"


def wrong_with(name: str) -> str:
    """Return why a posix path cannot name a file below a folder, or nothing."""
    parts = name.split("/")
    if "\0" in name:
        return "has a NUL character"
    if name.startswith("/"):
        return "is absolute"
    if ".." in parts:
        return "leads out of the folder"
    if "" in parts or "." in parts:
        return "has an empty part or a dot between slashes, which no file system keeps"
    try:
        longest = max(len(part.encode()) for part in parts)
    except UnicodeEncodeError:
        return "is not UTF-8"
    return f"has a part of more than {MAX_PART_BYTES} bytes" if longest > MAX_PART_BYTES else ""


def refuse_bad_names(names: Collection[str], where: str) -> None:
    """Raise DataError where names cannot all be files below one folder.

    Args:
        where: what holds the names; the message starts with it.
    """
    taken = set(names)
    for name in names:
        wrong = wrong_with(name)
        if wrong:
            raise DataError(f"{where}: the name {name!r} {wrong}; rename it there")
        end = name.find("/")
        while end > 0:
            if name[:end] in taken:
                raise DataError(f"{where}: {name[:end]!r} is a file and the folder of {name!r}; rename one of them")
            end = name.find("/", end + 1)


def place(folder: Path, name: str) -> Path:
    """Return where a file goes, its parents made.

    Raises:
        StorageError: a folder stands there, or a link leads out of ``folder``.
        OSError: the parents cannot be made.
    """
    if wrong := wrong_with(name):
        raise StorageError(f"{folder}: the name {name!r} {wrong}")
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise StorageError(f"{path}: a link in {folder} leads out of it; remove the link")
    if path.is_dir() and not path.is_symlink():
        raise StorageError(f"{path}: a folder stands where a file has to lie; move it away")
    return path


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write that takes its name when the block ends, and is gone if it ends by an error."""
    temporary = path.with_name(f".{uuid.uuid4().hex}{PARTIAL_SUFFIX}")  # short, whatever the name's length
    try:
        with temporary.open("xb") as file:
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
