"""The few facts of an H.264 packet that say what depends on it (ITU-T H.264, 7.3.1, 7.4.1 and D.1.7)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_SLICE, _PARTITION_A, _PARTITION_C, _IDR, _SEI, _SPS, _PPS = 1, 2, 4, 5, 6, 7, 8  # nal_unit_type
_RECOVERY_POINT = 6  # SEI payload type
_EXACT_AT_ONCE = 0xC0  # recovery_frame_cnt 0 (one bit, 1) and exact_match_flag 1


class Unreadable(Exception):
    """The packet is not what its container says: no picture in it, or lengths that do not add up."""


@dataclass(frozen=True)
class Picture:
    """One packet, one picture."""

    is_idr: bool
    is_start: bool  # decoding from here is exact for every picture displayed later
    is_reference: bool  # nal_ref_idc of its slices is not 0
    parameters: tuple[bytes, ...]  # sequence and picture parameter sets that travel in the packet


def nal_length_size(extradata: bytes) -> int:
    """Return the bytes of a unit's length prefix, 0 where units are divided by start codes (Annex B)."""
    return (extradata[4] & 3) + 1 if len(extradata) > 4 and extradata[0] == 1 else 0


def picture_of(data: bytes, length_size: int, is_keyframe: bool) -> Picture:
    """Read one packet.

    Raises:
        Unreadable: see there.
    """
    parameters: list[bytes] = []
    recovers = False
    slices: list[int] = []
    for first, last in _prefixed(data, length_size) if length_size else _divided(data):
        kind = data[first] & 31
        if kind in (_SLICE, _IDR):
            slices.append(data[first])
        elif kind in (_SPS, _PPS):
            parameters.append(data[first:last])
        elif kind == _SEI and is_keyframe:
            recovers = recovers or _recovers_at_once(data[first + 1 : last])
        elif _PARTITION_A <= kind <= _PARTITION_C:
            raise Unreadable("data partitioning")
    if not slices:
        raise Unreadable("no slice")
    is_idr = slices[0] & 31 == _IDR
    return Picture(is_idr, is_idr or (is_keyframe and recovers), bool(slices[0] & 0x60), tuple(parameters))


def _prefixed(data: bytes, length_size: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at + length_size < len(data):
        first = at + length_size
        at = first + int.from_bytes(data[at:first], "big")
        if not first < at <= len(data):
            raise Unreadable("a unit is empty or exceeds its packet")
        yield first, at
    if at != len(data):
        raise Unreadable("bytes after the last unit")


def _divided(data: bytes) -> Iterator[tuple[int, int]]:
    at = data.find(b"\x00\x00\x01")
    while 0 <= at < len(data) - 3:
        following = data.find(b"\x00\x00\x01", at + 3)
        end = following if following >= 0 else len(data)
        yield at + 3, len(data[at + 3 : end].rstrip(b"\x00")) + at + 3
        at = following


def _recovers_at_once(payloads: bytes) -> bool:
    at = 0
    while at + 2 < len(payloads):
        kind = size = 0
        while at < len(payloads) and payloads[at] == 0xFF:
            kind, at = kind + 255, at + 1
        kind, at = kind + payloads[at], at + 1
        while at < len(payloads) and payloads[at] == 0xFF:
            size, at = size + 255, at + 1
        if at >= len(payloads):
            return False
        size, at = size + payloads[at], at + 1
        if kind == _RECOVERY_POINT:
            return at < len(payloads) and payloads[at] & _EXACT_AT_ONCE == _EXACT_AT_ONCE
        at += size
    return False
