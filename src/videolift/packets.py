"""Which packets of a video the wanted frames depend on, read from the packets without decoding them.

An :class:`Order` says, for a whole stream, which packet shows the n-th frame and from which packet decoding must start
for it; :func:`runs` turns wanted frames into runs of packets to feed to a decoder. Where a stream's order cannot be
told for certain there is no Order, and the caller decodes everything, in order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from videolift.h264 import Picture, Unreadable, nal_length_size, picture_of

if TYPE_CHECKING:
    from av import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

_VOP = b"\x00\x00\x01\xb6"  # ISO/IEC 14496-2, 6.2.1: a video object plane, one picture
_VOL = re.compile(rb"\x00\x00\x01[\x20-\x2f]")  # the layer's header: size, time base, tools
_INTRA, _BIDIRECTIONAL = 0, 2  # vop_coding_type, the two bits after the start code
# User data by which DivX and XviD say that a packet can hold two pictures, and FFmpeg's decoder expects it.
_PACKED = re.compile(rb"DivX\d+(b|Build)\d+p")
_DIVX_PLACEHOLDER = b"\x7f"  # what DivX writes to keep one packet a frame; holds no picture
_SHORTEST_CODED = (
    9  # bytes after the start code; below, a picture may be one that is "not coded", which displays nothing
)


@dataclass(frozen=True)
class Order:
    """What shows what and what depends on what. Packets are counted in the order of the file (decoding order)."""

    display: list[int]  # the packet of the n-th frame that the file displays
    starts: list[int]  # a packet -> the keyframe from which decoding yields its picture exactly
    reference: list[bool]  # a packet -> whether pictures after it may depend on it


def is_packed(codec: VideoCodecContext) -> bool:
    """Tell whether packets must go through ``mpeg4_unpack_bframes`` to hold one picture each."""
    return codec.name == "mpeg4" and bool(_PACKED.search(codec.extradata or b""))


def order_of(packets: Iterable[Packet[VideoStream]], codec: VideoCodecContext) -> Order | None:
    """Read a stream's order from all of its packets, or return None where it cannot be told for certain."""
    if codec.name == "mpeg4":
        return _mpeg4(packets, codec)
    if codec.name == "h264":
        return _h264(packets, codec)
    if codec.name == "mjpeg":
        hidden = [packet.is_discard for packet in packets]
        every = range(len(hidden))
        return Order([i for i in every if not hidden[i]], list(every), [False] * len(hidden))
    return None


def runs(order: Order, wanted: Iterable[int]) -> list[list[int]]:
    """Return the packets to feed for the wanted frames: in each run without a gap that matters, flushed in between.

    A run holds its wanted pictures and every reference from its keyframe up to the last of them.
    """
    targets = {order.display[frame] for frame in wanted}
    spans: list[list[int]] = []
    for start, target in sorted((order.starts[target], target) for target in targets):
        if spans and start <= spans[-1][1] + 1:
            spans[-1][1] = max(spans[-1][1], target)
        else:
            spans.append([start, target])
    return [[i for i in range(first, last + 1) if order.reference[i] or i in targets] for first, last in spans]


def _mpeg4(packets: Iterable[Packet[VideoStream]], codec: VideoCodecContext) -> Order | None:
    """Order by picture types, as AVI has no presentation times: a B picture is shown before the reference fed last."""
    layers = set(_layers(codec.extradata or b""))
    packed = is_packed(codec)
    kinds: list[int | None] = []
    hidden: list[bool] = []
    for packet in packets:
        data = bytes(packet)
        at = data.find(_VOP)
        if at >= 0 and len(data) - at >= _SHORTEST_CODED:
            kinds.append(data[at + 4] >> 6)
        elif data == _DIVX_PLACEHOLDER:
            kinds.append(None)
        else:
            return None
        if at > 0:
            layers.update(_layers(data[:at]))
        if packed and data.find(_VOP, at + 4) >= 0:
            return None  # more pictures in a packet than the filter takes apart
        hidden.append(packet.is_discard)
    if len(layers) > 1 or (_BIDIRECTIONAL in kinds and not codec.has_b_frames):
        return None
    return _by_kind(kinds, hidden)


def _layers(data: bytes) -> list[bytes]:
    found = []
    for match in _VOL.finditer(data):
        end = data.find(b"\x00\x00\x01", match.end())
        found.append(data[match.start() : end if end >= 0 else len(data)])
    return found


def _by_kind(kinds: Sequence[int | None], hidden: Sequence[bool]) -> Order | None:
    display: list[int] = []
    starts: list[int] = []
    held = key = before = -1  # the reference not shown yet, the last keyframe, the keyframe before that
    for i, kind in enumerate(kinds):
        if kind == _BIDIRECTIONAL:
            start = before if held == key else key  # between a keyframe and its B pictures lies the group before
            display.append(i)
        elif kind is not None:
            if kind == _INTRA:
                before, key = key, i
            start = key
            display += [held] if held >= 0 else []
            held = i
        else:
            start = key if key >= 0 else i
        if start < 0:
            return None
        starts.append(start)
    display += [held] if held >= 0 else []
    reference = [kind not in (_BIDIRECTIONAL, None) for kind in kinds]
    return Order([i for i in display if not hidden[i]], starts, reference)


def _h264(packets: Iterable[Packet[VideoStream]], codec: VideoCodecContext) -> Order | None:
    """Order by presentation times, which containers with times of their own (not AVI) copy from the encoder."""
    extradata = codec.extradata or b""
    length_size = nal_length_size(extradata)
    pictures: list[Picture] = []
    times: list[int] = []
    hidden: list[bool] = []
    for packet in packets:
        if packet.pts is None or (packet.is_keyframe and packet.has_sidedata("new_extradata")):
            return None
        try:
            pictures.append(picture_of(bytes(packet), length_size, packet.is_keyframe))
        except Unreadable:
            return None
        times.append(packet.pts)
        hidden.append(packet.is_discard)
    if not _same_parameters(pictures, extradata):
        return None
    order = _by_time(pictures, times, hidden)
    reordered = any(late < early for early, late in pairwise(times))
    # Times that say nothing of a reordering that the decoder expects (or the reverse) are not the encoder's.
    return order if reordered == codec.has_b_frames else None


def _same_parameters(pictures: Sequence[Picture], extradata: bytes) -> bool:
    """Tell whether decoding may start anywhere: parameter sets never change, and are known at every keyframe."""
    inband = {p.parameters for p in pictures if p.parameters}
    if len(inband) > 1:
        return False
    everywhere = all(p.parameters for p in pictures if p.is_start)
    return not inband or everywhere or all(s in extradata for s in next(iter(inband)))


def _by_time(pictures: Sequence[Picture], times: Sequence[int], hidden: Sequence[bool]) -> Order | None:
    if not pictures or not pictures[0].is_start or len(set(times)) != len(times):
        return None
    starts: list[int] = []
    keys: list[int] = []
    latest = times[0] - 1
    for i, (picture, time) in enumerate(zip(pictures, times, strict=True)):
        if picture.is_start:
            if time < latest:
                return None  # a picture before the keyframe is shown after it: not a clean start
            keys.append(i)
        # Leading pictures, shown before the keyframe that precedes them in the file, need the group before.
        start = keys[-1]
        if time < times[start]:
            if pictures[start].is_idr or len(keys) == 1:
                return None
            start = keys[-2]
        starts.append(start)
        latest = max(latest, time)
    shown = sorted((i for i in range(len(times)) if not hidden[i]), key=times.__getitem__)
    return Order(shown, starts, [p.is_reference for p in pictures])
