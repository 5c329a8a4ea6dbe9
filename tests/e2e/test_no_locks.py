"""Outputs on a file system without locks: one sentence says where, why and what to do, wherever a lock is taken."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from launchers import checksums
from launchers.locking import take_lock
from launchers.records import RunFolder
from tests import runs
from videolift.errors import StorageError

LOCKLESS = Path(__file__).parent.parent / "lockless"
REMEDY = "set outputs=FOLDER to a folder on a local disk"


def without_locks(files: str) -> dict[str, str]:
    return {"PYTHONPATH": str(LOCKLESS), "LOCKLESS": "ENOLCK", "LOCKLESS_FILES": files}


def assert_told(ended: runs.Ended, place: Path) -> None:
    (line,) = [line for line in ended.err.splitlines() if "StorageError" in line]
    assert f"{place}: files in this folder cannot be locked ({os.strerror(errno.ENOLCK)})" in line and REMEDY in line
    assert "Traceback" not in ended.text


def test_a_run_that_cannot_be_held(tmp_path: Path, quick: list[str]) -> None:
    ended = runs.run(*quick, "stages=[preprocess]", cwd=tmp_path, code=6, **without_locks("*/runs/*/lock"))
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    assert_told(ended, folder)


def test_a_stage_and_then_mlflow_that_cannot_be_locked(tmp_path: Path, quick: list[str]) -> None:
    outputs = tmp_path / "outputs"
    ended = runs.run(*quick, "stages=[preprocess]", cwd=tmp_path, code=6, **without_locks("*/cache/*.lock"))
    assert_told(ended, outputs / "cache")
    (record,) = runs.records(tmp_path)
    assert record["status"] == "FAILED"
    ended = runs.run("action=sync", f"run={record['id']}", cwd=tmp_path, code=6, **without_locks("*/mlflow.lock"))
    assert_told(ended, outputs)


def test_a_sweep_that_cannot_be_held(tmp_path: Path, quick: list[str]) -> None:
    swept = ("-m", *quick, "stages=[preprocess]", "preprocess.depth=3,4")
    ended = runs.run(*swept, cwd=tmp_path, code=6, **without_locks("*/sweeps/*/lock"))
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert_told(ended, folder)


@pytest.mark.parametrize("code", ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL", "EIO"])
def test_every_way_to_say_that_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    number = getattr(errno, code)

    def refuse(_file: Any, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match=f"{os.strerror(number)}.*{REMEDY}"), RunFolder(tmp_path / "run").held():
        pass


def test_a_lock_that_another_process_holds_is_no_error(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as mine, (tmp_path / "lock").open("w") as other:
        assert take_lock(mine) and not take_lock(other)


def test_a_database_that_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "BUSY_TIMEOUT_S", 0.01)
    file = tmp_path / "sums.db"
    with checksums.open_checksums(file):
        pass
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    refused = pytest.raises(StorageError, match=rf"sums\.db: database is locked.*{REMEDY}")
    with refused, checksums.open_checksums(file) as remembered:
        remembered.of(Path(__file__))
    other.close()
