from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from rich.console import Console

from launchers.config import Goal
from launchers.records import StageRecord
from launchers.signals import interrupt
from launchers.sweeps import live
from launchers.sweeps.live import LiveTable, chosen
from launchers.sweeps.record import Child, State, SweepFolder, SweepRecord
from tests.waiting import HANG_S
from videolift import events
from videolift.events import Event, Events

CONTROL = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def child(number: int, state: State = State.waiting, value: float | None = None) -> Child:
    label = f"model.batch={8 + number}"
    return Child(number, label, {"model.batch": str(8 + number)}, f"{number:04}", [label], state=state, value=value)


def record(*children: Child, goal: Goal = Goal.maximize, metric: str = "val_accuracy") -> SweepRecord:
    return SweepRecord("1f3a", "grid", [], "videolift", metric, goal, "grid", list(children))


class Output(io.StringIO):
    """What a console wrote, and what a person sees of it."""

    def screen(self) -> list[str]:
        """Return the lines that a terminal shows, as far as Rich uses one."""
        rows, row = [""], 0
        for private, number, letter, line_end, text in CONTROL.findall(self.getvalue()):
            if text:
                rows[row] += text  # Rich writes at the end of a line, or from its begin after it was erased
            elif line_end == "\n":
                row += 1
                rows += [""] * (row - len(rows) + 1)
            elif letter == "A":
                row -= int(number or 1)
            elif letter == "K":
                rows[row] = ""
            else:
                assert line_end == "\r" or letter == "m" or private, f"the test knows nothing of {letter}"
        return [line.rstrip() for line in rows]

    def until(self, text: str) -> list[str]:
        """Wait until a line of the screen matches."""
        deadline = time.monotonic() + HANG_S
        while True:
            lines = self.screen()
            if any(re.search(text, line) for line in lines):
                return lines
            assert time.monotonic() < deadline, f"{text} does not come; there is:\n" + "\n".join(lines)
            time.sleep(0.01)


class Told:
    """The events of one child, made as a stage makes them."""

    def __init__(self, folder: Path, host: str = "algo-1") -> None:
        self._folder = folder
        self._host = host

    def by(self, stage: str, say: Callable[[Events], None]) -> list[Event]:
        stream = io.StringIO()
        told = Events(self._folder / f"events-{stage}-{self._host}.jsonl", self._host, stream, stage=stage)
        say(told)
        told.close()
        return [event for line in stream.getvalue().splitlines() if (event := events.parse(line)) is not None]

    def epochs(self, *values: float, of: int = 20, steps: int = 7) -> list[Event]:
        """Return what training says in its first epochs."""

        def say(told: Events) -> None:
            told.metric("parameters", 1000)
            for epoch, value in enumerate(values, start=1):
                told.progress((epoch - 1) * steps + 2, of * steps, unit="batches")
                told.metrics({"loss": 1 / epoch, "val_accuracy": value}, step=epoch)
                told.metric("system/cpu", 50.0, step=1000 + epoch)  # by a thread of the stage's
                told.progress(epoch * steps, of * steps, unit="batches")
                told.progress(epoch * steps + 3, of * steps, unit="batches")

        return self.by("train", say)

    def member(self, number: int, *values: float) -> list[Event]:
        """Return what the training of an ensemble's member says in its first epochs, as the run tells it."""
        member = StageRecord(f"train-{number}", "id", "folder")
        return [member.as_told(event) for event in self.epochs(*values)]


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


@contextmanager
def shown(
    found: SweepRecord, *, terminal: bool, width: int = 100, height: int = 30
) -> Iterator[tuple[LiveTable, Output]]:
    out = Output()
    console = Console(file=out, width=width, height=height, force_terminal=terminal, _environ={"TERM": "xterm"})
    with LiveTable(console, found, SweepFolder(Path("sweeps/1f3a"))) as table:
        yield table, out


def start(table: LiveTable, one: Child) -> None:
    one.state, one.started, one.host = State.running, time.time() - 83, "ml-box"
    table.changed(one)


def end(table: LiveTable, one: Child, state: State, value: float | None = None, error: str = "") -> None:
    one.state, one.value, one.error, one.ended = state, value, error, (one.started or 0.0) + 83
    one.epoch = 17 if value is not None else None
    table.changed(one)


# Plain lines


def test_elsewhere_than_on_a_terminal_there_is_a_line_a_change_and_none_an_epoch(told: Told) -> None:
    children = [child(0), child(1), child(2), child(3)]
    with shown(record(*children), terminal=False) as (table, out):
        for one in children:
            start(table, one)
        for event in told.by("preprocess", lambda e: e.progress(1, 24, unit="clips")) + told.epochs(0.1, 0.2, 0.3):
            table.event(children[0], event)
        table.changed(children[0])  # nothing new
        end(table, children[0], State.finished, 0.8123)
        end(table, children[1], State.failed, error="TrainingError: the loss became nan\n  more of it")
        end(table, children[2], State.pruned, 0.31, "after epoch 5: val_accuracy 0.31")
        end(table, children[3], State.detached)
    assert out.getvalue().splitlines() == [
        *(f"#{n} model.batch={8 + n}: starts" for n in range(4)),
        "#0 model.batch=8: preprocessing",
        "#0 model.batch=8: training",
        "#0 model.batch=8: finished, val_accuracy 0.812 at epoch 17 (1:23)",
        "#1 model.batch=9: failed, TrainingError: the loss became nan (sweeps/1f3a/children/0001.log)",
        "#2 model.batch=10: pruned, after epoch 5: val_accuracy 0.31 (1:23)",
        "#3 model.batch=11: detached, its job goes on (1:23)",
    ]


def test_long_work_says_now_and_then_how_far_it_is(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "QUIET_S", 0.1)
    children = [child(0, State.finished, 0.9), *(child(n) for n in range(1, 8))]
    with shown(record(*children), terminal=False) as (table, out):
        for one in children[1:7]:
            start(table, one)
        for event in told.epochs(0.6, 0.5):
            table.event(children[1], event)
        for event in told.by("preprocess", lambda e: e.progress(6, 24, unit="clips")):
            table.event(children[2], event)
        line = next(line for line in out.until("1 of 8 finished.*#2 preprocess") if "#2 preprocess" in line)
    assert re.fullmatch(
        r"1 of 8 finished, 6 running, 1 waiting · best #0 val_accuracy 0\.900 · \d+:\d\d; "
        r"#1 train epoch 2/20 val_accuracy 0\.500, best 0\.600; #2 preprocess 25%; #3 starts; #4 starts; \.\.\.",
        line,
    )


def test_quiet_work_is_quiet_between_two_such_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "REFRESH_S", 0.01)
    with shown(record(child(0)), terminal=False) as (table, out):
        table.say("begins")
        out.until("begins")
        time.sleep(0.1)
    assert out.getvalue() == "begins\n"


def test_a_warning_of_many_children_is_told_once_and_at_the_end_whose_it_was(told: Told) -> None:
    children = [child(n) for n in range(6)]

    def say(e: Events) -> None:
        e.message("nothing special")
        e.message("model.batch is reduced", "warning")
        e.message("model.batch is reduced", "warning")
        if e.host == "algo-2":
            e.clip_error("a/b.avi", "no frames\n  Traceback")

    with shown(record(*children), terminal=False) as (table, out):
        for number, one in enumerate(children):
            host = "algo-2" if number == 2 else "algo-1"
            for event in Told(told._folder / str(number), host).by("evaluate", say):
                table.event(one, event)
    assert out.getvalue().splitlines() == [
        "#0: model.batch is reduced",
        "#2: left out a/b.avi: no frames",
        "#1-#5: also model.batch is reduced",
    ]


def test_a_child_that_is_tried_again_begins_anew(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "QUIET_S", 0.1)
    one = child(0, State.failed)
    with shown(record(one), terminal=False) as (table, out):
        start(table, one)
        for event in told.epochs(0.9):
            table.event(one, event)
        end(table, one, State.stopped)
        start(table, one)
        out.until("; #0 starts$")
    assert [line for line in out.getvalue().splitlines() if line.startswith("#0")] == [
        "#0 model.batch=8: starts",
        "#0 model.batch=8: training",
        "#0 model.batch=8: stopped (1:23)",
        "#0 model.batch=8: starts",
    ]


def test_many_threads_may_tell_at_the_same_time(told: Told) -> None:
    children = [child(n) for n in range(40)]
    epochs = told.epochs(*(n / 100 for n in range(50)), of=50)
    left, lock = count(), threading.Lock()

    def run(table: LiveTable) -> None:
        while True:
            with lock:
                number = next(left)
            if number >= len(children):
                return
            start(table, children[number])
            for event in epochs:
                table.event(children[number], event)
            end(table, children[number], State.finished, 0.49)

    with shown(record(*children), terminal=False) as (table, out):
        threads = [threading.Thread(target=run, args=(table,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = out.getvalue().splitlines()
    assert len(lines) == 3 * len(children)
    for one in children:
        mine = [line.partition(": ")[2] for line in lines if line.startswith(f"#{one.number} ")]
        assert mine == ["starts", "training", "finished, val_accuracy 0.490 at epoch 17 (1:23)"]


def test_an_interruption_of_a_childs_thread_does_not_stop_the_table(told: Told) -> None:
    one, another = child(0), child(1)
    epochs = told.epochs(0.1, 0.2)
    began = threading.Event()

    def run(table: LiveTable) -> None:
        deadline = time.monotonic() + HANG_S
        try:
            while time.monotonic() < deadline:
                for event in epochs:
                    table.event(one, event)
                began.set()
                # As a child does, which waits for its job. Without, the interruption may come while garbage is
                # collected, and be lost in a callback that a test library has there.
                time.sleep(0.001)
        except KeyboardInterrupt:
            end(table, one, State.stopped)

    with shown(record(one, another), terminal=False) as (table, out):
        start(table, one)
        thread = threading.Thread(target=run, args=(table,))
        thread.start()
        assert began.wait(HANG_S)
        interrupt(thread)
        thread.join(HANG_S)
        start(table, another)
    assert out.getvalue().splitlines()[-2:] == ["#0 model.batch=8: stopped (1:23)", "#1 model.batch=9: starts"]


# The table


def row(screen: list[str], number: int) -> list[str]:
    """Return the cells of a child's row; empty ones are left out."""
    return next(re.split(r"\s{2,}", line.strip()) for line in screen if re.match(rf"\s*{number} ", line))


def test_a_terminal_shows_a_row_a_child(told: Told) -> None:
    children = [child(0, State.finished, 0.9), child(1), child(2), child(3), child(4)]
    children[0].epoch, children[0].started, children[0].ended = 12, 100.0, 161.0
    with shown(record(*children), terminal=True) as (table, out):
        for one in children[1:4]:
            start(table, one)
        for event in told.epochs(0.5, 0.625, 0.5):
            table.event(children[1], event)
        for event in told.by("preprocess", lambda e: e.progress(6, 24, unit="clips")):
            table.event(children[2], event)
        end(table, children[3], State.failed, error="StageError: no memory")
        screen = out.until("3/20")
        assert row(screen, 0) == ["0", "8", "finished", "12", "0.900", "1:01"]
        assert row(screen, 1)[:7] == ["1", "9", "running", "train", "3/20", "0.500", "0.625"]
        assert row(screen, 1)[7] in ("1:23", "1:24") and row(screen, 1)[8] == "ml-box"
        assert row(screen, 2)[:5] == ["2", "10", "running", "preprocess", "25%"]
        assert row(screen, 4) == ["4", "12", "waiting"]
        head = next(line for line in screen if line.startswith("#  batch"))
        assert head.split() == ["#", "batch", "state", "stage", "epoch", "val_accuracy", "best", "time", "host"]
        counts = r"1 of 5 finished, 1 failed, 2 running, 1 waiting · best #0 val_accuracy 0.900 · 0:0\d"
        assert re.fullmatch(counts, screen[-1])
        assert "#3 model.batch=11: failed, StageError: no memory (sweeps/1f3a/children/0003.log)" in screen


def test_members_of_an_ensemble_are_followed_as_they_begin(told: Told) -> None:
    one, another = child(0), child(1)
    side_by_side = zip(told.member(1, 0.9, 0.9, 0.9), told.member(2, 0.25, 0.5, 0.25), strict=True)

    def average(e: Events) -> None:
        e.metric("members/val_accuracy", 0.9, step=1)
        e.progress(1, 2, unit="members")
        e.metric("val_accuracy", 0.75)

    with shown(record(one, another), terminal=True) as (table, out):
        start(table, one)
        start(table, another)
        for event in (event for both in side_by_side for event in both):
            table.event(one, event)
            table.event(another, event)
        for event in told.by("train", average):
            table.event(another, event)
        screen = out.until("train  +50%")
        assert row(screen, 0)[3:7] == ["train-2", "3/20", "0.250", "0.500"]
        assert row(screen, 1)[3:7] == ["train", "50%", "0.750", "0.750"]
    with shown(record(one), terminal=False) as (table, out):
        for event in [*told.member(1, 0.9), *told.member(2, 0.9), *told.member(1, 0.9), *told.by("train", average)]:
            table.event(one, event)
    assert [line.partition(": ")[2] for line in out.getvalue().splitlines()] == [
        "training (train-1)",
        "training (train-2)",
        "averaging",
    ]


def test_the_table_goes_and_what_was_said_stays(told: Told) -> None:
    one = child(0)
    with shown(record(one), terminal=True) as (table, out):
        start(table, one)
        table.say("said before")
        out.until("running")
        end(table, one, State.failed, error="StageError: no memory")
        table.say("said at last", "yellow")
    lines = [line for line in out.screen() if line]
    assert lines == [
        "said before",
        "#0 model.batch=8: failed, StageError: no memory (sweeps/1f3a/children/0000.log)",
        "said at last",
    ]
    assert out.getvalue().rindex(SHOW_CURSOR) > out.getvalue().rindex(HIDE_CURSOR)


def test_the_cursor_is_back_after_an_error() -> None:
    out = Output()
    console = Console(file=out, force_terminal=True, _environ={"TERM": "xterm"})
    table = LiveTable(console, record(child(0)))

    def run() -> None:
        with table:
            out.until("waiting")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert out.getvalue().rindex(SHOW_CURSOR) > out.getvalue().rindex(HIDE_CURSOR)


def test_the_table_is_drawn_at_most_four_times_a_second_however_much_is_said(told: Told) -> None:
    one = child(0)
    epochs = told.epochs(*(n / 100 for n in range(20)))
    began = time.monotonic()
    with shown(record(one), terminal=True) as (table, out):
        start(table, one)
        while time.monotonic() - began < 0.6 or out.getvalue().count("val_accuracy") < 2:
            for event in epochs:
                table.event(one, event)
            time.sleep(0.001)
        drawn = out.getvalue().count("val_accuracy")
    assert 2 <= drawn <= 4 * (time.monotonic() - began) + 2


def test_the_time_goes_on_while_nothing_is_said() -> None:
    one = child(0)
    with shown(record(one), terminal=True) as (table, out):
        start(table, one)
        out.until("1:23")
        out.until("1:24")


def test_where_less_is_better_the_lowest_value_so_far_is_the_best(told: Told) -> None:
    one = child(0)
    with shown(record(one, goal=Goal.minimize, metric="loss"), terminal=True) as (table, out):
        start(table, one)
        for event in told.epochs(0.1, 0.2):
            table.event(one, event)
        events_of_loss = told.by("train", lambda e: e.metrics({"loss": 0.75}, step=3))
        for event in [*events_of_loss, *told.by("train", lambda e: e.metrics({"loss": float("nan")}, step=4))]:
            table.event(one, event)
        assert row(out.until("4/20"), 0)[4:7] == ["4/20", "nan", "0.500"]


@pytest.mark.parametrize("width", [30, 45, 60, 80])
def test_a_narrow_terminal_keeps_what_matters_most(width: int, told: Told) -> None:
    children = [child(0), child(1)]
    children[0].parameters = {f"model.setting_{n}": "value" for n in range(8)}
    with shown(record(*children), terminal=True, width=width) as (table, out):
        start(table, children[0])
        for event in told.epochs(0.5):
            table.event(children[0], event)
        screen = out.until("1/20" if width > 30 else "runn")
        assert max(map(len, screen)) <= width
        head = next(line for line in screen if line.startswith("#"))
        assert "what dif" in head and "host" not in head
        assert ("best" in head) is (width >= 60)
        assert "…" in next(line for line in screen if "runn" in line)


def test_a_low_terminal_is_not_filled_twice() -> None:
    children = [child(n) for n in range(200)]
    with shown(record(*children), terminal=True, height=10) as (_, out):
        screen = out.until("0 of 200 finished")
        assert len(screen) <= 10


# Which children


def numbers(states: str, room: int) -> list[int]:
    """Return which of some children are shown: f(inished), r(unning), w(aiting)."""
    kinds = {"f": State.finished, "r": State.running, "w": State.waiting}
    children = [child(n, kinds[letter]) for n, letter in enumerate(states)]
    for one in children:
        one.ended = float(one.number)
    return chosen(children, room)


def test_where_all_have_room_all_are_shown() -> None:
    assert numbers("ffrrww", 10) == [0, 1, 2, 3, 4, 5]


def test_of_200_those_are_shown_that_run_that_ended_last_and_that_are_next() -> None:
    assert numbers("f" * 100 + "rr" + "w" * 98, 40) == [*range(89, 100), 100, 101, 102, 103, 104]


def test_those_that_run_go_before_all_others() -> None:
    assert numbers("ff" + "r" * 30 + "ww", 40) == list(range(34))
    assert numbers("ff" + "r" * 30 + "ww", 12) == list(range(2, 14))
    assert numbers("fffff" + "r" * 8 + "wwwww", 10) == [4, *range(5, 13), 13]


def test_at_the_start_the_next_ones_take_the_room_of_those_that_ended() -> None:
    assert numbers("rr" + "w" * 198, 40) == list(range(16))


def test_at_the_end_those_that_ended_take_the_room_of_the_next_ones() -> None:
    assert numbers("f" * 200, 40) == list(range(184, 200))


def test_what_ended_last_is_not_what_has_the_highest_number() -> None:
    children = [child(n, State.finished) for n in range(40)]
    for one in children:
        one.ended = float(-one.number)
    assert chosen(children, 5) == [0, 1, 2, 3, 4]
