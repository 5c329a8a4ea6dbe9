"""What a user's script prints: lines, also of progress bars that never end one, and the numbers in them.

Sources: Keras 3, ``keras/src/utils/progbar.py`` (``10/10 ━━━━ 1s 5ms/step - accuracy: 0.5 - loss: 1.2``, redrawn after
backspaces and a carriage return, in colours, on a terminal and a line each elsewhere), and Keras 2, whose bar is
``[=====>...]``.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from videolift.script_secrets import NOTHING_HIDDEN, Mask

ENDS = re.compile(r"[\n\r\x08]+")  # a bar is drawn over by going back
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
EPOCH = re.compile(r"\s*Epoch (?P<epoch>\d+)/(?P<epochs>\d+)\s*")
STEPS = re.compile(r"\s*(?P<done>\d+)/(?P<total>\d+|Unknown)\s(?=.*(?:━|\[[=>.]+\]|- \d+(?:\.\d+)?m?s\b|\ds\b))")
NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf)"
VALUE = re.compile(rf" - (?P<key>[A-Za-z_][\w /.@-]*?): (?P<value>{NUMBER})(?= - |\s*$)")
MAX_LINE = 16_384  # characters of a line; what follows is another one
EVALUATED = "evaluate_"  # begins the names of what is measured outside of an epoch: by model.evaluate, for one


@dataclass(frozen=True)
class Metric:
    """A number that was printed."""

    key: str
    value: float
    step: int


class Line(NamedTuple):
    """A line of output."""

    text: str
    redrawn: bool = False  # the next one is drawn over it


class Lines:
    """Cuts bytes into lines, in whatever pieces they come. Empty ones are left out, and so are colours.

    Args:
        mask: hides secrets, wherever pieces of the output begin and end.
    """

    def __init__(self, mask: Mask = NOTHING_HIDDEN) -> None:
        self._mask = mask
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, content: bytes) -> Iterator[Line]:
        """Yield the lines that are complete now."""
        self._rest = self._mask(self._rest + self._decoder.decode(content))
        while True:
            end = ENDS.search(self._rest)
            if end is None and len(self._rest) <= MAX_LINE + self._mask.longest:
                return
            if end is not None and end.end() == len(self._rest) and "\n" not in end[0]:
                return  # more of it may be on its way
            text = self._rest[: end.start()] if end else self._rest[:MAX_LINE]
            self._rest = self._rest[end.end() if end else MAX_LINE :]
            if text:
                yield Line(COLOURS.sub("", text), end is not None and "\n" not in end[0])

    def end(self) -> Iterator[Line]:
        """Yield what is left when nothing more comes."""
        rest, self._rest = self._mask(self._rest + self._decoder.decode(b"", final=True)), ""
        yield from (Line(COLOURS.sub("", text)) for text in ENDS.split(rest) if text)


class Numbers:
    """Finds metrics in lines: those of Keras's progress bars, and those of regular expressions.

    A metric of Keras is of its epoch, as the line ``Epoch 2/5`` says; another one is of the epoch under way, or counted
    where there is none. Epochs of a second training go on where those of the first one ended. An expression may have a
    second group, called ``step``, that says it.

    Attributes:
        epoch: which one is under way, None where that is not known.
        epochs: how many there will be, 0 where that is not known.
        in_progress: whether the line read last only tells how far an epoch is.
    """

    def __init__(self, patterns: Mapping[str, str]) -> None:
        self._patterns = {key: re.compile(pattern) for key, pattern in patterns.items()}
        self._matches = dict.fromkeys(patterns, 0)
        self._no_numbers: dict[str, str] = {}  # what an expression took for one, first
        self._counts = dict.fromkeys(patterns, 0)
        self._bar: _Bar | None = None  # the epoch's last one, once it was full
        self._alone: _Bar | None = None  # of an epoch without a head, where that came last
        self._head: int | None = None  # as the last head says
        self._before = 0  # epochs of earlier trainings
        self._last: int | None = None  # epoch that began last
        self._evaluations = 0
        self._evaluating = False
        self._told: dict[tuple[str, int], str] = {}
        self.epoch: int | None = None
        self.epochs = 0
        self.in_progress = False

    def read(self, line: str) -> list[Metric]:
        """Return what a line says that was not said before."""
        found = [*self._of_keras(line), *self._of_patterns(line)]
        fresh = [metric for metric in found if self._told.get((metric.key, metric.step)) != str(metric.value)]
        self._told.update({(metric.key, metric.step): str(metric.value) for metric in fresh})  # nan is not nan
        return fresh

    def unmet(self) -> Iterator[str]:
        """Yield what is to be said of each expression that found no number, at the end."""
        for key, count in self._counts.items():
            if not count and self._matches[key]:
                often = "once" if self._matches[key] == 1 else f"{self._matches[key]} times"
                yield f"script.metrics.{key}: matched {often}, but {self._no_numbers[key]!r} is no number"
            elif not count:
                yield f"script.metrics.{key}: matched no line of what the script printed"

    def _of_keras(self, line: str) -> Iterator[Metric]:
        self.in_progress = False
        if header := EPOCH.fullmatch(line):
            self._begin(int(header["epoch"]), int(header["epochs"]))
            return
        match = STEPS.match(line)
        if match is None:
            return
        self.in_progress = match["done"] != match["total"]
        values = {found["key"].replace(" ", "_"): float(found["value"]) for found in VALUE.finditer(line)}
        if self.in_progress:
            if self._bar is not None:  # the epoch was over: this is another bar
                self.epoch, self._bar = None, None
            self._evaluating = False
            return
        bar = _Bar(int(match["total"]), values)
        if self._bar is not None and not self._goes_on(self._bar, bar):
            self.epoch, self._bar = None, None
        if self.epoch is None and self._is_epoch(bar):
            self.epoch = self._last = (self._last or 0) + 1
            self._alone = bar
        if self.epoch is not None:
            self._bar = bar
            yield from (Metric(key, value, self.epoch) for key, value in values.items())
        elif values:
            self._evaluations += 0 if self._evaluating else 1
            self._evaluating = True
            yield from (Metric(f"{EVALUATED}{key}", value, self._evaluations) for key, value in values.items())

    def _begin(self, number: int, total: int) -> None:
        """Begin the epoch of a head."""
        earlier = self._head if self._head is not None else (self._last or 0) + 1
        if self._last is not None and number < earlier:  # another training
            self._before = self._last + 1 - number
        self._head, self._bar, self._alone, self._evaluating = number, None, None, False
        self.epoch = self._last = self._before + number
        self.epochs = self._before + total

    def _is_epoch(self, bar: _Bar) -> bool:
        """Tell whether a bar without a head is an epoch's: of one epoch alone Keras prints no head."""
        is_first = self._last is None and not self._evaluations
        again = self._alone is not None and self._alone.is_like(bar)
        return bar.is_validated or is_first or again

    def _goes_on(self, before: _Bar, bar: _Bar) -> bool:
        """Tell whether a full bar is once more that of the epoch: its last step is drawn before it is validated."""
        if before.steps != bar.steps or before.is_validated or not before.values.keys() <= bar.values.keys():
            return False
        return self._alone is None or bar.is_validated or before.values == bar.values

    def _of_patterns(self, line: str) -> Iterator[Metric]:
        for key, pattern in () if self.in_progress else self._patterns.items():
            for match in pattern.finditer(line):
                self._matches[key] += 1
                text = match.group(value_group(pattern))
                try:
                    value = float(text)
                except (TypeError, ValueError):  # the expression takes in more than a number
                    self._no_numbers.setdefault(key, str(text))
                    continue
                self._counts[key] += 1
                said = (_step_of(match), self.epoch, self._counts[key])
                yield Metric(key, value, next(step for step in said if step is not None))


@dataclass(frozen=True)
class _Bar:
    """A full progress bar of Keras."""

    steps: int
    values: Mapping[str, float]

    @property
    def is_validated(self) -> bool:
        return any(key.startswith("val_") for key in self.values)

    def is_like(self, other: _Bar) -> bool:
        return self.steps == other.steps and self.values.keys() == other.values.keys()


def _step_of(match: re.Match[str]) -> int | None:
    step = match.groupdict().get("step")
    return int(step) if step is not None and step.isdecimal() else None


def value_group(pattern: re.Pattern[str]) -> int:
    """Return the number of an expression's group that is the value: the one that is not called ``step``."""
    return next(number for number in range(1, pattern.groups + 1) if number != pattern.groupindex.get("step"))
