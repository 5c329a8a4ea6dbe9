"""Existing arrays as a data source: rows of an ``.npz`` with ``X`` and ``Y``, those of the original scripts too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from videolift.errors import DataError
from videolift.manifest import Clip
from videolift.npy import arrays_of, map_array, read_array, read_header
from videolift.npz import readable, resolve_axes
from videolift.parts import Entry, Pixels
from videolift.settings import Data, Preprocess

ROWS_AT_ONCE = 256


class ArrayReader:
    """Reads rows of ``X`` as clips.

    Values may be 0..255 of any type, or 0..1 floats, which are scaled by 255 and rounded.

    Raises:
        DataError: if the file cannot be read, or ``X`` has other values.
    """

    def __init__(self, folder: Path, data: Data, p: Preprocess) -> None:
        file = folder / Path(str(data.npz)).name
        self._x = _open(file)
        self._original = resolve_axes(self._x.shape, data.axes) == "original"
        self._channels = 3 if p.color else 1
        self._scale = _scale(file, self._x)

    def __call__(self, clip: Clip) -> tuple[Entry, Pixels]:
        row = np.asarray(self._x[int(clip.id.removeprefix("row-"))])
        if self._original:  # (height, width, frame[, channel])
            row = np.moveaxis(row, 2, 0)
        row = row.reshape(*row.shape[:3], self._channels)
        pixels = row if row.dtype == np.uint8 else np.rint(row * self._scale).astype(np.uint8)
        entry = Entry(
            clip.id, clip.label, clip.sha256, frames=len(pixels), asked=[list(range(len(pixels)))], method="array"
        )
        return entry, pixels[np.newaxis]


def _open(file: Path) -> npt.NDArray[Any]:
    with readable(file), arrays_of(file) as archive:
        header = read_header(archive, "X")
        if header.offset is None:  # compressed: there is no way but reading it whole
            return read_array(archive, "X")
        return map_array(file, header)


def _scale(file: Path, x: npt.NDArray[Any]) -> float:
    if x.dtype == np.uint8:
        return 1.0
    low, high = np.inf, -np.inf
    for start in range(0, len(x), ROWS_AT_ONCE):
        block = x[start : start + ROWS_AT_ONCE]
        low, high = np.minimum(low, block.min()), np.maximum(high, block.max())  # unlike min() these keep NaN
    if not (low >= 0 and high <= 255):  # also true of NaN
        raise DataError(f"{file}: X has values from {low} to {high}; pixels must be 0..255, or 0..1 as floats")
    return 255.0 if high <= 1 and x.dtype.kind == "f" else 1.0
