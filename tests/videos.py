"""Make small video files of every kind that matters to a reader, with the frame's number in every picture.

Deterministic: the same call writes the same pictures. PyAV's encoders do the work; what they do not make (packed
bitstreams, headers that lie, damage) is made here from what they do.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

BITS = 12  # of the barcode: frame numbers up to 4095
RATE = 25  # frames a second
_VOP = b"\x00\x00\x01\xb6"
_USER_DATA = b"\x00\x00\x01\xb2"
_X264 = "bframes=3:scenecut=0:threads=1"
_LAVC = re.compile(rb"Lavc[\d.]+")


@dataclass(frozen=True)
class Kind:
    """How a kind of video is encoded and stored."""

    suffix: str
    codec: str
    options: dict[str, str] = field(default_factory=dict)
    tag: str | None = None  # fourcc
    store: dict[str, str] = field(default_factory=dict)  # the container's options
    pixels: str = "yuv420p"


KINDS = {
    "xvid_gop300_packed": Kind(".avi", "mpeg4", {"g": "300", "bf": "2", "qscale": "4"}, "XVID"),
    "xvid_gop12": Kind(".avi", "mpeg4", {"g": "12", "qscale": "4"}, "XVID"),
    "h264_gop250": Kind(".mp4", "libx264", {"x264-params": f"keyint=250:{_X264}"}),
    "h264_gop12_open": Kind(".mp4", "libx264", {"x264-params": f"keyint=12:min-keyint=12:open-gop=1:{_X264}"}),
    "h264_plain": Kind(".mp4", "libx264", {"x264-params": "keyint=12:bframes=0:scenecut=0:threads=1"}),
    "h264_mkv": Kind(".mkv", "libx264", {"x264-params": f"keyint=20:{_X264}"}),
    "h264_avi": Kind(".avi", "libx264", {"x264-params": f"keyint=20:{_X264}"}, "H264"),  # no presentation times
    "h264_ts": Kind(".ts", "libx264", {"x264-params": f"keyint=20:{_X264}"}),
    "h264_interlaced": Kind(".mp4", "libx264", {"x264-params": f"keyint=20:tff=1:{_X264}"}),
    "fragmented": Kind(
        ".mp4", "libx264", {"x264-params": f"keyint=20:{_X264}"}, store={"movflags": "frag_keyframe+empty_moov"}
    ),
    "mpeg4_mp4": Kind(".mp4", "mpeg4", {"g": "12", "bf": "2", "qscale": "4"}),
    "mpeg4_open_avi": Kind(".avi", "mpeg4", {"g": "12", "bf": "2", "qscale": "4"}),
    "mjpeg": Kind(".avi", "mjpeg", {"qscale": "4"}, pixels="yuvj420p"),
    "vp8": Kind(".webm", "libvpx", {"g": "20", "deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "1"}),
    "vp9": Kind(".webm", "libvpx-vp9", {"g": "20", "deadline": "realtime", "cpu-used": "8"}),
    "hevc": Kind(".mp4", "libx265", {"preset": "ultrafast", "x265-params": "keyint=20:bframes=3:log-level=none"}),
}
LONG = ("xvid_gop300_packed", "h264_gop250")
BENCHMARKED = ("xvid_gop300_packed", "xvid_gop12", "h264_gop250", "h264_gop12_open")

Change = Callable[[list["av.Packet[Any]"]], list["av.Packet[Any]"]]


def write_video(
    folder: Path,
    kind: str,
    *,
    frames: int = 60,
    size: tuple[int, int] = (320, 240),
    times: Iterable[int] | None = None,
    rotation: int = 0,
    pixel_shape: Fraction = Fraction(1),
    change: Change | None = None,
    title: str = "",
    name: str | None = None,
) -> Path:
    """Write a video of one of ``KINDS`` and return its path.

    Args:
        size: (width, height) in pixels.
        times: the presentation time of each frame in 1/25 s, where it is not just its number.
        rotation: degrees, counterclockwise, that a player turns the picture by.
        pixel_shape: width of a pixel over its height.
        change: edits the encoded packets before they are stored.
        title: of the container.
    """
    made = KINDS[kind]
    path = folder / (name or f"{kind}{made.suffix}")
    with av.open(str(path), "w", options=made.store) as container:
        stream: Any = container.add_stream(made.codec, rate=RATE, options=made.options)
        stream.width, stream.height = size
        stream.pix_fmt = made.pixels
        stream.codec_context.time_base = Fraction(1, RATE)
        stream.codec_context.thread_count = 1
        stream.codec_context.sample_aspect_ratio = pixel_shape
        if made.tag:
            stream.codec_context.codec_tag = made.tag
        if title:
            container.metadata["title"] = title
        if rotation:
            stream.set_display_rotation(rotation)
        packets = encode(stream, (picture(i, size) for i in range(frames)), times)
        if made.tag == "XVID":
            packets = sign_as_xvid(packets, packed=kind.endswith("_packed"))
        for packet in change(packets) if change else packets:
            packet.stream = stream
            container.mux(packet)
    return path


def picture(number: int, size: tuple[int, int]) -> Image:
    """Draw frame ``number``: a texture that pans, a square that moves, and the barcode. RGB (height, width, 3)."""
    width, height = size
    block = 8
    coarse = np.random.default_rng(0).integers(60, 200, (height // block + 40, width // block + 40, 3), dtype=np.uint8)
    texture = coarse.repeat(block, 0).repeat(block, 1)
    dy, dx = number % (20 * block), (2 * number) % (20 * block)
    image = texture[dy : dy + height, dx : dx + width].copy()
    grain = np.random.default_rng(number).integers(0, 12, (height, width, 1), dtype=np.uint8)
    image = image + grain
    left = (5 * number) % max(width - 40, 1)
    image[height // 2 : height // 2 + 40, left : left + 40] = (220, 40, 90)
    for bit, columns in enumerate(_columns(width)):
        image[: _strip(height), columns] = 225 if number >> bit & 1 else 30
    return image


def read_barcode(image: Image) -> int:
    """Read the frame's number from a picture, (height, width) or (height, width, channel), of 32x32 pixels or more."""
    gray = image if image.ndim == 2 else image.mean(axis=2)
    height, width = gray.shape
    rows = slice(_strip(height) // 3, _strip(height) * 2 // 3)
    margin = width // BITS // 6
    centres = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    bits = [float(gray[rows, centre - margin : centre + margin + 1].mean()) > 127 for centre in centres]
    return sum(1 << bit for bit, is_set in enumerate(bits) if is_set)


def _columns(width: int) -> list[slice]:
    return [slice(i * width // BITS, (i + 1) * width // BITS) for i in range(BITS)]


def _strip(height: int) -> int:
    return height // 6


def encode(stream: Any, images: Iterable[Image], times: Iterable[int] | None = None) -> list[av.Packet[Any]]:
    """Encode pictures into packets, in decoding order."""
    moments = iter(times) if times is not None else None
    packets: list[av.Packet[Any]] = []
    for number, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = number if moments is None else next(moments)
        frame.time_base = Fraction(1, RATE)
        packets += stream.encode(frame)
    return packets + list(stream.encode(None))


def sign_as_xvid(packets: list[av.Packet[Any]], *, packed: bool) -> list[av.Packet[Any]]:
    """Let the stream name XviD as its encoder, on which decoders choose their inverse transform."""
    signature = b"DivX503b1393p" + _USER_DATA + b"XviD0055" if packed else b"XviD0055"
    signed = _packet(_LAVC.sub(signature, bytes(packets[0])), 0, keyframe=True)
    return pack([signed, *packets[1:]]) if packed else [signed, *packets[1:]]


def pack(packets: list[av.Packet[Any]]) -> list[av.Packet[Any]]:
    """Store B pictures as DivX and XviD do in AVI: the first together with the reference before it.

    I, P, B, B becomes I, P+B, B, N: as many packets as frames, and a picture "not coded" (N) where one moved away.
    """
    data = [bytes(packet) for packet in packets]
    packed: list[bytes] = []
    behind = False  # a B picture moved into the packet of its reference
    for i, picture_data in enumerate(data):
        is_b = _kind(picture_data) == 2
        follows_reference = i > 0 and _kind(data[i - 1]) != 2
        if is_b and follows_reference:
            packed[-1] += picture_data
            behind = True
        elif is_b:
            packed.append(picture_data)
        else:
            if behind:
                packed.append(_not_coded())
            packed.append(picture_data)
            behind = False
    if behind:
        packed.append(_not_coded())
    return [_packet(chunk, number, keyframe=_kind(chunk) == 0) for number, chunk in enumerate(packed)]


def _kind(data: bytes) -> int:
    return data[data.index(_VOP) + 4] >> 6


def _not_coded() -> bytes:
    """Return a P picture whose vop_coded is 0; ISO/IEC 14496-2, 6.2.5. The time takes 5 bits at 25 frames a second."""
    bits = "01" + "0" + "1" + "00000" + "1" + "0"
    bits += "0" + "1" * (-(len(bits) + 1) % 8)  # stuffing
    return _VOP + int(bits, 2).to_bytes(len(bits) // 8, "big")


def _packet(data: bytes, number: int, *, keyframe: bool) -> av.Packet[Any]:
    packet: av.Packet[Any] = av.Packet(data)
    packet.pts = packet.dts = number
    packet.time_base = Fraction(1, RATE)
    packet.is_keyframe = keyframe
    return packet


def write_two_sizes(
    folder: Path, kind: str, *, frames: int = 60, sizes: tuple[tuple[int, int], tuple[int, int]]
) -> Path:
    """Write a stream whose second half has another size; ``kind`` is mjpeg, h264_ts or h264_avi."""
    made = KINDS[kind]
    path = folder / f"two_sizes_{kind}{made.suffix}"
    halves = []
    for half, (width, height) in enumerate(sizes):
        encoder: Any = av.CodecContext.create(made.codec, "w")
        encoder.width, encoder.height, encoder.pix_fmt = width, height, made.pixels
        encoder.time_base, encoder.framerate = Fraction(1, RATE), Fraction(RATE)
        encoder.thread_count = 1
        encoder.options = made.options
        numbers = range(half * frames // 2, (half + 1) * frames // 2)
        halves.append(encode(encoder, (picture(i, (width, height)) for i in numbers), numbers))
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(made.codec, rate=RATE, options=made.options)
        stream.width, stream.height = sizes[0]
        stream.pix_fmt = made.pixels
        stream.codec_context.time_base = Fraction(1, RATE)
        for packet in halves[0] + halves[1]:
            packet.stream = stream
            container.mux(packet)
    return path


def claim_frames(path: Path, count: int) -> Path:
    """Make an AVI's headers claim ``count`` frames."""
    data = bytearray(path.read_bytes())
    for chunk, field_at in ((b"avih", 16), (b"strh", 32)):  # dwTotalFrames, dwLength
        at = data.index(chunk) + 8 + field_at
        data[at : at + 4] = struct.pack("<I", count)
    path.write_bytes(data)
    return path


def in_gbk(path: Path, text: str) -> Path:
    """Put Chinese in GBK, which is no UTF-8, in the place of a text of 2 letters or more in a file's headers."""
    content = path.read_bytes()
    assert text.encode() in content
    chinese = ("视频" * len(text)).encode("gbk")[: len(text) // 2 * 2].ljust(len(text), b"!")
    path.write_bytes(content.replace(text.encode(), chinese))
    return path


def title_in_gbk(path: Path) -> Path:
    """Give an AVI a title as Chinese Windows writes it: a list INFO with an INAM in GBK."""
    title = "视频".encode("gbk") + b"\0\0"
    info = struct.pack("<4sI4s4sI", b"LIST", 12 + len(title), b"INFO", b"INAM", len(title)) + title
    content = path.read_bytes()
    movie = content.index(b"movi") - 8
    riff = struct.pack("<4sI", b"RIFF", len(content) - 8 + len(info))
    path.write_bytes(riff + content[8:movie] + info + content[movie:])
    return path


def truncate(path: Path, share: float = 0.5) -> Path:
    """Cut a file off."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def damage(path: Path, *, at: float = 0.5, length: int = 600) -> Path:
    """Overwrite some bytes in the middle of a file with noise."""
    data = bytearray(path.read_bytes())
    first = int(len(data) * at)
    data[first : first + length] = np.random.default_rng(1).bytes(length)
    path.write_bytes(data)
    return path


def without_times(packets: list[av.Packet[Any]]) -> list[av.Packet[Any]]:
    """Set presentation to decoding order, as writers do that know no better."""
    for number, packet in enumerate(packets):
        packet.pts = packet.dts = number
    return packets


def with_duplicate_times(packets: list[av.Packet[Any]]) -> list[av.Packet[Any]]:
    """Let two frames claim the same moment."""
    packets[5].pts = packets[6].pts
    return packets


def starting_late(frames: int) -> Change:
    """Give the first frames times before 0: the file then tells players to decode them without showing them."""

    def change(packets: list[av.Packet[Any]]) -> list[av.Packet[Any]]:
        for packet in packets:
            packet.pts = (packet.pts or 0) - frames
            packet.dts = (packet.dts or 0) - frames
        return packets

    return change
