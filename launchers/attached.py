"""Stages on this machine: each a job of its own, whose hosts are followed, stopped and ended as processes."""

from __future__ import annotations

import json
import queue
import socket
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from launchers import script_channels
from launchers.base import Described, HostEnd, Job, Stage
from launchers.script_channels import Originals

if TYPE_CHECKING:
    from rich.console import Console

POLL_S = 1.0
FAILED_GRACE_S = 30.0  # that the other hosts of a failed stage get to end


def attach(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    lifeline: bool = False,
    secrets: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start a process whose output can be followed.

    Args:
        lifeline: give it a stdin that reaches its end when this process dies, however that comes about.
        secrets: written to its stdin as one line of JSON, where there are any.
    """
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE if lifeline or secrets else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C in the terminal is ours to pass on
    )
    if secrets and process.stdin is not None:
        with suppress(BrokenPipeError):  # it has ended, and says why
            process.stdin.write(f"{json.dumps(dict(secrets))}\n")
            process.stdin.flush() if lifeline else process.stdin.close()
    return process


class OnThisMachine(ABC):
    """What backends of this machine have in common: a stage is a job, and what is finished is in the cache."""

    def jobs(self, stages: Sequence[str]) -> list[list[str]]:
        return [[stage] for stage in stages]

    def origin(self, stage_id: str) -> str | None:
        return None

    def unknown_origin(self, stage_id: str) -> str | None:
        return None

    def fetch(self, stage_id: str, console: Console) -> None:
        raise NotImplementedError(f"{stage_id}: nothing is finished elsewhere")

    def machine(self, stage: str) -> str:
        return socket.gethostname()

    def busy(self, folder: Path) -> str | None:
        return None

    def cost(self, stages: Mapping[str, Collection[str]]) -> Described | None:
        return None

    def describe(self, jobs: Sequence[Sequence[Stage]]) -> list[Described]:
        return []

    def submit(self, stages: Sequence[Stage], console: Console) -> Job:
        (stage,) = stages
        return self._start(stage, console)

    def keep(self, stage_id: str, console: Console) -> None:  # noqa: B027 - the cache has it
        pass

    @abstractmethod
    def _start(self, stage: Stage, console: Console) -> Job: ...


class AttachedJob(ABC):
    """A stage of which each host is followed through a process of this machine."""

    lasting = False
    finished: Sequence[Stage] = ()

    def __init__(self, stage: Stage, originals: Originals | None = None) -> None:
        """Follow nothing yet.

        Args:
            originals: files of the user's that the hosts can reach, and must not change.
        """
        self.stages = [stage]
        self._originals = originals
        self.processes: dict[str, subprocess.Popen[str]] = {}  # by host
        self._failed: list[str] = []  # hosts, in the order in which they failed
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._pumps: dict[str, threading.Thread] = {}
        self._lines: queue.Queue[tuple[str, str | None]] = queue.Queue()

    def add(self, host: str, process: subprocess.Popen[str]) -> None:
        self.processes[host] = self._running[host] = process
        self._pumps[host] = threading.Thread(target=_pump, args=(host, process, self._lines), daemon=True)
        self._pumps[host].start()

    def follow(self) -> Iterator[tuple[str, str]]:
        while self._running:
            try:
                host, line = self._lines.get(timeout=POLL_S)
            except queue.Empty:
                # An interrupt may have come between taking a host's end from the queue and noting it.
                ended = [host for host in self._running if not self._pumps[host].is_alive()]
                if not ended or not self._lines.empty():
                    continue
                host, line = ended[0], None
            if line is not None:
                yield host, line
            elif self._running.pop(host).wait() != 0:
                self._failed.append(host)
                self.stop(FAILED_GRACE_S)
        if self._originals is not None:
            self._originals.refuse_changes("; ".join(end.failure for end in self.ends() if end.failure))

    def put_away(self) -> None:
        """Keep what a script wrote, however it ended, and remove the copies that it was given; for ended processes."""
        for stage in self.stages:
            if script_channels.is_of_script(stage):
                script_channels.clear(stage.folder)

    def stop(self, grace_s: float) -> None:
        threading.Thread(target=self._stop, args=(grace_s,), daemon=True).start()

    @abstractmethod
    def _stop(self, grace_s: float) -> None:
        """Ask every host to stop and wait; kill those that have not after ``grace_s`` seconds."""

    @abstractmethod
    def _end(self, host: str) -> HostEnd:
        """Return how a host ended, once its process has."""

    def ends(self) -> list[HostEnd]:
        return [self._end(host) for host in (*self._failed, *(h for h in self.processes if h not in self._failed))]


def _pump(host: str, process: subprocess.Popen[str], lines: queue.Queue[tuple[str, str | None]]) -> None:
    if process.stdout is not None:
        with process.stdout:
            for line in process.stdout:
                lines.put((host, line.rstrip("\n")))
    lines.put((host, None))
