from __future__ import annotations

import csv
import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch

from tests.waiting import HANG_S
from videolift.fonts import families
from videolift.sweep_pictures import (
    PARALLEL_FILE,
    Table,
    draw,
    is_logarithmic,
    leaf_names,
    metric_against,
    parallel_coordinates,
    read_table,
    scale_of,
    scatter_name,
    short,
)

SOURCE = Path(__file__).resolve().parents[2] / "src"
METRIC = "val_accuracy"


def write_table(file: Path, parameters: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    """Write rows of state, metric and parameters as a sweep's table."""
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["number", "state", *parameters, METRIC, "error"])
        for number, (state, value, *given) in enumerate(rows):
            writer.writerow([number, state, *given, value, ""])
    return file


def table_of(
    folder: Path, parameters: Sequence[str], rows: Sequence[Sequence[object]], *, maximize: bool = True
) -> Table:
    return read_table(write_table(folder / "results.csv", parameters, rows), METRIC, maximize, parameters)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def title(figure: Figure) -> str:
    return figure.axes[0].get_title(loc="left")


def size(picture: Path) -> tuple[int, int]:
    """Return width and height of a PNG in pixels (PNG specification: IHDR is the first chunk)."""
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    return int(width), int(height)


def test_the_pictures_of_a_table_are_drawn_by_a_process(tmp_path: Path) -> None:
    names = ["model", "model.learning_rate", "data.root"]
    rows = [("finished", 0.5 + n / 20, "cnn3d", 10**-n, f"/视频/{n} $x_1$") for n in range(4)]
    file = write_table(tmp_path / "re sults.csv", names, [*rows, ("failed", "", "cnn2d", 1, "/a")])
    command = [sys.executable, "-W", "error", "-m", "videolift.sweep_pictures", str(file), str(tmp_path / "out")]
    command += ["--metric", METRIC, "--goal", "maximize", "--parameters", ",".join(names)]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=HANG_S)
    assert (done.returncode, done.stderr) == (0, "")
    wanted = [PARALLEL_FILE, *(scatter_name(METRIC, name) for name in names)]
    assert [Path(line).name for line in done.stdout.splitlines()] == wanted
    assert {picture.name for picture in (tmp_path / "out").iterdir()} == set(wanted)
    assert all(min(size(tmp_path / "out" / name)) > 400 for name in wanted)


def test_a_file_name_holds_nothing_that_leads_elsewhere() -> None:
    assert scatter_name(METRIC, "model.batch") == "val_accuracy_vs_model.batch.png"
    assert scatter_name("system/x", "+a/../b c") == "system_x_vs__a_.._b_c.png"


def test_what_has_not_finished_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [("finished", 0.5, 1), ("failed", 0.9, 2), ("failed", "", 3), ("pruned", 0.1, 4), ("finished", "nan", 5)]
    table = table_of(tmp_path, ["seed"], rows)
    for figure in (parallel_coordinates(table), metric_against(table, "seed")):
        assert title(figure) == "val_accuracy of 1 run (left out: 2 failed, 1 pruned, 1 without a value)"


@pytest.mark.parametrize(("maximize", "best"), [(True, "1"), (False, "0")])
def test_the_best_is_drawn_last_and_named(tmp_path: Path, maximize: bool, best: str) -> None:
    rows = [("finished", 0.5, 3), ("finished", 0.75, 2), ("finished", 0.75, 1), ("finished", 0.5, 1)]
    table = table_of(tmp_path, ["seed"], rows, maximize=maximize)
    assert table.best.number == best
    (legend,) = metric_against(table, "seed").legends
    assert f"best: #{best}, {table.best.value}" in [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("children", [1, 2, 200])
@pytest.mark.parametrize("count", [1, 7])
def test_every_child_is_a_line_through_every_axis(tmp_path: Path, children: int, count: int) -> None:
    names = [f"group.parameter_number_{n}" for n in range(count)]
    chance = random.Random(0)
    rows = [("finished", chance.random(), *(chance.choice([1e-4, 1e-2, "a", "b"]) for _ in names))] * children
    figure = parallel_coordinates(table_of(tmp_path, names, rows))
    lines = [patch for patch in figure.axes[0].patches if isinstance(patch, PathPatch)]
    assert len(lines) == children - 1 + 2  # the best one has a rim
    assert {tuple(line.get_path().vertices[[0, -1], 0]) for line in lines} == {(0.0, float(count))}
    figure.savefig(tmp_path / "picture.png")
    assert size(tmp_path / "picture.png")[0] > 100 * count


def test_numbers_lie_where_they_are_and_choices_evenly() -> None:
    assert scale_of(["1", "2", "5"]).places == {"1": 0.0, "2": 0.25, "5": 1.0}
    assert scale_of(["0.0001", "0.001", "0.1"]).places == pytest.approx({"0.0001": 0.0, "0.001": 1 / 3, "0.1": 1.0})
    assert scale_of(["null", "0.1", "0.9", "7"]).places == {"null": 0.125, "0.1": 0.375, "0.9": 0.625, "7": 0.875}
    assert scale_of(["16"]).places == {"16": 0.5}


def test_an_axis_is_logarithmic_from_two_decades_on() -> None:
    assert is_logarithmic([1e-4, 1e-2]) and is_logarithmic([1.0, 1e6])
    assert not is_logarithmic([1.0, 99.0]) and not is_logarithmic([0.0, 1e6]) and not is_logarithmic([-1.0, 1e6])


def test_marks_keep_their_distance() -> None:
    marks = [place for place, _ in scale_of([repr(0.001 * n) for n in [*range(11), 1000]]).ticks]
    assert len(marks) >= 2 and min(b - a for a, b in pairwise(marks)) >= 0.03


def test_the_points_lie_on_the_axes_that_fit(tmp_path: Path) -> None:
    rows = [("finished", 10.0**-n, 10.0**-n, n, name) for n, name in enumerate(["a", "b", "a", "b"])]
    table = table_of(tmp_path, ["rate", "seed", "model"], rows)
    axes = {name: metric_against(table, name).axes[0] for name in table.parameters}
    assert {name: (a.get_xscale(), a.get_yscale()) for name, a in axes.items()} == {
        "rate": ("log", "log"),
        "seed": ("linear", "log"),
        "model": ("linear", "log"),
    }
    assert [label.get_text() for label in axes["model"].get_xticklabels()] == ["a", "b"]
    points = [x for c in axes["model"].collections for x, _ in c.get_offsets()]
    assert len(points) == 4 and all(min(abs(x), abs(x - 1)) < 0.3 for x in points)


def test_the_median_of_a_value_is_marked(tmp_path: Path) -> None:
    rows = [("finished", v, name, 1.0) for v, name in [(0.1, "a"), (0.2, "a"), (0.9, "a"), (0.5, "b")]]
    table = table_of(tmp_path, ["model", "rate"], rows)
    marks = {n: [line.get_ydata()[0] for line in metric_against(table, n).axes[0].lines] for n in table.parameters}
    assert marks == {"model": [0.2], "rate": [pytest.approx(0.35)]}


def test_names_are_short_where_they_stay_distinct() -> None:
    assert leaf_names(["model.batch", "a.seed", "b.seed"]) == {
        "model.batch": "batch",
        "a.seed": "a.seed",
        "b.seed": "b.seed",
    }
    assert short("x" * 50) == f"{'x' * 8}…{'x' * 8}" and short("") == "(none)" and short("a\nb") == "a b"


def test_a_table_without_a_value_or_parameter_has_no_picture(tmp_path: Path) -> None:
    assert list(draw(table_of(tmp_path, ["seed"], [("failed", "", 1)]), tmp_path)) == []
    assert list(draw(table_of(tmp_path, [], [("finished", 1.0)]), tmp_path)) == []


@pytest.fixture
def fonts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is all that this machine has of fonts, but for those of matplotlib."""
    manager, own = font_manager.fontManager, Path(matplotlib.get_data_path())
    before, folder = list(manager.ttflist), tmp_path / "fonts"
    folder.mkdir()
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: list(map(str, folder.iterdir())))
    manager.ttflist[:] = [font for font in before if Path(font.fname).is_relative_to(own)]
    manager.addfont(manager.ttflist[0].fname)  # which forgets what was looked up before
    yield folder
    manager.addfont(manager.ttflist[0].fname)
    manager.ttflist[:] = before


def write_chinese_font(file: Path) -> None:
    """Write a font with one letter, 视, which is a bar, under the name of one that people have."""
    pen = TTGlyphPen(None)
    for draw_to, at in ((pen.moveTo, (0, 0)), (pen.lineTo, (0, 900)), (pen.lineTo, (900, 900))):
        draw_to(at)
    pen.closePath()
    glyph, nothing = pen.glyph(), TTGlyphPen(None).glyph()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "bar"])
    builder.setupCharacterMap({ord("视"): "bar"})
    builder.setupGlyf({".notdef": nothing, "bar": glyph})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "bar": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Noto Sans CJK SC", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(file)


def drawn(folder: Path, name: str) -> bytes:
    folder.mkdir()
    rows = [("finished", 0.5, name), ("finished", 0.6, "a")]
    return next(draw(table_of(folder, ["model"], rows), folder)).read_bytes()


def test_chinese_is_drawn_with_a_font_that_has_it_and_not_complained_about_without(tmp_path: Path, fonts: Path) -> None:
    plain, without = drawn(tmp_path / "0", "b"), drawn(tmp_path / "1", "视")
    assert families() == ["DejaVu Sans"]
    write_chinese_font(fonts / "font.ttf")
    assert families() == ["DejaVu Sans", "Noto Sans CJK SC"]
    assert drawn(tmp_path / "2", "视") != without and drawn(tmp_path / "3", "b") == plain
