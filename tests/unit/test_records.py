"""What a member of an ensemble says goes by its own name."""

from __future__ import annotations

from typing import Any

import pytest

from launchers.records import StageRecord


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ({"type": "metric", "key": "val_loss"}, {"key": "train-2/val_loss"}),
        # MLflow shows what is below system/ on a page of its own.
        ({"type": "metric", "key": "system/train/cpu"}, {"key": "system/train-2/cpu"}),
        ({"type": "metric", "key": "system/train/algo-1/cpu"}, {"key": "system/train-2/algo-1/cpu"}),
        ({"type": "tag", "key": "epoch"}, {"key": "train-2.epoch"}),
        ({"type": "artifact", "folder": "training"}, {"folder": "train-2/training"}),
    ],
)
def test_what_a_member_says_goes_by_its_name(event: dict[str, Any], told: dict[str, str]) -> None:
    said = {**event, "stage": "train"}
    assert StageRecord("train-2", "id", "folder").as_told(said) == {**said, **told, "stage": "train-2"}
    assert StageRecord("train", "id", "folder").as_told(said) == said
