"""How a network sees the test set: what its last layer decides by, in two dimensions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from videolift.opened import Opened
from videolift.samples import Samples

CLIPS = 2000  # at most, evenly taken: more are not told apart in a picture
NUMBERS = 50_000_000  # features of all clips: 200 MB
LEGEND_CLASSES = 20  # with more, each name stands where its clips are


@dataclass(frozen=True)
class Embedding:
    """``points`` (clip, 2), ``labels`` (clip,), ``right`` (clip,): whether it was recognised; shares of variance."""

    points: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    right: npt.NDArray[np.bool_]
    shares: tuple[float, float]


def embed(network: Opened, test: Samples, batch: int, step: Callable[[], None] = lambda: None) -> Embedding:
    """Compute the features of the test set and their two principal components.

    Args:
        step: is called before every batch.
    """
    features = network.features()
    model = network.until(features, *network.decisive)
    size = int(np.prod(features.shape[1:]))
    count = min(len(test), CLIPS, max(2, NUMBERS // size))
    chosen = np.unique(np.linspace(0, len(test) - 1, count).astype(int))
    some = replace(test, rows=test.rows[chosen], labels=test.labels[chosen], clips=[test.clips[i] for i in chosen])
    found, seen = [], []
    for clips, _ in some.batches(batch):
        step()
        given, *decisive = model(clips.astype(np.float32), training=False)
        found.append(given.numpy().reshape(len(clips), -1))
        seen.append(network.probabilities(decisive).numpy().argmax(axis=-1))
    points, shares = principal_components(np.concatenate(found))
    return Embedding(points, some.labels, np.concatenate(seen) == some.labels, shares)


def principal_components(features: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], tuple[float, float]]:
    """Return the places of (point, feature) along the two directions of most variance, and their shares of it."""
    centered = features - features.mean(axis=0)
    left, lengths, _ = np.linalg.svd(centered, full_matrices=False)
    points = np.zeros((len(features), 2))
    points[:, : len(lengths)] = (left * lengths)[:, :2]
    signs = np.sign(points[np.abs(points).argmax(axis=0), range(2)])  # a direction and its opposite are one component
    variance = np.square(np.append(lengths, [0.0, 0.0]))
    shares = variance[:2] / max(variance.sum(), np.finfo(float).tiny)
    return points * np.where(signs == 0, 1, signs), (float(shares[0]), float(shares[1]))


def scatter(embedding: Embedding, classes: tuple[str, ...]) -> Figure:
    """Draw a point a clip, coloured by its class; a cross is one that was not recognised."""
    few = len(classes) <= LEGEND_CLASSES
    colors = plt.get_cmap("tab10" if len(classes) <= 10 else "tab20" if few else "gist_rainbow")
    figure, axis = plt.subplots(figsize=(9 if few else 10, 6.5 if few else 9), layout="constrained")
    for number, name in enumerate(classes):
        mine = embedding.labels == number
        if not mine.any():
            continue
        color = colors(number) if few else colors(number / len(classes))
        for marker, which in (("o", embedding.right), ("x", ~embedding.right)):
            x, y = embedding.points[mine & which].T
            axis.scatter(x, y, s=28, marker=marker, color=[color], alpha=0.75)
        if few:
            axis.scatter([], [], s=28, color=[color], label=name)
        else:
            middle = np.median(embedding.points[mine], axis=0)
            axis.annotate(name, middle, ha="center", va="center", fontsize=7)
    if few:
        if not embedding.right.all():
            axis.scatter([], [], s=28, marker="x", color="black", label="not recognised")
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.set_xlabel(f"principal component 1, {embedding.shares[0]:.0%} of the variance")
    axis.set_ylabel(f"principal component 2, {embedding.shares[1]:.0%} of the variance")
    axis.set_title(f"{len(embedding.labels)} test clips as the last dense layer is given them")
    axis.grid(alpha=0.3)
    return figure
