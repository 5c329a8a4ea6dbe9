from __future__ import annotations

import hashlib
import io
import sqlite3
import zipfile
from pathlib import Path

import numpy as np
import pytest

from launchers.checksums import open_checksums
from videolift.errors import DataError, StorageError


def test_a_checksum_is_computed_again_only_for_a_changed_file(tmp_path: Path) -> None:
    video = tmp_path / "a 视频.avi"
    video.write_bytes(b"first")
    with open_checksums(tmp_path / "sums.db") as checksums:
        assert checksums.of(video) == hashlib.sha256(b"first").hexdigest()
    with sqlite3.connect(tmp_path / "sums.db") as database:
        database.execute("UPDATE checksum SET sha256 = 'remembered'")
    with open_checksums(tmp_path / "sums.db") as checksums:
        assert checksums.of(video) == "remembered"
        video.write_bytes(b"second")
        assert checksums.of(video) == hashlib.sha256(b"second").hexdigest()


def test_a_link_may_lead_to_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "bad\udcff.avi").write_bytes(b"video")
    (tmp_path / "good.avi").symlink_to("bad\udcff.avi")
    with open_checksums(tmp_path / "sums.db") as checksums:
        assert [checksums.of(tmp_path / "good.avi") for _ in range(2)] == [hashlib.sha256(b"video").hexdigest()] * 2


def test_rows_of_arrays_are_remembered_too(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    x = np.arange(4 * 2 * 8 * 8, dtype=np.float32).reshape(4, 2, 8, 8)
    np.savez(file, X=x, Y=np.arange(4))
    digests = [hashlib.sha256(row.tobytes()).digest() for row in x]
    with open_checksums(tmp_path / "sums.db") as checksums:
        assert checksums.of_rows(file) == digests
        assert checksums.of(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    with sqlite3.connect(tmp_path / "sums.db") as database:
        database.execute("UPDATE row_checksum SET sha256 = ?", (bytes(64),))
    with open_checksums(tmp_path / "sums.db") as checksums:
        assert checksums.of_rows(file) == [bytes(32)] * 2
        np.savez(file, X=x[::-1], Y=np.arange(4), more=x)
        assert checksums.of_rows(file) == digests[::-1]


def test_an_array_that_ends_too_early_is_a_clear_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        file = io.BytesIO()
        np.save(file, np.zeros((4, 2, 8, 8), np.uint8))
        archive.writestr("X.npy", file.getvalue()[:-1])
        archive.writestr("Y.npy", file.getvalue())
    with (
        open_checksums(tmp_path / "sums.db") as checksums,
        pytest.raises(DataError, match=r"a\.npz: array X claims 512 bytes.*cut off"),
    ):
        checksums.of_rows(tmp_path / "a.npz")


def test_a_damaged_memory_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "sums.db").write_bytes(b"this is no database, and long enough to be looked at" * 20)
    with (
        pytest.raises(StorageError, match=r"sums\.db: .*delete it if it is damaged"),
        open_checksums(tmp_path / "sums.db"),
    ):
        pass


def test_two_processes_remember_at_the_same_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    with open_checksums(tmp_path / "sums.db") as first, open_checksums(tmp_path / "sums.db") as second:
        assert first.of(tmp_path / "a") != second.of(tmp_path / "b")
        assert first.of(tmp_path / "b") == second.of(tmp_path / "b")
