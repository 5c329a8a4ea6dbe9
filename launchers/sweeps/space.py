"""What a sampler chooses from: settings with their bounds, read from ``sweep.space`` and from the command line.

Both say it in Hydra's words for sweeps, and what is typed wins:

    16,32,64   choice(16,32,64)   glob(*)     one of them; glob() is for the choices of a group
    range(1,5)   range(1,10,3)                a whole number: 1, 2, 3 or 4; 1, 4 or 7
    interval(0.1,0.5)                         any number between them, whole ones for a setting that takes no others
    tag(log,interval(1e-4,1e-1))              as likely between 1e-4 and 1e-3 as between 1e-2 and 1e-1
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from math import ceil, isfinite
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    QuotedString,
    RangeSweep,
    Transformer,
)
from hydra.errors import HydraException

from launchers import overrides as cli
from launchers import schema
from launchers.config import Sweep
from launchers.schema import Mistake
from videolift.errors import ConfigError

DIGITS = 4  # of a number that is chosen from an interval: short enough to be typed again
STEP_DIGITS = 10  # hides what binary arithmetic adds to 3 x 0.1
TAGS = ("int", "log")
OF_THE_SWEEP = ("action", "run", "stages", "outputs", "name", "sweep", "tracking")  # the same for every trial
SPACE = "sweep.space"

Value = str | int | float


@dataclass(frozen=True)
class Choices:
    """One of a few values, none of them nearer to one than to another."""

    values: tuple[str, ...]  # as they stand in an override

    def corner(self, index: int) -> str:
        return self.values[min(index, len(self.values) - 1)]

    def text(self, value: Value) -> str:
        return str(value)

    def describe(self) -> tuple[str, str]:
        return ", ".join(map(shown, self.values)), "one of them"


@dataclass(frozen=True)
class IntRange:
    """A whole number, both bounds included."""

    low: int
    high: int
    step: int = 1
    log: bool = False

    def corner(self, index: int) -> int:
        return self.high if index % 2 else self.low

    def text(self, value: Value) -> str:
        return str(value)

    def describe(self) -> tuple[str, str]:
        return f"{self.low} to {self.high}", _words("whole numbers", self.step if self.step != 1 else None, self.log)


@dataclass(frozen=True)
class FloatRange:
    """A number, both bounds included."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def corner(self, index: int) -> float:
        return self.high if index % 2 else self.low

    def text(self, value: Value) -> str:
        """Return a value rounded, but never out of bounds."""
        digits = STEP_DIGITS if self.step else DIGITS
        rounded = float(f"{value:.{digits}g}")
        return repr(min(max(rounded, self.low), self.high))

    def describe(self) -> tuple[str, str]:
        return f"{self.low:g} to {self.high:g}", _words("numbers", self.step, self.log)


Distribution = Choices | IntRange | FloatRange


@dataclass(frozen=True)
class Space:
    """What differs between trials, and what does not."""

    distributions: dict[str, Distribution]  # by setting or group, in the order in which they were named
    fixed: tuple[str, ...]  # overrides that are the same for every trial
    notes: tuple[str, ...] = ()  # what a person should know, though it is no mistake

    def overrides(self, values: Mapping[str, Value]) -> list[str]:
        """Return the overrides that make one trial."""
        chosen = {key: self.distributions[key].text(value) for key, value in values.items()}
        return [*self.fixed, *(f"{_key_element(key)}={text}" for key, text in chosen.items())]

    def parameters(self, values: Mapping[str, Value]) -> dict[str, str]:
        """Return what tells one trial from the others, for people."""
        return {key: shown(self.distributions[key].text(value)) for key, value in values.items()}


def space_of(arguments: Sequence[str], sweep: Sweep, groups: cli.Groups | None = None) -> Space:
    """Return what to choose from, as settings and overrides say it.

    Args:
        arguments: overrides as Hydra gets them; those of its own settings do not matter.
        groups: None where the choices of groups have been checked before.

    Raises:
        ConfigError: lists every mistake.
    """
    space, mistakes = read_space(arguments, sweep, groups)
    if mistakes:
        noun = "mistake" if len(mistakes) == 1 else "mistakes"
        listed = "".join(f"\n  {mistake.where}: {mistake.what}" for mistake in mistakes)
        raise ConfigError(f"{len(mistakes)} {noun} in the search space; nothing was run:{listed}")
    return space


def read_space(arguments: Sequence[str], sweep: Sweep, groups: cli.Groups | None = None) -> tuple[Space, list[Mistake]]:
    """Return what of a search space can be used, and everything that is wrong with the rest."""
    reader = _Reader(groups)
    for key, value in sweep.space.items():
        reader.entry(key, value)
    for argument in arguments:
        reader.argument(argument)
    return reader.read()


def corners(space: Space) -> list[list[str]]:
    """Return the overrides of trials at the edges: all lowest, all highest, and every choice at least once."""
    most = max((len(d.values) for d in space.distributions.values() if isinstance(d, Choices)), default=0)
    rows = range(max(2, most))
    return [space.overrides({key: d.corner(row) for key, d in space.distributions.items()}) for row in rows]


def describe(space: Space) -> list[tuple[str, ...]]:
    """Return the search space as a table, its head first."""
    return [("setting", "values", "scale"), *((key, *d.describe()) for key, d in space.distributions.items())]


def shown(text: str) -> str:
    """Return a value of an override as a person knows it: without quotes."""
    try:
        value = OverridesParser.create().parse_override(f"x={text}").value()
    except HydraException:
        return text
    return value if isinstance(value, str) else text


def _words(kind: str, step: float | None, log: bool) -> str:
    return kind + (f", step {step:g}" if step else "") + (", logarithmic" if log else "")


def _key_element(key: str) -> str:
    setting = schema.find(key)
    return f"++{key}" if setting is not None and setting.type is dict else key


@dataclass(frozen=True)
class _Entry:
    """What was said last about one key."""

    where: str
    line: str
    override: Override
    from_settings: bool


class _Reader:
    """Collects what is said about each key; later words win."""

    def __init__(self, groups: cli.Groups | None) -> None:
        self._groups = groups
        self._parser = OverridesParser.create()
        self._entries: dict[str, _Entry | Mistake] = {}
        self._distributions: dict[str, Distribution] = {}
        self._fixed: list[str] = []
        self._notes: list[str] = []

    def entry(self, key: str, value: str) -> None:
        """Take in an entry of ``sweep.space``."""
        where = f"sweep.space: {key}={value}"
        line = cli.quote(f"{key}={value}", multirun=True)
        try:
            self._entries[key] = _Entry(where, line, self._parser.parse_override(line), from_settings=True)
        except HydraException:
            self._entries[key] = Mistake(where, "Hydra cannot read this; say choice(...) or interval(...)")

    def argument(self, argument: str) -> None:
        """Take in an override of the command line."""
        override = self._parser.parse_override(argument)
        if override.is_hydra_override():
            return
        self._entries.pop(override.key_or_group, None)
        self._entries[override.key_or_group] = _Entry(argument, argument, override, from_settings=False)

    def read(self) -> tuple[Space, list[Mistake]]:
        """Return what can be used, and what is wrong with the rest."""
        wrong = [mistake for key, entry in self._entries.items() for mistake in self._read(key, entry)]
        if not wrong and not self._distributions:
            example = '"model.learning_rate=tag(log,interval(1e-4,1e-1))"'
            wrong = [Mistake(SPACE, f"there is nothing to choose; say what differs between trials: {example}", SPACE)]
        return Space(self._distributions, tuple(self._fixed), tuple(self._notes)), list(dict.fromkeys(wrong))

    def _read(self, key: str, entry: _Entry | Mistake) -> Iterator[Mistake]:
        if isinstance(entry, Mistake):
            yield replace(entry, key=SPACE)
        elif entry.override.is_sweep_override():
            wrong = [*self._key_mistakes(entry, key)] or [*self._sweep(entry, key)]
            yield from (replace(m, key=SPACE, file=None) if entry.from_settings else m for m in wrong)
        elif entry.from_settings:
            yield Mistake(entry.where, f"is one value; say choice(...), or {key}=... outside of sweep.space", SPACE)
        else:
            self._fixed.append(entry.line)

    def _key_mistakes(self, entry: _Entry, key: str) -> Iterator[Mistake]:
        if key.partition(".")[0] in OF_THE_SWEEP:
            yield Mistake(entry.where, "is the same for every trial; give it one value", key)
        elif not self._is_group(key) and schema.find(key) is None and key not in schema.sections():
            yield schema.unknown(entry.where, key, self._groups or ())

    def _is_group(self, key: str) -> bool:
        return key in self._groups if self._groups is not None else "." not in key and schema.find(key) is None

    def _sweep(self, entry: _Entry, key: str) -> Iterator[Mistake]:
        """Take in what is chosen for a key; yields what is wrong with it."""
        value = entry.override.value()
        if isinstance(value, Glob):
            yield from self._choices(entry, key, value.filter(list((self._groups or {}).get(key, ()))))
            return
        assert isinstance(value, ChoiceSweep | IntervalSweep | RangeSweep)
        if unknown := sorted(value.tags - set(TAGS)):
            yield Mistake(entry.where, f"there is no tag {unknown[0]!r} here, there are {' and '.join(TAGS)}", key)
        elif isinstance(value, IntervalSweep):
            yield from self._interval(entry, key, value)
        elif isinstance(value, RangeSweep):
            yield from self._range(entry, key, value)
        elif value.tags:
            yield Mistake(entry.where, "tags are for interval(...) and range(...), and these are choices", key)
        else:
            yield from self._choices(entry, key, value.list)

    def _choices(self, entry: _Entry, key: str, values: Sequence[Any]) -> Iterator[Mistake]:
        wrong = [mistake for value in values for mistake in self._value_mistakes(entry, key, value)]
        if wrong or not values:
            yield from wrong or [Mistake(entry.where, "there is nothing to choose among", key)]
            return
        self._take(key, Choices(tuple(dict.fromkeys(map(_text, values)))))

    def _value_mistakes(self, entry: _Entry, key: str, value: Any) -> Iterator[Mistake]:
        plain = value.text if isinstance(value, QuotedString) else value
        where = f"{entry.where} ({key}={plain})"
        if not self._is_group(key):
            yield from schema.check_value(where, key, plain)
        elif self._groups is not None and plain not in self._groups[key]:
            choices = self._groups[key]
            near = schema.closest(str(plain), choices)
            hint = f"; did you mean {near}?" if near else ""
            yield Mistake(where, f"{key} has no choice {str(plain)!r}, it has {', '.join(choices)}{hint}", key)

    def _interval(self, entry: _Entry, key: str, sweep: IntervalSweep) -> Iterator[Mistake]:
        kind = self._kind(key)
        if kind not in (int, float, Any):
            yield Mistake(entry.where, f"interval(...) is for numbers, and {key} is none; say choice(...)", key)
            return
        whole = kind is int or "int" in sweep.tags or (kind is Any and isinstance(sweep.start, int))
        assert sweep.start is not None and sweep.end is not None
        yield from self._numbers(entry, key, (sweep.start, sweep.end), None, whole=whole, log="log" in sweep.tags)

    def _range(self, entry: _Entry, key: str, sweep: RangeSweep) -> Iterator[Mistake]:
        kind, step = self._kind(key), sweep.step
        assert sweep.start is not None and sweep.stop is not None
        if not step or not isfinite(sweep.start + sweep.stop + step):
            yield Mistake(entry.where, "needs two numbers and a step; say interval(...) for numbers without steps", key)
            return
        first, past = Decimal(str(sweep.start)), Decimal(str(sweep.stop))
        count = max(0, ceil((past - first) / Decimal(str(step))))
        bounds = sorted((first, first + Decimal(str(step)) * (count - 1)))
        if count == 0:
            yield Mistake(entry.where, f"there is nothing from {sweep.start} to {sweep.stop}", key)
        elif kind not in (int, float, Any):
            yield from self._choices(entry, key, list(sweep.range()))
        else:
            whole = kind is int or (kind is Any and all(isinstance(n, int) for n in (sweep.start, sweep.stop, step)))
            log = "log" in sweep.tags
            low, high = (float(bound) for bound in bounds)
            yield from self._numbers(entry, key, (low, high), abs(step), whole=whole, log=log)

    def _numbers(
        self, entry: _Entry, key: str, bounds: tuple[float, float], step: float | None, *, whole: bool, log: bool
    ) -> Iterator[Mistake]:
        low, high = bounds
        if whole:
            uneven = [number for number in (*bounds, step or 1) if not float(number).is_integer()]
            if uneven:
                yield Mistake(entry.where, f"must be whole numbers, got {uneven[0]:g}", key)
                return
        wrong = [m for bound in bounds for m in schema.check_value(entry.where, key, int(bound) if whole else bound)]
        if wrong:
            yield from wrong
        elif low > high or (low == high and step is None):
            yield Mistake(entry.where, f"must go from a number to a larger one, not from {low:g} to {high:g}", key)
        elif log and low <= 0:
            yield Mistake(entry.where, f"log needs numbers above 0, and this starts at {low:g}", key)
        elif log and step not in ((None, 1) if whole else (None,)):
            yield Mistake(entry.where, "takes either log or a step; leave one of the two out", key)
        elif whole:
            self._take(key, IntRange(int(low), int(high), int(step or 1), log))
        else:
            self._take(key, FloatRange(low, high, step, log))

    def _kind(self, key: str) -> Any:
        """Return what a key takes; None for a group."""
        setting = None if self._is_group(key) else schema.find(key)
        return None if setting is None else setting.item if key != setting.key else setting.type

    def _take(self, key: str, distribution: Distribution) -> None:
        """Keep what there is to choose; where it is one value only, it is the same for every trial."""
        only = distribution.corner(0)
        if only == distribution.corner(1) and not isinstance(distribution, Choices):
            distribution = Choices((distribution.text(only),))
        if isinstance(distribution, Choices) and len(distribution.values) == 1:
            self._fixed.append(f"{_key_element(key)}={distribution.values[0]}")
            self._notes.append(f"{key} has one value to choose from, {shown(distribution.values[0])}")
        else:
            self._distributions[key] = distribution


def _text(element: Any) -> str:
    """Return an element of a sweep as an override gives it."""
    return str(element).lower() if isinstance(element, bool) else str(Transformer.str(element))
