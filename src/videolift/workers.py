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
from multiprocessing import active_children, get_context
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from videolift.errors import StageError
from videolift.job import die_with

QUEUE_A_WORKER = 8  # items under way a worker: keeps workers busy and memory flat
ENDED_BY_POOL = -signal.SIGTERM  # exit code of the others, once one worker has died

Item = TypeVar("Item")
Result = TypeVar("Result")

_note: list[Callable[[int], None]] = []  # in a worker, one that tells its parent the number of what it reads


@contextmanager
def workers(
    count: int, work: Callable[[Item], Result], setting: str, name_of: Callable[[Item], str]
) -> Iterator[Callable[[Sequence[Item]], Iterator[Result]]]:
    """Yield a map over items, in order, on ``count`` processes; 0: one for every core; 1: this one.

    Fork, before this process starts any thread: a spawned worker would first import OpenCV and PyAV again (on short
    jobs two workers are then 1.06x one, instead of 1.9x).

    Args:
        setting: what ``count`` is called, for the error.
        name_of: what an item is called, for the error.

    Raises:
        StageError: if a worker dies; it names what the worker read.
    """
    count = count or len(os.sched_getaffinity(0))
    if count == 1:
        yield lambda items: map(work, items)
        return
    context = get_context("fork")
    read_now = context.Array("q", 2 * count)  # of each worker its process, and the number, from 1, of what it reads
    pool = ProcessPoolExecutor(count, context, _start_worker, (os.getpid(), read_now))
    asked: list[Item] = []
    processes: list[BaseProcess] = []
    try:
        pool.submit(os.getpid).result()  # forks all workers now
        processes += active_children()
        yield partial(_map_in_order, pool, work, count * QUEUE_A_WORKER, asked)
    except BrokenProcessPool as error:
        pool.shutdown(wait=True)  # until all have ended
        died = [one for one in processes if one.exitcode not in (0, ENDED_BY_POOL)] or processes
        noted: list[int] = list(read_now.get_obj())
        numbers = dict(zip(noted[::2], noted[1::2], strict=True))
        names = [name_of(asked[number - 1]) for one in died if (number := numbers.get(one.pid or 0))]
        raise StageError(_how_it_died(died[0].exitcode if died else None, names, setting)) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _how_it_died(code: int | None, names: Sequence[str], setting: str) -> str:
    """Return what to tell of a worker's death; ``code`` is its exit code, as subprocess counts."""
    where = f" while it read {' or '.join(names)}" if names else ""
    if code in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL):
        return (
            f"a worker process was killed by {signal.Signals(-code).name}{where}: a decoder crashed. Leave the file "
            "out of the data, or set another preprocess.reader"
        )
    return f"a worker process was killed{where}, most often because memory ran out; use fewer {setting}"


def _start_worker(parent: int, read_now: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # how a pool ends the others when one is killed
    die_with(parent, signal.SIGKILL)
    with read_now.get_lock():
        place = 2 * read_now[::2].index(0)
        read_now[place] = os.getpid()
    _note.append(partial(read_now.get_obj().__setitem__, place + 1))  # without the lock, which it could die with


def _noted(work: Callable[[Item], Result], numbered: tuple[int, Item]) -> Result:
    number, item = numbered
    _note[0](number)
    try:
        return work(item)
    finally:
        _note[0](0)


def _map_in_order(
    pool: ProcessPoolExecutor,
    work: Callable[[Item], Result],
    ahead: int,
    asked: list[Item],
    items: Sequence[Item],
) -> Iterator[Result]:
    asked[:] = items
    waiting = iter(enumerate(items, start=1))
    under_way: deque[Future[Result]] = deque(pool.submit(_noted, work, one) for one in islice(waiting, ahead))
    while under_way:
        result = under_way.popleft().result()
        under_way.extend(pool.submit(_noted, work, one) for one in islice(waiting, 1))
        yield result
