"""Pictures of a sweep from its table: parallel coordinates, and the metric against every parameter.

    python -m videolift.sweep_pictures results.csv FOLDER --metric val_loss --goal minimize --parameters model,seed

Children that have not finished, or finished without a value, are left out and counted in the title.
"""

from __future__ import annotations

import argparse
import csv
import logging
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from videolift.fonts import families

PARALLEL_FILE = "parallel_coordinates.png"
DPI = 120
DECADES = 2  # from the smallest to the largest value, from which on an axis is logarithmic
MAX_VALUES = 12  # of a parameter, up to which each number has a mark of its own
MAX_CATEGORIES = 20  # that are named along an axis
MAX_LETTERS = 18  # of a value's name
MAX_LETTERS_IN_A_ROW = 70  # of all names along an axis, above which they are turned
MIN_GAP = 0.035  # between two numbers along an axis, as a share of it
SPREAD = 0.4  # share of a category's room that its children are spread over
MANY = 60  # lines, above which they are drawn fainter
ACCENT = "#d6272a"  # the best child
INK, FAINT = "#333333", "#9aa0a6"


@dataclass(frozen=True)
class Run:
    """A finished child."""

    number: str
    value: float
    parameters: dict[str, str]


@dataclass(frozen=True)
class Table:
    """What a sweep's table says of its metric."""

    metric: str
    maximize: bool
    parameters: tuple[str, ...]
    runs: tuple[Run, ...]  # the worst one first
    left_out: dict[str, int]  # state -> children

    @property
    def best(self) -> Run:
        return self.runs[-1]

    @property
    def title(self) -> str:
        out = ", ".join(f"{count} {state}" for state, count in self.left_out.items())
        runs = f"{len(self.runs)} run{'' if len(self.runs) == 1 else 's'}"
        return f"{self.metric} of {runs}" + (f" (left out: {out})" if out else "")

    @property
    def values(self) -> list[float]:
        return [run.value for run in self.runs]

    def column(self, parameter: str) -> list[str]:
        return [run.parameters[parameter] for run in self.runs]

    def distinct(self, parameter: str) -> list[str]:
        """Return a parameter's values: numbers by size, others in the order in which children have them."""
        by_number = sorted(self.runs, key=lambda run: int(run.number))
        found = list(dict.fromkeys(run.parameters[parameter] for run in by_number))
        numbers = [number_of(text) for text in found]
        if None in numbers:
            return found
        return sorted(found, key=lambda text: number_of(text) or 0.0)


@dataclass(frozen=True)
class Scale:
    """Where values lie along an axis, from 0 to 1."""

    places: dict[str, float]  # value, as the table has it -> place
    ticks: list[tuple[float, str]]
    room: float = 0.0  # of a category; 0 for numbers


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the pictures of a sweep.")
    parser.add_argument("table", type=Path, help="results.csv of a sweep")
    parser.add_argument("folder", type=Path, help="where the pictures are written")
    parser.add_argument("--metric", required=True)
    parser.add_argument("--goal", choices=("maximize", "minimize"), default="maximize")
    parser.add_argument("--parameters", required=True, help="columns, with commas between")
    given = parser.parse_args()
    names = [name for name in given.parameters.split(",") if name]
    for file in draw(read_table(given.table, given.metric, given.goal == "maximize", names), given.folder):
        print(file)


def read_table(file: Path, metric: str, maximize: bool, parameters: Sequence[str]) -> Table:
    """Return the finished children that have a value."""
    runs, left_out = [], Counter[str]()
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            value = number_of(row[metric])
            if row["state"] == "finished" and value is not None:
                runs.append(Run(row["number"], value, {name: row[name] for name in parameters}))
            else:
                left_out[row["state"] if row["state"] != "finished" else "without a value"] += 1
    # The worst first, and of equals the first child last: it is the best one.
    runs.sort(key=lambda run: (run.value if maximize else -run.value, -int(run.number)))
    return Table(metric, maximize, tuple(parameters), tuple(runs), dict(left_out))


def draw(table: Table, folder: Path) -> Iterator[Path]:
    """Write the pictures and yield their files; none where nothing has finished or nothing differs."""
    if not table.runs or not table.parameters:
        return
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # few Chinese fonts have every weight
    # A dollar sign in a value is no formula.
    with rc_context({"font.family": families(), "text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield _save(parallel_coordinates(table), folder / PARALLEL_FILE)
        for parameter in table.parameters:
            yield _save(metric_against(table, parameter), folder / scatter_name(table.metric, parameter))


def scatter_name(metric: str, parameter: str) -> str:
    """Return the file name of a picture, without what a file system or an address may not like."""
    return re.sub(r"[^\w.\-]", "_", f"{metric}_vs_{parameter}") + ".png"


def number_of(text: str | None) -> float | None:
    """Return a finite number that a text is, None where it is none."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def is_logarithmic(values: Sequence[float]) -> bool:
    """Tell whether values span so much that a linear axis would hide the smaller ones."""
    return min(values) > 0 and math.log10(max(values) / min(values)) >= DECADES - 1e-9


def is_numeric(texts: Sequence[str]) -> bool:
    return all(number_of(text) is not None for text in texts)


def scale_of(distinct: Sequence[str]) -> Scale:
    """Return where values lie along an axis: numbers by what they are, anything else evenly."""
    if is_numeric(distinct):
        return _number_scale({text: float(text) for text in distinct})
    places = {text: (i + 0.5) / len(distinct) for i, text in enumerate(distinct)}
    named = distinct[:: math.ceil(len(distinct) / MAX_CATEGORIES)]
    return Scale(places, [(places[text], short(text)) for text in named], 1 / len(distinct))


def short(text: str) -> str:
    """Return a value's name, without its middle where it is long."""
    text = " ".join(text.split()) or "(none)"
    half = (MAX_LETTERS - 1) // 2
    return text if len(text) <= MAX_LETTERS else f"{text[:half]}…{text[-half:]}"


def leaf_names(parameters: Sequence[str]) -> dict[str, str]:
    """Return short names: what comes after the last dot, where that is no other parameter's."""
    leaves = {name: name.rpartition(".")[2] for name in parameters}
    count = Counter(leaves.values())
    return {name: leaf if count[leaf] == 1 else name for name, leaf in leaves.items()}


def _number_scale(numbers: dict[str, float]) -> Scale:
    values = list(numbers.values())
    place = _placing(values)
    marks = sorted(set(values)) if len(set(values)) <= MAX_VALUES else _round_marks(values)
    ticks: list[tuple[float, str]] = []
    for mark in marks:
        if (at := place(mark)) is not None and (not ticks or at - ticks[-1][0] >= MIN_GAP):
            ticks.append((at, f"{mark:.6g}"))
    return Scale({text: place(number) or 0.0 for text, number in numbers.items()}, ticks)


def _placing(values: Sequence[float]) -> Callable[[float], float | None]:
    """Return what tells a number's place between the smallest and the largest one, None outside."""
    low, high = min(values), max(values)
    if low == high:
        return lambda value: 0.5 if value == low else None
    if is_logarithmic(values):
        return lambda value: math.log(value / low) / math.log(high / low) if low <= value <= high else None
    return lambda value: (value - low) / (high - low) if low <= value <= high else None


def _round_marks(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    if low == high:
        return [low]
    locator = LogLocator(subs=(1.0, 2.0, 5.0)) if is_logarithmic(values) else MaxNLocator(8, steps=[1, 2, 2.5, 5, 10])
    return [float(value) for value in locator.tick_values(low, high)]


def parallel_coordinates(table: Table) -> Figure:
    """Draw a line a child through an axis a parameter and one of the metric."""
    count = len(table.parameters) + 1
    figure = _figure(max(7.5, 1.75 * count + 1.5), 5.4)
    axes = figure.add_subplot()
    scales = [scale_of(table.distinct(name)) for name in table.parameters]
    scales.append(_metric_scale(table.values))
    columns = [table.column(name) for name in table.parameters]
    places = [_spread_places(column, scale) for column, scale in zip(columns, scales, strict=False)]
    places.append([scales[-1].places[repr(value)] for value in table.values])
    *others, best = zip(*places, strict=True)
    colours = _colours(table)
    for heights, colour in zip(others, colours.to_rgba(np.array(table.values[:-1])), strict=True):
        _draw_line(axes, heights, colour, 1.5, 0.9 if len(others) <= MANY else 0.55)
    _draw_line(axes, best, "white", 5.5, 1.0)
    _draw_line(axes, best, ACCENT, 3.0, 1.0)
    axes.plot(range(count), best, "o", color=ACCENT, markersize=6, zorder=3)
    names = [*leaf_names(table.parameters).values(), table.metric]
    for at, (name, scale) in enumerate(zip(names, scales, strict=True)):
        _draw_axis(axes, at, name, scale)
    axes.set(xlim=(-0.2, count - 1 + 0.45), ylim=(-0.05, 1.16))
    axes.set_axis_off()
    _title(axes, table)
    if len(set(table.values)) > 1:
        _draw_colour_bar(figure, axes, table, colours)
    return figure


def _metric_scale(values: Sequence[float]) -> Scale:
    place = _placing(values)
    marks = [(at, f"{mark:.6g}") for mark in _round_marks(values) if (at := place(mark)) is not None]
    return Scale({repr(value): place(value) or 0.0 for value in values}, marks)


def _spread_places(column: Sequence[str], scale: Scale) -> list[float]:
    """Return a place for each child; those of a category are spread over some of its room, the best on top."""
    size, seen, places = Counter(column), Counter[str](), []
    for text in column:
        share = (seen[text] + 0.5) / size[text] - 0.5
        seen[text] += 1
        places.append(scale.places[text] + SPREAD * scale.room * share)
    return places


def _draw_line(axes: Axes, heights: Sequence[float], colour: object, width: float, alpha: float) -> None:
    """Draw a curve that crosses every axis at a right angle, so that it can be followed through a crowd."""
    points, codes = [(0.0, heights[0])], [Curve.MOVETO]
    for at, (left, right) in enumerate(pairwise(heights)):
        points += [(at + 0.5, left), (at + 0.5, right), (at + 1.0, right)]
        codes += [Curve.CURVE4] * 3
    curve = Curve(points, codes)
    axes.add_patch(PathPatch(curve, facecolor="none", edgecolor=colour, linewidth=width, alpha=alpha, zorder=2))


def _draw_axis(axes: Axes, at: int, name: str, scale: Scale) -> None:
    axes.plot([at, at], [-0.02, 1.02], color=INK, linewidth=1.0, zorder=2.5)
    axes.text(at, 1.06, _folded(name), ha="center", va="bottom", fontsize=10, color=INK, fontweight="bold")
    halo = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0}
    for place, text in scale.ticks:
        axes.plot([at, at + 0.03], [place, place], color=INK, linewidth=1.0, zorder=2.5)
        axes.text(at + 0.05, place, text, ha="left", va="center", fontsize=8.5, color=INK, bbox=halo, zorder=4)


def _folded(name: str, width: int = 16) -> str:
    """Return a long name in several lines, broken after dots and underscores."""
    lines = [""]
    for piece in re.findall(r"[^._]*[._]?", name):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line for line in lines if line)


def _draw_colour_bar(figure: Figure, axes: Axes, table: Table, colours: ScalarMappable) -> None:
    bar = figure.colorbar(colours, ax=axes, pad=0.01, fraction=0.04, aspect=28)
    bar.set_label(f"{table.metric} ({'higher' if table.maximize else 'lower'} is better)")
    if is_logarithmic(table.values):
        _plain_log_marks(bar.ax)


def metric_against(table: Table, parameter: str) -> Figure:
    """Draw a point a child, and the median of those that share a value."""
    figure = _figure(7.0, 4.8)
    axes = figure.add_subplot()
    distinct = table.distinct(parameter)
    at = _draw_numbers(axes, table, parameter) if is_numeric(distinct) else _draw_categories(axes, table, parameter)
    if is_logarithmic(table.values):
        axes.set_yscale("log")
        _plain_log_marks(axes)
    best = f"best: #{table.best.number}, {table.best.value:.4g}"
    colours = _colours(table).to_rgba(np.array(table.values[:-1]))
    axes.scatter(at[:-1], table.values[:-1], c=colours, s=36, alpha=0.85, linewidths=0, zorder=3)
    axes.scatter(at[-1:], table.values[-1:], marker="*", s=210, color=ACCENT, edgecolors="white", zorder=5, label=best)
    axes.set_xlabel(parameter)
    axes.set_ylabel(f"{table.metric} ({'higher' if table.maximize else 'lower'} is better)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    _title(axes, table)
    figure.legend(loc="outside lower right", ncols=2, frameon=False)
    return figure


def _draw_numbers(axes: Axes, table: Table, parameter: str) -> list[float]:
    """Draw axis and medians of a number, and return where the children lie."""
    numbers = [float(text) for text in table.column(parameter)]
    marks = sorted(set(numbers))
    log = is_logarithmic(numbers)
    if log:
        axes.set_xscale("log")
        _plain_log_marks(axes, across=True)
    if len(marks) <= MAX_VALUES:
        scale = _number_scale({repr(mark): mark for mark in marks})
        axes.set_xticks([float(text) for _, text in scale.ticks], [text for _, text in scale.ticks])
        axes.minorticks_off()
    half = 0.02 * (math.log(marks[-1] / marks[0]) if log else marks[-1] - marks[0])
    spans = {m: (m * math.exp(-half), m * math.exp(half)) if log else (m - half, m + half) for m in marks}
    _draw_medians(axes, numbers, table.values, spans)
    return numbers


def _draw_categories(axes: Axes, table: Table, parameter: str) -> list[float]:
    """Draw axis and medians of a choice, and return where the children lie: next to each other."""
    distinct, column = table.distinct(parameter), table.column(parameter)
    index = {text: float(i) for i, text in enumerate(distinct)}
    step = math.ceil(len(distinct) / MAX_CATEGORIES)
    names = [short(text) for text in distinct[::step]]
    axes.set_xticks(range(0, len(distinct), step), names)
    if sum(map(len, names)) > MAX_LETTERS_IN_A_ROW:
        for label in axes.get_xticklabels():
            label.set(rotation=35, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(distinct) - 0.4)
    _draw_medians(axes, [index[text] for text in column], table.values, {i: (i - 0.3, i + 0.3) for i in index.values()})
    shifts = np.random.default_rng(0).uniform(-0.2, 0.2, len(column))
    return [index[text] + float(shift) for text, shift in zip(column, shifts, strict=True)]


def _draw_medians(
    axes: Axes, at: Sequence[float], values: Sequence[float], spans: dict[float, tuple[float, float]]
) -> None:
    groups: dict[float, list[float]] = {}
    for place, value in zip(at, values, strict=True):
        groups.setdefault(place, []).append(value)
    label = "median"
    for place, group in groups.items():
        if len(group) > 1:
            axes.plot(spans[place], [float(np.median(group))] * 2, color=INK, linewidth=2.2, zorder=4, label=label)
            label = "_nolegend_"


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _colours(table: Table) -> ScalarMappable:
    """Return the colours of values: the better, the darker."""
    name = "viridis_r" if table.maximize else "viridis"
    shades = colormaps[name](np.linspace(0.08, 1, 256) if table.maximize else np.linspace(0, 0.92, 256))
    low, high = min(table.values), max(table.values)
    norm = LogNorm(low, high) if is_logarithmic(table.values) else Normalize(low, high)
    return ScalarMappable(norm, LinearSegmentedColormap.from_list("values", list(shades)))


def _plain_log_marks(axes: Axes, *, across: bool = False) -> None:
    """Write 0.001 where matplotlib would write a power of ten as a formula."""
    axis = axes.xaxis if across else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _title(axes: Axes, table: Table) -> None:
    axes.set_title(table.title, loc="left", fontsize=11, color=INK)


def _save(figure: Figure, file: Path) -> Path:
    figure.savefig(file, dpi=DPI)
    return file


if __name__ == "__main__":
    main()
