"""Read the frames of a video's clips: decode what is needed, shrink, stack.

Both readers count the frames that a file displays from 0, never trust its header, respect its rotation, leave out
packets that its container knows to be cut off, and conceal damage inside a packet as FFmpeg does: the same arrays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from videolift.errors import ClipError
from videolift.packets import Order, is_packed, order_of, runs
from videolift.sampling import Choice, ShortVideoError, clip_indices
from videolift.settings import Preprocess, Reader, Resize

# OpenCV reads these when it is loaded or opens a file. The first makes it drop the packets that PyAV drops below.
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "fflags;discardcorrupt")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: what is wrong is told by a ClipError
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")

import cv2

cv2.setNumThreads(1)  # videos are shared out over processes; a second level of threads only costs

Image = NDArray[np.uint8]
Frame = TypeVar("Frame")

_HELD_BYTES = 1 << 28  # files above this are demuxed twice instead of holding their packets in memory
_ROTATIONS = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}
_MISSES = 64  # packets in a row that do not decode, after which OpenCV is taken to be at the end
_BELIEVABLE = 1_000_000  # frames; a header that claims more is taken to claim nothing
_INTERPOLATIONS = {Resize.area: cv2.INTER_AREA, Resize.linear: cv2.INTER_LINEAR}


@dataclass(frozen=True)
class Reading:
    """The clips of one video, and how they were come by."""

    clips: Image  # uint8 (window, frame, height, width, channel), RGB or gray
    frame_count: int  # frames that the file displays
    indices: list[list[int]]  # the frames asked for, a list for each window
    decoded: int  # pictures that the decoder returned to get there
    policy: str  # what a short video needed: stretch, pad, loop or nothing
    method: str  # "needed": only what the wanted frames depend on | "in order": everything | "opencv": everything


@dataclass(frozen=True)
class _Decoded:
    """What a reader found: the wanted frames, shrunk, by their index."""

    frame_count: int
    choice: Choice
    images: dict[int, Image]
    decoded: int
    method: str


def read_clips(path: Path, preprocess: Preprocess) -> Reading:
    """Decode the clips of one video.

    Raises:
        ShortVideoError: if it has fewer frames than asked for and the policy is skip or fail.
        ClipError: if it cannot be opened, or no frame of it decodes. Both carry the path as given.
    """
    read = _read_opencv if preprocess.reader is Reader.opencv else _read_pyav
    try:
        _check_readable(path)
        found = read(path, preprocess)
    except ClipError as error:
        raise type(error)(error.reason, clip=str(path)) from error.__cause__
    clips = np.stack([np.stack([found.images[index] for index in clip]) for clip in found.choice.indices])
    return Reading(clips, found.frame_count, found.choice.indices, found.decoded, found.choice.policy, found.method)


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise ClipError(f"cannot be read ({error.strerror}); check the path and its permissions") from error
    if empty:
        raise ClipError("the file is empty; fetch it again")


def _shrink(frame: Image, preprocess: Preprocess) -> Image:
    """Turn a decoded frame, uint8 (height, width, 3) BGR, into a clip's, by the original scripts' steps."""
    size = (preprocess.width, preprocess.height)
    small = cv2.resize(frame, size, interpolation=_INTERPOLATIONS[preprocess.resize])
    if preprocess.color:
        return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.uint8)[..., np.newaxis]


def _choose(frame_count: int, preprocess: Preprocess) -> Choice:
    """Choose by a count that may be wrong: a video that only seems too short is no error yet."""
    try:
        return clip_indices(max(frame_count, 1), preprocess)
    except ShortVideoError:
        return Choice([])


def _in_order(
    frames: Callable[[], Iterator[Frame]],
    claim: int,
    preprocess: Preprocess,
    shrink: Callable[[Frame], Image],
    method: str,
) -> _Decoded | None:
    """Decode and count everything; where the claimed count was wrong, again with the true one. None: nothing."""
    while True:
        choice = _choose(claim, preprocess)
        wanted = {index for clip in choice.indices for index in clip}
        images: dict[int, Image] = {}
        count = 0
        for frame in frames():
            if count in wanted:
                images[count] = shrink(frame)
            count += 1
        if count == 0:
            return None
        if count == claim:
            return _Decoded(count, clip_indices(count, preprocess), images, count, method)
        claim = count


def _nothing_decodes(preprocess: Preprocess, codec: str) -> ClipError:
    other = Reader.opencv if preprocess.reader is Reader.pyav else Reader.pyav
    return ClipError(
        f"0 of {preprocess.depth} wanted frames decode ({codec} video: it is damaged, or reader "
        f"{preprocess.reader.value} has no decoder for it); preprocess.reader={other.value} may have one"
    )


def _does_not_open(preprocess: Preprocess, why: str) -> ClipError:
    other = Reader.opencv if preprocess.reader is Reader.pyav else Reader.pyav
    return ClipError(
        f"no video that the reader {preprocess.reader.value} can open ({why}); if a player shows it, "
        f"preprocess.reader={other.value} may open it"
    )


def _read_opencv(path: Path, preprocess: Preprocess) -> _Decoded:
    def opened() -> cv2.VideoCapture:
        return cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])

    def frames() -> Iterator[cv2.VideoCapture]:
        capture = opened()
        misses = 0
        while misses < _MISSES:  # it says the same of a packet that does not decode and of the end
            if capture.grab():
                misses = 0
                yield capture
            else:
                misses += 1
        capture.release()

    def shrink(capture: cv2.VideoCapture) -> Image:
        _, image = capture.retrieve()
        return _shrink(np.asarray(image, np.uint8), preprocess)

    first = opened()
    if not first.isOpened():
        raise _does_not_open(preprocess, "unknown format, or damaged at its beginning")
    if _is_interlaced(path):
        raise ClipError("interlaced video, of which OpenCV makes black frames; use preprocess.reader=pyav")
    claim = int(first.get(cv2.CAP_PROP_FRAME_COUNT))
    fourcc = int(first.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True).decode("latin-1")
    first.release()
    found = _in_order(frames, claim if claim < _BELIEVABLE else 0, preprocess, shrink, "opencv")
    if found is None:
        raise _nothing_decodes(preprocess, fourcc)
    return found


def _is_interlaced(path: Path) -> bool:
    """Look at the first frame. Such a frame makes OpenCV's conversion fail, which it does not report."""
    try:
        first = next(_frames(path), None)
    except (av.FFmpegError, IndexError):
        return False  # then what OpenCV finds wrong, if anything, is what counts
    return first is not None and first.interlaced_frame


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    # An absolute path is never taken for a protocol, as a:b.avi would be.
    with av.open(os.path.abspath(path), options={"fflags": "discardcorrupt"}) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        yield container, stream


def _read_pyav(path: Path, preprocess: Preprocess) -> _Decoded:
    reformatter = VideoReformatter()
    sizes: list[tuple[int, int]] = []

    def shrink(frame: av.VideoFrame) -> Image:
        # One thread: the default of one a core costs more than the conversion. Bicubic, and every frame in the size that
        # the stream has when it is opened: as OpenCV does where the size changes on the way.
        width, height = sizes[0]
        bgr = reformatter.reformat(frame, width, height, "bgr24", interpolation=Interpolation.BICUBIC, threads=1)
        image = bgr.to_ndarray()
        turn = _ROTATIONS.get(frame.rotation % 360)
        return _shrink(np.asarray(image if turn is None else cv2.rotate(image, turn), np.uint8), preprocess)

    try:
        with _opened(path) as (_, stream):
            codec = stream.codec_context.name
            sizes.append((stream.codec_context.width, stream.codec_context.height))
        try:
            found = _needed(path, preprocess, shrink)
        except av.FFmpegError:  # some packet does not decode: what the file displays then shows when all are tried
            found = None
        if found is None:
            with _opened(path) as (container, stream):
                claim = sum(1 for packet in container.demux(stream) if packet.size)
            found = _in_order(lambda: _frames(path), claim, preprocess, shrink, "in order")
    except (av.FFmpegError, IndexError) as error:
        why = "it holds no video" if isinstance(error, IndexError) else str(error.strerror)
        raise _does_not_open(preprocess, why) from error
    if found is None:
        raise _nothing_decodes(preprocess, codec)
    return found


def _frames(path: Path) -> Iterator[av.VideoFrame]:
    """Yield all frames, past packets that do not decode."""
    with _opened(path) as (container, stream):
        for packet in container.demux(stream):
            try:
                frames = stream.codec_context.decode(packet)
            except av.FFmpegError:
                continue
            yield from frames


def _demux(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[VideoStream]]:
    """Yield packets of one picture each."""
    unpack = av.BitStreamFilterContext("mpeg4_unpack_bframes", stream) if is_packed(stream.codec_context) else None
    for packet in container.demux(stream):
        if unpack is None:
            if packet.size:
                yield packet
        else:
            yield from unpack.filter(packet if packet.size else None)


def _needed(path: Path, preprocess: Preprocess, shrink: Callable[[av.VideoFrame], Image]) -> _Decoded | None:
    """Decode only what the wanted frames depend on; None where that cannot be told or does not come out as told."""
    with _opened(path) as (container, stream):
        hold = path.stat().st_size <= _HELD_BYTES
        packets: Iterable[av.Packet[VideoStream]] = _demux(container, stream)
        if hold:
            packets = list(packets)
        order = order_of(packets, stream.codec_context)
        if order is None or not order.display:
            return None
        choice = clip_indices(len(order.display), preprocess)
        if hold:
            return _feed(stream, packets, order, choice, shrink)
    with _opened(path) as (container, stream):
        return _feed(stream, _demux(container, stream), order, choice, shrink)


def _feed(
    stream: VideoStream,
    packets: Iterable[av.Packet[VideoStream]],
    order: Order,
    choice: Choice,
    shrink: Callable[[av.VideoFrame], Image],
) -> _Decoded | None:
    codec = stream.codec_context
    wanted = {index for clip in choice.indices for index in clip}
    plan = runs(order, wanted)
    begin_of = {i: run[0] for run in plan for i in run}
    ends = {run[-1] for run in plan}
    position = {packet: index for index, packet in enumerate(order.display)}
    images: dict[int, Image] = {}
    decoded = 0
    latest = -1
    for i, packet in enumerate(packets):
        begin = begin_of.get(i)
        if begin is None:
            continue
        packet.pts = i  # comes out again as the time of the frame that this packet codes
        frames = codec.decode(packet)
        if i in ends:
            frames += codec.decode(None)
            codec.flush_buffers()
        for frame in frames:
            decoded += 1
            source = frame.pts if frame.pts is not None else -1
            index = position.get(source, -1)
            if index <= latest or frame.interlaced_frame:
                return None  # not the order that the packets foretold
            if frame.is_corrupt and order.starts[source] >= begin:
                return None  # damage, concealed from whatever was decoded before
            latest = index
            if index in wanted:
                images[index] = shrink(frame)
    return _Decoded(len(order.display), choice, images, decoded, "needed") if len(images) == len(wanted) else None
