from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from functools import partial

import pytest

from launchers.base import Detached
from launchers.side_by_side import run_side_by_side
from launchers.signals import pause
from tests.waiting import HANG_S
from videolift.errors import StageError, Stopped


class Works:
    """Pieces of work that tell how many of them run at the same time."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.running = self.most = 0
        self.done: list[int] = []
        self.failures: list[tuple[str, int]] = []

    def work(self, number: int, until: Callable[[], bool] = lambda: True) -> None:
        """Work until something holds, of which every piece that begins and the first failure are told."""
        with self.changed:
            self.running += 1
            self.most = max(self.most, self.running)
            self.changed.notify_all()
            assert self.changed.wait_for(until, HANG_S)
            self.running -= 1
            self.done.append(number)

    def failed(self, error: BaseException, others: int) -> None:
        with self.changed:
            self.failures.append((str(error), others))
            self.changed.notify_all()


def failing(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("at_once", [1, 2, 9])
def test_all_are_done_at_most_so_many_at_a_time(at_once: int) -> None:
    works, expected = Works(), min(at_once, 5)
    todo = [partial(works.work, n, lambda: works.most >= expected) for n in range(5)]
    run_side_by_side(todo, at_once, works.failed)
    assert sorted(works.done) == list(range(5))
    assert works.most == expected
    assert works.failures == []


def test_after_a_failure_none_begins_and_what_runs_is_waited_for() -> None:
    works = Works()
    todo = [
        lambda: failing(StageError("broken")),
        lambda: works.work(1, lambda: bool(works.failures)),
        lambda: works.work(2),
    ]
    with pytest.raises(StageError, match="broken"):
        run_side_by_side(todo, 2, works.failed)
    assert works.done == [1]
    assert works.failures == [("broken", 1)]


def test_one_by_one_the_first_failure_ends_it() -> None:
    works = Works()
    with pytest.raises(StageError, match="broken"):
        run_side_by_side([lambda: failing(StageError("broken")), lambda: works.work(1)], 1, works.failed)
    assert works.done == []


def test_an_interruption_reaches_all_that_run_and_none_begins() -> None:
    works, reached, begun = Works(), [], threading.Semaphore(0)

    def work() -> None:
        begun.release()
        try:
            pause(HANG_S)
        except KeyboardInterrupt:
            reached.append(threading.current_thread())
            raise Stopped("stopped") from None

    def interrupt() -> None:
        for _ in range(2):
            begun.acquire(timeout=HANG_S)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_side_by_side([work] * 5, 2, works.failed)
    assert len(reached) == 2
    assert works.failures == []


def test_what_goes_on_without_us_counts_more_than_what_failed() -> None:
    works = Works()
    todo = [lambda: failing(StageError("broken")), lambda: failing(Detached("goes on"))]
    with pytest.raises(Detached):
        run_side_by_side(todo, 2, works.failed)
