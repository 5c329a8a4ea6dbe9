"""What the readers share: from a decoded frame to a clip's, the pass that decodes everything, and their errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from videolift.errors import ClipError
from videolift.sampling import Choice, ShortVideoError, clip_indices
from videolift.settings import Preprocess, Reader, Resize

# OpenCV reads these whenever it opens a file. The first is what PyAV is told, too: see reader_pyav._OPTIONS.
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "fflags;discardcorrupt|pattern_type;none")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: what is wrong is told by a ClipError
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # errors only, for the same reason
cv2.setNumThreads(1)  # videos are shared out over processes; a second level of threads only costs

Image = NDArray[np.uint8]
Frame = TypeVar("Frame")

_INTERPOLATIONS = {Resize.area: cv2.INTER_AREA, Resize.linear: cv2.INTER_LINEAR}


class TextError(ClipError):
    """A file is text, which FFmpeg draws, or which names other files, that FFmpeg opens, wherever they are."""


@dataclass(frozen=True)
class Decoded:
    """What a reader found: the wanted frames, shrunk, by their index."""

    frame_count: int  # frames that the file displays
    choice: Choice
    images: dict[int, Image]
    decoded: int  # pictures that the decoder returned to get there
    method: str  # see video.Reading


def shrink(frame: Image, preprocess: Preprocess) -> Image:
    """Turn a decoded frame, uint8 (height, width, 3) BGR, into a clip's, by the original scripts' steps."""
    size = (preprocess.width, preprocess.height)
    small = cv2.resize(frame, size, interpolation=_INTERPOLATIONS[preprocess.resize])
    if preprocess.color:
        return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.uint8)[..., np.newaxis]


def decode_in_order(
    frames: Callable[[], Iterator[Frame]],
    claim: int,
    preprocess: Preprocess,
    shrunk: Callable[[Frame], Image],
    method: str,
) -> Decoded | None:
    """Decode and count everything; where the claimed count was wrong, once more. None: nothing decodes."""
    while True:
        choice = _choose(claim, preprocess)
        wanted = {index for clip in choice.indices for index in clip}
        images: dict[int, Image] = {}
        count = 0
        for frame in frames():
            if count in wanted:
                images[count] = shrunk(frame)
            count += 1
        if count == 0:
            return None
        if count == claim:
            return Decoded(count, clip_indices(count, preprocess), images, count, method)
        claim = count


def _choose(claim: int, preprocess: Preprocess) -> Choice:
    """Choose by a count that may be wrong: a video that only seems too short is no error yet."""
    try:
        return clip_indices(max(claim, 1), preprocess)
    except ShortVideoError:
        return Choice([])


def does_not_open(reader: Reader, why: str) -> ClipError:
    """Return the error for a file in which a reader finds no video."""
    return ClipError(
        f"no video that reader {reader.value} can open ({why}); if a player shows it, "
        f"preprocess.reader={_other(reader)} may open it"
    )


def nothing_decodes(reader: Reader, codec: str, depth: int) -> ClipError:
    """Return the error for a file of which no frame decodes."""
    return ClipError(
        f"0 of {depth} wanted frames decode ({codec} video: damaged, or reader {reader.value} has no decoder for it); "
        f"preprocess.reader={_other(reader)} may have one"
    )


def _other(reader: Reader) -> str:
    return next(other.value for other in Reader if other is not reader)
