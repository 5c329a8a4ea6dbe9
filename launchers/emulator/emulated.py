"""What the jobs of one emulator have in common."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from launchers.emulator.faults import Faults
from launchers.emulator.hosts import HostKind
from launchers.emulator.logs import LogWriter
from launchers.emulator.quotas import Quotas
from launchers.emulator.store import Store


@dataclass
class Emulated:
    """The world of the jobs."""

    root: Path
    endpoint: str
    hosts: HostKind
    grace_s: float  # from SIGTERM to SIGKILL
    start_s: float  # that a job is Starting
    quotas: Quotas = field(default_factory=lambda: Quotas({}))
    faults: Faults = field(default_factory=Faults)
    logs: LogWriter = field(default_factory=LogWriter)
    closing: threading.Event = field(default_factory=threading.Event)
    _stores: dict[str, Store] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def store(self, region: str) -> Store:
        with self._lock:
            if region not in self._stores:
                self._stores[region] = Store(self.endpoint, region)
            return self._stores[region]
