"""Processes that are kept off the network, and what they tried nevertheless."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "guard"


@dataclass(frozen=True)
class Guard:
    """Refuses what is no loopback address, or all of the network, to the Python processes that get its variables."""

    log: Path
    loopback: bool

    @property
    def variables(self) -> dict[str, str]:
        return {
            "PYTHONPATH": str(FOLDER),
            "SOCKET_GUARD": str(self.log),
            "SOCKET_GUARD_ALLOWS": "loopback" if self.loopback else "nothing",
        }

    @property
    def refused(self) -> list[str]:
        """What was tried: ``socket.connect 169.254.169.254``."""
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
