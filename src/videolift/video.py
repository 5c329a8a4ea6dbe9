"""Read the clips of a video as one array.

Both readers count the frames that a file displays from 0, never trust its header, respect its rotation, leave out
packets that its container knows to be cut off, and conceal damage inside a packet as FFmpeg does: the same arrays.
"""

from __future__ import annotations

import logging
import stat
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from videolift import reader_opencv, reader_pyav
from videolift.decoding import Image
from videolift.errors import SHORTAGES, ClipError, VideoliftError, described
from videolift.sampling import ShortVideoError
from videolift.settings import Preprocess, Reader


@dataclass(frozen=True)
class Reading:
    """The clips of one video, and how they were come by."""

    clips: Image  # uint8 (window, frame, height, width, channel), RGB or gray
    frame_count: int  # frames that the file displays
    indices: list[list[int]]  # the frames asked for, a list for each window
    decoded: int  # pictures that the decoder returned to get there
    policy: str  # what a short video needed: stretch, pad, loop or nothing
    method: str  # "needed": only what the wanted frames depend on | "in order": everything | "opencv": everything


def read_clips(path: Path, preprocess: Preprocess) -> Reading:
    """Decode the clips of one video.

    Raises:
        ShortVideoError: if it has fewer frames than asked for and the policy is skip or fail.
        ClipError: if it cannot be read, whatever the reader raised. Both carry the path as given.
        OSError: if too many files are open.
        MemoryError: if memory ran out.
    """
    if _is_special(path):  # a pipe would be waited for
        raise ClipError("is not a regular file", clip=str(path))
    try:
        return _read(path, preprocess)
    except ShortVideoError as error:
        raise ShortVideoError(error.reason, clip=str(path)) from error
    except ClipError as error:
        raise ClipError(_unreadable(path) or error.reason, clip=str(path)) from error
    except VideoliftError:  # of the settings
        raise
    except Exception as error:
        _raise_shortage(path, error)
        raise ClipError(_unreadable(path) or _unexpected(path, error), clip=str(path)) from error


def is_given(path: Path) -> bool:
    """Tell whether a channel holds a file, if only as a link that leads nowhere, of which its reader tells."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _read(path: Path, preprocess: Preprocess) -> Reading:
    read = reader_opencv.read if preprocess.reader is Reader.opencv else reader_pyav.read
    found = read(path, preprocess)
    indices = found.choice.indices
    clips = np.empty((len(indices), preprocess.depth, *next(iter(found.images.values())).shape), np.uint8)
    for window, clip in enumerate(indices):
        for position, index in enumerate(clip):
            clips[window, position] = found.images[index]
    return Reading(clips, found.frame_count, indices, found.decoded, found.choice.policy, found.method)


def _is_special(path: Path) -> bool:
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):  # told by what cannot open it
        return False


def _raise_shortage(path: Path, error: Exception) -> None:
    """Raise an error that says nothing of the file, with the file's path: the machine lacks something for the moment.

    FFmpeg's own error of memory is not among them, as it says the same of damaged files that seem to need a lot.
    """
    if isinstance(error, av.FFmpegError):
        return
    if isinstance(error, OSError) and error.errno in SHORTAGES:
        raise OSError(error.errno, error.strerror, str(path)) from error
    if isinstance(error, MemoryError) or (isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem):
        raise MemoryError(f"while {path} was read") from error


def _unexpected(path: Path, error: Exception) -> str:
    """Return the reason that a file gets for an error that nobody foresaw; its traceback goes to the log."""
    logging.getLogger(__name__).warning("%s: cannot be decoded", path, exc_info=error)
    return f"cannot be decoded ({described(error)}); if a player shows it, another preprocess.reader may read it"


def _unreadable(path: Path) -> str:
    """Return what is wrong with a file that no reader could do anything about; nothing where it can be read."""
    try:
        with path.open("rb") as file:
            return "" if file.read(1) else "the file is empty; fetch it again"
    except ValueError:  # no file can have the name
        return ""
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        return f"cannot be read ({error.strerror}); check the path and its permissions"
