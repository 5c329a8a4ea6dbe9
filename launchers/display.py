"""What a person sees while stages run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from launchers.config import PREDICT
from videolift.events import Event

PLAIN_INTERVAL_S = 5.0
SHORTEST_RATE_S = 0.5  # a rate over less time says nothing
SHOWN_METRICS = ("loss", "accuracy", "val_loss", "val_accuracy")


class StageDisplay:
    """Shows the events of one stage. Progress of several hosts is added up."""

    def __init__(self, console: Console, name: str, *, bars: bool = True) -> None:
        """Show nothing yet.

        Args:
            bars: on a terminal show a bar, of which there can be one at a time.
        """
        self._console = console
        self._name = name
        self._hosts: dict[str, Event] = {}
        self._started = time.monotonic()
        self._first: tuple[float, int] | None = None  # time and count of the first progress
        self._told = time.monotonic()
        self._said_epoch = 0
        self._epoch: tuple[int, dict[str, float]] = (0, {})
        self._bars = _bars(console) if bars and console.is_terminal else None
        self._task: TaskID | None = None

    def __enter__(self) -> StageDisplay:
        if self._bars is not None:
            self._bars.start()
            self._task = self._bars.add_task(self._name, total=None, note="starting")
        else:
            self._console.print(f"{self._name}: starts", highlight=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    def event(self, event: Event) -> None:
        kind = event["type"]
        if kind == "progress":
            self._hosts[event["host"]] = event
            self._show()
        elif kind == "metric" and event["key"] in SHOWN_METRICS:
            self._metric(event)
        elif kind == "message":
            self.say(f"{self._name}: {event['text']}", "yellow" if event["level"] == "warning" else "")
        elif kind == "clip_error":
            what = "cannot read" if self._name == PREDICT else "left out"  # there it is a row of the table
            self.say(f"{self._name}: {what} {event['clip']}: {event['error']}", "yellow")

    def ended(self, text: str) -> None:
        """Say in one line how the stage ended."""
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, note=text)
        else:
            self.say(f"{self._name}: {text} ({time.monotonic() - self._started:.1f} s)")

    def _metric(self, event: Event) -> None:
        epoch, values = self._epoch
        if event["step"] != epoch:
            epoch, values = event["step"], {}
        values[event["key"]] = event["value"]
        self._epoch = (epoch, values)

    def _epoch_text(self) -> str:
        epoch, values = self._epoch
        shown = (f"{key} {values[key]:.3f}" for key in SHOWN_METRICS if key in values)
        return f"epoch {epoch}  " + "  ".join(shown)

    def _show(self) -> None:
        now = time.monotonic()
        done, total, failed = (sum(e[key] for e in self._hosts.values()) for key in ("done", "total", "failed"))
        if self._first is None:  # what came before is start-up, not work
            self._first = (now, done)
        elapsed = now - self._first[0]
        rate = (done - self._first[1]) / elapsed if elapsed > SHORTEST_RATE_S else 0.0
        unit = next(iter(self._hosts.values()))["unit"]
        note = f"{done}/{total} {unit}" + (f"  {rate:.1f}/s" if rate else "") + (f"  {failed} failed" if failed else "")
        if self._bars is not None and self._task is not None:
            self._bars.update(
                self._task, completed=done, total=total, note=self._epoch_text() if self._epoch[1] else note
            )
        elif self._epoch[0] > self._said_epoch:
            self._said_epoch = self._epoch[0]
            self.say(f"{self._name}: {self._epoch_text()}")
        elif now - self._told > PLAIN_INTERVAL_S and rate and done < total:
            self._told = now
            self.say(f"{self._name}: {note}  {(total - done) / rate:.0f} s left")


class JobDisplay:
    """Shows the stages of one job, one after the other as their events come."""

    def __init__(self, console: Console, names: Sequence[str], *, bars: bool = True) -> None:
        self._console = console
        self._names = names
        self._bars = bars
        self._shown = StageDisplay(console, names[0], bars=bars)
        self._name = names[0]

    def __enter__(self) -> JobDisplay:
        self._shown.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.__exit__()

    def say(self, text: str, style: str = "") -> None:
        self._shown.say(text, style)

    def event(self, event: Event) -> None:
        name = event.get("stage")
        if name in self._names and name != self._name:
            self.ended("done")
            self._shown.__exit__()
            self._name, self._shown = str(name), StageDisplay(self._console, str(name), bars=self._bars)
            self._shown.__enter__()
        self._shown.event(event)

    def ended(self, text: str) -> None:
        """Say in one line how the stage that is shown ended."""
        self._shown.ended(text)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<11}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
