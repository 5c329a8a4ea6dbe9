"""Waiting for what happens, however busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

HANG_S = 240.0  # ends a test that hangs; on a machine that does the work of twenty nothing takes as long
LOOK_S = 0.02


def wait_until(holds: Callable[[], bool], what: str = "") -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: if it never does.
    """
    deadline = time.monotonic() + HANG_S
    while not holds():
        assert time.monotonic() < deadline, f"waited for in vain: {what or holds}"
        time.sleep(LOOK_S)
