"""Downloads: each file whole or not at all, none outside its folder, none that is here already.

IAM actions: s3:ListBucket, s3:GetObject; kms:Decrypt with objects under a KMS key.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launchers.remote.parallel import Abandoned, Meter, in_parallel
from launchers.remote.placing import place, refuse_bad_names, written
from launchers.remote.s3 import Location, ObjectInfo, Stream, head, list_keys
from videolift.manifest import sha256_file


@dataclass(frozen=True)
class Downloaded:
    """What a download has brought."""

    names: tuple[str, ...]  # of all files, sorted
    bytes_fetched: int
    bytes_kept: int  # that were here already


def download_file(client: Any, location: Location, path: Path, progress: Callable[[int], None] | None = None) -> None:
    """Download one object, checked against its SHA-256 where S3 has it.

    Args:
        progress: called with the bytes of each piece.

    Raises:
        AwsError: there is no such object (code ``NoSuchKey``), or it cannot be read.
        StorageError: a folder stands there.
        OSError: it cannot be written.
    """
    target = place(path.parent, path.name)
    with written(target) as file:
        for chunk in Stream(client, location):
            file.write(chunk)
            if progress is not None:
                progress(len(chunk))


def download_prefix(
    client: Any,
    location: Location,
    folder: Path,
    *,
    only: Callable[[str], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Downloaded:
    """Download all objects below a location into a folder; other files in it stay.

    A file of an object's size and SHA-256 is kept. Of objects that others have written S3 may know no SHA-256; they
    are fetched again.

    Args:
        only: which names are wanted; all by default.
        progress: called with (bytes here, bytes in all), from several threads, one at a time.

    Raises:
        DataError: names that cannot all be files below one folder; nothing is downloaded then.
        AwsError: S3 refuses, or is not reached.
        OSError: a file cannot be written.
    """
    wanted = {name: info for name, info in list_keys(client, location).items() if only is None or only(name)}
    refuse_bad_names(wanted, location.uri)
    meter = Meter(sum(info.size for info in wanted.values()), progress)
    stop = threading.Event()

    def arrived(count: int) -> None:
        if stop.is_set():
            raise Abandoned
        meter.add(count)

    def fetch(name: str) -> int:
        path = place(folder, name)
        if _is_here(client, location / name, wanted[name], path):
            meter.add(wanted[name].size)
            return 0
        download_file(client, location / name, path, arrived)
        return wanted[name].size

    fetched = sum(in_parallel(fetch, wanted, stop))
    total = sum(info.size for info in wanted.values())
    return Downloaded(tuple(sorted(wanted)), fetched, total - fetched)


def _is_here(client: Any, location: Location, info: ObjectInfo, path: Path) -> bool:
    if not path.is_file() or path.stat().st_size != info.size:
        return False
    found = head(client, location)
    return found is not None and found.sha256 is not None and found.sha256 == sha256_file(path)
