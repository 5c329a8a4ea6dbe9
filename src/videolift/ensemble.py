"""The train stage of an ensemble: networks that were trained apart become one, which averages their probabilities.

It is the ``3dcnn_ensemble.py`` of github.com/kcct-fujimotolab/3DCNN, whose members see the same clips in another order
from other weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers

from videolift.files import ALL_MEMBERS, HISTORY_FILE, MODEL_FILE
from videolift.job import Job
from videolift.loadable import refuse_unloadable
from videolift.model_folder import write_model_folder
from videolift.models import load_builder
from videolift.plan import MEMBER_CHANNEL, SOURCE_FOLDER
from videolift.samples import Samples, load_samples
from videolift.scores import Probabilities
from videolift.settings import Model
from videolift.sysmetrics import sampled


def run(job: Job) -> None:
    """Put the members together, and tell how the average gets better on the validation set with every one of them."""
    model, workspace = job.plan.model, job.workspace
    if model.builder:  # registers its own layers with Keras
        load_builder(model.builder, workspace.channel("plan") / SOURCE_FOLDER)
    folders = [workspace.channel(MEMBER_CHANNEL.format(number)) for number in range(1, model.members + 1)]
    members = [_load(folder) for folder in folders]
    val = load_samples(workspace.channel("arrays"), job.manifest)["val"]
    with sampled(job):
        history = _history(job, members, val)
    network = average(members)
    refuse_unloadable(network, model, workspace.channel("plan") / SOURCE_FOLDER, workspace.scratch)
    job.events.metric("parameters", network.count_params())
    if len(val):
        job.events.metrics(history[-1])
        one, all_of_them = (metrics["val_accuracy"] for metrics in (history[0], history[-1]))
        job.events.message(f"validation accuracy {one:.3f} of the first member, {all_of_them:.3f} of all averaged")
    write_model_folder(job, network)
    told = {"history": history, "chosen_epoch": model.members, "chosen_by": ALL_MEMBERS}
    (workspace.output / HISTORY_FILE).write_text(json.dumps(told, indent=1), encoding="utf-8")
    job.events.artifact(HISTORY_FILE, "training")


def average(members: Sequence[keras.Model]) -> keras.Model:
    """Return the network whose probabilities are the mean of its members', which are layers of it: member_1, member_2.

    Its input is that of the first one.
    """
    (given,) = members[0].inputs
    clip = keras.Input(given.shape[1:], dtype=given.dtype, name="clip")
    for number, member in enumerate(members, start=1):
        member.name = MEMBER_CHANNEL.format(number)
    mean = layers.Average(dtype="float32", name="class")
    return keras.Model(clip, mean([member(clip) for member in members]), name="ensemble")


def _load(folder: Path) -> keras.Model:
    return keras.saving.load_model(folder / MODEL_FILE, compile=False)


def _history(job: Job, members: Sequence[keras.Model], val: Samples) -> list[dict[str, float]]:
    """Return loss and accuracy of the first member, of the first two averaged, and so on, without a set none."""
    history: list[dict[str, float]] = []
    total: Probabilities | float = 0.0
    for number, member in enumerate(members, start=1):
        metrics = {}
        if len(val):
            total = total + _probabilities(job, member, val)
            metrics = _metrics(total / number, val, job.plan.model)
            job.events.metrics({f"members/{key}": value for key, value in metrics.items()}, step=number)
        history.append(metrics)
        job.events.progress(number, len(members), unit="members")
    return history


def _probabilities(job: Job, member: keras.Model, samples: Samples) -> Probabilities:
    found = []
    for clips, _ in samples.batches(min(job.plan.model.batch, len(samples))):
        job.stop.check()
        found.append(np.asarray(member(clips, training=False), np.float64))
    return np.concatenate(found)


def _metrics(probabilities: Probabilities, samples: Samples, model: Model) -> dict[str, float]:
    one_hot = np.eye(samples.classes, dtype=np.float32)[samples.labels]
    loss = keras.losses.get(model.loss)(one_hot, probabilities.astype(np.float32))
    accuracy = (probabilities.argmax(axis=1) == samples.labels).mean()
    return {"val_loss": float(np.mean(loss)), "val_accuracy": float(accuracy)}
