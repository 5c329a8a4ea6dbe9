from __future__ import annotations

import struct
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.shares import deal
from videolift.errors import DataError, PartError
from videolift.parts import (
    INDEX_FILE,
    Entry,
    HostParts,
    Pixels,
    Rows,
    clips_a_part,
    frame_shape,
    host_of,
    map_member,
    merge,
    part_name,
    read_index,
    refuse_too_many_bad,
    write_npz,
)
from videolift.settings import BadVideo, Preprocess

SMALL = Preprocess(depth=2, height=3, width=4)


def pixels_of(number: int, windows: int) -> Pixels:
    return np.random.default_rng(number).integers(0, 256, (windows, *frame_shape(SMALL)), np.uint8)


def write_share(folder: Path, clips: list[tuple[int, str]]) -> Path:
    """Give every third clip no window and every fourth two."""
    parts = HostParts(folder)
    made = [(Entry(c, n % 2, f"sum{n}"), pixels_of(n, 0 if n % 3 == 2 else 1 + (n % 4 == 3))) for n, c in clips]
    for number, start in enumerate(range(0, len(made), 2)):
        parts.write(number, frame_shape(SMALL), made[start : start + 2])
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@given(clips=st.integers(0, 500), hosts=st.integers(1, 20))
def test_every_clip_has_exactly_one_owner(clips: int, hosts: int) -> None:
    owned = [[c for c in range(clips) if host_of(c, hosts) == h] for h in range(hosts)]
    assert sorted(chain.from_iterable(owned)) == list(range(clips))


def test_owners_follow_manifest_order() -> None:
    assert [host_of(clip, 3) for clip in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_the_launcher_shards_in_manifest_order(tmp_path: Path) -> None:
    shares = deal(tmp_path, [f"{clip}.avi" for clip in range(7)], ("algo-1", "algo-2", "algo-3"))
    assert {host: share.names for host, share in shares.items()} == {
        "algo-1": ("0.avi", "3.avi", "6.avi"),
        "algo-2": ("1.avi", "4.avi"),
        "algo-3": ("2.avi", "5.avi"),
    }


@pytest.mark.parametrize(("clip", "hosts"), [(-1, 2), (0, 0)])
def test_no_clip_before_the_first_and_no_hosts_are_refused(clip: int, hosts: int) -> None:
    with pytest.raises(ValueError, match="must be in"):
        host_of(clip, hosts)


def test_merged_arrays_are_byte_identical_for_1_2_and_7_hosts(tmp_path: Path) -> None:
    clips = [f"c{n:02d}" for n in range(11)]
    merged = []
    for hosts in (1, 2, 7):
        shares = [[(n, c) for n, c in enumerate(clips) if host_of(n, hosts) == host] for host in range(hosts)]
        folders = [write_share(tmp_path / f"{hosts}-{h}", share) for h, share in enumerate(shares)]
        target = tmp_path / f"merged{hosts}"
        merge(folders, clips, SMALL, target)
        merged.append(content(target))
    assert merged[0] == merged[1] == merged[2]
    assert set(merged[0]) == {INDEX_FILE, part_name(0)}


def test_a_merged_part_holds_pixels_labels_clips_and_windows_in_manifest_order(tmp_path: Path) -> None:
    clips = [f"c{n}" for n in range(5)]
    merge([write_share(tmp_path / "host", list(enumerate(clips)))], clips, SMALL, tmp_path / "out")
    with np.load(tmp_path / "out" / part_name(0)) as part:
        assert part["clip"].tolist() == ["c0", "c1", "c3", "c3", "c4"]
        assert part["window"].tolist() == [0, 0, 0, 1, 0]
        assert part["Y"].tolist() == [0, 1, 1, 1, 0]
        assert part["Y"].dtype == np.int64
        np.testing.assert_array_equal(part["X"][2:4], pixels_of(3, 2))
    entries = read_index(tmp_path / "out" / INDEX_FILE)
    assert [(e.start, e.stop) for e in entries] == [(0, 1), (1, 2), (2, 2), (2, 4), (4, 5)]


def test_parts_are_cut_by_the_settings_alone() -> None:
    assert clips_a_part(Preprocess(depth=10, height=32, width=32)) == 256
    assert clips_a_part(Preprocess(depth=16, height=112, width=112, color=True)) == (32 << 20) // (16 * 112 * 112 * 3)
    assert clips_a_part(Preprocess(depth=512, height=512, width=512, color=True)) == 1


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (["a"], [], r"1 clips are missing.*: b"),
        (["a", "b"], ["b"], r"more than one host: b"),
        (["a", "b"], ["x"], r"not in the manifest: x"),
    ],
)
def test_missing_duplicate_and_foreign_clips_are_refused_by_name(
    tmp_path: Path, first: list[str], second: list[str], message: str
) -> None:
    folders = [write_share(tmp_path / name, list(enumerate(ids))) for name, ids in (("1", first), ("2", second))]
    with pytest.raises(PartError, match=message):
        merge(folders, ["a", "b"], SMALL, tmp_path / "out")


def test_a_part_without_its_index_does_not_count(tmp_path: Path) -> None:
    write_share(tmp_path, [(0, "a"), (1, "b")])
    assert HostParts(tmp_path).finished(0, ["a", "b"]) is not None
    assert HostParts(tmp_path).finished(0, ["a", "c"]) is None
    (tmp_path / "part-00000.jsonl").unlink()
    assert HostParts(tmp_path).finished(0, ["a", "b"]) is None


def test_rows_are_gathered_in_the_order_asked_for(tmp_path: Path) -> None:
    write_share(tmp_path, [(0, "a"), (1, "b"), (3, "c"), (4, "d")])
    gathered = Rows(tmp_path).gather(np.array([[1, 2], [0, 0], [1, 0]]))
    np.testing.assert_array_equal(gathered[0], pixels_of(4, 1)[0])
    np.testing.assert_array_equal(gathered[1], pixels_of(0, 1)[0])
    np.testing.assert_array_equal(gathered[2], pixels_of(3, 2)[0])


def test_a_mapped_member_is_not_read_into_memory(tmp_path: Path) -> None:
    write_share(tmp_path, [(0, "a")])
    assert isinstance(map_member(tmp_path / part_name(0), "X"), np.memmap)


ARRAYS: dict[str, npt.NDArray[Any]] = {
    "X": np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5, 1),
    "Y": np.array([3, 1], np.int64),
    "clip": np.array(["a/b.avi", "字\n.avi"]),
    "progress": np.array("{}"),
    "rate": np.array(0.25, np.float32),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "strided": np.arange(12)[::3],
    "none": np.empty((0, 3, 4, 5, 1), np.uint8),
    "no_text": np.empty(0, np.str_),
    "empty_text": np.array(""),
}


def test_numpy_reads_what_was_written(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", ARRAYS)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as read:
        assert read.files == list(ARRAYS)
        for name, array in ARRAYS.items():
            assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape), name
            np.testing.assert_array_equal(read[name], array)
    assert zipfile.ZipFile(tmp_path / "a.npz").testzip() is None
    for name in ("X", "Y", "none"):
        np.testing.assert_array_equal(map_member(tmp_path / "a.npz", name), ARRAYS[name])


def test_the_bytes_of_a_part_depend_on_its_arrays_only(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.uint8)
    write_npz(tmp_path / "a.npz", {"X": x})
    written = (tmp_path / "a.npz").read_bytes()
    name = b"X.npy"
    # Local file header (APPNOTE 4.3.7): ZIP 2.0, no flags, stored, 1980-01-01, CRC, twice the size, no extra field.
    head = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 33, zipfile.crc32(written[35:169]), 134, 134, len(name), 0)
    assert written[:30] == head
    assert written[30:35] == name
    assert written[35:43] == b"\x93NUMPY\1\0"
    assert written[163:169] == x.tobytes()
    # Central directory (4.3.12): made by UNIX, ZIP 2.0; no extra field, no comment; mode 644; at the start of the file.
    assert written[169:181] == struct.pack("<4s4H", b"PK\1\2", 3 << 8 | 20, 20, 0, 0)
    assert written[197:215] == struct.pack("<5H2I", len(name), 0, 0, 0, 0, 0o644 << 16, 0)
    assert len(written) == 169 + 46 + len(name) + 22


@pytest.mark.parametrize("damage", ["cut", "text", "missing", "compressed", "other"])
def test_a_damaged_part_gives_one_clear_error(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "part.npz"
    np.savez(file, X=np.zeros((2, 2), np.uint8))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:50])
    elif damage == "text":
        file.write_text("no zip")
    elif damage == "missing":
        file.unlink()
    elif damage == "compressed":
        np.savez_compressed(file, X=np.zeros((2, 2), np.uint8))
    else:
        np.savez(file, Z=np.zeros(1))
    with pytest.raises(PartError, match=r"part\.npz: .*delete the folder"):
        map_member(file, "X")


def test_too_many_bad_videos_are_refused_with_their_reasons() -> None:
    entries = [Entry("a", 0, "", error="no decoder"), Entry("b", 0, ""), Entry("c", 0, "")]
    with pytest.raises(DataError, match=r"1 of 3 videos.*\n  a: no decoder"):
        refuse_too_many_bad(entries, 3, Preprocess(bad_video=BadVideo.fail))
    with pytest.raises(DataError, match=r"max_bad_share=0\.05"):
        refuse_too_many_bad(entries, 3, Preprocess(bad_video=BadVideo.skip))
    refuse_too_many_bad(entries, 3, Preprocess(bad_video=BadVideo.skip, max_bad_share=0.34))
