"""What the inside of a job sees."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType

from videolift.errors import Stopped
from videolift.events import Events
from videolift.manifest import Manifest
from videolift.plan import Plan
from videolift.workspace import Workspace

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Stop:
    """Becomes requested at SIGTERM, which SageMaker sends 120 seconds before it kills a job."""

    def __init__(self) -> None:
        self.requested = False
        self.pass_on: subprocess.Popen[bytes] | None = None  # a process that has to know too

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's to handle

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if self.pass_on is not None and self.pass_on.poll() is None:
            self.pass_on.send_signal(signal.SIGTERM)

    def check(self) -> None:
        """Raise Stopped where the job was asked to stop."""
        if self.requested:
            raise Stopped("asked to stop; what is finished is kept")


@dataclass
class Job:
    """One host's part of one stage."""

    workspace: Workspace
    plan: Plan
    manifest: Manifest
    events: Events
    stop: Stop = field(default_factory=Stop)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)  # that the launcher gave, by name


def die_with(parent: int, number: signal.Signals) -> None:
    """Ask Linux for a signal when the parent process dies, so that a killed launcher or stage leaves no orphan."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), number)


def stop_when_stdin_closes() -> None:
    """Send this process SIGTERM when its stdin reaches its end; call before it has threads.

    A container's stdin is its launcher's lifeline: the kernel closes it even after kill -9. A process watches it, not a
    thread, because preprocessing forks its workers from a process that must not have any.
    """
    watched = os.getpid()
    if os.fork():
        return  # after the end of stdin it stays a zombie, which costs a number and nothing else
    try:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one sent to the group must not cut the lifeline
        die_with(watched, signal.SIGKILL)
        os.close(1)  # whoever reads our output waits until the last process has closed it
        os.close(2)
        _drain(0)
        if os.getppid() == watched:
            os.kill(watched, signal.SIGTERM)
    finally:
        os._exit(0)


def _drain(descriptor: int) -> None:
    with suppress(OSError):  # a stdin that cannot be read has ended too
        while os.read(descriptor, select.PIPE_BUF):
            pass
