"""What a sweep looks like in a terminal before it starts and when it has ended, and the words for its children."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from launchers import report
from launchers.sweeps.record import Child, State, SweepFolder, SweepRecord
from launchers.sweeps.results import ORDER, counts, ranked

if TYPE_CHECKING:
    from rich.console import Console

    from launchers.base import Described

STYLES = {
    State.waiting: "dim",
    State.running: "cyan",
    State.finished: "green",
    State.failed: "bold red",
    State.pruned: "magenta",
    State.stopped: "yellow",
    State.detached: "yellow",
}
NOTHING_DIFFERS = "as it is"
SHOWN_ROWS = 20  # of a plan or of results; what comes after is summed up
LEAST_WIDTH = 24  # characters that a column which gives way keeps
GAP = 2  # characters between columns
SHOWN_NUMBERS = 12  # of children, in one line
RANGE = 4  # so many children in a row are written as #0-#3
PLAN_STYLES = {"cached": "green", "would run": "", "unknown": "yellow", "shared": "cyan"}
KINDS_OF_WORK = {
    "would run": "to compute",
    "unknown": "to compute unless finished in S3, which is not known",
    "shared": "shared",
    "cached": "from the cache",
}
SHORT_ID = 8  # hex digits


@dataclass(frozen=True)
class PlannedRow:
    """What the plan says of one child."""

    number: int
    label: str
    stages: dict[str, str]  # stage -> cached | would run | unknown | shared with #0
    state: str  # of the child, where an earlier start of the sweep got to it
    parameters: dict[str, str] = field(default_factory=dict)  # what differs; empty: the label says it


@dataclass(frozen=True)
class SharedStage:
    """A stage that several children need."""

    name: str
    id: str
    children: list[int]
    cached: bool
    unknown: bool = False  # whether it is finished elsewhere


@dataclass(frozen=True)
class Column:
    """A column of a table that has to fit a terminal."""

    name: str
    cells: Sequence[Text]
    right: bool = False
    gives_way: bool = False  # may become narrower than what is in it
    dispensable: int = 0  # what is highest is left out first; 0: never
    least: int = 1  # characters

    @property
    def width(self) -> int:
        return max(self.least, cell_len(self.name), *(cell_len(cell.plain) for cell in self.cells))

    def of(self, rows: Sequence[int]) -> Column:
        """Return the column with some of its rows, as wide as with all of them."""
        return replace(self, cells=[self.cells[row] for row in rows], least=self.width)


# Words


def short_names(parameters: Iterable[str]) -> dict[str, str]:
    """Return the shortest end of each setting's name that no other one has: model.batch -> batch."""
    names = list(dict.fromkeys(parameters))
    ends = {name: [".".join(name.split(".")[i:]) for i in reversed(range(name.count(".") + 1))] for name in names}
    return {
        name: next((end for end in ends[name] if sum(end in ends[other] for other in names) == 1), name)
        for name in names
    }


def short_label(child: Child, parameters: Iterable[str]) -> str:
    """Return what a child's run is called: what differs, by names that are short where that is clear."""
    names = short_names(parameters)
    return " ".join(f"{names[key]}={value}" for key, value in child.parameters.items()) or child.label


def plain_label(child: Child) -> str:
    return child.label or NOTHING_DIFFERS


def number_text(value: float | None) -> str:
    """Return a metric as a person reads it: 0.812, 1.2e-05."""
    if value is None:
        return ""
    usual = math.isfinite(value) and (value == 0 or 1e-3 <= abs(value) < 1e4)
    return f"{value:.3f}" if usual else f"{value:.2g}"


def clock(seconds: float) -> str:
    """Return a duration as 1:23 or 2:01:23."""
    minutes, second = divmod(int(max(0.0, seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def children_text(numbers: Iterable[int]) -> str:
    """Return children as #0 #1, or #0-#9 where many follow each other."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words: list[str] = []
    for run in runs:
        words += [f"#{run[0]}-#{run[-1]}"] if len(run) >= RANGE else [f"#{number}" for number in run]
    more = f" ... {sum(map(len, runs))} in all" if words[SHOWN_NUMBERS:] else ""
    return " ".join(words[:SHOWN_NUMBERS]) + more


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def log_text(child: Child, folder: SweepFolder) -> str:
    """Return where a child's output is, as one would type it here."""
    file, here = folder.log(child.number), Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)


def counts_text(record: SweepRecord) -> str:
    """Return how many children are in which state, and which one is the best."""
    best = record.best
    return counts(record) + (f" · best #{best.number} {metric_text(record, best)}" if best else "")


def metric_text(record: SweepRecord, child: Child) -> str:
    return f"{record.metric} {number_text(child.value)}"


def ended_text(record: SweepRecord, child: Child, folder: SweepFolder) -> str:
    """Say in one line how a child ended."""
    words = child.state.value
    if child.state is State.failed:
        return f"{words}, {first_line(child.error) or 'no reason given'} ({log_text(child, folder)})"
    if child.state is State.pruned and child.error:
        words += f", {first_line(child.error)}"
    elif child.state is State.detached:
        words += ", its job goes on"
    elif child.value is not None:
        words += f", {metric_text(record, child)}" + (f" at epoch {child.epoch}" if child.epoch is not None else "")
    return f"{words} ({clock(seconds_of(child))})"


def seconds_of(child: Child, now: float = 0.0) -> float:
    """Return how long a child took, or where it has not ended has taken until now."""
    return max(0.0, (child.ended or now) - child.started) if child.started is not None else 0.0


# Tables


def table_of(columns: Sequence[Column], width: int, *, fold: bool = False) -> Table:
    """Return a table that is at most so wide, without what there is no room for.

    Args:
        fold: put what is too long for its column on further lines instead of cutting it off.
    """
    kept = list(columns)
    while needed(kept) > width and any(column.dispensable for column in kept):
        kept.remove(max(kept, key=lambda column: column.dispensable))
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column, characters in zip(kept, _widths(kept, width), strict=True):
        table.add_column(
            Text(column.name),
            justify="right" if column.right else "left",
            no_wrap=not fold,
            overflow="fold" if fold else "ellipsis",
            width=characters,
        )
    for row in zip(*(column.cells for column in kept), strict=True):
        table.add_row(*row)
    return table


def _widths(columns: Sequence[Column], width: int) -> list[int]:
    """Give every column what it needs; those that give way share what is left."""
    found = [0 if column.gives_way else column.width for column in columns]
    left = width - sum(found) - GAP * (len(columns) - 1)
    yielding = sorted((c.width, place) for place, c in enumerate(columns) if c.gives_way)
    for done, (natural, place) in enumerate(yielding):
        found[place] = min(natural, max(1, left // (len(yielding) - done)))
        left -= found[place]
    return found


def needed(columns: Sequence[Column]) -> int:
    """Return how wide a table has to be so that it can be read."""
    widths = (min(column.width, LEAST_WIDTH) if column.gives_way else column.width for column in columns)
    return sum(widths) + GAP * (len(columns) - 1)


def differing(labels: Sequence[str], parameters: Sequence[dict[str, str]], room: int) -> list[Column]:
    """Return a column for each parameter where they fit into so many characters, else one for all."""
    names = short_names(key for row in parameters for key in row)
    columns = [Column(names[key], [Text(row.get(key, "")) for row in parameters]) for key in names]
    if columns and needed(columns) <= room:
        return columns
    shorter = [" ".join(f"{names[key]}={value}" for key, value in row.items()) for row in parameters]
    texts = [Text(short or label or NOTHING_DIFFERS) for short, label in zip(shorter, labels, strict=True)]
    return [Column("what differs", texts, gives_way=True)]


# Before the start


def print_plan(
    console: Console, title: str, rows: Sequence[PlannedRow], shared: Sequence[SharedStage], costs: Sequence[Described]
) -> None:
    """Print what a sweep would do: its children, what they share, what is finished already, and what it can cost."""
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(_plan_table(rows[:SHOWN_ROWS], console.width))
    for line in _more_planned(rows[SHOWN_ROWS:]):
        _say(console, line)
    for stage in shared[:SHOWN_ROWS]:
        how = "is in the cache for" if stage.cached else f"computed {'at most ' if stage.unknown else ''}once for"
        _say(console, f"{stage.name} {_short_id(stage)} {how} {children_text(stage.children)}")
    if more := shared[SHOWN_ROWS:]:
        _say(console, f"and {len(more)} more stages are shared")
    for line in _work(rows):
        _say(console, line)
    report.print_described(console, costs)


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)


def _short_id(stage: SharedStage) -> str:
    return stage.id.removeprefix(f"{stage.name}-")[:SHORT_ID]


def _plan_table(rows: Sequence[PlannedRow], width: int) -> Table:
    numbers = Column("#", [Text(str(row.number)) for row in rows], right=True)
    stages = [
        Column(name, [_stage_cell(row.stages.get(name, "")) for row in rows])
        for name in dict.fromkeys(name for row in rows for name in row.stages)
    ]
    if any(row.state not in ("", State.waiting.value) for row in rows):
        stages.append(Column("state", [_state_cell(row.state) for row in rows]))
    room = width - needed([numbers, *stages]) - GAP
    what = differing([row.label for row in rows], [row.parameters for row in rows], room)
    return table_of([numbers, *what, *stages], width, fold=True)


def _stage_cell(what: str) -> Text:
    kind = _kind(what)
    return Text(what.replace("shared with", "with"), style=PLAN_STYLES.get(kind, ""))


def _state_cell(state: str) -> Text:
    known = state in {one.value for one in State}
    return Text(state, style=STYLES[State(state)] if known else "")


def _kind(what: str) -> str:
    return "shared" if what.startswith("shared") else what


def _more_planned(rows: Sequence[PlannedRow]) -> list[str]:
    """Sum up rows that are not shown: those of which the same is said together."""
    groups: dict[str, list[int]] = {}
    for row in rows:
        kinds: dict[str, list[str]] = {}
        for stage, what in row.stages.items():
            kinds.setdefault(_kind(what), []).append(stage)
        words = [f"{', '.join(stages)} {kind}" for kind, stages in kinds.items()]
        done = [row.state] if row.state not in ("", State.waiting.value) else []
        groups.setdefault("; ".join([*done, *words]), []).append(row.number)
    head = [f"and {len(rows)} more:"] if rows else []
    return head + [f"  {len(numbers)}  {what}  ({children_text(numbers)})" for what, numbers in groups.items()]


def _work(rows: Sequence[PlannedRow]) -> list[str]:
    """Return how many stages have to be computed, and how many need not be."""
    lines = []
    for kind, words in KINDS_OF_WORK.items():
        numbers: dict[str, int] = {}
        for row in rows:
            for stage, what in row.stages.items():
                if _kind(what) == kind:
                    numbers[stage] = numbers.get(stage, 0) + 1
        lines += [f"{words}: {', '.join(f'{n} {stage}' for stage, n in numbers.items())}"] if numbers else []
    return [" · ".join(lines)] if lines else []


# At the end


def print_results(
    console: Console, record: SweepRecord, best_command: str | None, folder: SweepFolder | None = None
) -> None:
    """Print the table that a sweep ends with.

    Args:
        best_command: makes the best child alone.
        folder: the sweep's; else paths are relative to it.
    """
    children = ranked(record)
    shown = [child for child in children if child.state is not State.waiting][:SHOWN_ROWS]
    console.print()
    if shown:
        console.print(_results_table(record, shown, console.width))
    for line in _more_results(record, children[len(shown) :]):
        _say(console, line)
    console.print()
    _say(console, counts_text(record), "bold")
    if record.best is not None and best_command:
        _say(console, f"best: #{record.best.number} {plain_label(record.best)}; to make it alone:")
        _say(console, f"  {best_command}")
    failed = [child for child in children if child.state is State.failed]
    for child in failed[:SHOWN_ROWS]:
        text = f"#{child.number} {plain_label(child)}: {ended_text(record, child, folder or SweepFolder(Path()))}"
        _say(console, text, "red")
    if more := failed[SHOWN_ROWS:]:
        _say(console, f"and {len(more)} more failed: {children_text(child.number for child in more)}", "red")
    if again := again_text(record):
        _say(console, again)


def again_text(record: SweepRecord) -> str:
    """Say what the same command would do now; nothing where all is done."""
    what = (
        ("runs the {} again", "failed", State.failed),
        ("goes on with the {}", "stopped", State.stopped),
        ("follows the {} again", "detached", State.detached),
        ("starts the {}", "waiting", State.waiting, State.running),
    )
    parts = []
    for words, name, *states in what:
        if count := record.count(*states):
            parts.append(words.format(f"{name} child" if count == 1 else f"{count} {name} children"))
    return f"the same command {_listed(parts)}" if parts else ""


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _results_table(record: SweepRecord, children: Sequence[Child], width: int) -> Table:
    best = record.best
    tests = [child.metrics.get("test_accuracy") for child in children]
    numbers = [
        Column("", [Text("best" if child is best else "", style="bold green") for child in children]),
        Column("#", [Text(str(child.number)) for child in children], right=True),
    ]
    results = [
        Column("state", [Text(child.state.value, style=STYLES[child.state]) for child in children]),
        Column(record.metric, [Text(number_text(child.value)) for child in children], right=True),
        Column("epoch", [Text("" if c.epoch is None else str(c.epoch)) for c in children], right=True, dispensable=1),
    ]
    if any(value is not None for value in tests) and record.metric != "test_accuracy":
        results.append(
            Column("test_accuracy", [Text(number_text(value)) for value in tests], right=True, dispensable=2)
        )
    minutes = [Text(f"{seconds_of(child) / 60:.1f}" if child.ended else "") for child in children]
    results.append(Column("minutes", minutes, right=True, dispensable=3))
    if any(child.error for child in children):
        results.append(Column("error", [Text(first_line(c.error)) for c in children], gives_way=True, dispensable=4))
    room = width - needed([*numbers, *(column for column in results if not column.dispensable)]) - GAP
    what = differing([child.label for child in children], [child.parameters for child in children], room)
    table = table_of([*numbers, *what, *results], width)
    table.row_styles = ["bold" if child is best else "" for child in children]
    return table


def _more_results(record: SweepRecord, children: Sequence[Child]) -> list[str]:
    """Sum up children that are not in the table, by state."""
    lines = []
    for state in ORDER:
        same = [child for child in children if child.state is state]
        values = [child.value for child in same if child.value is not None]
        ends = list(dict.fromkeys(number_text(value) for value in (min(values), max(values)))) if values else []
        spread = f", {record.metric} {' to '.join(ends)}" if ends else ""
        if same and state not in (State.waiting, State.failed):  # those are told below
            lines.append(f"and {len(same)} more {state.value}{spread}")
    return lines
