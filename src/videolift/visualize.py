"""The visualize stage: pictures where people would rather look than read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from videolift.files import EVALUATION_FILE, HISTORY_FILE
from videolift.fonts import families
from videolift.job import Job
from videolift.manifest import Manifest
from videolift.parts import INDEX_FILE, Entry, Rows, read_index

SHEET_FRAMES = 12  # of a clip, at most
SHEET_CLASSES = 20  # a sheet
CLIPS_A_CLASS = 2
MATRIX_NUMBERS = 20  # classes up to which a confusion matrix shows its numbers
DPI = 120


def run(job: Job) -> None:
    """Draw contact sheets, learning curves and the confusion matrix."""
    plt.rcParams["font.family"] = families()
    output, events = job.workspace.output, job.events
    drawn = _contact_sheets(job.workspace.channel("arrays"), job.manifest, output)
    history = json.loads((job.workspace.channel("training") / HISTORY_FILE).read_text(encoding="utf-8"))
    drawn.append(_save(learning_curves(history), output / "learning_curves.png"))
    evaluation = json.loads((job.workspace.channel("evaluation") / EVALUATION_FILE).read_text(encoding="utf-8"))
    drawn.append(_save(confusion_matrix(evaluation), output / "confusion_matrix.png"))
    for number, name in enumerate(drawn, start=1):
        events.artifact(name, "pictures")
        events.progress(number, len(drawn), unit="pictures")


def _save(figure: Figure, file: Path) -> str:
    figure.savefig(file, dpi=DPI)
    plt.close(figure)
    return file.name


def _contact_sheets(arrays: Path, manifest: Manifest, output: Path) -> list[str]:
    chosen = _sheet_entries(read_index(arrays / INDEX_FILE), len(manifest.classes))
    rows = Rows(arrays)
    names = []
    for first in range(0, len(chosen), SHEET_CLASSES):
        numbers = list(chosen)[first : first + SHEET_CLASSES]
        clips = [(manifest.classes[n], e.clip, rows.of(e)[0]) for n in numbers for e in chosen[n]]
        name = (
            "contact_sheet.png" if len(chosen) <= SHEET_CLASSES else f"contact_sheet_{first // SHEET_CLASSES + 1}.png"
        )
        names.append(_save(contact_sheet(clips), output / name))
    return names


def _sheet_entries(entries: Sequence[Entry], classes: int) -> dict[int, list[Entry]]:
    found: dict[int, list[Entry]] = {n: [] for n in range(classes)}
    for entry in entries:
        if entry.stop > entry.start and len(found[entry.label]) < CLIPS_A_CLASS:
            found[entry.label].append(entry)
    return {n: clips for n, clips in found.items() if clips}


def contact_sheet(clips: Sequence[tuple[str, str, npt.NDArray[np.uint8]]]) -> Figure:
    """Draw the frames that the network sees.

    Args:
        clips: class name, clip id and uint8 (frame, height, width, channel) of each row of the sheet.
    """
    depth, height, width, _ = clips[0][2].shape
    frames = np.unique(np.linspace(0, depth - 1, min(depth, SHEET_FRAMES)).astype(int))
    figure, axes = plt.subplots(
        len(clips),
        len(frames),
        figsize=(1.6 + 0.8 * len(frames), (0.8 * height / width + 0.06) * len(clips) + 0.3),
        squeeze=False,
        layout="constrained",
    )
    for line, (name, _, pixels) in zip(axes, clips, strict=True):
        for axis, frame in zip(line, frames, strict=True):
            axis.imshow(pixels[frame].squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for axis, frame in zip(axes[0], frames, strict=True):
        axis.set_title(f"{frame}", fontsize=8)
    return figure


def learning_curves(history: dict[str, Any]) -> Figure:
    """Draw loss and accuracy of the training and the validation set against the epoch."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    epochs = range(1, len(history["history"]) + 1)
    for axis, key in zip(axes, ("loss", "accuracy"), strict=True):
        for name, label in ((key, "train"), (f"val_{key}", "validation")):
            values = [metrics.get(name) for metrics in history["history"]]
            if None not in values:
                axis.plot(epochs, values, marker=".", label=label)
        axis.axvline(
            history["chosen_epoch"], color="gray", linestyle=":", label=f"epoch taken ({history['chosen_by']})"
        )
        axis.set_xlabel("epoch")
        axis.set_ylabel(key)
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[1].set_ylim(0, 1.02)
    axes[0].legend()
    return figure


def confusion_matrix(evaluation: dict[str, Any]) -> Figure:
    """Draw shares of each true class, with counts where there is room for them."""
    counts = np.array(evaluation["confusion"])
    names = evaluation["classes"]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(4.5, 0.42 * min(len(names), 40) + 2)
    figure, axis = plt.subplots(figsize=(side + 0.8, side), layout="constrained")
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 9 if len(names) <= MATRIX_NUMBERS else 5
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=size)
    axis.set_yticks(range(len(names)), names, fontsize=size)
    if len(names) <= MATRIX_NUMBERS:
        for (true, predicted), count in np.ndenumerate(counts):
            color = "white" if shares[true, predicted] > 0.5 else "black"
            axis.text(predicted, true, str(count), ha="center", va="center", fontsize=9, color=color)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_title(f"{evaluation['videos']} test videos, accuracy {evaluation['metrics']['test_video_accuracy']:.3f}")
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    return figure
