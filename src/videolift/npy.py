"""Arrays in an .npz file by their headers: what one claims is compared with what the file holds, before it is read.

numpy believes a header: it first allocates what is claimed, which may be more than any machine has.
"""

from __future__ import annotations

import io
import operator
import os
import struct
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

HEADER_BYTES = 1 << 16  # at most, of an array's header; numpy's own have 128
LARGEST = 2**63 - 1  # bytes that numpy can address
DEFLATED_RATIO = 1032  # zlib cannot make less than 1 byte of so many
LOCAL_HEADER = 30  # bytes before a member's name; APPNOTE 4.3.7
_LENGTHS = {(1, 0): "<H", (2, 0): "<I", (3, 0): "<I"}  # of the header, by the version of the format
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class BadArray(Exception):
    """A file is no archive of arrays, or one of its arrays is not what its header says."""


@dataclass(frozen=True)
class Header:
    """What an array is, and where in the file its bytes lie; ``offset`` is None where they are compressed."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int | None
    header_bytes: int = 0  # before its first one, unpacked

    @property
    def nbytes(self) -> int:
        return _product(self.shape) * self.dtype.itemsize


@contextmanager
def arrays_of(file: Path | IO[bytes]) -> Iterator[zipfile.ZipFile]:
    """Open an .npz file.

    Raises:
        BadArray: if it is none, or what is read of it in the block is damaged.
        OSError: if it cannot be opened.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (BadArray, OSError):
        raise
    except zipfile.BadZipFile as error:
        raise BadArray(f"not a readable .npz file: {error}") from error


def names_of(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_header(archive: zipfile.ZipFile, name: str) -> Header:
    """Return the header of an array of which the file holds every byte.

    Raises:
        BadArray: if there is no such array, it holds Python objects, or it claims more than the file holds.
    """
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError as error:
        raise BadArray(f"no array {name}; it has {', '.join(names_of(archive)) or 'none'}") from error
    try:
        return _header(archive, info)
    except BadArray as error:
        raise BadArray(f"array {name} {error}") from error
    except Exception as error:  # of whatever kind: zipfile and numpy raise many on damaged files
        raise BadArray(f"array {name} is damaged ({type(error).__name__}: {error})") from error


def read_array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """Read an array into memory.

    Raises:
        BadArray: as :func:`read_header`; or there is not enough memory for it, or its bytes are damaged.
    """
    import psutil  # which whoever only looks at headers does not need

    header = read_header(archive, name)
    free = psutil.virtual_memory().available
    if header.nbytes > free:
        raise BadArray(
            f"array {name} takes {header.nbytes / 1e9:.1f} GB of memory, of which {free / 1e9:.1f} GB are free; "
            "an uncompressed file, by numpy.savez, is not read whole"
        )
    try:
        with archive.open(f"{name}.npy") as member:
            return np.asarray(npy.read_array(member, allow_pickle=False))
    except Exception as error:
        raise BadArray(f"array {name} is damaged ({type(error).__name__}: {error})") from error


def read_rows(file: Path, archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    """Yield the bytes of each row of an array in C order; only a compressed array in Fortran order is read whole.

    Raises:
        BadArray: as :func:`read_array`.
    """
    header = read_header(archive, name)
    if header.offset is not None or header.fortran:
        array = map_array(file, header) if header.offset is not None else read_array(archive, name)
        yield from (row.tobytes() for row in array)
        return
    size = _product(header.shape[1:]) * header.dtype.itemsize
    try:
        with archive.open(f"{name}.npy") as member:
            member.read(header.header_bytes)
            for _ in range(header.shape[0]):
                row = member.read(size)
                if len(row) < size:
                    raise BadArray(f"array {name} ends before its last row")
                yield row
    except (BadArray, OSError):
        raise
    except Exception as error:
        raise BadArray(f"array {name} is damaged ({type(error).__name__}: {error})") from error


def map_array(file: Path, header: Header) -> npt.NDArray[Any]:
    """Map an uncompressed array of a file; nothing is read until it is used."""
    order: Literal["F", "C"] = "F" if header.fortran else "C"
    if not header.nbytes:  # cannot be mapped
        return np.empty(header.shape, header.dtype, order)
    assert header.offset is not None
    return np.memmap(file, header.dtype, "r", header.offset, header.shape, order)


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadArray(f"is compressed by method {info.compress_type}, which numpy does not write")
    start = _data_start(archive, info)
    with archive.open(info) as member:
        version = npy.read_magic(member)
        if version not in _LENGTHS:
            raise BadArray(f"is of version {version[0]}.{version[1]} of the .npy format, which is not known")
        field = member.read(struct.calcsize(_LENGTHS[version]))
        (length,) = struct.unpack(_LENGTHS[version], field)
        if length > HEADER_BYTES:
            raise BadArray(f"has a header that claims {length:,} bytes, at most {HEADER_BYTES:,} are read")
        # Version 3 differs from 2 in the encoding of field names only, which plain arrays do not have.
        read = _READERS.get(version, npy.read_array_header_2_0)
        shape, fortran, dtype = read(io.BytesIO(field + member.read(length)), max_header_size=HEADER_BYTES)
        header_bytes = member.tell()
    stored = info.compress_type == zipfile.ZIP_STORED
    header = Header(tuple(shape), dtype, fortran, start + header_bytes if stored else None, header_bytes)
    _refuse_objects(header)
    _refuse_impossible(header)
    held = (min(info.compress_size, info.file_size) if stored else info.file_size) - header_bytes
    if header.nbytes > held:
        raise BadArray(
            f"claims {header.nbytes:,} bytes, {_shown(header)}, and the file holds {max(0, held):,}; it was cut off or "
            "its header is damaged"
        )
    return header


def _data_start(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Return where a member's bytes begin in the file, which holds all of them."""
    file: Any = archive.fp
    size = file.seek(0, os.SEEK_END)
    file.seek(info.header_offset + LOCAL_HEADER - 4)
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    start = info.header_offset + LOCAL_HEADER + int(name_length) + int(extra_length)
    if start + info.compress_size > size:
        raise BadArray(f"claims {info.compress_size:,} bytes of the file, which has {max(0, size - start):,} for it")
    if info.compress_type == zipfile.ZIP_DEFLATED and info.file_size > DEFLATED_RATIO * info.compress_size + 64:
        raise BadArray(f"claims {info.file_size:,} bytes, which {info.compress_size:,} compressed ones cannot be")
    return start


def _refuse_objects(header: Header) -> None:
    if header.dtype.hasobject:
        raise BadArray("holds Python objects, which are not read: they may run code. Save numbers")


def _refuse_impossible(header: Header) -> None:
    if any(length < 0 for length in header.shape):
        raise BadArray(f"claims the shape {header.shape}, with a negative length")
    elements = _product(length for length in header.shape if length)
    if elements * max(1, header.dtype.itemsize) > LARGEST or len(header.shape) > 64:
        raise BadArray(f"claims {_shown(header)}, more than any machine has")
    if not header.dtype.itemsize and _product(header.shape):
        raise BadArray(f"claims {_shown(header)}, of elements without a size")


def _product(lengths: Iterable[int]) -> int:
    return reduce(operator.mul, map(int, lengths), 1)  # of any size: numpy's would overflow


def _shown(header: Header) -> str:
    shape = "x".join(map(str, header.shape)) or "one"
    return f"{shape} of {header.dtype}"
