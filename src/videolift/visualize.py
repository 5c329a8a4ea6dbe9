"""The visualize stage: pictures where people would rather look than read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from videolift.files import ALL_MEMBERS, EVALUATION_FILE, HISTORY_FILE, MODEL_FILE
from videolift.fonts import families
from videolift.job import Job
from videolift.layers import refuse_units_beyond
from videolift.parts import INDEX_FILE, Entry, Pixels, Rows, read_index
from videolift.plan import SOURCE_FOLDER
from videolift.samples import Samples, load_samples
from videolift.settings import NETWORK_PICTURES
from videolift.sheets import Line, save, save_moving, save_sheets

if TYPE_CHECKING:  # Keras takes seconds to start, and the quick pictures do without
    from videolift.opened import Answer, Opened

SHEET_CLASSES = 20  # a sheet
CLIPS_A_CLASS = 2
LOOKED_AT = 256  # test clips that tell which units of a layer say something
MATRIX_NUMBERS = 20  # classes up to which a confusion matrix shows its numbers


def run(job: Job) -> None:
    """Draw the pictures that were asked for. What does not fit the network is told before the first one."""
    plt.rcParams["font.family"] = families()
    pictures = job.plan.visualize.pictures or []
    drawing: dict[str, Callable[[], list[str]]] = {
        "contact_sheet": lambda: _contact_sheets(job),
        "learning_curves": lambda: _learning_curves(job),
        "confusion_matrix": lambda: _confusion_matrix(job),
    }
    if set(pictures) & set(NETWORK_PICTURES):
        drawing |= _of_the_network(job, [name for name in pictures if name in NETWORK_PICTURES])
    wanted = [name for name in pictures if name in drawing]
    for number, name in enumerate(wanted, start=1):
        job.stop.check()
        for file in drawing[name]():
            job.events.artifact(file, "pictures")
        job.events.progress(number, len(wanted), unit="pictures")


def _contact_sheets(job: Job) -> list[str]:
    arrays, classes = job.workspace.channel("arrays"), job.manifest.classes
    chosen = _sheet_entries(read_index(arrays / INDEX_FILE), len(classes))
    rows = Rows(arrays)
    lines = [Line(classes[number], rows.of(entry)[0]) for number, clips in chosen.items() for entry in clips]
    return save_sheets(lines, job.workspace.output, "contact_sheet", lines_a_sheet=SHEET_CLASSES * CLIPS_A_CLASS)


def _sheet_entries(entries: Sequence[Entry], classes: int) -> dict[int, list[Entry]]:
    found: dict[int, list[Entry]] = {n: [] for n in range(classes)}
    for entry in entries:
        if entry.stop > entry.start and len(found[entry.label]) < CLIPS_A_CLASS:
            found[entry.label].append(entry)
    return {n: clips for n, clips in found.items() if clips}


def _learning_curves(job: Job) -> list[str]:
    history = json.loads((job.workspace.channel("training") / HISTORY_FILE).read_text(encoding="utf-8"))
    return [save(learning_curves(history), job.workspace.output / "learning_curves.png")]


def _confusion_matrix(job: Job) -> list[str]:
    evaluation = json.loads((job.workspace.channel("evaluation") / EVALUATION_FILE).read_text(encoding="utf-8"))
    return [save(confusion_matrix(evaluation), job.workspace.output / "confusion_matrix.png")]


def _of_the_network(job: Job, pictures: Sequence[str]) -> dict[str, Callable[[], list[str]]]:
    """Return how to draw those pictures of the network that this one allows; the others are told.

    Raises:
        ConfigError: if it has no such layer or unit.
    """
    from videolift.models import load_network
    from videolift.opened import Closed, Opened

    source = job.workspace.channel("plan") / SOURCE_FOLDER
    try:
        network = Opened(load_network(job.workspace.channel("model") / MODEL_FILE, job.plan.model.builder, source))
    except Closed as reason:
        job.events.message(f"not drawn: {', '.join(pictures)}: {reason}", "warning")
        return {}
    drawing = {}
    for name, prepared in (("gradcam", _gradcam), ("maximize", _maximize), ("embedding", _embedding)):
        if name not in pictures:
            continue
        try:
            drawing[name] = prepared(job, network)
        except Closed as reason:
            job.events.message(f"not drawn: {name}: {reason}", "warning")
    return drawing


def _gradcam(job: Job, network: Opened) -> Callable[[], list[str]]:
    from videolift.gradcam import heat_maps

    asked = job.plan.visualize.layer
    answer = network.answer(asked) if asked else network.last_map()
    if not answer.has_places:
        answer = network.last_map()
        job.events.message(f"gradcam: {asked} does not tell places, so {answer.name} is taken")

    def draw() -> list[str]:
        test, classes = load_samples(job.workspace.channel("arrays"), job.manifest)["test"], job.manifest.classes
        lines: list[Line] = []
        for samples in _one_a_class(test, job.plan.model.batch):
            job.stop.check()
            clips = test.source.gather(test.rows[samples])
            heat, probabilities = heat_maps(network, answer, clips)
            for clip, label, warm, row in zip(clips, test.labels[samples], heat, probabilities, strict=True):
                seen = int(row.argmax())
                said = classes[label] if seen == label else f"{classes[label]}\nseen: {classes[seen]}"
                lines.append(Line(f"{said}\n{row[seen]:.2f}", clip, warm))
        return save_sheets(lines, job.workspace.output, _file("gradcam", answer), lines_a_sheet=SHEET_CLASSES)

    return draw


def _one_a_class(samples: Samples, batch: int) -> list[list[int]]:
    """Return the first sample of every class, in batches."""
    first: dict[int, int] = {}
    for number, label in enumerate(samples.labels.tolist()):
        first.setdefault(label, number)
    chosen = [first[label] for label in sorted(first)]
    return [chosen[start : start + batch] for start in range(0, len(chosen), batch)]


def _maximize(job: Job, network: Opened) -> Callable[[], list[str]]:
    from videolift.maximize import liveliest, maximize

    answer, asked = network.answer(job.plan.visualize.layer), job.plan.visualize.units
    refuse_units_beyond(answer.name, answer.units, asked or [])

    def draw() -> list[str]:
        units = asked or liveliest(network, answer, _some_test_clips(job))
        found = maximize(network, answer, units, job.plan.seed, job.stop.check)
        lines = [Line(f"unit {unit}", pixels) for unit, pixels in zip(units, found.pixels, strict=True)]
        output, name = job.workspace.output, _file("maximize", answer)
        sheets = save_sheets(lines, output, name, numbers=found.frames)
        return [*sheets, save_moving(lines, output / f"{name}.gif")] if len(found.frames) > 1 else sheets

    return draw


def _some_test_clips(job: Job) -> Iterator[Pixels]:
    """Yield batches of test clips, evenly taken."""
    test = load_samples(job.workspace.channel("arrays"), job.manifest)["test"]
    order = np.unique(np.linspace(0, len(test) - 1, min(len(test), LOOKED_AT)).astype(int))
    for clips, _ in test.batches(job.plan.model.batch, order):
        job.stop.check()
        yield clips


def _embedding(job: Job, network: Opened) -> Callable[[], list[str]]:
    from videolift.embedding import embed, scatter

    network.features()

    def draw() -> list[str]:
        test = load_samples(job.workspace.channel("arrays"), job.manifest)["test"]
        found = embed(network, test, job.plan.model.batch, job.stop.check)
        return [save(scatter(found, job.manifest.classes), job.workspace.output / "embedding.png")]

    return draw


def _file(picture: str, answer: Answer) -> str:
    """Return a file name that tells the layer, which may be one inside of another."""
    return f"{picture}_{answer.name.replace('/', '-')}"


def learning_curves(history: dict[str, Any]) -> Figure:
    """Draw loss and accuracy of the training and the validation set against the epoch, or an ensemble's members."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    epochs = range(1, len(history["history"]) + 1)
    for axis, key in zip(axes, ("loss", "accuracy"), strict=True):
        for name, label in ((key, "train"), (f"val_{key}", "validation")):
            values = [metrics.get(name) for metrics in history["history"]]
            if None not in values:
                axis.plot(epochs, values, marker=".", label=label)
        if history["chosen_by"] == ALL_MEMBERS:
            axis.set_xlabel("members averaged")
        else:
            taken = f"epoch taken ({history['chosen_by']})"
            axis.axvline(history["chosen_epoch"], color="gray", linestyle=":", label=taken)
            axis.set_xlabel("epoch")
        axis.set_ylabel(key)
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[1].set_ylim(0, 1.02)
    if axes[0].lines:
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
