"""Existing arrays as a data source: ``.npz`` files with X and Y, those of the scripts of 3DCNN too."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from videolift.errors import REMEDIES, DataError
from videolift.listing import Entry, Listing, lines_of
from videolift.npy import BadArray, Header, arrays_of, names_of, read_array, read_header, read_rows
from videolift.settings import Data


def npz_shape(path: Path) -> tuple[int, ...]:
    """Return the shape of X in an .npz file from its header, without reading the pixels."""
    with readable(path), arrays_of(path) as archive:
        return _header_of_x(archive, path).shape


def resolve_axes(shape: Sequence[int], axes: str = "auto") -> str:
    """Return ``videolift`` or ``original``.

    The first is (clip, frame, height, width, channel), the second (clip, height, width, frame, channel); both may lack
    the last axis where they are gray.

    Raises:
        DataError: not such an array, or ``axes=auto`` and the shape fits both.
    """
    shown = "x".join(map(str, shape))
    if len(shape) not in (4, 5) or (len(shape) == 5 and shape[4] not in (1, 3)):
        raise DataError(
            f"data.npz: X is {shown}; expected (clip, frame, height, width, channel) or (clip, height, width, frame, "
            "channel) with 1 or 3 channels, or gray without the last axis."
        )
    if axes != "auto":
        return axes
    original, ours = shape[1] == shape[2], shape[2] == shape[3]
    if original == ours:
        raise DataError(
            f"data.npz: X is {shown}, from which the axis of the frames cannot be told. Say data.axes=original for "
            "(clip, height, width, frame, channel) or data.axes=videolift for (clip, frame, height, width, channel)."
        )
    return "original" if original else "videolift"


def list_rows(data: Data) -> Listing:
    """List the rows of ``data.npz``; classes keep the order of Y's indices, those without a row left out."""
    path = Path(data.npz or "").expanduser()
    with readable(path), arrays_of(path) as archive:
        x = _header_of_x(archive, path)
        resolve_axes(x.shape, data.axes)
        y = read_header(archive, "Y").shape
        if y[:1] != x.shape[:1]:
            raise DataError(
                f"{path}: X has {x.shape[0]} rows but Y has {y[0] if y else 'one'}. Save them together again."
            )
        labels, width = _label_indices(read_array(archive, "Y"), path)
    names = {label: str(label) for label in sorted(set(labels))}
    if data.classes:
        lines = [line for _, line in lines_of(Path(data.classes).expanduser(), "data.classes")]
        if len(lines) < width or len(set(lines)) < len(lines):
            raise DataError(
                f"data.classes={data.classes}: {len(lines)} names ({len(set(lines))} different) for the {width} "
                f"classes of Y in {path}. Write one different name a line, in the order of Y's indices."
            )
        names = {label: lines[label] for label in names}
    size = x.nbytes // len(labels)
    ids = [f"row-{row:06d}" for row in range(len(labels))]
    entries = [Entry(ids[row], names[label], None, path, size, row=row) for row, label in enumerate(labels)]
    return Listing(tuple(names.values()), tuple(entries))


def row_digests(path: Path) -> list[bytes]:
    """Return the SHA-256 of each row of X in an .npz file, read one at a time where rows lie one after the other.

    Raises:
        DataError: the file cannot be read as one.
    """
    with readable(path), arrays_of(path) as archive:
        _header_of_x(archive, path)
        return [hashlib.sha256(row).digest() for row in read_rows(path, archive, "X")]


def _label_indices(y: Any, path: Path) -> tuple[list[int], int]:
    """Return each row's class index and the number of classes, from indices or one-hot rows."""
    expected = f"{path}: Y must be class indices (clip,) or one-hot rows (clip, class)"
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.size == 0 or y.dtype.kind not in "biuf" or y.ndim not in (1, 2):
        raise DataError(f"{expected}; it is {y.dtype} {y.shape}. Save it again.")
    bad = np.nonzero(((y != 0) & (y != 1)).any(1) | (y.sum(1) != 1) if y.ndim == 2 else (y < 0) | (y != np.floor(y)))[0]
    if len(bad):
        raise DataError(f"{expected}; row {bad[0]} is {y[bad[0]]}. Save it again.")
    indices = y.argmax(1) if y.ndim == 2 else y.astype(np.int64)
    return indices.tolist(), int(y.shape[1] if y.ndim == 2 else indices.max() + 1)


def _header_of_x(archive: zipfile.ZipFile, path: Path) -> Header:
    names = names_of(archive)
    lacking = [key for key in ("X", "Y") if key not in names]
    if lacking:
        raise DataError(
            f"{path}: no array {' and no array '.join(lacking)}; it has {', '.join(names) or 'none'}. Save it with "
            "numpy.savez(path, X=clips, Y=labels)."
        )
    header = read_header(archive, "X")
    if header.dtype.kind not in "biuf":
        raise DataError(f"{path}: X is {header.dtype}, not numbers. Save it again as one array of uint8 or float32.")
    return header


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise DataError, which names the file, where it cannot be read."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(f"{path}: no such file. data.npz names it; set data.npz=FILE.") from error
    except OSError as error:
        if error.errno in REMEDIES:
            raise
        raise DataError(f"{path}: cannot be read ({error.strerror}). Copy it to a disk that can be read.") from error
    except BadArray as error:
        raise DataError(f"{path}: {error}. Make it again with numpy.savez(path, X=clips, Y=labels).") from error
