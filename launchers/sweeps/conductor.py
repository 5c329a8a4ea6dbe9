"""Runs children side by side: each in a thread of its own, which follows its stages as a single run does."""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from launchers.base import Detached, Pruned
from launchers.cache import Cache
from launchers.config import OnFailure
from launchers.signals import counted_interrupts, interrupt
from launchers.sweeps.record import Child, State
from launchers.sweeps.source import Ready, Source
from videolift.errors import DataError, PartError, StageError, Stopped, TrainingError, VideoliftError, as_expected

STAGES_FAIL_WITH = (StageError, DataError, PartError, TrainingError)  # and not what a run itself fails with
TICK_S = 0.3  # between two looks whether a stage that children wait for is finished


@dataclass
class _Running:
    """A child on its way."""

    ready: Ready
    computes: set[str]  # ids of stages that were not finished when it began
    thread: threading.Thread = field(init=False)
    stage_failed: bool = False


class Conductor:
    """Runs children of a sweep, at most so many at a time.

    A child begins when no other one is computing a stage that it needs: what children share is computed once. Where
    such a stage fails, those that need it fail with it, instead of failing one after the other in the same way.
    """

    def __init__(
        self,
        cache: Cache,
        run: Callable[[Ready], None],
        changed: Callable[[Child], None],
        interrupted: Callable[[int], None],
        *,
        parallel: int,
        on_failure: OnFailure,
    ) -> None:
        """Prepare to run children.

        Args:
            run: runs a child to its end in the thread that calls it; ends as ``launchers.running.Run.execute``.
            changed: is told, in the main thread, whenever a child's state has changed.
            interrupted: is told so, and for how many children that still run it is.
        """
        self._cache = cache
        self._run = run
        self._changed = changed
        self._told_interrupted = interrupted
        self._parallel = parallel
        self._stops_at_failure = on_failure is OnFailure["stop"]
        self._waiting: list[Ready] = []
        self._running: list[_Running] = []
        self._wake = threading.Event()  # a child has ended
        self._broken: dict[str, Child] = {}  # id of a stage that failed -> the child that it failed in
        self._failed = False
        self._lost_touch = False  # with what children run on: others would lose it, too
        self.interrupted = False

    def conduct(self, source: Source) -> None:
        """Run all that comes from a source; returns when nothing runs any more.

        Ctrl-C reaches every child as it reaches a single run; afterwards no child begins.
        """
        with counted_interrupts() as count:
            try:
                self._conduct(source, count)
            except BaseException:  # a full disk, for one: nothing may go on behind our back
                self._interrupt_all()
                for running in self._running:
                    running.thread.join()
                raise

    def _conduct(self, source: Source, count: Callable[[], int]) -> None:
        passed_on = 0
        while True:
            if count() > passed_on:
                passed_on, self.interrupted = count(), True
                self._told_interrupted(len(self._running))
                self._interrupt_all()
            self._start_what_can(source)
            if not self._running:
                return
            self._wake.wait(TICK_S)
            self._wake.clear()
            for running in [r for r in self._running if not r.thread.is_alive()]:
                self._take_ended(running, source)

    def _interrupt_all(self) -> None:
        for running in self._running:
            interrupt(running.thread)

    @property
    def _begins_no_more(self) -> bool:
        return self.interrupted or self._lost_touch or (self._failed and self._stops_at_failure)

    def _start_what_can(self, source: Source) -> None:
        while len(self._running) < self._parallel and (ready := self._next_that_can_begin(source)) is not None:
            self._begin(ready)

    def _next_that_can_begin(self, source: Source) -> Ready | None:
        """Return the first child that has to wait for nobody; those before it are put aside."""
        under_way = {stage for running in self._running for stage in self._unfinished(running.computes)}
        put_aside, self._waiting = deque(self._waiting), []
        found = None
        while found is None and not self._begins_no_more:
            ready = put_aside.popleft() if put_aside else source.next()
            if ready is None:
                break
            needs = self._needs(ready)
            if broken := needs & self._broken.keys():
                self._fail(ready, self._broken[broken.pop()], source)
            elif under_way & needs:
                self._waiting.append(ready)
            else:
                found = ready
        self._waiting += put_aside
        return found

    def _fail(self, ready: Ready, culprit: Child, source: Source) -> None:
        child, self._failed = ready.child, True
        child.state, child.exit_code = State.failed, culprit.exit_code
        child.error = f"needs a stage that failed in #{culprit.number}"
        self._tell(source, child)

    def _needs(self, ready: Ready) -> set[str]:
        """Return the ids of the stages that a child has to wait for or to compute."""
        wanted = ready.prepared.config.stages
        return self._unfinished({s.id for s in ready.prepared.planned.values() if s.stage in wanted})

    def _unfinished(self, stages: set[str]) -> set[str]:
        return {stage for stage in stages if self._cache.finished(stage) is None}

    def _begin(self, ready: Ready) -> None:
        child = ready.child
        child.state, child.started, child.ended, child.error, child.exit_code = State.running, time.time(), None, "", 0
        self._changed(child)
        running = _Running(ready, self._needs(ready))
        name = f"child-{child.number}"
        running.thread = threading.Thread(target=self._follow, args=(running,), name=name, daemon=True)
        running.thread.start()
        self._running.append(running)

    def _follow(self, running: _Running) -> None:
        ready = running.ready
        try:
            running.stage_failed = isinstance(end(ready, self._run), STAGES_FAIL_WITH)
        except KeyboardInterrupt:  # it came when the run had just ended
            if ready.child.state is State.running:
                ready.child.state, ready.child.error = State.stopped, "interrupted"
        finally:
            self._wake.set()

    def _take_ended(self, running: _Running, source: Source) -> None:
        self._running.remove(running)
        child = running.ready.child
        child.ended = time.time()
        self._failed |= child.state is State.failed
        self._lost_touch |= child.state is State.detached
        if running.stage_failed:
            # It is the first of those that it was to compute, and has not.
            left = self._unfinished(running.computes)
            stage = next((s.id for s in running.ready.prepared.planned.values() if s.id in left), None)
            self._broken |= {stage: child} if stage is not None else {}
        self._tell(source, child)

    def _tell(self, source: Source, child: Child) -> None:
        source.ended(child)
        self._changed(child)


def end(ready: Ready, run: Callable[[Ready], None]) -> BaseException | None:
    """Run a child, note how it ended, and return what ended it early."""
    child = ready.child
    try:
        run(ready)
    except Pruned as pruned:
        child.state, child.error = State.pruned, str(pruned)
        return pruned
    except Detached as detached:
        child.state, child.error, child.exit_code = State.detached, str(detached), detached.exit_code
        return detached
    except (KeyboardInterrupt, Stopped) as stopped:
        child.state, child.error = State.stopped, str(stopped) or "interrupted"
        return stopped
    except Exception as error:  # a defect in one child is no reason to lose the others
        known = as_expected(error) or VideoliftError("".join(traceback.format_exception(error)).strip())
        name = type(known if as_expected(error) else error).__name__
        child.state, child.error, child.exit_code = State.failed, f"{name}: {known}", known.exit_code
        return error
    child.state = State.finished
    return None
