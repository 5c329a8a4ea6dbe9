"""What a run has reached: the numbers by which the children of a sweep are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from launchers.config import SCRIPT
from launchers.mlflow_store import events_of, name_of, newest, point_of
from launchers.records import RunRecord, StageRecord

CHOSEN_EPOCH = "chosen_epoch"  # the train stage's metric that tells whose weights are kept
SHOWN = ("loss", "accuracy", "val_loss", "val_accuracy", "test_accuracy", "test_video_accuracy")


@dataclass(frozen=True)
class Measured:
    """What a run has reached; numbers that are not finite are left out."""

    value: float | None = None  # of the metric asked for
    epoch: int | None = None  # whose weights are kept
    metrics: dict[str, float] = field(default_factory=dict)  # at that epoch, and of the test set


def measure(run: RunRecord, metric: str) -> Measured:
    """Return a run's value of a metric, at the epoch whose weights are kept where it has one an epoch."""
    told = _values(run.stages)
    chosen = _value(told, CHOSEN_EPOCH, None)
    epoch = None if chosen is None else int(chosen)
    if epoch is None and any(stage.name == SCRIPT for stage in run.stages):
        epoch = max(told.get(name_of(metric), {}), default=None)  # which weights a script keeps is not known
    metrics = {key: value for key in SHOWN if (value := _value(told, key, epoch)) is not None}
    return Measured(_value(told, name_of(metric), epoch), epoch, metrics)


def last_values(stage: StageRecord) -> dict[str, tuple[int, float]]:
    """Return key -> (last step, value) of what a stage told, without what is measured of the machine."""
    told = _values([stage])
    return {key: (max(steps), steps[max(steps)]) for key, steps in told.items() if "/" not in key}


def _values(stages: Sequence[StageRecord]) -> dict[str, dict[int, float]]:
    """Return key -> step -> newest value of every metric that stages told."""
    points = (point_of(event) for stage in stages for event, _ in events_of(stage) if event["type"] == "metric")
    found: dict[str, dict[int, float]] = {}
    for point in newest(points):
        found.setdefault(point.key, {})[point.step] = point.value
    return found


def _value(told: dict[str, dict[int, float]], key: str, epoch: int | None) -> float | None:
    """Return the value at an epoch; of a metric that was told once, without an epoch, that one."""
    steps = told.get(key, {})
    value = steps.get(0) if steps.keys() == {0} else steps.get(epoch) if epoch is not None else None
    return value if value is not None and math.isfinite(value) else None
