"""What a unit waits for: pixels that make its answer as high as they can, found by climbing from noise.

Regularised as Olah et al. tell in Feature Visualization, Distill 2017 (distill.pub/2017/feature-visualization): every
step is taken on a picture shifted at random, and along a gradient whose frequencies are evened out as they are in
natural pictures. Without, the answer is a noise of high frequencies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from videolift.opened import Answer, Opened, before_activation

UNITS = 16  # where none are named
AT_ONCE = 16  # units climbed for together
STEPS = 80
GRAY = 127.5
NOISE = 12.0  # standard deviation of the pixels that the climb starts from
RATE = 12.0  # pixel values of the first step; the last one is a tenth of it
SHIFT = 0.1  # of the frame's side, at most
FADING = 0.01  # towards gray, each step

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Maximized:
    """uint8 (unit, frame, height, width, channel), of the frames that the units look at; their numbers."""

    pixels: npt.NDArray[np.uint8]
    frames: list[int]


def liveliest(network: Opened, answer: Answer, clips: Iterable[npt.NDArray[np.uint8]]) -> list[int]:
    """Return the units whose answers differ most between clips, in order of their numbers: many say nothing ever.

    Args:
        clips: batches of uint8 (clip, frame, height, width, channel).
    """
    model = network.until(answer.tensor)
    told = []
    for batch in clips:
        answers = model(batch.astype(np.float32), training=False).numpy()
        told.append(answers.reshape(len(batch), -1, answer.units).mean(axis=1))
    spread = np.concatenate(told).std(axis=0)
    return sorted(np.argsort(-spread, kind="stable")[:UNITS].tolist())


def maximize(
    network: Opened, answer: Answer, units: Sequence[int], seed: int, step: Callable[[], None] = lambda: None
) -> Maximized:
    """Return the pixels that each unit of a layer answers to most, on average over all places, before its activation.

    Args:
        step: is called before every step of a climb.
    """
    with before_activation(answer):
        model = network.until(answer.tensor)
        found = [
            _climbed(model, answer.units, units[first : first + AT_ONCE], network.clip.shape[1:], seed, step)
            for first in range(0, len(units), AT_ONCE)
        ]
    pixels = np.concatenate([pixels for pixels, _ in found])
    frames = np.flatnonzero(np.logical_or.reduce([looked_at for _, looked_at in found]))
    frames = frames if len(frames) else np.arange(pixels.shape[1])  # no unit can be moved at all
    return Maximized(pixels[:, frames].round().astype(np.uint8), frames.tolist())


def _climbed(
    model: Any, count: int, units: Sequence[int], shape: Sequence[int], seed: int, step: Callable[[], None]
) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """Return the pixels of some units, and which frames any of them looks at."""
    random = np.random.default_rng(seed)
    wanted = tf.one_hot(units, count)

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def slope(pixels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            answers = model(pixels, training=False)
            by_unit = tf.reduce_mean(tf.reshape(answers, (len(units), -1, count)), axis=1)
            climbed = tf.reduce_sum(by_unit * wanted)
        return tape.gradient(climbed, pixels, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    pixels = (GRAY + NOISE * random.standard_normal((len(units), *shape))).astype(np.float32)
    looked_at = np.zeros(shape[0], bool)
    for number in range(STEPS):
        step()
        down, right = (int(random.integers(-int(size * SHIFT), int(size * SHIFT) + 1)) for size in shape[1:3])
        found = slope(np.roll(pixels, (down, right), (2, 3))).numpy()
        found = np.roll(found, (-down, -right), (2, 3))
        looked_at |= (found != 0).any(axis=(0, 2, 3, 4))
        direction = np.zeros_like(found)
        direction[:, looked_at] = evened(found[:, looked_at])
        rate = RATE * 10 ** (-number / (STEPS - 1))
        pixels = np.clip(GRAY + (pixels - GRAY) * (1 - FADING) + rate * direction, 0, 255)
    return pixels, looked_at


def evened(slopes: Pixels) -> Pixels:
    """Divide the spectrum of (unit, frame, height, width, channel) by the frequency; unit by unit of deviation 1."""
    axes = (1, 2, 3)
    frequencies = np.meshgrid(*(np.fft.fftfreq(slopes.shape[axis]) for axis in axes), indexing="ij")
    frequency = np.sqrt(sum(np.square(one) for one in frequencies))
    lowest = 1 / max(slopes.shape[axis] for axis in axes)
    spectrum = np.fft.fftn(slopes, axes=axes) / np.maximum(frequency, lowest)[None, ..., None]
    smooth = np.fft.ifftn(spectrum, axes=axes).real
    deviation = smooth.std(axis=(1, 2, 3, 4), keepdims=True)
    even = np.divide(smooth, deviation, out=np.zeros_like(smooth), where=deviation > 0)
    single: Pixels = even.astype(np.float32)
    return single
