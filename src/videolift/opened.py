"""A trained network, opened up: every layer's answer to pixels, and how it changes with them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from keras import layers

from videolift.errors import VideoliftError
from videolift.layers import refuse_missing_layer

CONVOLUTIONS = (
    layers.Conv2D,
    layers.Conv3D,
    layers.ConvLSTM2D,
    layers.ConvLSTM3D,
    layers.DepthwiseConv2D,
    layers.SeparableConv2D,
)
MIN_RANK_WITH_PLACES = 4  # clip, height, width, channel


class Closed(VideoliftError):
    """A network cannot be opened, or lacks what a picture is of."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What a layer gives: a symbolic tensor (clip, ..., unit), and what it is computed from."""

    name: str
    layer: Any
    given: Any
    tensor: Any

    @property
    def units(self) -> int:
        return int(self.tensor.shape[-1])

    @property
    def has_places(self) -> bool:
        """Whether it says where in the frame something is."""
        return len(self.tensor.shape) >= MIN_RANK_WITH_PLACES


class Opened:
    """A network in float32 that takes pixels as numbers, so that there is a gradient; layers inside of others included.

    ``decisive`` is what it decides by: what the softmax of the last layer is of, in each member where the network is an
    average of such ones. Where there is no softmax, it is what the network gives.
    """

    def __init__(self, network: keras.Model) -> None:
        """Trace the network's layers.

        Raises:
            Closed: if it is not made of Keras's functional or sequential models.
        """
        _refuse_closed(network)
        for layer in network._flatten_layers():  # those inside of others too; Keras has no public way
            layer.dtype_policy = "float32"
        self.clip = keras.Input(network.input_shape[1:], dtype="float32", name="pixels")
        self.answers: dict[str, Answer] = {}
        self._names: dict[int, str] = {}  # that layers came with
        probabilities = self._traced(network, self.clip, "")
        ends = self._softmaxes(probabilities)
        self.has_softmax = bool(ends)
        self.decisive = [_before_softmax(end) for end in ends] or [probabilities]

    def _traced(self, network: keras.Model, x: Any, prefix: str) -> Any:
        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            name = f"{prefix}{self._names.setdefault(id(layer), layer.name)}"
            if isinstance(layer, keras.Model):
                return self._traced(layer, args[0], f"{name}/")
            if prefix:  # two models in one may have layers of the same name, which Keras refuses in one graph
                layer.name = name.replace("/", "_")
            tensor = layer(*args, **kwargs)
            if isinstance(layer, layers.Layer) and isinstance(tensor, keras.KerasTensor):
                self.answers[name] = Answer(name, layer, args[0] if args else None, tensor)
            return tensor

        if isinstance(network, keras.Sequential):
            for layer in network.layers:
                x = call(layer, x)
            return x
        _refuse_closed(network)
        return network._run_through_graph(x, call_fn=call)

    def _softmaxes(self, probabilities: Any) -> list[Answer]:
        """Return the softmaxes that probabilities come from: one, or those that they are the mean of; or none."""
        by_tensor = {id(answer.tensor): answer for answer in self.answers.values()}
        last = by_tensor.get(id(probabilities))
        averaged = last.given if last is not None and isinstance(last.layer, layers.Average) else [probabilities]
        ends = [end for one in averaged if (end := by_tensor.get(id(one))) is not None and _is_softmax(end.layer)]
        return ends if len(ends) == len(averaged) else []

    def scores(self, decisive: Sequence[Any]) -> Any:
        """Return what speaks for each class by values of ``decisive``: (clip, class), logits where there is a softmax.

        Of an ensemble it is the mean, so that it changes with a member's layer as the member's own logits do. Its
        probabilities do not: they hardly change where they are near 1.
        """
        return sum(decisive) / len(decisive)

    def probabilities(self, decisive: Sequence[Any]) -> Any:
        """Return what the network gives, (clip, class), by values of ``decisive``."""
        return self.scores([keras.ops.softmax(one) for one in decisive] if self.has_softmax else decisive)

    def until(self, *tensors: Any) -> keras.Model:
        """Return the network from pixels to one of its tensors, or a list of several."""
        return keras.Model(self.clip, list(tensors) if len(tensors) > 1 else tensors[0])

    def answer(self, name: str | None) -> Answer:
        """Return a layer's answer; without a name the last convolution's.

        Raises:
            ConfigError: if there is no such layer.
            Closed: if there is no convolution.
        """
        if name is None:
            return self._last_convolution()
        refuse_missing_layer(name, {answer.name: answer.units for answer in self.answers.values()})
        return self.answers[name]

    def _last_convolution(self) -> Answer:
        found = [a for a in self.answers.values() if a.has_places and _is_convolution(a.layer)]
        if not found:
            raise Closed("the model has no convolution; name a layer with visualize.layer")
        return found[-1]

    def last_map(self) -> Answer:
        """Return the answer of the last layer that tells places as finely as the last convolution does.

        That is its activation, or the sum that a residual block ends with.

        Raises:
            Closed: if there is no convolution.
        """
        convolution = self._last_convolution()
        after = list(self.answers.values())
        after = after[after.index(convolution) :]
        return next(a for a in reversed(after) if a.tensor.shape == convolution.tensor.shape)

    def features(self) -> Any:
        """Return what the last dense layer is given.

        Raises:
            Closed: if there is no dense layer.
        """
        dense = next((a for a in reversed(self.answers.values()) if isinstance(a.layer, layers.Dense)), None)
        if dense is None:
            raise Closed("the model has no dense layer, so nothing is what it decides by")
        return dense.given

    def axes_of_time_and_place(self, answer: Answer) -> tuple[int, int, int]:
        """Return where frame, height and width are among the middle axes of an answer with all three."""
        order = [0, 1, 2]
        for earlier in self.answers.values():
            if earlier.name == answer.name:
                break
            if isinstance(earlier.layer, layers.Permute) and tuple(sorted(earlier.layer.dims[:3])) == (1, 2, 3):
                order = [order[axis - 1] for axis in earlier.layer.dims[:3]]
        return order.index(0), order.index(1), order.index(2)


@contextmanager
def before_activation(answer: Answer) -> Iterator[None]:
    """Let a layer give what its activation is of: a relu gives no direction where a unit is silent."""
    activation = getattr(answer.layer, "activation", None)
    if activation is None:
        yield
        return
    answer.layer.activation = keras.activations.linear
    try:
        yield
    finally:
        answer.layer.activation = activation


def _refuse_closed(network: keras.Model) -> None:
    if not isinstance(network, keras.Sequential) and not hasattr(network, "_run_through_graph"):  # has no public class
        raise Closed(
            f"{network.name} is a {type(network).__name__} with a call() of its own, whose layers cannot be told "
            "apart; build it with keras.Model(inputs, outputs) or keras.Sequential"
        )


def _is_softmax(layer: Any) -> bool:
    return isinstance(layer, layers.Softmax) or getattr(layer, "activation", None) is keras.activations.softmax


def _before_softmax(answer: Answer) -> Any:
    """Return what the softmax at the end of a network is of; where a layer has it for its activation, it is dropped."""
    if isinstance(answer.layer, layers.Softmax):
        return answer.given
    answer.layer.activation = keras.activations.linear
    return answer.tensor


def _is_convolution(layer: Any) -> bool:
    return isinstance(layer.layer if isinstance(layer, layers.TimeDistributed) else layer, CONVOLUTIONS)
