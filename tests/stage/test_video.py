from __future__ import annotations

import errno
import os
import shutil
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from tests.limits import no_more_files
from tests.videos import BENCHMARKED, KINDS, Image, read_barcode, starting_late, write_video
from videolift import reader_pyav
from videolift.errors import ClipError, StorageError, as_expected
from videolift.sampling import ShortVideoError, clip_indices
from videolift.settings import Preprocess, Reader, Resize, Sampling, ShortVideo
from videolift.video import Reading, read_clips

FRAMES = 70
UNSURE = {"h264_avi", "h264_interlaced", "vp8", "vp9", "hevc"}  # kinds whose order is not told from packets

SAMPLINGS: dict[str, dict[str, object]] = {
    "uniform": {"depth": 10},
    "all": {"depth": FRAMES},
    "head": {"depth": 5, "sampling": Sampling.head},
    "windows": {"depth": 4, "interval": 3, "windows": 5},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    return {kind: write_video(folder, kind, frames=FRAMES, size=(192, 144)) for kind in KINDS}


def large(**settings: object) -> Preprocess:
    """Ask for clips in which the barcode can be read."""
    return Preprocess(height=72, width=96, **settings)  # type: ignore[arg-type]


def barcodes(reading: Reading) -> list[list[int]]:
    return [[read_barcode(frame) for frame in clip] for clip in reading.clips]


def every_frame(path: Path, p: Preprocess) -> list[Image]:
    """Decode everything with OpenCV, in order: the reference that shares no code with the readers."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    frames: list[Image] = []
    while True:
        decoded, frame = capture.read()
        if not decoded:
            return frames
        interpolation = cv2.INTER_AREA if p.resize is Resize.area else cv2.INTER_LINEAR
        small = cv2.resize(frame, (p.width, p.height), interpolation=interpolation)
        frames.append(np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8))


TEXTS = {
    "concat": "ffconcat version 1.0\nfile {name}\n",
    "itself": "ffconcat version 1.0\nfile itself.mp4\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{name}\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "letters": "Jump/v_Jump_g01_c01.avi 1\n" * 100,
}
SUFFIXES = {"hls": ".m3u8", "sdp": ".sdp", "letters": ".txt"}


@pytest.mark.parametrize("reader", Reader)
@pytest.mark.parametrize("kind", TEXTS)
def test_text_is_no_video(videos: dict[str, Path], tmp_path: Path, kind: str, reader: Reader) -> None:
    shutil.copy(videos["h264_gop250"], tmp_path / "video.mp4")
    file = tmp_path / f"{kind}{SUFFIXES.get(kind, '.mp4')}"
    file.write_text(TEXTS[kind].format(name="video.mp4"))
    with pytest.raises(ClipError, match=rf"{file}: is text, not a video"):
        read_clips(file, large(reader=reader))


@pytest.mark.parametrize("reader", Reader)
def test_a_pattern_in_a_name_stands_for_itself(tmp_path: Path, reader: Reader) -> None:
    for name in ("1.png", "2.png", "%d.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((48, 64, 3), np.uint8))
    assert read_clips(tmp_path / "%d.png", large(reader=reader)).frame_count == 1


@pytest.mark.parametrize("reader", Reader)
def test_a_pipe_is_not_waited_for(tmp_path: Path, reader: Reader) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(ClipError, match=r"a\.mp4: is not a regular file"):
        read_clips(tmp_path / "a.mp4", large(reader=reader))


def test_too_many_open_files_are_no_property_of_a_video(
    videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with no_more_files(), pytest.raises(OSError, match="Too many open files"):
        read_clips(videos["h264_gop250"], large())

    def full(*_: object, **__: object) -> None:
        raise av.FFmpegError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(reader_pyav.av, "open", full)
    with pytest.raises(OSError, match=r"Too many open files.*mp4") as raised:
        read_clips(videos["h264_gop250"], large())
    assert isinstance(as_expected(raised.value), StorageError)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_clips_hold_the_frames_asked_for(videos: dict[str, Path], kind: str, sampling: str) -> None:
    p = large(**SAMPLINGS[sampling])
    reading = read_clips(videos[kind], p)
    assert reading.frame_count == FRAMES
    assert reading.indices == clip_indices(FRAMES, p).indices == barcodes(reading)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"h264_interlaced"}))
def test_decoding_only_what_is_needed_gives_the_pixels_of_decoding_everything(
    videos: dict[str, Path], kind: str, sampling: str
) -> None:
    p = large(**SAMPLINGS[sampling], color=True)
    everything = every_frame(videos[kind], p)
    reading = read_clips(videos[kind], p)
    for clip, indices in zip(reading.clips, reading.indices, strict=True):
        np.testing.assert_array_equal(clip, [everything[index] for index in indices])


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"h264_interlaced"}))
def test_both_readers_return_the_same_clips(videos: dict[str, Path], kind: str) -> None:
    ours, other = (read_clips(videos[kind], large(reader=reader)) for reader in Reader)
    np.testing.assert_array_equal(ours.clips, other.clips)
    assert (ours.frame_count, ours.indices) == (other.frame_count, other.indices)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_is_told_from_packets_wherever_it_can_be(videos: dict[str, Path], kind: str) -> None:
    reading = read_clips(videos[kind], large())
    assert reading.method == ("in order" if kind in UNSURE else "needed")


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - UNSURE))
def test_frames_far_apart_are_exact_wherever_decoding_starts(videos: dict[str, Path], kind: str) -> None:
    everything = every_frame(videos[kind], large(color=True))
    for gap in range(1, FRAMES, 7):
        reading = read_clips(videos[kind], large(color=True, depth=2, interval=gap, windows=3))
        for clip, indices in zip(reading.clips, reading.indices, strict=True):
            np.testing.assert_array_equal(clip, [everything[index] for index in indices])


@pytest.mark.parametrize("kind", BENCHMARKED)
def test_few_packets_are_decoded_for_few_frames(videos: dict[str, Path], kind: str) -> None:
    reading = read_clips(videos[kind], large(depth=3))
    assert reading.decoded < FRAMES * 0.7


@pytest.mark.parametrize("kind", ["xvid_gop12", "mpeg4_open_avi", "h264_plain", "h264_gop250"])
@pytest.mark.parametrize("color", [False, True])
def test_linear_resize_gives_the_arrays_of_the_original_scripts(
    videos: dict[str, Path], kind: str, color: bool
) -> None:
    capture = cv2.VideoCapture(str(videos[kind]))
    n, depth, height, width = capture.get(cv2.CAP_PROP_FRAME_COUNT), 10, 32, 32
    frames = []
    for x in range(depth):  # as 3DCNN's videoto3d does
        capture.set(cv2.CAP_PROP_POS_FRAMES, x * n / depth)
        _, frame = capture.read()
        frame = cv2.resize(frame, (height, width))
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if color else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))
    for reader in Reader:
        (clip,) = read_clips(videos[kind], Preprocess(resize=Resize.linear, reader=reader, color=color)).clips
        np.testing.assert_array_equal(clip.squeeze(-1) if not color else clip, frames)


@pytest.mark.parametrize("kind", ["xvid_gop300_packed", "h264_gop12_open", "h264_ts"])
def test_a_file_too_large_to_hold_is_read_twice_with_the_same_result(
    videos: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = read_clips(videos[kind], large())
    monkeypatch.setattr("videolift.reader_pyav._HELD_BYTES", 0)
    again = read_clips(videos[kind], large())
    np.testing.assert_array_equal(held.clips, again.clips)
    assert again.method == "needed"


@pytest.mark.parametrize("kind", ["h264_gop250", "mpeg4_mp4"])
def test_frames_that_the_file_says_to_hide_are_not_counted(tmp_path: Path, kind: str) -> None:
    path = write_video(tmp_path, kind, frames=40, change=starting_late(7))
    for reader in Reader:
        reading = read_clips(path, large(reader=reader))
        assert reading.frame_count == 33
        assert barcodes(reading) == [[index + 7 for index in reading.indices[0]]]
    assert read_clips(path, large()).method == "needed"


def test_shapes_and_channels(videos: dict[str, Path]) -> None:
    color = read_clips(
        videos["h264_plain"], Preprocess(depth=4, interval=2, windows=3, height=20, width=30, color=True)
    )
    assert color.clips.shape == (3, 4, 20, 30, 3)
    assert color.clips.dtype == np.uint8
    gray = read_clips(videos["h264_plain"], Preprocess(depth=4, height=20, width=30))
    assert gray.clips.shape == (1, 4, 20, 30, 1)


def test_colour_is_rgb(videos: dict[str, Path]) -> None:
    (clip,) = read_clips(videos["mjpeg"], Preprocess(depth=1, height=144, width=192, color=True)).clips
    red, _, blue = clip[0, 80:100, 5:30].reshape(-1, 3).mean(axis=0)  # the square: (220, 40, 90)
    assert red > 180
    assert blue < 120


@pytest.mark.parametrize("reader", Reader)
def test_short_videos_follow_their_policy(videos: dict[str, Path], reader: Reader) -> None:
    loop = read_clips(
        videos["xvid_gop12"], large(depth=80, sampling=Sampling.head, short_video=ShortVideo.loop, reader=reader)
    )
    assert (loop.policy, barcodes(loop)[0][68:72]) == ("loop", [68, 69, 0, 1])
    with pytest.raises(ShortVideoError, match=r"xvid_gop12\.avi: the video has 70 frames.*needs 80"):
        read_clips(videos["xvid_gop12"], large(depth=80, short_video=ShortVideo.skip, reader=reader))


def test_reading_twice_gives_the_same_bytes(videos: dict[str, Path]) -> None:
    readings = [read_clips(videos["h264_gop12_open"], large()) for _ in range(3)]
    assert all(a.clips.tobytes() == b.clips.tobytes() for a, b in pairwise(readings))
