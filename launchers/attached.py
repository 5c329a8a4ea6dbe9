"""A stage whose hosts are followed through processes of this machine: their output, their end, stopping them."""

from __future__ import annotations

import queue
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence

POLL_S = 1.0
FAILED_GRACE_S = 30.0  # that the other hosts of a failed stage get to end


def attach(command: Sequence[str], environment: Mapping[str, str], *, lifeline: bool = False) -> subprocess.Popen[str]:
    """Start a process whose output can be followed.

    Args:
        lifeline: give it a stdin that reaches its end when this process dies, however that comes about.
    """
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE if lifeline else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C in the terminal is ours to pass on
    )


class AttachedHosts:
    """The processes of one stage, by host."""

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.failed: list[str] = []  # hosts, in the order in which they failed
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._pumps: dict[str, threading.Thread] = {}
        self._lines: queue.Queue[tuple[str, str | None]] = queue.Queue()

    def add(self, host: str, process: subprocess.Popen[str]) -> None:
        self.processes[host] = self._running[host] = process
        self._pumps[host] = threading.Thread(target=_pump, args=(host, process, self._lines), daemon=True)
        self._pumps[host].start()

    def lines(self) -> Iterator[tuple[str, str | None]]:
        """Yield (host, line of output), and (host, None) once when its process has failed, until all have ended."""
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
                self.failed.append(host)
                yield host, None

    def in_order_of_failure(self) -> list[str]:
        return [*self.failed, *(host for host in self.processes if host not in self.failed)]


def _pump(host: str, process: subprocess.Popen[str], lines: queue.Queue[tuple[str, str | None]]) -> None:
    if process.stdout is not None:
        with process.stdout:
            for line in process.stdout:
                lines.put((host, line.rstrip("\n")))
    lines.put((host, None))
