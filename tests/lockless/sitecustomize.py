"""Makes a file system one without locks: a folder for PYTHONPATH, which Python imports this module from at its start.

LOCKLESS names the error that flock answers with, as ENOLCK, and LOCKLESS_FILES a pattern of the files it does so for.
"""

from __future__ import annotations

import errno
import fcntl
import os
from fnmatch import fnmatch
from typing import Any


def take_away(code: int, pattern: str) -> None:
    real = fcntl.flock

    def flock(file: Any, operation: int) -> None:
        if fnmatch(str(getattr(file, "name", "")), pattern):
            raise OSError(code, os.strerror(code))
        real(file, operation)

    fcntl.flock = flock


if os.environ.get("LOCKLESS"):
    take_away(getattr(errno, os.environ["LOCKLESS"]), os.environ.get("LOCKLESS_FILES", "*"))
