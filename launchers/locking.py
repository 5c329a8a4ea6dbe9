"""Locks that keep two processes from working on the same: one place that takes them, and says where that is impossible.

A lock belongs to an open file, and so ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO, Any

from videolift.errors import StorageError


def take_lock(file: IO[Any], *, wait: bool = False) -> bool:
    """Lock an open file below ``outputs`` until it is closed; return False where another process holds it.

    Args:
        wait: until nobody else holds it.

    Raises:
        StorageError: if its file system knows no locks (ENOLCK, ENOSYS, EOPNOTSUPP, ...), as some network file systems
            do.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        raise StorageError(
            f"{Path(file.name).parent}: files in this folder cannot be locked ({error.strerror or error}), so two "
            "processes could write the same; set outputs=FOLDER to a folder on a local disk"
        ) from error
    return True
