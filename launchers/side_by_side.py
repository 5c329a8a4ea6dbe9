"""Several pieces of work at the same time, each in a thread of its own, that are interrupted as one alone would be."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from launchers.base import Detached
from launchers.signals import interrupt

TICK_S = 0.3  # between two looks whether something has ended

Work = Callable[[], None]


class _Thread(threading.Thread):
    """A piece of work on its way."""

    def __init__(self, work: Work, ended: threading.Event) -> None:
        super().__init__(name="side by side", daemon=True)
        self._work = work
        self._ended = ended
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = error
        finally:
            self._ended.set()


def run_side_by_side(works: Sequence[Work], at_once: int, failed: Callable[[BaseException, int], None]) -> None:
    """Do all that is given, at most so much at a time.

    Ctrl-C reaches each piece of work. After it, and after one has failed, no other one begins; those that are on their
    way are waited for.

    Args:
        failed: is told what ended the first one early, and how many others are on their way.

    Raises:
        whatever the first one has failed with; Detached, where something goes on without us.
    """
    if at_once == 1 or len(works) == 1:
        for work in works:
            work()
        return
    waiting, ended = deque(works), threading.Event()
    running: list[_Thread] = []
    errors: list[BaseException] = []
    while waiting or running:
        try:
            while waiting and len(running) < at_once:
                running.append(_Thread(waiting.popleft(), ended))
                running[-1].start()
            ended.wait(TICK_S)
            ended.clear()
            for thread in [one for one in running if not one.is_alive()]:
                running.remove(thread)
                if thread.error is None:
                    continue
                waiting.clear()
                if not errors:
                    failed(thread.error, len(running))
                errors.append(thread.error)
        except KeyboardInterrupt as interrupted:
            waiting.clear()
            errors.append(interrupted)
            for thread in running:
                interrupt(thread)
    if errors:
        raise next((error for error in errors if isinstance(error, Detached)), errors[0])
