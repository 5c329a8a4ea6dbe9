"""Remembers the checksums of files and of rows of arrays, so that a large data set is read once, not at every start."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from videolift.errors import StorageError
from videolift.manifest import sha256_file
from videolift.npz import row_digests

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS checksum (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha256 TEXT)",
    "CREATE TABLE IF NOT EXISTS row_checksum (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha256 BLOB)",
)
DIGEST_BYTES = 32
BUSY_TIMEOUT_S = 60.0


class Checksums:
    """SHA-256 of files and of rows of arrays by (path, size, modification time); processes may share its file."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def of(self, path: Path) -> str:
        """Return a file's SHA-256, computed only where the file is new or changed."""
        return str(self._remembered("checksum", path, sha256_file))

    def of_rows(self, path: Path) -> list[bytes]:
        """Return the SHA-256 of each row of X in an .npz file, computed only where the file is new or changed.

        Raises:
            DataError: the file cannot be read as one.
        """
        together: bytes = self._remembered("row_checksum", path, lambda file: b"".join(row_digests(file)))
        return [together[start : start + DIGEST_BYTES] for start in range(0, len(together), DIGEST_BYTES)]

    def _remembered(self, table: str, path: Path, compute: Callable[[Path], Any]) -> Any:
        status = path.stat()
        # A link may lead to a name that is not UTF-8.
        key = os.fsencode(path.resolve()).decode(errors="backslashreplace")
        row = self._database.execute(
            f"SELECT sha256 FROM {table} WHERE path = ? AND size = ? AND mtime_ns = ?",
            (key, status.st_size, status.st_mtime_ns),
        ).fetchone()
        if row:
            return row[0]
        found = compute(path)
        self._database.execute(
            f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?)", (key, status.st_size, status.st_mtime_ns, found)
        )
        return found


@contextmanager
def open_checksums(file: Path) -> Iterator[Checksums]:
    """Open the memory kept in ``file``; what was computed is kept even if the block is left by an error.

    Raises:
        StorageError: if it cannot be read or written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Every checksum is committed by itself, so that a long first pass does not lock another process out.
        with closing(sqlite3.connect(file, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = OFF")  # what a crash loses is only computed again
            for table in SCHEMA:
                database.execute(table)
            yield Checksums(database)
    except sqlite3.Error as error:
        raise StorageError(
            f"{file}: {error}; this file only remembers checksums: delete it if it is damaged, free some space, or set "
            "outputs=FOLDER to a folder on a local disk if it cannot be written or locked"
        ) from error
