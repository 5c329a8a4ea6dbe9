"""What a user's script prints: lines, also of progress bars that never end one, and the numbers in them.

Sources: Keras 3, ``keras/src/utils/progbar.py`` (``10/10 ━━━━ 1s 5ms/step - accuracy: 0.5 - loss: 1.2``, redrawn after
backspaces and a carriage return, in colours, on a terminal and a line each elsewhere), and Keras 2, whose bar is
``[=====>...]``.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

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
    """Cuts bytes into lines, in whatever pieces they come. Empty ones are left out, and so are colours."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, content: bytes) -> Iterator[Line]:
        """Yield the lines that are complete now."""
        self._rest += self._decoder.decode(content)
        while True:
            end = ENDS.search(self._rest)
            if end is None and len(self._rest) <= MAX_LINE:
                return
            if end is not None and end.end() == len(self._rest) and "\n" not in end[0]:
                return  # more of it may be on its way
            text = self._rest[: end.start()] if end else self._rest[:MAX_LINE]
            self._rest = self._rest[end.end() if end else MAX_LINE :]
            if text:
                yield Line(COLOURS.sub("", text), end is not None and "\n" not in end[0])

    def end(self) -> Iterator[Line]:
        """Yield what is left when nothing more comes."""
        rest, self._rest = self._rest + self._decoder.decode(b"", final=True), ""
        yield from (Line(COLOURS.sub("", text)) for text in ENDS.split(rest) if text)


class Numbers:
    """Finds metrics in lines: those of Keras's progress bars, and those of regular expressions.

    A metric of Keras is of its epoch, as the line ``Epoch 2/5`` says; another one is of the epoch under way, or counted
    where there is none. An expression may have a second group, called ``step``, that says it.

    Attributes:
        epoch, epochs: which one is under way and how many there will be, 0 where that is not known.
        in_progress: whether the line read last only tells how far an epoch is.
    """

    def __init__(self, patterns: Mapping[str, str]) -> None:
        self._patterns = {key: re.compile(pattern) for key, pattern in patterns.items()}
        self._counts: dict[str, int] = {}
        self._steps = 0  # of the bar that is drawn
        self._ended: set[str] | None = None  # names that the epoch's last line had, once there was one
        self._last = 0  # epoch that was told of last
        self._evaluations = 0
        self._evaluating = False
        self._told: dict[tuple[str, int], str] = {}
        self.epoch = 0
        self.epochs = 0
        self.in_progress = False

    def read(self, line: str) -> list[Metric]:
        """Return what a line says that was not said before."""
        found = [*self._of_keras(line), *self._of_patterns(line)]
        fresh = [metric for metric in found if self._told.get((metric.key, metric.step)) != str(metric.value)]
        self._told.update({(metric.key, metric.step): str(metric.value) for metric in fresh})  # nan is not nan
        return fresh

    def _of_keras(self, line: str) -> Iterator[Metric]:
        self.in_progress = False
        if header := EPOCH.fullmatch(line):
            self.epoch, self.epochs = int(header["epoch"]), int(header["epochs"])
            self._steps, self._ended, self._evaluating = 0, None, False
            return
        bar = STEPS.match(line)
        if bar is None:
            return
        self.in_progress = bar["done"] != bar["total"]
        values = {match["key"].replace(" ", "_"): float(match["value"]) for match in VALUE.finditer(line)}
        if self.in_progress:
            if self._ended is not None:  # the epoch was over: this is another bar
                self.epoch, self._ended = 0, None
            self._evaluating = False
            return
        if self._ended is not None and not self._goes_on(int(bar["total"]), values):
            self.epoch, self._ended = 0, None
        if not self.epoch and self._is_epoch(values):
            self.epoch = self._last + 1
        if self.epoch:
            self._steps, self._ended, self._last = int(bar["total"]), set(values), self.epoch
            yield from (Metric(key, value, self.epoch) for key, value in values.items())
        elif values:
            self._evaluations += 0 if self._evaluating else 1
            self._evaluating = True
            yield from (Metric(f"{EVALUATED}{key}", value, self._evaluations) for key, value in values.items())

    def _is_epoch(self, values: Mapping[str, float]) -> bool:
        """Tell whether a bar without a head is an epoch's: of one epoch alone Keras prints no head."""
        return _is_validated(values) or not (self._last or self._evaluations)

    def _goes_on(self, steps: int, values: Mapping[str, float]) -> bool:
        """Tell whether a full bar is once more that of the epoch: its last step is drawn before it is validated."""
        assert self._ended is not None
        return steps == self._steps and not _is_validated(self._ended) and self._ended <= values.keys()

    def _of_patterns(self, line: str) -> Iterator[Metric]:
        for key, pattern in () if self.in_progress else self._patterns.items():
            for match in pattern.finditer(line):
                try:
                    value = float(match.group(value_group(pattern)))
                except (TypeError, ValueError):  # the expression takes in more than a number
                    continue
                self._counts[key] = self._counts.get(key, 0) + 1
                yield Metric(key, value, self._step_of(match) or self.epoch or self._counts[key])

    @staticmethod
    def _step_of(match: re.Match[str]) -> int | None:
        step = match.groupdict().get("step")
        return int(step) if step is not None and step.isdecimal() else None


def _is_validated(keys: Iterable[str]) -> bool:
    return any(key.startswith("val_") for key in keys)


def value_group(pattern: re.Pattern[str]) -> int:
    """Return the number of an expression's group that is the value: the one that is not called ``step``."""
    return next(number for number in range(1, pattern.groups + 1) if number != pattern.groupindex.get("step"))
