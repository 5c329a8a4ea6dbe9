"""A header of an .npz file that claims more than the file holds is one clear error, and nothing is allocated for it."""

from __future__ import annotations

import io
import resource
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from videolift.errors import DataError, PartError
from videolift.imported import ArrayReader
from videolift.npy import arrays_of, map_array, read_array, read_header
from videolift.npz import list_rows
from videolift.parts import Entry, Rows, map_member, part_name
from videolift.settings import Data, Preprocess, Source

X = np.arange(4 * 3 * 8 * 8, dtype=np.uint8).reshape(4, 3, 8, 8, 1)
Y = np.array([0, 1, 0, 1])


def array(x: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, x, allow_pickle=True)
    return content.getvalue()


def claiming(shape: object, descr: str = "|u1", fortran: bool = False, data: bytes = X.tobytes()) -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data


def stored(x: bytes, y: bytes = array(Y)) -> bytes:
    return packed(x, y, zipfile.ZIP_STORED)


def packed(x: bytes, y: bytes, method: int) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        archive.writestr("X.npy", x)
        archive.writestr("Y.npy", y)
    return content.getvalue()


def with_size(content: bytes, field: int, size: int) -> bytes:
    """Let the central directory claim a size of X: at 20 the compressed, at 24 the whole one."""
    at = content.index(b"PK\1\2") + field
    return content[:at] + struct.pack("<I", size) + content[at + 4 :]


BAD: dict[str, tuple[bytes, str]] = {
    "more rows": (
        stored(claiming((5, 3, 8, 8, 1))),
        "array X claims 960 bytes, 5x3x8x8x1 of uint8, and the file holds",
    ),
    "terabytes": (stored(claiming((1 << 40, 3, 8, 8, 1))), "array X claims 211,106,232,532,992 bytes"),
    "overflow": (
        stored(claiming((1 << 62, 1 << 62, 8, 8, 1))),
        "array X claims 4611686018427387904x.*than any machine",
    ),
    "overflow of nothing": (stored(claiming((0, 1 << 62, 1 << 62, 8, 1))), "than any machine has"),
    "negative": (stored(claiming((-4, 3, 8, 8, 1))), r"array X claims the shape \(-4, 3, 8, 8, 1\), with a negative"),
    "two negative": (stored(claiming((-4, -3, 8, 8, 1))), "with a negative length"),
    "wide elements": (stored(claiming((4, 3, 8, 8, 1), "<f8")), "array X claims 6,144 bytes"),
    "wide text": (stored(claiming((4, 3, 8, 8, 1), "<U99999999")), "array X claims"),
    "nothing wide": (stored(claiming((1 << 40, 3, 8, 8, 1), "|V0")), "of elements without a size"),
    "fortran": (stored(claiming((5, 3, 8, 8, 1), fortran=True)), "array X claims 960 bytes"),
    "objects": (stored(array(np.array([{}, {}]))), "array X holds Python objects"),
    "objects in Y": (stored(array(X), array(np.array([{}] * 4))), "array Y holds Python objects"),
    "unknown dtype": (stored(claiming((4, 3, 8, 8, 1), "|z7")), "array X is damaged"),
    "shape is no tuple": (stored(claiming("'many'")), "array X is damaged"),
    "nested": (stored(claiming("(" * 9000)), "array X is damaged"),
    "no magic": (stored(b"pixels" * 99), "array X is damaged"),
    "nothing in it": (stored(b""), "array X is damaged"),
    "version": (stored(b"\x93NUMPY\7\0" + bytes(99)), "version 7.0"),
    "cut header": (stored(claiming((4, 3, 8, 8, 1))[:30]), "array X is damaged"),
    "long header": (stored(b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(99)), "a header that claims 4,294,967,295 bytes"),
    "long Y": (stored(array(X), claiming((4, 1 << 40), "<i8", data=bytes(64))), "array Y claims"),
    "member": (with_size(stored(array(X)), 20, 1 << 30), "array X claims 1,073,741,824 bytes of the file"),
    "compressed": (packed(claiming((1 << 33, 3, 8, 8, 1)), array(Y), zipfile.ZIP_DEFLATED), "array X claims"),
    "bomb": (
        with_size(packed(claiming((1 << 22, 3, 8, 8, 1)), array(Y), zipfile.ZIP_DEFLATED), 24, 3 << 30),
        "array X claims 3,221,225,472 bytes, which .* compressed ones cannot be",
    ),
    "bzip2": (packed(array(X), array(Y), zipfile.ZIP_BZIP2), "array X is compressed by method 12"),
    "no zip": (b"no zip" * 99, "not a readable .npz file"),
}


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Let this process allocate 1 GiB more and no further."""
    usual = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), usual[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, usual)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_lies_is_one_error_that_names_file_and_array(tmp_path: Path, kind: str) -> None:
    content, told = BAD[kind]
    file = tmp_path / "my arrays.npz"
    file.write_bytes(content)
    data = Data(source=Source.npz, npz=str(file), axes="videolift")
    with pytest.raises(DataError, match=rf"my arrays\.npz: .*{told}"):
        list_rows(data)
    if "Y" not in kind:
        with pytest.raises(DataError, match=rf"my arrays\.npz: .*{told}"):
            ArrayReader(tmp_path, data, Preprocess())
        with pytest.raises(PartError, match=rf"my arrays\.npz: not a readable part \(.*{told}.*delete the folder"):
            map_member(file, "X")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("change", [np.asarray, np.asfortranarray, lambda x: x[:0], lambda x: x.astype(">f8")])
def test_what_is_whole_is_read_as_numpy_reads_it(
    tmp_path: Path, save: Callable[..., None], change: Callable[[np.ndarray], np.ndarray]
) -> None:
    save(tmp_path / "a.npz", X=change(X), n=np.array(7))
    with arrays_of(tmp_path / "a.npz") as archive:
        header = read_header(archive, "X")
        np.testing.assert_array_equal(read_array(archive, "X"), change(X))
        assert int(read_array(archive, "n")) == 7
    if header.offset is not None:
        np.testing.assert_array_equal(map_array(tmp_path / "a.npz", header), change(X))


def test_bytes_that_do_not_decompress_are_one_error(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    content = bytearray(packed(array(X), array(Y), zipfile.ZIP_DEFLATED))
    content[120:140] = bytes(20)
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: array X is damaged"):
        ArrayReader(tmp_path, Data(source=Source.npz, npz=str(file)), Preprocess())


def test_an_array_that_no_memory_is_free_for_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", X=X, Y=Y)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 100}))
    with pytest.raises(DataError, match=r"a\.npz: array X takes .* an uncompressed file, by numpy\.savez"):
        ArrayReader(tmp_path, Data(source=Source.npz, npz=str(tmp_path / "a.npz")), Preprocess())


@pytest.mark.parametrize("x", [X[:1], X.astype(np.float32), X[..., 0]])
def test_a_part_that_is_not_what_its_index_says_is_named(tmp_path: Path, x: np.ndarray) -> None:
    np.savez(tmp_path / part_name(0), X=x)
    rows = Rows(tmp_path)
    with pytest.raises(PartError, match=r"part-00000\.npz: array X is .*delete the folder"):
        rows.of(Entry("a", 0, "", start=1, stop=3))
    with pytest.raises(PartError, match=r"part-00000\.npz: array X is .*delete the folder"):
        rows.gather(np.array([[0, 0], [0, 2]]))
