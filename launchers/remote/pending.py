"""Files that are to be uploaded to one place in S3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launchers.cache import FINISHED_FILE
from launchers.remote.s3 import Location

# What of a finished stage is worth keeping: not its inputs, nor the shares and checkpoints of its hosts.
KEPT = ("plan", "arrays", "hosts/*/model", "hosts/*/output/data", "hosts/*/processing/output")


@dataclass(frozen=True)
class Sending:
    """Files on their way to one place."""

    what: str
    files: Mapping[str, Path | bytes]  # by posix path below the place
    target: Location
    last: str | None = None  # the file whose presence says that the others are there

    @property
    def bytes(self) -> int:
        return sum(len(f) if isinstance(f, bytes) else f.stat().st_size for f in self.files.values())


def finished_stage(folder: Path, target: Location) -> Sending:
    """Return what keeps a finished stage of the cache in S3."""
    found = [file for pattern in KEPT for part in sorted(folder.glob(pattern)) for file in sorted(part.rglob("*"))]
    files: dict[str, Path | bytes] = {f.relative_to(folder).as_posix(): f for f in found if f.is_file()}
    files[FINISHED_FILE] = folder / FINISHED_FILE
    return Sending(folder.name, files, target, last=FINISHED_FILE)
