"""What tests see of stages while they run, which is at another place for every backend."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import psutil

from launchers.container_job import LOCK_LABEL
from tests.engine import docker


class UnderWay(Protocol):
    """Stages that run now."""

    def files(self, cwd: Path, stage: str, pattern: str) -> list[Path]:
        """Return the files below the output folders of a stage's hosts, for a launcher that was started in ``cwd``."""

    def processes(self, launcher: int) -> list[psutil.Process]:
        """Return the processes on this machine that run the hosts of a launcher's stage."""


class OnThisMachine:
    """Processes or containers of a launcher here."""

    def __init__(self, backend: str) -> None:
        self._backend = backend

    def files(self, cwd: Path, stage: str, pattern: str) -> list[Path]:
        cache = cwd / "outputs" / "cache"
        return sorted(
            file
            for output in ("processing/output/*", "output/data")
            for file in cache.glob(f"{stage}-*.partial/hosts/*/{output}/{pattern}")
        )

    def processes(self, launcher: int) -> list[psutil.Process]:
        if self._backend == "local":
            children = psutil.Process(launcher).children()
            return [child for child in children if "videolift.entry" in child.cmdline()]
        ids = docker("ps", "--quiet", "--filter", f"label={LOCK_LABEL}").split()
        return [psutil.Process(int(docker("inspect", "--format", "{{.State.Pid}}", one))) for one in ids]


def entries(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return the processes below these, or themselves, that are a stage and not the parent of one."""
    everything = [p for process in processes for p in (process, *process.children(recursive=True))]
    stages = [p for p in everything if "videolift.entry" in p.cmdline() or any("stage.py" in w for w in p.cmdline())]
    return [p for p in stages if "--parent" in p.cmdline()] or stages[:1]
