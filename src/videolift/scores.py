"""Figures of merit of class probabilities (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Probabilities = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
SMALLEST = 1e-7  # Keras's epsilon, so that the cross-entropy is the one it reports


@dataclass(frozen=True)
class ClassScore:
    """One row of the per-class table; NaN where a share of nothing is asked for."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


def summary(probabilities: Probabilities, labels: Labels) -> dict[str, float]:
    """Return cross-entropy, accuracy and, for more than five classes, top-5 accuracy.

    Args:
        probabilities: (sample, class).
        labels: (sample,), class index.
    """
    chosen = probabilities[np.arange(len(labels)), labels]
    values = {
        "loss": float(-np.log(np.clip(chosen, SMALLEST, 1)).mean()),
        "accuracy": top_k(probabilities, labels, 1),
    }
    if probabilities.shape[1] > 5:
        values["top5_accuracy"] = top_k(probabilities, labels, 5)
    return values


def top_k(probabilities: Probabilities, labels: Labels, k: int) -> float:
    """Return the share of samples whose label is among the k most probable classes; ties go to the lower index."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((best == labels[:, np.newaxis]).any(axis=1).mean())


def confusion(predicted: Labels, labels: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Return int64 (true class, predicted class)."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def per_class(matrix: npt.NDArray[np.int64], names: Sequence[str]) -> list[ClassScore]:
    """Return precision, recall, F1 and support of each class from its confusion matrix."""
    hits = np.diag(matrix).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = hits / matrix.sum(axis=0), hits / matrix.sum(axis=1)
        f1 = 2 * hits / (matrix.sum(axis=0) + matrix.sum(axis=1))
    return [
        ClassScore(name, float(precision[i]), float(recall[i]), float(f1[i]), int(matrix[i].sum()))
        for i, name in enumerate(names)
    ]


def mean_by_video(probabilities: Probabilities, videos: Sequence[str]) -> tuple[list[str], Probabilities, Labels]:
    """Average the windows of each video.

    Returns:
        The videos in order of first appearance, their mean probabilities (video, class), and the index of each one's
        first sample.
    """
    names, first, inverse = np.unique(np.array(videos, np.str_), return_index=True, return_inverse=True)
    sums = np.zeros((len(names), probabilities.shape[1]))
    np.add.at(sums, inverse, probabilities)
    means = sums / np.bincount(inverse)[:, np.newaxis]
    order = np.argsort(first)
    return [str(n) for n in names[order]], means[order], first[order]
