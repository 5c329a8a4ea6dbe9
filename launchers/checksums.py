"""Remembers the checksums of files, so that a large data set is read once, not at every start."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from videolift.errors import StorageError
from videolift.manifest import sha256_file

SCHEMA = "CREATE TABLE IF NOT EXISTS checksum (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha256 TEXT)"
BUSY_TIMEOUT_S = 60.0


class Checksums:
    """SHA-256 of files by (path, size, modification time); several processes may use one file."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def of(self, path: Path) -> str:
        """Return a file's SHA-256, computed only where the file is new or changed."""
        status = path.stat()
        # A link may lead to a name that is not UTF-8.
        key = os.fsencode(path.resolve()).decode(errors="backslashreplace")
        row = self._database.execute(
            "SELECT sha256 FROM checksum WHERE path = ? AND size = ? AND mtime_ns = ?",
            (key, status.st_size, status.st_mtime_ns),
        ).fetchone()
        if row:
            return str(row[0])
        digest = sha256_file(path)
        self._database.execute(
            "INSERT OR REPLACE INTO checksum VALUES (?, ?, ?, ?)", (key, status.st_size, status.st_mtime_ns, digest)
        )
        return digest


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
            database.execute(SCHEMA)
            yield Checksums(database)
    except sqlite3.Error as error:
        raise StorageError(
            f"{file}: {error}; this file only remembers checksums: delete it if it is damaged, free some space, or set "
            "outputs=FOLDER to a folder on a local disk if it cannot be written or locked"
        ) from error
