"""Where a network looks, over a clip's frames: Grad-CAM with a weight for every place.

Grad-CAM of Selvaraju et al., ICCV 2017 (arxiv.org/abs/1610.02391) weighs a unit by its mean slope over all places. That
is nothing where the head has weights of its own for each place, as behind a Flatten, and what counts is that left and
right move differently. HiResCAM of Draelos and Carin (arxiv.org/abs/2011.08891) leaves the mean out; where the head
averages over places, both are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from videolift.opened import Answer, Opened

Heat = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float32]


def heat_maps(network: Opened, answer: Answer, clips: npt.NDArray[np.uint8]) -> tuple[Heat, Probabilities]:
    """Return what speaks for the class that the network sees.

    Args:
        answer: of the layer whose places are weighed: (clip, [frame,] height, width, unit).
        clips: uint8 (clip, frame, height, width, channel).

    Returns:
        Heat 0..1 (clip, frame, height, width), 1 at each clip's hottest place, 0 in frames that the network does not
        look at; and the probabilities (clip, class).
    """
    model = network.until(answer.tensor, *network.decisive)
    pixels = tf.cast(clips, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        units, *decisive = model(pixels, training=False)
        probabilities = network.probabilities(decisive)
        seen = tf.one_hot(tf.argmax(probabilities, axis=-1), probabilities.shape[-1])
        chosen = tf.reduce_sum(network.scores(decisive) * seen)
    slopes, of_pixels = tape.gradient(chosen, [units, pixels], unconnected_gradients=tf.UnconnectedGradients.ZERO)
    units, slopes = (_by_clip(tensor.numpy(), len(clips)) for tensor in (units, slopes))
    heat = np.maximum((units * slopes).sum(axis=-1), 0)
    heat = _over_frames(heat, network.axes_of_time_and_place(answer), clips.shape[1:4])
    heat *= _looked_at(of_pixels.numpy())
    hottest = heat.max(axis=(1, 2, 3), keepdims=True)
    heat = np.divide(heat, hottest, out=np.zeros_like(heat), where=hottest > 0)
    return heat.astype(np.float32), probabilities.numpy()


def _by_clip(values: npt.NDArray[Any], clips: int) -> npt.NDArray[Any]:
    """Return an answer with the clips in front, also of a network that takes every frame for a picture."""
    return values if len(values) == clips else values.reshape(clips, -1, *values.shape[1:])


def _over_frames(heat: npt.NDArray[Any], axes: tuple[int, int, int], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Stretch heat over all frames and pixels: (clip, [frame,] height, width) -> (clip, frame, height, width)."""
    heat = heat[:, None] if heat.ndim == 3 else heat.transpose(0, *(axis + 1 for axis in axes))
    for axis, size in enumerate(shape, start=1):
        heat = stretched(heat, axis, size)
    return heat


def stretched(values: npt.NDArray[Any], axis: int, size: int) -> npt.NDArray[Any]:
    """Return values interpolated along one axis, each at the middle of the part that it stands for."""
    count = values.shape[axis]
    places = np.clip((np.arange(size) + 0.5) * count / size - 0.5, 0, count - 1)
    before = np.floor(places).astype(int)
    after = np.minimum(before + 1, count - 1)
    share = (places - before).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    between: npt.NDArray[Any] = values.take(before, axis) * (1 - share) + values.take(after, axis) * share
    return between


def _looked_at(slopes: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which frames change any clip's score at all: (1, frame, 1, 1)."""
    frames: npt.NDArray[np.bool_] = (slopes != 0).any(axis=(0, 2, 3, 4))
    return frames[None, :, None, None]
