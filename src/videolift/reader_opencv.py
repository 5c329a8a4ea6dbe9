"""Read frames with OpenCV: everything, in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from videolift.decoding import Decoded, Image, decode_in_order, does_not_open, nothing_decodes, shrink
from videolift.errors import ClipError
from videolift.reader_pyav import is_interlaced
from videolift.settings import Preprocess, Reader

_MISSES = 64  # packets in a row that do not decode, after which OpenCV is taken to be at the end
_BELIEVABLE = 1_000_000  # frames; a header that claims more is taken to claim nothing


def read(path: Path, preprocess: Preprocess) -> Decoded:
    """Decode the frames of a video's clips.

    Raises:
        ClipError: see video.read_clips.
    """
    interlaced = is_interlaced(path)  # first: OpenCV would open the files that a list names
    capture = _opened(path)
    if not capture.isOpened():
        raise does_not_open(Reader.opencv, "unknown format, or damaged at its beginning")
    claim = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    codec = (int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF).to_bytes(4, "little").decode("latin-1")
    capture.release()
    if interlaced:
        # Its conversion of such a frame fails, which it does not report.
        raise ClipError("interlaced video, of which OpenCV makes black frames; use preprocess.reader=pyav")

    def shrunk(capture: cv2.VideoCapture) -> Image:
        return shrink(np.asarray(capture.retrieve()[1], np.uint8), preprocess)

    claim = claim if claim <= _BELIEVABLE else 0
    found = decode_in_order(lambda: _frames(path), claim, preprocess, shrunk, "opencv")
    if found is None:
        raise nothing_decodes(Reader.opencv, codec, preprocess.depth)
    return found


def _opened(path: Path) -> cv2.VideoCapture:
    return cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])


def _frames(path: Path) -> Iterator[cv2.VideoCapture]:
    capture = _opened(path)
    misses = 0
    while misses < _MISSES:  # it says the same of a packet that does not decode and of the end
        if capture.grab():
            misses = 0
            yield capture
        else:
            misses += 1
    capture.release()
