"""The train stage: arrays become a model."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow: its start-up lines would drown ours

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras.layers import BatchNormalization

from videolift import checkpoint, distributed, ensemble
from videolift.augment import augmented
from videolift.checkpoint import Progress
from videolift.cluster import Met, following, leader_of, leading
from videolift.distributed import Replicas
from videolift.errors import TrainingError
from videolift.events import read
from videolift.files import HISTORY_FILE, RESULT_FILE
from videolift.job import Job
from videolift.layers import layers_in, refuse_missing_layers
from videolift.loadable import refuse_unloadable
from videolift.model_folder import write_model_folder
from videolift.models import build
from videolift.parts import frame_shape
from videolift.plan import SOURCE_FOLDER
from videolift.samples import Samples, load_samples, shuffled, slots_of
from videolift.settings import Model, Precision, Select, resolved_optimizer
from videolift.sysmetrics import sampled

PROGRESS_INTERVAL_S = 0.5


def run(job: Job) -> None:
    """Train on all replicas of all hosts; the first host alone tells of it and writes the results."""
    if job.plan.model.members > 1:  # they are trained already
        ensemble.run(job)
        return
    hosts, host = job.workspace.hosts, job.workspace.host
    if len(hosts) == 1:
        strategy = distributed.on_one_host()
        _train(job, _Team(strategy) if strategy else None)
        return
    leads = host == leader_of(hosts)
    if leads:
        state = checkpoint.read(job.workspace.checkpoints)  # the only one that counts: hosts may keep theirs apart
        meeting = leading(hosts, state, job.stop, lambda reason: _abandon(job, reason))
    else:
        meeting = following(hosts, host, job.stop, lambda reason: _abandon(job, reason))
    with meeting as met, distributed.losses_told():
        rank = hosts.index(host)
        strategy = distributed.over_hosts(hosts, rank)
        job.stop.listen()  # TensorFlow took SIGTERM for itself
        if leads:
            job.events.metric("hosts", met.hosts)
        _train(job, _Team(strategy, rank, met))


@dataclass
class _Team:
    """What this host is among the hosts that train together."""

    strategy: tf.distribute.Strategy
    rank: int = 0
    met: Met | None = None  # None: it is the only host

    @property
    def leads(self) -> bool:
        return self.rank == 0


def _abandon(job: Job, reason: str) -> None:
    """End this process, whose main thread waits inside TensorFlow for a host that is gone."""
    reason = f"TrainingError: {reason}"
    print(reason, file=sys.stderr, flush=True)
    job.workspace.failure_file.write_text(reason, encoding="utf-8")
    job.events.end(TrainingError.exit_code, reason)
    os._exit(TrainingError.exit_code)


def _train(job: Job, team: _Team | None) -> None:
    """Train from the newest checkpoint, or from the start, and write model, classes, history and the results table."""
    samples = load_samples(job.workspace.channel("arrays"), job.manifest)
    train, val = samples["train"], samples["val"]
    _refuse_empty(train, job)
    leads = team is None or team.leads
    with team.strategy.scope() if team else nullcontext():
        network = _network(job, leads)
        _refuse_missing_layer(job, network)
    if leads:  # alone: what a strategy computes takes all hosts
        refuse_unloadable(network, job.plan.model, job.workspace.channel("plan") / SOURCE_FOLDER, job.workspace.scratch)
    with team.strategy.scope() if team else nullcontext():
        compile_network(network, job.plan.model)
        progress = _restored(job, network, team)
    if progress.epoch and leads:
        job.events.message(f"goes on after epoch {progress.epoch} of {job.plan.model.epoch}")
        _tell_untold(job, progress)
    with sampled(job):
        if team is None:
            _fit(job, _Fit(job, network), network, progress, train, val)
        else:
            _fit(job, _Replicated(job, network, team), network, progress, train, val)
    if team is not None and team.met is not None:
        team.met.trained()
    if leads:
        _write_results(job, network, progress)


def _refuse_missing_layer(job: Job, network: keras.Model) -> None:
    """Raise ConfigError where pictures are wanted of a layer that the network is not going to have."""
    wanted = job.plan.visualize.layer
    if wanted is not None and "/" not in wanted:  # else it is one of an ensemble, or of a model inside of this one
        refuse_missing_layers(job.plan.visualize, layers_in(keras.saving.serialize_keras_object(network)))


def _tell_untold(job: Job, progress: Progress) -> None:
    """Tell of the epochs that this host's events lack: another host told of them, or was killed before it did."""
    told = {event["step"] for event in read(job.workspace.events_file) if event.get("key") == "loss"}
    for epoch, metrics in enumerate(progress.history, 1):
        if epoch not in told:
            job.events.metrics(metrics, step=epoch)


def _restored(job: Job, network: keras.Model, team: _Team | None) -> Progress:
    folder = job.workspace.checkpoints
    if team is None or team.leads:
        folder.mkdir(parents=True, exist_ok=True)  # the service gives it only to jobs that ask for it
    if team is None or team.met is None:
        return checkpoint.restore(folder, network)
    return checkpoint.restore_from(team.met.state, network, folder / checkpoint.CHECKPOINT_FILE)


def _refuse_empty(train: Samples, job: Job) -> None:
    counts = np.bincount(train.labels, minlength=train.classes)
    empty = [name for name, count in zip(job.manifest.classes, counts, strict=True) if not count]
    if empty:
        raise TrainingError(
            f"no training sample of {', '.join(empty[:5])} is left after preprocessing; see the clips' errors and "
            "policies in the index, or use preprocess.short_video=pad"
        )


def _network(job: Job, leads: bool) -> keras.Model:
    plan = job.plan
    keras.utils.set_random_seed(plan.seed)
    if not tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()  # costs nothing on a CPU, and runs can be compared
    keras.mixed_precision.set_global_policy(
        Precision.float32.value if plan.model.precision is Precision.auto else plan.model.precision.value
    )
    source = job.workspace.channel("plan") / SOURCE_FOLDER
    network = build(plan.model, frame_shape(plan.preprocess), len(job.manifest.classes), source)
    if leads:
        network.summary(print_fn=lambda line, **_: print(line, flush=True))
        job.events.metric("parameters", network.count_params())
    return network


def compile_network(network: keras.Model, model: Model) -> None:
    """Compile with the optimizer, loss and metrics of the settings."""
    optimizer = keras.optimizers.get(resolved_optimizer(model))
    if model.learning_rate is not None:
        optimizer.learning_rate = model.learning_rate
    # XLA hangs for minutes on Conv3D on a CPU.
    network.compile(optimizer, keras.losses.get(model.loss), metrics=["accuracy"], jit_compile=False)
    network.optimizer.build(network.trainable_variables)


class _Pass(Protocol):
    """How an epoch is computed."""

    leads: bool  # whether this host writes

    def check_stop(self) -> None:
        """Raise Stopped between two epochs, where that can be decided by this host alone."""

    def train(self, samples: Samples, batch: int, order: npt.NDArray[np.int64], epoch: int) -> dict[str, float]: ...

    def evaluate(self, samples: Samples, batch: int) -> dict[str, float]: ...


class _Fit:
    """By Keras, on one device."""

    leads = True

    def __init__(self, job: Job, network: keras.Model) -> None:
        self._job = job
        self._network = network
        self._watch: _Watch | None = None

    def check_stop(self) -> None:
        self._job.stop.check()

    def train(self, samples: Samples, batch: int, order: npt.NDArray[np.int64], epoch: int) -> dict[str, float]:
        watch = self._watch = self._watch or _Watch(self._job, samples.steps(batch))
        watch.start(epoch)
        data = dataset(samples, batch, order)
        fitted = self._network.fit(data, epochs=1, verbose=0, callbacks=[watch], shuffle=False)
        return {key: float(values[-1]) for key, values in fitted.history.items()}

    def evaluate(self, samples: Samples, batch: int) -> dict[str, float]:
        seen = self._network.evaluate(dataset(samples, batch), verbose=0, return_dict=True)
        return {key: float(value) for key, value in seen.items()}


class _Replicated:
    """By several replicas."""

    def __init__(self, job: Job, network: keras.Model, team: _Team) -> None:
        self.leads = team.leads
        self._job = job
        self._replicas = Replicas(team.strategy, network, job.plan.model.loss, job.stop, rank=team.rank)
        self._replicas.part_seeds()
        self._telling: _Telling | None = None
        if self.leads:
            self._tell_what_differs(network)

    def check_stop(self) -> None:
        pass  # hosts that stop at different places wait for each other: the next step decides for all

    def train(self, samples: Samples, batch: int, order: npt.NDArray[np.int64], epoch: int) -> dict[str, float]:
        telling = self._telling = self._telling or _Telling(self._job, samples.steps(batch))

        def each(step: int, metrics: dict[str, float]) -> None:
            _refuse_divergence(metrics["loss"], epoch, self._job.plan.model)
            if self.leads:
                telling.tell(epoch, step)

        metrics = self._replicas.train(samples, batch, order, each)
        self._replicas.share_statistics()
        return metrics

    def evaluate(self, samples: Samples, batch: int) -> dict[str, float]:
        return self._replicas.evaluate(samples, batch)

    def _tell_what_differs(self, network: keras.Model) -> None:
        events, count, batch = self._job.events, self._replicas.count, self._job.plan.model.batch
        events.metric("replicas", count)
        events.message(
            f"a batch of {batch} is divided among {count} replicas on {len(self._job.workspace.hosts)} hosts"
        )
        if batch < count:
            events.message(
                f"model.batch={batch} is less than the {count} replicas: some of them have nothing to do", "warning"
            )
        if any(isinstance(layer, BatchNormalization) and not layer.synchronized for layer in _layers(network)):
            events.message(
                "the model has batch normalization, whose statistics are each replica's own, over "
                f"{slots_of(batch, count)} samples, and averaged after every epoch; the losses are not those of one "
                "replica. keras.layers.BatchNormalization(synchronized=True) takes the whole batch",
                "warning",
            )


def _layers(network: keras.Model) -> Iterator[keras.layers.Layer]:
    yield from network._flatten_layers()  # those inside of layers too; Keras has no public way


def _fit(job: Job, passes: _Pass, network: keras.Model, progress: Progress, train: Samples, val: Samples) -> None:
    model, events = job.plan.model, job.events
    batch = _fitting_batch(job, len(train), passes.leads)
    steps = train.steps(batch)
    if model.early_stopping is not None and not len(val) and passes.leads:
        events.message("model.early_stopping has no effect: there is no validation set", "warning")
    while progress.epoch < model.epoch and not _waited_enough(progress, model):
        passes.check_stop()
        epoch = progress.epoch + 1
        order = shuffled(len(train), job.plan.seed, epoch)
        started = time.monotonic()
        metrics = passes.train(augmented(train, job.plan.augment, job.plan.seed, epoch), batch, order, epoch)
        metrics["samples_per_second"] = len(train) / (time.monotonic() - started)
        if len(val):
            metrics |= {f"val_{key}": value for key, value in passes.evaluate(val, batch).items()}
        _refuse_divergence(metrics["loss"], epoch, model)
        best = progress.add(metrics)
        if not passes.leads:
            continue
        if best:
            checkpoint.save_best(job.workspace.checkpoints, network)
        checkpoint.save(job.workspace.checkpoints, network, progress)
        events.metrics(metrics, step=epoch)
        events.progress(epoch * steps, model.epoch * steps, unit="batches")
    if progress.epoch < model.epoch and passes.leads:
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


def _fitting_batch(job: Job, count: int, leads: bool) -> int:
    batch = job.plan.model.batch
    if batch > count and leads:
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


class _Telling:
    """Tells how far training is, now and then."""

    def __init__(self, job: Job, steps: int) -> None:
        self._job = job
        self._steps = steps
        self._told = 0.0

    def tell(self, epoch: int, step: int) -> None:
        """Take in that a step, counted from 0, of an epoch, counted from 1, is done."""
        if time.monotonic() - self._told > PROGRESS_INTERVAL_S:
            self._told = time.monotonic()
            done = (epoch - 1) * self._steps + step + 1
            self._job.events.progress(done, self._job.plan.model.epoch * self._steps, unit="batches")


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Looks after every batch: progress, stop requests, divergence."""

    def __init__(self, job: Job, steps: int) -> None:
        super().__init__()
        self._job = job
        self._telling = _Telling(job, steps)
        self._epoch = 1

    def start(self, epoch: int) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._job.stop.check()
        _refuse_divergence(float((logs or {}).get("loss", 0.0)), self._epoch, self._job.plan.model)
        self._telling.tell(self._epoch, batch)


def _write_results(job: Job, network: keras.Model, progress: Progress) -> None:
    workspace, model = job.workspace, job.plan.model
    best = model.select is Select.best and progress.best_epoch > 0
    if best:
        checkpoint.restore_best(workspace.checkpoints, network)
    chosen = progress.best_epoch if best else progress.epoch
    job.events.metric("chosen_epoch", chosen)
    job.events.tag("epoch", f"{chosen} ({'lowest validation loss' if best else 'last'})")
    write_model_folder(job, network)
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
