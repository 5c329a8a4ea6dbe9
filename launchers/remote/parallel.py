"""Many requests at once, of which the first that fails ends all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREADS = 8
TURN_S = 0.2  # after which a thread that waits can be interrupted


class Abandoned(BaseException):
    """A request is given up. No Exception: botocore would take it for a network error and try again."""


class Meter:
    """Counts bytes from several threads and tells a callback (bytes done, bytes in all)."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._lock = threading.Lock()
        self._total = total
        self._done = 0
        self._progress = progress

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._progress is not None:
                self._progress(self._done, self._total)


def in_parallel(
    work: Callable[[T], R], items: Iterable[T], stop: threading.Event | None = None, threads: int = THREADS
) -> Iterator[R]:
    """Yield what ``work`` makes of the items, in the order in which it is done.

    At most ``threads`` items are taken before the first result. However the loop is left before its end, no further
    item is begun, ``stop`` is set for the work that is under way, and it is waited for.

    Raises:
        whatever ``work`` raises first.
    """
    waiting = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        running: set[Future[R]] = set()
        try:
            while True:
                running |= {pool.submit(work, item) for item in islice(waiting, threads - len(running))}
                if not running:
                    return
                done, running = wait(running, TURN_S, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BaseException:
            if stop is not None:
                stop.set()
            raise
