"""``backend=local``: every host of a stage is a process on this machine, with SageMaker's layout re-rooted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from launchers import script_channels, shares
from launchers.attached import AttachedJob, OnThisMachine, attach
from launchers.base import HostEnd, Stage
from launchers.cache import Cache
from launchers.config import Backend
from launchers.machine import ALL_CORES, Threads, best_precision, has_cuda_libraries, thread_variables
from launchers.repository import SOURCE
from launchers.script_channels import Originals
from launchers.script_secrets import values_of
from videolift.provenance import library_versions
from videolift.settings import Precision
from videolift.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console


class LocalBackend(OnThisMachine):
    """Runs stages as subprocesses."""

    name = "local"

    def __init__(self, settings: Backend, cache: Cache, threads: Threads = ALL_CORES) -> None:
        self._settings = settings
        self._threads = threads

    def check(self, stages: Sequence[str], *, planning: bool) -> list[str]:
        hosts = self._settings.train.instance_count
        if hosts > 1:
            return [f"backend.train.instance_count: backend=local trains on one host, got {hosts}; leave it at 1"]
        return []

    def settle(self, stages: Sequence[str], console: Console) -> None:
        pass

    def libraries(self, stage: str) -> dict[str, str]:
        return library_versions(stage)

    def precision(self) -> Precision:
        return best_precision(gpus=has_cuda_libraries())

    def make_ready(self, stages: Mapping[str, Collection[str]], console: Console, *, at_once: int = 1) -> None:
        pass

    def environments(self, stages: Sequence[str]) -> dict[str, dict[str, str]]:
        return {}

    def _start(self, stage: Stage, console: Console) -> LocalJob:
        secrets = values_of(stage.plan.script.secrets, self._settings)
        if script_channels.is_of_script(stage):
            given = script_channels.lay_out(stage, console)
            spaces, job = given.spaces, LocalJob(stage, given.spaces, given.originals)
        else:
            spaces = shares.lay_out(stage, shares.link)
            job = LocalJob(stage, spaces)
        for host, space in spaces.items():
            job.add(host, self._start_host(space, thread_variables(self._threads.of(stage)), secrets))
        return job

    def _start_host(
        self, space: Workspace, variables: Mapping[str, str], secrets: Mapping[str, str]
    ) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "videolift.entry", "--root", str(space.root), "--parent", str(os.getpid())]
        command += ["--secrets-from-stdin"] if secrets else []
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("SM_")}
        ours = {"PYTHONPATH": str(SOURCE), "PYTHONUNBUFFERED": "1", **variables}
        environment = {**inherited, **space.variables(), **ours}
        return attach(command, environment, secrets=secrets) if secrets else attach(command, environment)


class LocalJob(AttachedJob):
    """The processes of one stage."""

    def __init__(self, stage: Stage, spaces: dict[str, Workspace], originals: Originals | None = None) -> None:
        super().__init__(stage, originals)
        self._spaces = spaces

    def _stop(self, grace_s: float) -> None:
        deadline = time.monotonic() + grace_s
        for process in self.processes.values():
            _signal(process, signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)

    def _end(self, host: str) -> HostEnd:
        return HostEnd(host, self.processes[host].wait(), read_failure(self._spaces[host]))

    def close(self) -> None:
        for process in self.processes.values():
            _signal(process, signal.SIGKILL)
            process.wait()
        self.put_away()


def read_failure(space: Workspace) -> str:
    """Return what the job wrote to its failure file."""
    file = space.failure_file
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(number)
