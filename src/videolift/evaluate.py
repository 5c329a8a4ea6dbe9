"""The evaluate stage: the test split is read once, here."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import astuple
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from videolift.errors import DataError
from videolift.files import EVALUATION_FILE, HISTORY_FILE, MODEL_FILE, PER_CLASS_FILE, PREDICTIONS_FILE
from videolift.job import Job
from videolift.models import load_network
from videolift.plan import SOURCE_FOLDER
from videolift.samples import Samples, load_samples
from videolift.scores import ClassScore, Labels, Probabilities, confusion, mean_by_video, per_class, summary
from videolift.sysmetrics import sampled
from videolift.train import dataset

PROGRESS_STEPS = 20  # events a pass over the test split


def run(job: Job) -> None:
    """Score the model on clips and, with several clips a video, on videos; write tables and metrics."""
    test = load_samples(job.workspace.channel("arrays"), job.manifest)["test"]
    if not len(test):
        raise DataError(
            "no test sample is left after preprocessing; see the clips' errors and policies in the index, "
            "or raise data.test_share"
        )
    source = job.workspace.channel("plan") / SOURCE_FOLDER
    network = load_network(job.workspace.channel("model") / MODEL_FILE, job.plan.model.builder, source)
    with sampled(job):
        probabilities = _predict(job, network, test)
    videos, video_probabilities, first = mean_by_video(probabilities, test.clips)
    video_labels = test.labels[first]
    matrices = {
        "clips": confusion(probabilities.argmax(axis=1), test.labels, test.classes),
        "videos": confusion(video_probabilities.argmax(axis=1), video_labels, test.classes),
    }
    tables = {level: per_class(matrix, job.manifest.classes) for level, matrix in matrices.items()}
    metrics = {f"test_{key}": value for key, value in summary(probabilities, test.labels).items()}
    metrics |= {f"test_video_{key}": v for key, v in summary(video_probabilities, video_labels).items()}
    if (leak_rate := job.manifest.leak_rate) is not None:
        metrics["test_leak_rate"] = leak_rate
    job.events.metrics(metrics)
    history = json.loads((job.workspace.channel("training") / HISTORY_FILE).read_text(encoding="utf-8"))
    _write(
        job,
        {
            "metrics": metrics,
            "samples": len(test),
            "videos": len(videos),
            "epoch": history["chosen_epoch"],
            "epoch_chosen_by": history["chosen_by"],
            "classes": list(job.manifest.classes),
            "confusion": matrices["videos"].tolist(),
            "confusion_clips": matrices["clips"].tolist(),
        },
        tables,
    )
    _write_predictions(job.workspace.output / PREDICTIONS_FILE, job, videos, video_probabilities, video_labels)
    for name in (EVALUATION_FILE, PER_CLASS_FILE, PREDICTIONS_FILE):
        job.events.artifact(name, "evaluation")


def _predict(job: Job, network: keras.Model, test: Samples) -> Probabilities:
    batch = min(job.plan.model.batch, len(test))
    steps = test.steps(batch)
    found = []
    for step, (clips, _) in enumerate(dataset(test, batch), start=1):
        job.stop.check()
        found.append(np.asarray(network(clips, training=False), np.float64))
        if step == steps or step % max(1, steps // PROGRESS_STEPS) == 0:
            job.events.progress(step, steps, unit="batches")
    return np.concatenate(found)


def _write(job: Job, evaluation: dict[str, Any], tables: dict[str, list[ClassScore]]) -> None:
    text = json.dumps(evaluation, indent=1, ensure_ascii=False)
    (job.workspace.output / EVALUATION_FILE).write_text(text, encoding="utf-8")
    with (job.workspace.output / PER_CLASS_FILE).open("w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["on", "class", "precision", "recall", "f1", "support"])
        for level, table in tables.items():
            writer.writerows((level, *astuple(row)) for row in table)


def _write_predictions(file: Path, job: Job, videos: list[str], probabilities: Probabilities, labels: Labels) -> None:
    classes = job.manifest.classes
    with file.open("w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["clip", "label", "predicted", "probability"])
        for video, row, label in zip(videos, probabilities, labels, strict=True):
            best = int(row.argmax())
            writer.writerow([video, classes[label], classes[best], f"{row[best]:.6f}"])
