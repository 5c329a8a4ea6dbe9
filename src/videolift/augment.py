"""Augmentation: training clips are changed a little, each epoch in another way, so that a network learns what stays.

How a clip is changed depends on the seed, the epoch and the sample's number only: a training that goes on from a
checkpoint, or on several hosts, sees the same clips. Validation and test clips are never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from videolift.parts import Pixels
from videolift.samples import Samples
from videolift.settings import Augment

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue (ITU-R BT.601)
MIRRORED = {"left": "right", "右": "左"}


def augmented(samples: Samples, augment: Augment, seed: int, epoch: int) -> Samples:
    """Return the samples as an epoch sees them."""
    if augment == Augment():
        return samples
    return replace(samples, change=partial(_change_all, augment, seed, epoch))


def _change_all(augment: Augment, seed: int, epoch: int, clips: Pixels, numbers: npt.NDArray[np.int64]) -> Pixels:
    pairs = zip(clips, numbers, strict=True)
    return np.stack([change(clip, augment, np.random.default_rng([seed, epoch, int(n)])) for clip, n in pairs])


def change(clip: Pixels, augment: Augment, rng: np.random.Generator) -> Pixels:
    """Return a changed clip.

    Args:
        clip: uint8 (frame, height, width, channel).
    """
    # Each change has its own numbers whether it is wanted or not: switching one on leaves the others as they were.
    shift, kept, top, left, mirror, contrast, brightness, saturation = rng.random(8)
    clip = clip[_frames(len(clip), augment.time_jitter, shift)]
    if augment.crop:
        side = 1 - augment.crop * kept
        clip = clip[:, _window(clip.shape[1], side, top)][:, :, _window(clip.shape[2], side, left)]
    if augment.flip and mirror < 0.5:
        clip = clip[:, :, ::-1]
    if augment.contrast or augment.brightness or augment.saturation:
        return _recoloured(
            clip,
            1 + augment.contrast * _around(contrast),
            255 * augment.brightness * _around(brightness),
            1 + augment.saturation * _around(saturation),
        )
    return np.ascontiguousarray(clip)


def _around(share: float) -> float:
    """Return a number from -1 to 1 for one from 0 to 1."""
    return 2 * share - 1


def _frames(count: int, jitter: int, share: float) -> npt.NDArray[np.int64]:
    """Return which frames a clip that begins up to ``jitter`` frames earlier or later has; its edges are repeated."""
    shift = int(share * (2 * jitter + 1)) - jitter
    return np.clip(np.arange(count) + shift, 0, count - 1)


def _window(size: int, share: float, place: float) -> npt.NDArray[np.int64]:
    """Return the pixels of a window of a ``share`` of ``size``, spread over ``size`` again (nearest neighbour)."""
    kept = share * size
    first = place * (size - kept)
    return np.minimum((first + (np.arange(size) + 0.5) * (kept / size)).astype(np.int64), size - 1)


def _recoloured(clip: Pixels, contrast: float, brightness: float, saturation: float) -> Pixels:
    pixels: Any = clip.astype(np.float32)
    if saturation != 1 and clip.shape[-1] == len(LUMA):
        gray = (pixels @ LUMA)[..., None]
        pixels = gray + saturation * (pixels - gray)
    mean = pixels.mean()
    pixels = mean + contrast * (pixels - mean) + brightness
    changed: Pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return changed


def mirror_images(classes: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of classes of which each becomes the other where left and right change places, by their names."""
    known = {name.lower(): name for name in classes}
    swapped = {
        name: name.lower().replace(one, other)
        for name in classes
        for one, other in MIRRORED.items()
        if one in name.lower()
    }
    return [(name, known[other]) for name, other in swapped.items() if other in known]
