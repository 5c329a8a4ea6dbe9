"""One training step on several replicas: every replica computes its slice of the same batch, and all add up.

A replica is one GPU of one host, or the processor of a host without any. TensorFlow's strategies do the exchange;
the step is ours because Keras 3's ``fit`` cannot run under MultiWorkerMirroredStrategy. ``model.batch`` is the size of
the whole batch, so that the losses are those of one replica, whatever the number: a step's loss is the sum over all
examples divided by their number, not a mean of means.

All hosts must ask for the same exchanges in the same order, or they wait for each other for ever. So nothing in here
depends on the host but its slices: shapes are the same in every step, and whether to stop is decided by all at once.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from videolift.cluster import PORT, HostLost
from videolift.errors import Stopped, TrainingError
from videolift.job import Stop
from videolift.samples import Samples, slots_of

SEED_STEP = 1_000_003  # between the seeds of two replicas
# What TensorFlow says on a host when another one is gone. Anything else is the host's own failure.
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)
ABORTED = "Collective ops is aborted"


def address(hosts: Sequence[str], rank: int) -> str:
    """Return where a host listens for the others: a port of its own, so that hosts may share one machine."""
    return f"{hosts[rank]}:{PORT + 1 + rank}"


def over_hosts(hosts: Sequence[str], rank: int) -> tf.distribute.Strategy:
    """Return the strategy of one of several hosts; call it before anything else of TensorFlow.

    The cluster is made of the job's hosts, whatever TF_CONFIG says. TensorFlow listens to SIGTERM from here on, so
    whoever wants to hear it has to say so again.

    Raises:
        TrainingError: if the host's port is taken.
    """
    _forget_environment()
    _refuse_taken_port(hosts, rank)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": [address(hosts, r) for r in range(len(hosts))]}),
        task_type="worker",
        task_id=rank,
        num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},
        rpc_layer="grpc",
    )
    return tf.distribute.MultiWorkerMirroredStrategy(resolver)


def on_one_host() -> tf.distribute.Strategy | None:
    """Return the strategy of the only host, None where it has a single device and needs none."""
    _forget_environment()
    gpus = len(tf.config.list_physical_devices("GPU"))
    if gpus > 1:
        return tf.distribute.MirroredStrategy([f"GPU:{n}" for n in range(gpus)])
    (cpu, *_) = tf.config.list_physical_devices("CPU")
    parts = len(tf.config.get_logical_device_configuration(cpu) or ())
    if not gpus and parts > 1:  # somebody has divided the processor
        return tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(parts)])
    return None


def _forget_environment() -> None:
    os.environ.pop("TF_CONFIG", None)  # strategies read it even where they are told their devices


def _refuse_taken_port(hosts: Sequence[str], rank: int) -> None:
    port = PORT + 1 + rank
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise TrainingError(
            f"{hosts[rank]}: cannot listen on TCP port {port} for the other hosts ({error.strerror}); end what uses "
            "the port, or train on one host"
        ) from error


@contextmanager
def losses_told() -> Iterator[None]:
    """Raise HostLost for what TensorFlow raises where another host is gone."""
    try:
        yield
    except tf.errors.OpError as error:
        if not isinstance(error, LOST) and ABORTED not in error.message:
            raise
        raise HostLost(f"the exchange with the other hosts failed: {error.message.splitlines()[0]}") from error


class Replicas:
    """The replicas of a network.

    Args:
        network: compiled, in the strategy's scope.
        loss: name of the loss.
        rank: number of this host.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy, network: keras.Model, loss: str, stop: Stop, *, rank: int = 0
    ) -> None:
        self._strategy = strategy
        self._network = network
        self._loss = keras.losses.get(loss)
        self._stop = stop
        self._count = int(strategy.num_replicas_in_sync)
        here = len(strategy.extended.worker_devices)
        self._here = range(rank * here, (rank + 1) * here)
        self._train = tf.function(self._step_of(self._train_replica))
        self._evaluate = tf.function(self._step_of(self._evaluate_replica))
        self._statistics = [v for v in network.non_trainable_variables if keras.backend.is_float_dtype(v.dtype)]
        self._mean_statistics = tf.function(self._mean)

    @property
    def count(self) -> int:
        """Number of replicas, those of all hosts."""
        return self._count

    def train(
        self,
        samples: Samples,
        batch: int,
        order: npt.NDArray[np.int64],
        each: Callable[[int, dict[str, float]], None],
    ) -> dict[str, float]:
        """Train on all samples once and return loss and accuracy.

        Args:
            batch: of all replicas together.
            each: is called after every step with its number, from 0, and the metrics so far.

        Raises:
            Stopped: if any host was asked to stop; all hosts raise it after the same step.
            tf.errors.OpError: if another host is gone, see :func:`losses_told`.
        """
        return self._run(self._train, samples, batch, order, each)

    def evaluate(self, samples: Samples, batch: int) -> dict[str, float]:
        """Return loss and accuracy; raises as :meth:`train`."""
        return self._run(self._evaluate, samples, batch, None, lambda _step, _metrics: None)

    def share_statistics(self) -> None:
        """Give all replicas the mean of their moving statistics, and so one network to evaluate and to keep."""
        for variable, value in zip(self._statistics, self._mean_statistics(), strict=True):
            variable.assign(value)

    def part_seeds(self) -> None:
        """Let every replica but the first drop other units; call it once, on the state that the first one had."""
        seeds = [v for v in self._network.variables if v.path.endswith("seed_generator_state")]
        if not seeds:
            return

        def part() -> None:
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            for seed in seeds:
                step = tf.cast(number, seed.dtype) * SEED_STEP
                seed.assign(seed.value + tf.stack([step, tf.zeros_like(step)]))

        tf.function(lambda: self._strategy.run(part))()

    def _run(
        self,
        step: Callable[..., tf.Tensor],
        samples: Samples,
        batch: int,
        order: npt.NDArray[np.int64] | None,
        each: Callable[[int, dict[str, float]], None],
    ) -> dict[str, float]:
        sums = np.zeros(3)
        metrics: dict[str, float] = {}
        for number, parts in enumerate(dataset(samples, batch, self._here, self._count, order)):
            # One replica a host speaks for it.
            asking = [tf.constant(float(self._stop.requested and i == 0)) for i in range(len(parts))]
            values = self._distributed([(*part, flag) for part, flag in zip(parts, asking, strict=True)])
            *told, asked = step(*values).numpy()
            if asked:
                self._stop.check()
                raise Stopped("another host was asked to stop; what is finished is kept")
            sums += told
            metrics = {"loss": float(sums[0] / sums[2]), "accuracy": float(sums[1] / sums[2])}
            each(number, metrics)
        return metrics

    def _distributed(self, parts: list[tuple[tf.Tensor, ...]]) -> Iterator[Any]:
        for value in zip(*parts, strict=True):
            yield self._strategy.experimental_distribute_values_from_function(
                lambda context, value=value: value[context.replica_id_in_sync_group - self._here.start]
            )

    def _step_of(self, replica: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
        def step(*values: Any) -> tf.Tensor:
            return self._strategy.reduce(tf.distribute.ReduceOp.SUM, self._strategy.run(replica, values), axis=None)

        return step

    def _mean(self) -> list[tf.Tensor]:
        values = self._strategy.run(lambda: [tf.identity(v.value) for v in self._statistics])
        return [self._strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None) for value in values]

    def _train_replica(
        self, clips: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, size: tf.Tensor, flag: tf.Tensor
    ) -> tf.Tensor:
        optimizer, variables = self._network.optimizer, self._network.trainable_variables
        with tf.GradientTape() as tape:
            predicted = self._network(clips, training=True)
            total = self._total_loss(labels, predicted, weights, size)
            loss = optimizer.scale_loss(total / size)
        if variables:
            gradients = tape.gradient(loss, variables)
            optimizer.apply_gradients(zip(self._reduced(gradients, optimizer), variables, strict=True))
        return self._sums(total, labels, predicted, weights, flag)

    def _evaluate_replica(
        self, clips: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, size: tf.Tensor, flag: tf.Tensor
    ) -> tf.Tensor:
        predicted = self._network(clips, training=False)
        return self._sums(self._total_loss(labels, predicted, weights, size), labels, predicted, weights, flag)

    def _total_loss(self, labels: tf.Tensor, predicted: tf.Tensor, weights: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        """Return the replica's share of the loss, summed over the examples of the batch."""
        total = tf.reduce_sum(weights * self._loss(labels, tf.cast(predicted, tf.float32)))
        if self._network.losses:  # of weights and activations: the mean of the replicas'
            total += size / self._count * tf.add_n([tf.cast(term, tf.float32) for term in self._network.losses])
        return total

    def _reduced(self, gradients: list[Any], optimizer: Any) -> list[Any]:
        """Let all replicas see the same overflow: Keras decides by a replica's own gradients whether to skip a step."""
        if not isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer):
            return gradients
        there = [tf.convert_to_tensor(g) for g in gradients if g is not None]
        context = tf.distribute.get_replica_context()
        # Keras will add them up once more.
        found = iter(g / self._count for g in context.all_reduce(tf.distribute.ReduceOp.SUM, there))
        return [None if g is None else next(found) for g in gradients]

    def _sums(
        self, total: tf.Tensor, labels: tf.Tensor, predicted: tf.Tensor, weights: tf.Tensor, flag: tf.Tensor
    ) -> tf.Tensor:
        right = tf.reduce_sum(weights * keras.metrics.categorical_accuracy(labels, tf.cast(predicted, tf.float32)))
        return tf.stack([total, right, tf.reduce_sum(weights), flag])


def dataset(
    samples: Samples, batch: int, here: range, count: int, order: npt.NDArray[np.int64] | None = None
) -> tf.data.Dataset:
    """Stream the slices of this host's replicas: for each clips, labels, weights and the size of the whole batch."""

    def parts() -> Iterator[Any]:
        yield from samples.slices(batch, here, count, order)

    shape = samples.source.gather(samples.rows[:1]).shape[1:]
    slots = slots_of(batch, count)
    one = (
        tf.TensorSpec((slots, *shape), tf.uint8),
        tf.TensorSpec((slots, samples.classes), tf.float32),
        tf.TensorSpec((slots,), tf.float32),
        tf.TensorSpec((), tf.float32),
    )
    data = tf.data.Dataset.from_generator(parts, output_signature=tuple(itertools.repeat(one, len(here))))
    return data.apply(tf.data.experimental.assert_cardinality(samples.steps(batch))).prefetch(2)
