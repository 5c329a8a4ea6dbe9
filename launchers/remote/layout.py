"""The layout of an account's bucket: where data, source, plans, stages and jobs lie."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from launchers.remote.s3 import Location

UNRESOLVED = "<unresolved>"  # what only an account knows, in a plan that is made without credentials
UNKNOWN_ACCOUNT = "000000000000"  # stands for it meanwhile: the SDK takes digits only


@dataclass(frozen=True)
class Site:
    """An account's corner for experiments."""

    region: str
    account: str
    role: str
    bucket: str
    prefix: str

    @property
    def root(self) -> Location:
        return Location(self.bucket, self.prefix)

    def data(self, folder: Path) -> Location:
        """Return the place of the videos of a folder on this machine; another folder has another place."""
        digest = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
        return self.root / "data" / f"{folder.name}-{digest}"

    def stage(self, stage_id: str) -> Location:
        """Return the place of a finished stage, laid out as in outputs/cache."""
        return self.root / "cache" / stage_id

    def checkpoints(self, stage_id: str) -> Location:
        return self.root / "checkpoints" / stage_id

    def source(self, digest: str) -> Location:
        return self.root / "source" / digest

    def plan(self, digest: str) -> Location:
        return self.root / "plans" / digest

    @property
    def jobs(self) -> Location:
        """Return the place below which each job has its own."""
        return self.root / "jobs"
