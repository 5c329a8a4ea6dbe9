"""Several processes that read videos, in order, while their results are used."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

from videolift.errors import StageError
from videolift.job import die_with

QUEUE_A_WORKER = 8  # items under way a worker: keeps workers busy and memory flat

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def workers(
    count: int, work: Callable[[Item], Result], setting: str
) -> Iterator[Callable[[Sequence[Item]], Iterator[Result]]]:
    """Yield a map over items, in order, on ``count`` processes; 0: one for every core; 1: this one.

    Fork, before this process starts any thread: a spawned worker would first import OpenCV and PyAV again (on short
    jobs two workers are then 1.06x one, instead of 1.9x).

    Args:
        setting: what ``count`` is called, for the error.

    Raises:
        StageError: if a worker is killed.
    """
    count = count or len(os.sched_getaffinity(0))
    if count == 1:
        yield lambda items: map(work, items)
        return
    pool = ProcessPoolExecutor(count, get_context("fork"), _start_worker, (os.getpid(),))
    try:
        pool.submit(os.getpid).result()  # forks all workers now
        yield partial(_map_in_order, pool, work, count * QUEUE_A_WORKER)
    except BrokenProcessPool as error:
        raise StageError(
            f"a preprocessing worker was killed, most often because memory ran out; use fewer {setting}"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(parent: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # how a pool ends the others when one is killed
    die_with(parent, signal.SIGKILL)


def _map_in_order(
    pool: ProcessPoolExecutor, work: Callable[[Item], Result], ahead: int, items: Sequence[Item]
) -> Iterator[Result]:
    waiting = iter(items)
    under_way: deque[Future[Result]] = deque(pool.submit(work, item) for item in islice(waiting, ahead))
    while under_way:
        result = under_way.popleft().result()
        under_way.extend(pool.submit(work, item) for item in islice(waiting, 1))
        yield result
