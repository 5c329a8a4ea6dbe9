from __future__ import annotations

import signal
import threading
import time

import pytest

from launchers.base import Detached
from launchers.side_by_side import run_side_by_side
from launchers.signals import pause
from videolift.errors import StageError, Stopped

WAIT_S = 30.0


class Works:
    """Pieces of work that tell how many of them run at the same time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running = self.most = 0
        self.done: list[int] = []
        self.failures: list[tuple[str, int]] = []

    def work(self, number: int, seconds: float = 0.05) -> None:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            pause(seconds)
            self.done.append(number)
        finally:
            with self.lock:
                self.running -= 1

    def failed(self, error: BaseException, others: int) -> None:
        self.failures.append((str(error), others))


def failing(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("at_once", [1, 2, 9])
def test_all_are_done_at_most_so_many_at_a_time(at_once: int) -> None:
    works = Works()
    run_side_by_side([lambda n=n: works.work(n) for n in range(5)], at_once, works.failed)  # type: ignore[misc]
    assert sorted(works.done) == list(range(5))
    assert works.most == min(at_once, 5)
    assert works.failures == []


def test_after_a_failure_none_begins_and_what_runs_is_waited_for() -> None:
    works = Works()
    todo = [lambda: failing(StageError("broken")), lambda: works.work(1, 1.0), lambda: works.work(2)]
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
    works, reached = Works(), []

    def work() -> None:
        try:
            works.work(0, WAIT_S)
        except KeyboardInterrupt:
            reached.append(threading.current_thread())
            raise Stopped("stopped") from None

    def interrupt() -> None:
        until = time.monotonic() + WAIT_S
        while works.running < 2 and time.monotonic() < until:
            time.sleep(0.01)
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
