"""The folders below ``outputs=``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launchers.cache import Cache
from launchers.records import RunFolder
from videolift.provenance import source_digest


@dataclass(frozen=True)
class Outputs:
    """Everything that videolift writes lies below ``root``, an absolute path."""

    root: Path

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def run(self, run_id: str) -> RunFolder:
        return RunFolder(self.runs / run_id)

    @property
    def cache(self) -> Cache:
        return Cache(self.root / "cache")

    @property
    def checksums(self) -> Path:
        return self.root / "cache" / "checksums.db"

    @property
    def demo(self) -> Path:
        """Folder of the generated demo data; another version of the generator makes another one."""
        return self.root / "data" / f"demo-{source_digest('demo')[:8]}"
