"""What the inside of a job sees."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
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

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's to handle

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True

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


def die_with(parent: int, number: signal.Signals) -> None:
    """Ask Linux for a signal when the parent process dies, so that a killed launcher or stage leaves no orphan."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), number)
