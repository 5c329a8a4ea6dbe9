"""The train stage: arrays become a model."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow: its start-up lines would drown ours

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from videolift import checkpoint
from videolift.checkpoint import Progress
from videolift.cluster import follow, leader_of, leading
from videolift.errors import TrainingError
from videolift.files import CLASSES_FILE, HISTORY_FILE, MODEL_FILE, RESULT_FILE, SETTINGS_FILE
from videolift.job import Job
from videolift.models import build
from videolift.parts import frame_shape
from videolift.plan import SOURCE_FOLDER, to_plain
from videolift.provenance import library_versions
from videolift.samples import Samples, load_samples, shuffled
from videolift.settings import Model, Precision, Select
from videolift.sysmetrics import sampled

PROGRESS_INTERVAL_S = 0.5


def run(job: Job) -> None:
    """Train on the first host; the others, if there are any, are with it to the end and write nothing."""
    hosts = job.workspace.hosts
    if len(hosts) == 1:
        _train(job)
    elif job.workspace.host != leader_of(hosts):
        follow(hosts, job.workspace.host, job.stop)
    else:
        with leading(hosts, job.stop) as met:
            job.events.metric("hosts", met)
            job.events.message(
                f"training runs on {leader_of(hosts)} only: it is not divided among hosts yet; {met} hosts are "
                "paid for the work of one",
                "warning",
            )
            _train(job)


def _train(job: Job) -> None:
    """Train from the newest checkpoint, or from the start, and write model, classes, history and the results table."""
    samples = load_samples(job.workspace.channel("arrays"), job.manifest)
    train, val = samples["train"], samples["val"]
    _refuse_empty(train, job)
    network = _network(job)
    compile_network(network, job.plan.model)
    job.workspace.checkpoints.mkdir(parents=True, exist_ok=True)  # the service gives it only to jobs that ask for it
    progress = checkpoint.restore(job.workspace.checkpoints, network)
    if progress.epoch:
        job.events.message(f"goes on after epoch {progress.epoch} of {job.plan.model.epoch}")
    with sampled(job):
        _fit(job, network, progress, train, val)
    _write_results(job, network, progress)


def _refuse_empty(train: Samples, job: Job) -> None:
    counts = np.bincount(train.labels, minlength=train.classes)
    empty = [name for name, count in zip(job.manifest.classes, counts, strict=True) if not count]
    if empty:
        raise TrainingError(
            f"no training sample of {', '.join(empty[:5])} is left after preprocessing; see the clips' errors and "
            "policies in the index, or use preprocess.short_video=pad"
        )


def _network(job: Job) -> keras.Model:
    plan = job.plan
    keras.utils.set_random_seed(plan.seed)
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()  # costs nothing on a CPU, and runs can be compared
    keras.mixed_precision.set_global_policy(
        Precision.float32.value if plan.model.precision is Precision.auto else plan.model.precision.value
    )
    source = job.workspace.channel("plan") / SOURCE_FOLDER
    network = build(plan.model, frame_shape(plan.preprocess), len(job.manifest.classes), source)
    network.summary(print_fn=lambda line, **_: print(line, flush=True))
    job.events.metric("parameters", network.count_params())
    return network


def compile_network(network: keras.Model, model: Model) -> None:
    """Compile with the optimizer, loss and metrics of the settings."""
    optimizer = keras.optimizers.get(model.optimizer)
    if model.learning_rate is not None:
        optimizer.learning_rate = model.learning_rate
    # XLA hangs for minutes on Conv3D on a CPU.
    network.compile(optimizer, keras.losses.get(model.loss), metrics=["accuracy"], jit_compile=False)
    network.optimizer.build(network.trainable_variables)


def _fit(job: Job, network: keras.Model, progress: Progress, train: Samples, val: Samples) -> None:
    model, events = job.plan.model, job.events
    batch = _fitting_batch(job, len(train))
    steps = train.steps(batch)
    watch = _Watch(job, steps)
    if model.early_stopping is not None and not len(val):
        events.message("model.early_stopping has no effect: there is no validation set", "warning")
    while progress.epoch < model.epoch and not _waited_enough(progress, model):
        job.stop.check()
        epoch = progress.epoch + 1
        watch.start(epoch)
        order = shuffled(len(train), job.plan.seed, epoch)
        started = time.monotonic()
        fitted = network.fit(dataset(train, batch, order), epochs=1, verbose=0, callbacks=[watch], shuffle=False)
        metrics = {key: float(values[-1]) for key, values in fitted.history.items()}
        metrics["samples_per_second"] = len(train) / (time.monotonic() - started)
        if len(val):
            seen = network.evaluate(dataset(val, batch), verbose=0, return_dict=True)
            metrics |= {f"val_{key}": float(value) for key, value in seen.items()}
        _refuse_divergence(metrics["loss"], epoch, model)
        if progress.add(metrics):
            checkpoint.save_best(job.workspace.checkpoints, network)
        checkpoint.save(job.workspace.checkpoints, network, progress)
        events.metrics(metrics, step=epoch)
        events.progress(epoch * steps, model.epoch * steps, unit="batches")
    if progress.epoch < model.epoch:
        events.message(f"stopped early: no better validation loss since epoch {progress.best_epoch}")


def dataset(samples: Samples, batch: int, order: npt.NDArray[np.int64] | None = None) -> tf.data.Dataset:
    """Stream batches: uint8 clips and one-hot labels, the next ones read while one is computed."""

    def batches() -> Iterator[Any]:
        yield from samples.batches(batch, order)

    shape = samples.source.gather(samples.rows[:1]).shape[1:]
    signature = (
        tf.TensorSpec((None, *shape), tf.uint8),
        tf.TensorSpec((None, samples.classes), tf.float32),
    )
    steps = samples.steps(batch)
    data = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return data.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)


def _fitting_batch(job: Job, count: int) -> int:
    batch = job.plan.model.batch
    if batch > count:
        job.events.message(f"model.batch={batch} is reduced to {count}, the number of training samples", "warning")
    return min(batch, count)


def _waited_enough(progress: Progress, model: Model) -> bool:
    return model.early_stopping is not None and progress.best_epoch > 0 and progress.waited >= model.early_stopping


def _refuse_divergence(loss: float, epoch: int, model: Model) -> None:
    if not math.isfinite(loss):
        rate = "the optimizer's default" if model.learning_rate is None else f"{model.learning_rate:g}"
        raise TrainingError(
            f"the loss became {loss} in epoch {epoch}; use a smaller model.learning_rate (now {rate}), "
            "or model.precision=float32. The last good epoch is in the checkpoint"
        )


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Looks after every batch: progress, stop requests, divergence."""

    def __init__(self, job: Job, steps: int) -> None:
        super().__init__()
        self._job = job
        self._steps = steps
        self._told = 0.0
        self._epoch = 1

    def start(self, epoch: int) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._job.stop.check()
        model = self._job.plan.model
        _refuse_divergence(float((logs or {}).get("loss", 0.0)), self._epoch, model)
        if time.monotonic() - self._told > PROGRESS_INTERVAL_S:
            self._told = time.monotonic()
            done = (self._epoch - 1) * self._steps + batch + 1
            self._job.events.progress(done, model.epoch * self._steps, unit="batches")


def _write_results(job: Job, network: keras.Model, progress: Progress) -> None:
    workspace, model = job.workspace, job.plan.model
    best = model.select is Select.best and progress.best_epoch > 0
    if best:
        checkpoint.restore_best(workspace.checkpoints, network)
    chosen = progress.best_epoch if best else progress.epoch
    job.events.metric("chosen_epoch", chosen)
    job.events.tag("epoch", f"{chosen} ({'lowest validation loss' if best else 'last'})")
    network.save(workspace.model / MODEL_FILE)
    (workspace.model / CLASSES_FILE).write_text("".join(f"{c}\n" for c in job.manifest.classes), encoding="utf-8")
    settings = {
        "preprocess": to_plain(job.plan.preprocess),
        "builder": model.builder,
        "versions": library_versions("train"),
    }
    if model.builder:  # its own layers are needed to load the model
        shutil.copytree(workspace.channel("plan") / SOURCE_FOLDER, workspace.model / SOURCE_FOLDER, dirs_exist_ok=True)
    (workspace.model / SETTINGS_FILE).write_text(json.dumps(settings, indent=1), encoding="utf-8")
    history = {"history": progress.history, "chosen_epoch": chosen, "chosen_by": "best" if best else "last"}
    (workspace.output / HISTORY_FILE).write_text(json.dumps(history, indent=1), encoding="utf-8")
    write_result_table(workspace.output / RESULT_FILE, progress.history)
    for name in (HISTORY_FILE, RESULT_FILE):
        job.events.artifact(name, "training")


def write_result_table(file: Path, history: list[dict[str, float]]) -> None:
    """Write the table of the original scripts: tab-separated, epochs from 0; ``nan`` without a validation set."""
    columns = ("loss", "accuracy", "val_loss", "val_accuracy")
    lines = ["epoch\tloss\tacc\tval_loss\tval_acc"]
    for epoch, metrics in enumerate(history):
        lines.append("\t".join([str(epoch), *(str(metrics.get(c, float("nan"))) for c in columns)]))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
