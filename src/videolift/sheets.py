"""Pictures made of a clip's frames: sheets with a line a clip, and the same side by side, moving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SHEET_FRAMES = 12  # of a clip, at most
SHEET_LINES = 40  # a sheet
DPI = 120
HEAT = 0.65  # how much of the hottest place its colour covers
ROW_UNITS = 4  # moving pictures side by side
FRAMES_PER_SECOND = 5
MOVING_DPI = 80


@dataclass(frozen=True)
class Line:
    """One line of a sheet.

    ``pixels`` uint8 (frame, height, width, channel). ``heat`` 0..1 (frame, height, width), laid over them.
    """

    name: str
    pixels: npt.NDArray[np.uint8]
    heat: npt.NDArray[np.float32] | None = None


def save(figure: Figure, file: Path) -> str:
    """Write a figure, free it, and return the file's name."""
    figure.savefig(file, dpi=DPI)
    plt.close(figure)
    return file.name


def save_sheets(
    lines: Sequence[Line],
    folder: Path,
    name: str,
    *,
    lines_a_sheet: int = SHEET_LINES,
    numbers: Sequence[int] | None = None,
) -> list[str]:
    """Write ``NAME.png``, or with more lines than fit ``NAME_1.png``, ``NAME_2.png``, ..., and return their names.

    Args:
        numbers: of the frames, where these are not all of a clip.
    """
    firsts = range(0, len(lines), lines_a_sheet)
    names = [name] if len(firsts) == 1 else [f"{name}_{number}" for number in range(1, len(firsts) + 1)]
    return [
        save(sheet(lines[first : first + lines_a_sheet], numbers), folder / f"{one}.png")
        for one, first in zip(names, firsts, strict=True)
    ]


def sheet(lines: Sequence[Line], numbers: Sequence[int] | None = None) -> Figure:
    """Draw clips, one a line, with the numbers of their frames above."""
    depth, height, width, _ = lines[0].pixels.shape
    frames = np.unique(np.linspace(0, depth - 1, min(depth, SHEET_FRAMES)).astype(int))
    figure, axes = plt.subplots(
        len(lines),
        len(frames),
        figsize=(1.6 + 0.8 * len(frames), (0.8 * height / width + 0.06) * len(lines) + 0.3),
        squeeze=False,
        layout="constrained",
    )
    for places, line in zip(axes, lines, strict=True):
        for axis, frame in zip(places, frames, strict=True):
            _show(axis, line, frame)
        places[0].set_ylabel(line.name, rotation=0, ha="right", va="center", fontsize=9)
    for axis, frame in zip(axes[0], frames, strict=True):
        axis.set_title(f"{numbers[frame] if numbers else frame}", fontsize=8)
    return figure


def save_moving(lines: Sequence[Line], file: Path) -> str:
    """Write clips side by side as one animated GIF, and return its name."""
    columns = min(ROW_UNITS, len(lines))
    rows = -(-len(lines) // columns)
    depth, height, width, _ = lines[0].pixels.shape
    figure, axes = plt.subplots(
        *(rows, columns),
        figsize=(1.3 * columns, (1.3 * height / width + 0.2) * rows),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(lines) :]:
        axis.set_axis_off()
    images = [_show(axis, line, 0) for axis, line in zip(axes.flat, lines, strict=False)]
    for axis, line in zip(axes.flat, lines, strict=False):
        axis.set_title(line.name, fontsize=8)
    writer = PillowWriter(fps=FRAMES_PER_SECOND)
    with writer.saving(figure, str(file), MOVING_DPI):
        for frame in range(depth):
            for image, line in zip(images, lines, strict=True):
                image.set_data(line.pixels[frame].squeeze())
            writer.grab_frame()
    plt.close(figure)
    return file.name


def _show(axis: Axes, line: Line, frame: int) -> matplotlib.image.AxesImage:
    image = axis.imshow(line.pixels[frame].squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    if line.heat is not None:
        heat = line.heat[frame]
        axis.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=HEAT * heat, interpolation="bilinear")
    axis.set_xticks([])
    axis.set_yticks([])
    return image
