"""Read frames with PyAV: the packets that the wanted frames depend on, or all where those cannot be told."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from videolift.decoding import (
    Decoded,
    Image,
    TextError,
    decode_in_order,
    does_not_open,
    nothing_decodes,
    shrink,
)
from videolift.errors import SHORTAGES, ClipError
from videolift.packets import Order, is_packed, order_of, runs
from videolift.sampling import Choice, clip_indices
from videolift.settings import Preprocess, Reader

Packets = Iterable["av.Packet[VideoStream]"]
Shrunk = Callable[[av.VideoFrame], Image]

_HELD_BYTES = 1 << 28  # files above this are read twice instead of holding their packets in memory
_REFORMATTER = VideoReformatter()  # kept, as setting it up for a file costs as much as two conversions
_ROTATIONS = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}
# Formats that are lists: what they show lies in other files, or comes over the network.
_LISTS = {"concat", "dash", "hls", "imf", "rtsp", "sap", "sdp", "vobsub"}
_TEXTS = _LISTS | {"adf", "bin", "idf", "tty", "xbin"}  # of others, as of a table of videos, its letters would be drawn
_TEXT_BYTES = 4096  # of a file, by which it is told whether it is text, as all of these are
# discardcorrupt: leave out packets that are cut off. fpsprobesize: no look at the first frames for a rate nobody needs.
# format_whitelist: other formats than these are not read at all. pattern_type: %d in a name is not taken for a number.
_OPTIONS = {
    "fflags": "discardcorrupt",
    "fpsprobesize": "0",
    "format_whitelist": ",".join(sorted(name for name in av.formats_available if not _TEXTS & set(name.split(",")))),
    "pattern_type": "none",
}


def read(path: Path, preprocess: Preprocess) -> Decoded:
    """Decode the frames of a video's clips.

    Raises:
        ClipError: see video.read_clips.
    """
    with opened(path) as (container, stream):
        codec = stream.codec_context.name
        shrunk = shrinker(stream, preprocess)
        try:
            found = _needed(path, container, stream, preprocess, shrunk)
        except av.FFmpegError:  # a packet does not decode: what the file displays then shows when all are tried
            found = None
    if found is None:
        found = decode_in_order(lambda: _frames(path), _packet_count(path), preprocess, shrunk, "in order")
    if found is None:
        raise nothing_decodes(Reader.pyav, codec, preprocess.depth)
    return found


def is_interlaced(path: Path) -> bool:
    """Tell by the first frame whether a video is interlaced; False where PyAV cannot decode it.

    Raises:
        TextError: if it is text, as a list of other files is.
    """
    try:
        first = next(_frames(path), None)
    except TextError:
        raise
    except ClipError:
        return False
    return first is not None and first.interlaced_frame


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video's first stream for decoding on one thread.

    Raises:
        ClipError: if there is none, no decoder for it, or the file is text.
        OSError: if too many files are open.
    """
    try:
        # An absolute path is never taken for a protocol, as a:b.avi would be. Titles need not be UTF-8.
        container = av.open(str(path.absolute()), options=_OPTIONS, metadata_errors="replace")
    except av.FFmpegError as error:
        # Not of FFmpeg: that memory ran out, which it says of damaged files that seem to need a lot, too.
        if error.errno in SHORTAGES and error.errno != errno.ENOMEM:
            raise OSError(error.errno, str(error.strerror), str(path)) from error
        if isinstance(error, av.ArgumentError) and _is_text(path):  # its format is known, and not among ours
            raise TextError("is text, not a video; if it is a list of other files, give those themselves") from error
        raise does_not_open(Reader.pyav, str(error.strerror)) from error
    with container:
        if not container.streams.video:
            raise does_not_open(Reader.pyav, "it holds no video")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise does_not_open(Reader.pyav, "it has no decoder for it")
        stream.codec_context.thread_count = 1
        yield container, stream


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        return b"\0" not in file.read(_TEXT_BYTES)


def shrinker(stream: VideoStream, preprocess: Preprocess) -> Shrunk:
    """Return what turns this stream's frames into those of a clip."""
    # Where the size changes on the way, OpenCV scales to the one that the stream had when it was opened; so does this.
    width, height = stream.codec_context.width, stream.codec_context.height

    def shrunk(frame: av.VideoFrame) -> Image:
        # One thread: the default of one a core costs more than the conversion itself.
        bgr = _REFORMATTER.reformat(frame, width, height, "bgr24", interpolation=Interpolation.BICUBIC, threads=1)
        turn = _ROTATIONS.get(frame.rotation % 360)
        return shrink(_view(bgr) if turn is None else np.asarray(cv2.rotate(_view(bgr), turn), np.uint8), preprocess)

    return shrunk


def _view(bgr: av.VideoFrame) -> Image:
    """Return the pixels without the copy that to_ndarray makes."""
    plane = bgr.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(bgr.height, plane.line_size)  # padded to the line size
    return rows[:, : 3 * bgr.width].reshape(bgr.height, bgr.width, 3)


def _packet_count(path: Path) -> int:
    count = 0
    with opened(path) as (container, stream):
        try:
            for packet in container.demux(stream):
                count += packet.size > 0
        except av.FFmpegError:
            return count
    return count


def _frames(path: Path) -> Iterator[av.VideoFrame]:
    """Yield all frames, past packets that do not decode, up to where the container ends or breaks."""
    with opened(path) as (container, stream):
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                packet = None
            with suppress(av.FFmpegError):
                yield from stream.codec_context.decode(packet)
            if packet is None or not packet.size:
                return


def demux(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[VideoStream]]:
    """Yield packets of one picture each."""
    unpack = av.BitStreamFilterContext("mpeg4_unpack_bframes", stream) if is_packed(stream.codec_context) else None
    for packet in container.demux(stream):
        if unpack is not None:
            yield from unpack.filter(packet if packet.size else None)
        elif packet.size:  # the last one is empty
            yield packet


def _needed(
    path: Path, container: InputContainer, stream: VideoStream, preprocess: Preprocess, shrunk: Shrunk
) -> Decoded | None:
    """Decode only what the wanted frames depend on; None where that cannot be told or does not come out as told."""
    hold = path.stat().st_size <= _HELD_BYTES
    packets: Packets = demux(container, stream)
    if hold:
        packets = list(packets)
    order = order_of(packets, stream.codec_context)
    if order is None or not order.display:
        return None
    choice = clip_indices(len(order.display), preprocess)
    if hold:
        return _decode(stream, packets, order, choice, shrunk)
    with opened(path) as (again, stream_again):
        return _decode(stream_again, demux(again, stream_again), order, choice, shrunk)


def _decode(stream: VideoStream, packets: Packets, order: Order, choice: Choice, shrunk: Shrunk) -> Decoded | None:
    codec = stream.codec_context
    wanted = {index for clip in choice.indices for index in clip}
    plan = runs(order, wanted)
    begin_of = {i: run[0] for run in plan for i in run}
    ends = {run[-1] for run in plan}
    index_of = {packet: index for index, packet in enumerate(order.display)}
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
        decoded += len(frames)
        while frames:
            frame = frames.pop(0)
            source = -1 if frame.pts is None else frame.pts
            index = index_of.get(source, -1)
            if index <= latest or frame.interlaced_frame:
                return None  # not the order that the packets foretold
            if frame.is_corrupt and order.starts[source] >= begin:
                return None  # damage, concealed from whatever was decoded before
            latest = index
            if index in wanted:
                images[index] = shrunk(frame)
            del frame  # lets the decoder write the next picture where this one is still in the processor's cache
    return Decoded(len(order.display), choice, images, decoded, "needed") if len(images) == len(wanted) else None
