"""Videos that lie in S3 and stay there: ``data.root=s3://BUCKET/PREFIX``.

A job gets them from S3 itself. To list, label and divide them, names, sizes and checksums are enough, so this keeps a
*shadow*: a folder with an empty file of the right size and name for each object, which takes no space. Only lists
(``LISTS``) are really downloaded. The manifest is then made of the shadow as of any folder.

FOLDER/objects.json   what the shadow shows: name -> size, ETag, SHA-256 where S3 has it
FOLDER/tree/          the shadow, to be listed as ``data.root``

IAM actions: s3:ListBucket, s3:GetObject (lists, and checksums of objects that have a SHA-256); kms:Decrypt with
objects under a KMS key.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from launchers.remote.download import download_file
from launchers.remote.parallel import THREADS, in_parallel
from launchers.remote.placing import place, refuse_bad_names, written
from launchers.remote.s3 import Location, ObjectInfo, head, list_keys
from videolift.errors import DataError, StorageError

LISTS = ("classInd.txt", "trainlist*.txt", "testlist*.txt", "*.csv")
MAX_LIST_BYTES = 64 << 20  # a larger one is no list
MAX_OBJECTS = 200_000
INDEX = "objects.json"
TREE = "tree"


@dataclass(frozen=True)
class Shown:
    """An object as the shadow shows it."""

    size: int
    etag: str
    sha256: str | None  # of the content, where S3 has it

    @property
    def identity(self) -> str:
        """Return the SHA-256 of the content, else one of what tells contents apart in S3.

        The ETag of an object is another one when its content is (AWS: "Object" in the S3 API reference), though the
        same content has several: in parts or whole, under one key or another.
        """
        return self.sha256 or hashlib.sha256(b"etag" + self.etag.encode() + str(self.size).encode()).hexdigest()


@dataclass(frozen=True)
class Shadow:
    """A local image of a data set in S3."""

    location: Location
    root: Path
    objects: Mapping[str, Shown]

    def checksum(self, path: Path) -> str:
        """Return what :func:`videolift.manifest.make_manifest` takes for a file's SHA-256.

        Raises:
            DataError: the shadow does not show this file.
        """
        return self._shown(path).identity

    def content(self, path: Path) -> str | None:
        """Return the SHA-256 of what a file stands for, None where S3 does not have it: ETag and size prove nothing.

        Raises:
            DataError: the shadow does not show this file.
        """
        return self._shown(path).sha256

    def _shown(self, path: Path) -> Shown:
        name = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else ""
        if name not in self.objects:
            raise DataError(f"{path}: is not among the objects of {self.location}; put it there and run it again")
        return self.objects[name]


def shadow(client: Any, location: Location, folder: Path, progress: Callable[[int, int], None] | None = None) -> Shadow:
    """Make or refresh the shadow of what lies below a location.

    Args:
        folder: for this location only; all that is in it belongs to the shadow.
        progress: called with (objects whose checksum is known, objects in all).

    Raises:
        DataError: there is nothing, too much, or names that cannot be those of files.
        StorageError: ``folder`` holds something else.
        AwsError: S3 refuses, or is not reached.
    """
    known = _claim(folder, location)
    listed = list_keys(client, location, limit=MAX_OBJECTS)
    refuse_bad_names(listed, location.uri)
    if not listed:
        raise DataError(
            f"data.root={location}: nothing lies there. Say data.root=s3://BUCKET/PREFIX, the place that holds the "
            "videos."
        )
    root = folder / TREE
    root.mkdir(exist_ok=True)
    _remove_others(root, listed)
    objects = _looked_up(client, location, listed, known, progress)
    lists = [name for name, shown in objects.items() if _is_list(name, shown.size)]
    for name, shown in objects.items():
        if not _is_list(name, shown.size):
            _show(place(root, name), shown.size)

    def fetch(name: str) -> None:
        download_file(client, location / name, place(root, name))

    for _ in in_parallel(fetch, _stale(root, lists, objects, known)):
        pass
    _note(folder, location, objects)
    return Shadow(location, root, objects)


def _is_list(name: str, size: int) -> bool:
    return size <= MAX_LIST_BYTES and any(fnmatchcase(PurePosixPath(name).name, pattern) for pattern in LISTS)


def _claim(folder: Path, location: Location) -> dict[str, Shown]:
    """Return what is known from last time of a folder that is this location's, or becomes it."""
    index = folder / INDEX
    if not index.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StorageError(f"{folder}: holds something else than an image of {location}; move it away")
        _note(folder, location, {})
        return {}
    try:
        noted = json.loads(index.read_text(encoding="utf-8"))
        objects = {name: Shown(*values) for name, values in noted["objects"].items()}
        uri = noted["uri"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StorageError(f"{index}: is damaged ({error}); delete {folder}, it is made again") from error
    if uri != (location / "").uri:
        raise StorageError(f"{folder}: is an image of {uri}, not of {location}; delete it")
    return objects


def _note(folder: Path, location: Location, objects: Mapping[str, Shown]) -> None:
    document = {"uri": (location / "").uri, "objects": {name: astuple(shown) for name, shown in objects.items()}}
    with written(folder / INDEX) as file:
        file.write(json.dumps(document, ensure_ascii=False).encode())


def _remove_others(root: Path, wanted: Mapping[str, object]) -> None:
    for folder, folders, files in os.walk(root, topdown=False):
        here = Path(folder)
        for name in files:
            if (here / name).relative_to(root).as_posix() not in wanted:
                (here / name).unlink()
        for name in folders:
            if not any((here / name).iterdir()):
                (here / name).rmdir()


def _looked_up(
    client: Any,
    location: Location,
    listed: Mapping[str, ObjectInfo],
    known: Mapping[str, Shown],
    progress: Callable[[int, int], None] | None,
) -> dict[str, Shown]:
    """Return all objects with what S3 knows of their content; asks only for those that are new and have a SHA-256."""
    objects = {}
    new = []
    for name, info in listed.items():
        before = known.get(name)
        if before is not None and (before.size, before.etag) == (info.size, info.etag):
            objects[name] = before
        elif "SHA256" in info.algorithms:
            new.append(name)
        else:
            objects[name] = Shown(info.size, info.etag, None)

    def ask(name: str) -> tuple[str, Shown]:
        found = head(client, location / name)
        if found is None or found.etag != listed[name].etag:
            raise DataError(f"{location / name}: was changed while the data set was listed; run it again")
        return name, Shown(found.size, found.etag, found.sha256)

    for name, shown in in_parallel(ask, new, threads=2 * THREADS):
        objects[name] = shown
        if progress is not None:
            progress(len(objects), len(listed))
    return {name: objects[name] for name in listed}


def _show(path: Path, size: int) -> None:
    if not path.is_file() or path.stat().st_size != size:
        with path.open("wb") as file:
            file.truncate(size)  # takes no space


def _stale(root: Path, lists: list[str], objects: Mapping[str, Shown], known: Mapping[str, Shown]) -> list[str]:
    """Return the lists that are not here as they are in S3."""

    def is_here(name: str) -> bool:
        path = root / name
        return known.get(name) == objects[name] and path.is_file() and path.stat().st_size == objects[name].size

    return [name for name in lists if not is_here(name)]
