from __future__ import annotations

import math

import numpy as np

from videolift.scores import confusion, mean_by_video, per_class, summary, top_k

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]])
LABELS = np.array([0, 0, 2, 1])


def test_accuracy_and_loss_by_hand() -> None:
    values = summary(PROBABILITIES, LABELS)
    assert values["accuracy"] == 0.5
    assert math.isclose(values["loss"], -np.log([0.7, 0.4, 0.7, 0.3]).mean())
    assert "top5_accuracy" not in values


def test_a_label_counts_as_found_among_the_k_most_probable() -> None:
    assert top_k(PROBABILITIES, LABELS, 2) == 1.0
    assert summary(np.eye(7)[[0, 1]], np.array([0, 6]))["top5_accuracy"] == 0.5


def test_a_sure_mistake_has_a_finite_loss() -> None:
    assert math.isfinite(summary(np.array([[1.0, 0.0]]), np.array([1]))["loss"])


def test_confusion_and_per_class_table_by_hand() -> None:
    matrix = confusion(PROBABILITIES.argmax(axis=1), LABELS, 3)
    assert matrix.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 1]]
    rows = per_class(matrix, ["a", "b", "c"])
    assert (rows[0].precision, rows[0].recall, rows[0].f1, rows[0].support) == (0.5, 0.5, 0.5, 2)
    assert (rows[2].f1, rows[2].support) == (1.0, 1)


def test_a_class_without_test_clips_has_no_recall() -> None:
    rows = per_class(np.array([[2, 0], [0, 0]]), ["a", "b"])
    assert math.isnan(rows[1].recall) and rows[1].support == 0


def test_windows_of_a_video_are_averaged_in_order_of_appearance() -> None:
    names, means, first = mean_by_video(PROBABILITIES, ["v", "b", "v", "b"])
    assert names == ["v", "b"]
    np.testing.assert_allclose(means[0], [0.4, 0.2, 0.4])
    assert first.tolist() == [0, 1]
