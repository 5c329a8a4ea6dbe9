"""Everything that videolift raises on purpose.

VideoliftError            exit 1   something a person can act on; the message says what, where and what to do
├── ConfigError           exit 2   a setting is wrong; found before any work
├── DataError             exit 3   the input data cannot be used as asked
│   └── ClipError         exit 3   one video cannot be used; carries the clip
├── PartError             exit 3   arrays are missing, foreign, duplicate or damaged
├── TrainingError         exit 4   training cannot go on (divergence, no samples)
├── StageError            exit 5   a stage's process failed; carries its last lines
├── StorageError          exit 6   disk full, no permission, a path that cannot be written
└── Stopped               exit 130 asked to stop (Ctrl-C, SIGTERM); what is finished is kept
"""

from __future__ import annotations

import errno
import textwrap


class VideoliftError(Exception):
    """Base of the tree above."""

    exit_code = 1


class ConfigError(VideoliftError):
    """A setting is wrong."""

    exit_code = 2


class DataError(VideoliftError):
    """The input data cannot be used as asked."""

    exit_code = 3


class ClipError(DataError):
    """One video cannot be used.

    Args:
        reason: what is wrong with it, and where there is one, the remedy.
        clip: path or clip id, as the user knows it; the message starts with it.
    """

    def __init__(self, reason: str, clip: str = "") -> None:
        super().__init__(f"{clip}: {reason}" if clip else reason)
        self.reason = reason
        self.clip = clip


class PartError(VideoliftError):
    """Arrays are missing, foreign, duplicate or damaged."""

    exit_code = 3


class TrainingError(VideoliftError):
    """Training cannot go on."""

    exit_code = 4


class StageError(VideoliftError):
    """A stage's process failed."""

    exit_code = 5


class StorageError(VideoliftError):
    """The disk is full, or a path cannot be read or written."""

    exit_code = 6


class Stopped(VideoliftError):
    """The run was asked to stop."""

    exit_code = 130


# Of the machine, for the moment: they say nothing of the file that was to be opened.
SHORTAGES = {
    errno.EMFILE: "too many files are open in one process; raise the limit (ulimit -n) or use fewer workers",
    errno.ENFILE: "too many files are open on this machine; run the same command again when fewer are",
    errno.ENOMEM: "memory ran out; use fewer workers, or run the same command again when more is free",
}
REMEDIES = {
    **SHORTAGES,
    errno.ENOSPC: "the disk is full; free some space and run the same command again, finished parts are kept",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again, finished parts are kept",
    errno.EACCES: "no permission; change the owner or the mode of this path",
    errno.EPERM: "not permitted; change the owner or the mode of this path",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another folder",
    errno.EEXIST: "a file stands where a folder is needed; choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
}


SHOWN_TEXT = 200  # characters of an error that is not ours


def described(error: BaseException) -> str:
    """Return type and text of an error that is not ours, on one line; of a system's without the path."""
    text = getattr(error, "strerror", None) or str(error)
    shown = textwrap.shorten(str(text), SHOWN_TEXT, placeholder=" ...")
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__


def as_expected(error: BaseException) -> VideoliftError | None:
    """Return the error as one of the tree where a person can act on it, None where it is a defect."""
    if isinstance(error, VideoliftError):
        return error
    if isinstance(error, OSError) and error.errno in REMEDIES:
        return StorageError(f"{error.filename or 'output'}: {REMEDIES[error.errno]}")
    if isinstance(error, MemoryError):
        return StageError(f"{SHORTAGES[errno.ENOMEM]} ({error})" if str(error) else SHORTAGES[errno.ENOMEM])
    return None
