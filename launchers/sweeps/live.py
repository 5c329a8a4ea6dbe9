"""What a person sees while a sweep runs: a table on a terminal, plain lines elsewhere.

Children run in threads of their own, which are interrupted by exceptions. So they only leave news in a queue; one
thread takes it up and is the only one that writes.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.text import Text

from launchers.config import Goal
from launchers.records import stage_of
from launchers.sweeps.record import Child, State, SweepFolder, SweepRecord
from launchers.sweeps.shown import (
    GAP,
    STYLES,
    Column,
    children_text,
    clock,
    counts_text,
    differing,
    ended_text,
    first_line,
    needed,
    number_text,
    plain_label,
    seconds_of,
    table_of,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from videolift.events import Event

REFRESH_S = 0.25  # between two pictures of the table
CLOCK_S = 1.0  # between two of them while nothing happens
QUIET_S = 30.0  # after which plain lines say how far everything is
MOST_ROWS = 16  # of the table, unless more children run at once
WAITING_ROWS = 3  # of children that are next
AROUND = 4  # lines of a terminal that are not rows: head, counts (two where it is narrow), prompt
SHOWN_RUNNING = 4  # children in a plain line that says how far everything is
TOLD_STAGES = {"preprocess": "preprocessing", "train": "training"}  # whose begin is told in plain lines


class LiveTable:
    """Shows the children of a sweep while they run. Safe to call from several threads."""

    def __init__(self, console: Console, record: SweepRecord, folder: SweepFolder | None = None) -> None:
        """Prepare to show a sweep.

        Args:
            folder: the sweep's; else paths are relative to it.
        """
        drawn = console.is_terminal and not console.is_dumb_terminal
        self._view = (_Table if drawn else _Lines)(console, record, folder or SweepFolder(Path()))
        self._news: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._show, name="live table", daemon=True)

    def __enter__(self) -> LiveTable:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._news.put(None)
        self._thread.join()

    def changed(self, child: Child) -> None:
        """Take note of a child's state, which is another one than before."""
        self._news.put(partial(self._view.changed, copy(child)))

    def event(self, child: Child, event: Event) -> None:
        """Take note of what a running child says."""
        self._news.put(partial(self._view.event, child, event))

    def say(self, text: str, style: str = "") -> None:
        self._news.put(partial(self._view.say, text, style))

    def _show(self) -> None:
        with self._view as view:
            due = time.monotonic()
            while True:
                if (left := due - time.monotonic()) <= 0:
                    view.refresh()
                    due = time.monotonic() + REFRESH_S
                    continue
                try:
                    news = self._news.get(timeout=left)
                except queue.Empty:
                    continue
                if news is None:
                    return
                news()


@dataclass
class _Progress:
    """How far one child is, by what it said."""

    stage: str = ""
    epoch: int = 0  # the last one that is over
    epochs: int | None = None  # in all, once that is known
    now: float | None = None  # the metric
    best: float | None = None
    hosts: dict[str, tuple[int, int]] = field(default_factory=dict)  # host -> done, total of this stage
    told: str = ""  # of whom an epoch's metrics were the last that was said: progress comes with them
    begun: set[str] = field(default_factory=set)  # names of stages

    def take(self, event: Event, record: SweepRecord) -> bool:
        """Take in an event, and tell whether another stage has begun.

        Of members of an ensemble that train side by side, the one that began last is followed.
        """
        if event["type"] not in ("metric", "progress"):
            return False
        name = str(event.get("stage") or self.stage)
        key = event.get("key", "").removeprefix(f"{name}/")  # as a member of an ensemble tells it
        if "/" in key or (name in self.begun and name != self.stage):  # a machine's load, a service's; another's
            return False
        begins = name != self.stage
        if begins:
            self._begin(name)
        if event["type"] == "metric":
            self._metric({**event, "key": key}, record)
        else:
            self._progress(event)
        return begins

    def _begin(self, name: str) -> None:
        self.begun.add(name)
        self.stage, self.hosts, self.told = name, {}, ""
        if stage_of(name) == "train":
            self.epoch, self.epochs, self.now, self.best = 0, None, None, None

    def _metric(self, event: Event, record: SweepRecord) -> None:
        if event["step"] > 0:
            self.epoch, self.told = event["step"], str(event["host"])
        if event["key"] != record.metric:
            return
        self.now = value = float(event["value"])
        if not math.isfinite(value):
            return
        better = max if record.goal is Goal.maximize else min
        self.best = value if self.best is None else better(self.best, value)

    def _progress(self, event: Event) -> None:
        done, total = int(event["done"]), int(event["total"])
        self.hosts[str(event["host"])] = (done, total)
        if self.told == event["host"] and done and total * self.epoch % done == 0:  # at the end of an epoch
            self.epochs = total * self.epoch // done
        self.told = ""

    @property
    def stage_text(self) -> str | None:
        """Return what plain lines say of the stage that began last; None where they are silent of it."""
        kind = stage_of(self.stage)
        if kind != self.stage:
            return f"{TOLD_STAGES[kind]} ({self.stage})"
        members = any(name != kind and stage_of(name) == kind for name in self.begun)
        return "averaging" if members else TOLD_STAGES.get(kind)

    @property
    def epoch_text(self) -> str:
        """Return 4/20 in a training, 50% before its first epoch is over and in other stages."""
        if self.epoch:
            return f"{self.epoch}/{self.epochs}" if self.epochs else str(self.epoch)
        done, total = (sum(counts) for counts in zip(*self.hosts.values(), strict=True)) if self.hosts else (0, 0)
        return f"{done / total:.0%}" if total else ""


class _View(ABC):
    """One way to show a sweep; used by one thread only."""

    def __init__(self, console: Console, record: SweepRecord, folder: SweepFolder) -> None:
        self._console = console
        self._record = record
        self._folder = folder
        self._states: dict[int, State] = {child.number: child.state for child in record.children}  # by child's number
        self._progress: dict[int, _Progress] = {}
        self._warned: dict[str, list[int]] = {}  # text -> children who said it
        self._began = time.monotonic()

    def __enter__(self) -> _View:
        return self

    def __exit__(self, *_: object) -> None:
        for text, numbers in self._warned.items():
            if numbers[1:]:
                self.say(f"{children_text(numbers[1:])}: also {text}", "yellow")
        self.refresh()

    @abstractmethod
    def refresh(self) -> None:
        """Show what is new; called every REFRESH_S seconds."""

    @abstractmethod
    def say(self, text: str, style: str) -> None: ...

    def changed(self, child: Child) -> None:
        """Take in how a child was at the moment of a change."""
        if self._states.get(child.number) is child.state:
            return
        self._states[child.number] = child.state
        if child.state is State.running:
            self._progress[child.number] = _Progress()
        self._tell_state(child)

    @abstractmethod
    def _tell_state(self, child: Child) -> None: ...

    def event(self, child: Child, event: Event) -> None:
        if self._of(child).take(event, self._record):
            self._tell_stage(child)
        if event["type"] == "message" and event.get("level") == "warning":
            self._warn(child, str(event["text"]))
        elif event["type"] == "clip_error":
            self._warn(child, f"left out {event['clip']}: {first_line(str(event['error']))}")

    def _tell_stage(self, child: Child) -> None:  # noqa: B027 - a table shows it
        pass

    def _of(self, child: Child) -> _Progress:
        return self._progress.setdefault(child.number, _Progress())

    def _warn(self, child: Child, text: str) -> None:
        numbers = self._warned.setdefault(text, [])
        if not numbers:
            self.say(f"#{child.number}: {text}", "yellow")
        if child.number not in numbers:
            numbers.append(child.number)

    def _ended(self, child: Child) -> str:
        return f"#{child.number} {plain_label(child)}: {ended_text(self._record, child, self._folder)}"


class _Lines(_View):
    """A line for each change of state, and one now and then while there is none."""

    def __init__(self, console: Console, record: SweepRecord, folder: SweepFolder) -> None:
        super().__init__(console, record, folder)
        self._said = time.monotonic()

    def say(self, text: str, style: str) -> None:
        self._said = time.monotonic()
        self._console.print(Text(text, style=style), soft_wrap=True)

    def refresh(self) -> None:
        if time.monotonic() - self._said >= QUIET_S:
            self.say(self._how_far(), "")

    def _how_far(self) -> str:
        running = [child for child in self._record.children if child.state is State.running]
        words = [self._running_text(child) for child in running[:SHOWN_RUNNING]]
        words += ["..."] if running[SHOWN_RUNNING:] else []
        return "; ".join([f"{counts_text(self._record)} · {clock(time.monotonic() - self._began)}", *words])

    def _running_text(self, child: Child) -> str:
        progress = self._of(child)
        words = [f"#{child.number}", progress.stage or "starts"]
        if progress.epoch:
            words.append("epoch")
        words.append(progress.epoch_text)
        if progress.best is not None:
            words.append(f"{self._record.metric} {number_text(progress.now)}, best {number_text(progress.best)}")
        return " ".join(filter(None, words))

    def _tell_state(self, child: Child) -> None:
        if child.state is State.running:
            self.say(f"#{child.number} {plain_label(child)}: starts", "")
        elif child.state is not State.waiting:
            self.say(self._ended(child), STYLES[child.state])

    def _tell_stage(self, child: Child) -> None:
        if (what := self._of(child).stage_text) is not None:
            self.say(f"#{child.number} {plain_label(child)}: {what}", "")


class _Table(_View):
    """A table that is drawn again and again in one place; what is said appears above it."""

    def __init__(self, console: Console, record: SweepRecord, folder: SweepFolder) -> None:
        super().__init__(console, record, folder)
        self._lines: list[Text] = []  # to be said
        self._stale = True
        self._drawn = 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True)  # the table of results comes after it

    def __enter__(self) -> _Table:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            super().__exit__(*error)
        finally:
            self._live.stop()

    def say(self, text: str, style: str) -> None:
        self._lines.append(Text(text, style=style))

    def changed(self, child: Child) -> None:
        super().changed(child)
        self._stale = True

    def event(self, child: Child, event: Event) -> None:
        super().event(child, event)
        self._stale = True

    def _tell_state(self, child: Child) -> None:
        if child.state is State.failed:
            self.say(self._ended(child), STYLES[child.state])

    def refresh(self) -> None:
        for line in self._lines:
            self._console.print(line, soft_wrap=True)
        self._lines.clear()
        now = time.monotonic()
        if self._stale or now - self._drawn >= CLOCK_S:
            self._stale, self._drawn = False, now
            self._live.update(self._picture(), refresh=True)

    def _picture(self) -> RenderableType:
        width, height = self._console.size
        everybody = list(self._record.children)  # more may come meanwhile
        rows = chosen(everybody, max(1, height - AROUND))
        columns = self._columns([everybody[row] for row in rows])
        room = width - needed([column for column in columns if not column.dispensable]) - GAP
        what = differing([child.label for child in everybody], [child.parameters for child in everybody], room)
        elapsed = clock(time.monotonic() - self._began)
        counts = Text(f"{counts_text(self._record)} · {elapsed}", style="bold", overflow="ellipsis")
        return Group(table_of([columns[0], *(column.of(rows) for column in what), *columns[1:]], width), counts)

    def _columns(self, children: list[Child]) -> list[Column]:
        """Return a column for the number and those for all but what differs, wide enough not to jump about."""
        now, best = time.time(), self._record.best
        progress = [self._of(child) if child.state is State.running else None for child in children]
        values = [Text(number_text(one.now if one else None)) for one in progress]
        return [
            Column("#", [Text(str(child.number)) for child in children], right=True),
            Column("state", [Text(child.state.value, style=STYLES[child.state]) for child in children], least=8),
            Column("stage", [Text(one.stage if one else "") for one in progress], least=10, dispensable=3),
            Column("epoch", [Text(self._epoch(child)) for child in children], right=True, least=6),
            Column(self._record.metric, values, right=True, least=5, dispensable=4),
            Column("best", [self._best(child, best) for child in children], right=True, least=5, dispensable=1),
            Column("time", [Text(_time(child, now)) for child in children], right=True, least=5, dispensable=2),
            Column("host", [Text(child.host) for child in children], dispensable=5),
        ]

    def _epoch(self, child: Child) -> str:
        progress = self._progress.get(child.number) or _Progress()
        if child.state is State.running or child.epoch is None:
            return progress.epoch_text if child.state is not State.waiting else ""
        return f"{child.epoch}/{progress.epochs}" if progress.epochs else str(child.epoch)

    def _best(self, child: Child, best: Child | None) -> Text:
        value = self._of(child).best if child.state is State.running else child.value
        return Text(number_text(value), style="bold green" if child is best else "")


def _time(child: Child, now: float) -> str:
    if child.state is State.waiting or child.started is None:
        return ""
    return clock(now - child.started if child.state is State.running else seconds_of(child))


def chosen(children: list[Child], room: int) -> list[int]:
    """Return the children that a table of so many rows shows: those that run, that ended last, that are next."""
    states = [child.state for child in children]  # they may change meanwhile
    running = [row for row, state in enumerate(states) if state is State.running][:room]
    waiting = [row for row, state in enumerate(states) if state is State.waiting]
    ended = [row for row, state in enumerate(states) if state not in (State.running, State.waiting)]
    ended.sort(key=lambda row: (children[row].ended or 0.0, row))
    room = min(room, max(MOST_ROWS, len(running) + WAITING_ROWS + 1)) - len(running)
    following = waiting[: min(room, max(min(WAITING_ROWS, room // 2), room - len(ended)))]
    last = ended[max(0, len(ended) - room + len(following)) :]
    return sorted([*running, *following, *last])
