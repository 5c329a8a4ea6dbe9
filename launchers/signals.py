"""Interruptions: signals that a launcher gets, and how they reach the threads that follow jobs."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SLICE_S = 0.2  # of a pause


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM, which a cluster's scheduler sends, like Ctrl-C."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # a notebook's worker thread has no signals
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def counted_interrupts() -> Iterator[Callable[[], int]]:
    """Count Ctrl-C and SIGTERM instead of raising something; yields what tells how many came."""
    came = 0

    def count(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came += 1

    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, count) for number in numbers}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt(thread: threading.Thread) -> None:
    """Raise KeyboardInterrupt in a thread, as Ctrl-C does in the main one; it arrives between two steps of Python's.

    What follows a job so needs one way only to be stopped. Source: PyThreadState_SetAsyncExc in the Python/C API.
    """
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(KeyboardInterrupt))


def pause(seconds: float) -> None:
    """Sleep so that an interruption that is raised in this thread arrives soon."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, SLICE_S))
