"""The hosts of a job from their start to the end of the last one.

Sources: AWS, "How Amazon SageMaker AI Signals Algorithm Success and Failure", API reference "StopTrainingJob" and
"StoppingCondition" (SIGTERM, then 120 seconds until the job is ended).
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from launchers.emulator.emulated import Emulated
from launchers.emulator.hosts import Host, HostPlan
from launchers.emulator.logs import LogStream

LOOK_S = 0.05  # between two looks at the hosts
PUMP_S = 10.0  # that the last output of a host may take


class Cause(Enum):
    """Why the hosts of a job have ended."""

    done = "done"  # by themselves
    failed = "failed"  # one of them failed, the others were stopped
    stopped = "stopped"
    timed_out = "timed_out"
    interrupted = "interrupted"  # the spare capacity was taken away
    closed = "closed"  # the emulator ends


@dataclass
class Outcome:
    """How the hosts ended."""

    cause: Cause
    codes: dict[str, int] = field(default_factory=dict)  # exit codes by host
    failed: str | None = None  # the host that failed first
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        return self.codes.get(self.failed or "", 0)


class Round:
    """One start of all hosts of a job."""

    def __init__(
        self,
        world: Emulated,
        plans: Sequence[HostPlan],
        streams: Mapping[str, LogStream],
        *,
        created: float,
        stop: threading.Event,
        interruptible: bool = False,
    ) -> None:
        self._world, self._plans, self._streams = world, plans, streams
        self._job, self._created = plans[0].job, created
        self._stop, self._interruptible = stop, interruptible
        self._hosts: dict[str, Host] = {}
        self._pumps: list[threading.Thread] = []
        self._failed: str | None = None

    def run(self, limit_s: float) -> Outcome:
        """Start the hosts and return when all have ended; ``limit_s`` seconds are what they may take."""
        started = time.monotonic()
        try:
            for plan in self._plans:
                self._start(plan)
            cause = self._follow(started, limit_s)
        finally:
            for name, host in self._hosts.items():
                host.close()
                _pid_file(self._plans[0].folder.parent, name).unlink(missing_ok=True)
        codes = {name: code for name, host in self._hosts.items() if (code := host.poll()) is not None}
        return Outcome(cause, codes, self._failed, time.monotonic() - started)

    def _start(self, plan: HostPlan) -> None:
        host = self._hosts[plan.name] = self._world.hosts.start(plan)
        if host.pid is not None:
            _pid_file(plan.folder.parent, plan.name).write_text(f"{host.pid}\n", encoding="utf-8")
        pump = threading.Thread(target=self._pump, args=(host, self._streams[plan.name]), daemon=True)
        pump.start()
        self._pumps.append(pump)

    def _pump(self, host: Host, stream: LogStream) -> None:
        with suppress(ValueError):  # the file was closed by who lost patience
            for raw in host.output:
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                stream.add(line)
                self._world.faults.see_line(self._job, self._created, line)

    def _follow(self, started: float, limit_s: float) -> Cause:
        cause, kill_at = Cause.done, float("inf")
        while True:
            self._note_failures()
            running = [host for host in self._hosts.values() if host.poll() is None]
            if cause is Cause.done:
                found = self._reason_to_end(time.monotonic() - started, limit_s, any_runs=bool(running))
                if found is not None:
                    cause, kill_at = found, time.monotonic() + self._world.grace_s
                    for host in running:
                        host.send(signal.SIGTERM)
            if not running:
                self._finish_output()
                return cause
            if time.monotonic() >= kill_at or self._world.closing.is_set():
                for host in running:
                    host.send(signal.SIGKILL)
            self._stop.wait(LOOK_S) if cause is Cause.done else time.sleep(LOOK_S)

    def _note_failures(self) -> None:
        if self._failed is None:
            self._failed = next((name for name, host in self._hosts.items() if host.poll() not in (None, 0)), None)

    def _reason_to_end(self, seconds: float, limit_s: float, *, any_runs: bool) -> Cause | None:
        """Return why the hosts are to be ended that still run, None where they may go on."""
        reasons = {
            Cause.closed: self._world.closing.is_set(),
            Cause.failed: self._failed is not None,
            Cause.stopped: any_runs and self._stop.is_set(),
            Cause.timed_out: any_runs and seconds > limit_s,
            Cause.interrupted: any_runs and self._interruptible and bool(self._take("interrupt", seconds)),
        }
        if any_runs and (host := self._hosts.get(self._take("kill_host", seconds) or "")):
            host.send(signal.SIGKILL)
        return next((cause for cause, holds in reasons.items() if holds), None)

    def _take(self, kind: str, seconds: float) -> str | None:
        """Return the host that a fault of this kind is for, if one is due."""
        fault = self._world.faults.take_for_job((kind,), self._job, self._created, seconds)
        return fault.host if fault else None

    def _finish_output(self) -> None:
        for pump in self._pumps:
            pump.join(PUMP_S)
        for stream in self._streams.values():
            stream.flush(everything=not stream.delay_s)


def _pid_file(folder: Path, host: str) -> Path:
    return folder / f"{host}.pid"
