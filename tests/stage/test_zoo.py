"""Odd and broken files: both readers say the same of them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.videos import (
    KINDS,
    claim_frames,
    damage,
    in_gbk,
    read_barcode,
    truncate,
    with_duplicate_times,
    without_times,
    write_two_sizes,
    write_video,
)
from videolift.errors import ClipError
from videolift.settings import Preprocess, Reader
from videolift.video import Reading, read_clips

FRAMES = 48


def read_both(path: Path, **settings: object) -> Reading:
    """Read with both readers, see that they agree, and return what PyAV's says."""
    readings = [read_clips(path, Preprocess(height=72, width=96, reader=reader, **settings)) for reader in Reader]  # type: ignore[arg-type]
    np.testing.assert_array_equal(readings[0].clips, readings[1].clips)
    assert readings[0].frame_count == readings[1].frame_count
    return readings[0]


def assert_right(reading: Reading, frame_count: int = FRAMES) -> None:
    assert reading.frame_count == frame_count
    assert [[read_barcode(frame) for frame in clip] for clip in reading.clips] == reading.indices


@pytest.mark.parametrize(
    ("kind", "claim"),
    [("xvid_gop300_packed", FRAMES + 2), ("xvid_gop12", 100_000), ("xvid_gop12", 0), ("mjpeg", 2**31 - 1)],
)
def test_the_header_is_not_believed(tmp_path: Path, kind: str, claim: int) -> None:
    path = claim_frames(write_video(tmp_path, kind, frames=FRAMES), claim)
    assert_right(read_both(path))
    assert_right(read_both(path, depth=FRAMES))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("h264_plain", "Some title"),
        ("h264_plain", "VideoHandler"),  # of the stream
        ("h264_plain", "Lavf"),
        ("xvid_gop12", "Some title"),  # INAM
        ("xvid_gop12", "Lavf"),  # ISFT
        ("h264_mkv", "Some title"),
        ("h264_mkv", "ENCODER"),  # the name of a tag
        ("h264_mkv", "DURATION"),  # the name of one of the stream's
    ],
)
def test_a_text_beside_the_pictures_need_not_be_utf8(tmp_path: Path, kind: str, text: str) -> None:
    path = in_gbk(write_video(tmp_path, kind, frames=FRAMES, title="Some title"), text)
    with pytest.raises(UnicodeDecodeError), av.open(str(path)):
        pass
    assert_right(read_both(path))


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotation_is_respected(tmp_path: Path, degrees: int) -> None:
    path = write_video(tmp_path, "h264_plain", frames=8, rotation=degrees, name="turned.mp4")
    read_both(path, depth=1)
    plain = read_clips(write_video(tmp_path, "h264_plain", frames=8), Preprocess(depth=1, height=240, width=320))
    turned = np.rot90(plain.clips[0, 0, ..., 0], degrees // 90)
    again = read_clips(path, Preprocess(depth=1, height=turned.shape[0], width=turned.shape[1]))
    np.testing.assert_array_equal(again.clips[0, 0, ..., 0], turned)


@pytest.mark.parametrize("kind", ["mjpeg", "h264_ts", "h264_avi"])
def test_two_sizes_in_one_stream(tmp_path: Path, kind: str) -> None:
    path = write_two_sizes(tmp_path, kind, frames=FRAMES, sizes=((320, 240), (192, 160)))
    assert_right(read_both(path))


def test_pixels_that_are_not_square_count_as_they_are_stored(tmp_path: Path) -> None:
    assert_right(read_both(write_video(tmp_path, "h264_gop250", frames=FRAMES, pixel_shape=Fraction(4, 3))))


@pytest.mark.parametrize("kind", ["h264_gop250", "h264_mkv", "xvid_gop12", "mpeg4_open_avi", "mjpeg"])
def test_frames_of_a_variable_rate_are_counted_not_timed(tmp_path: Path, kind: str) -> None:
    times = [i * i // 9 + 2 * i for i in range(FRAMES)]
    assert_right(read_both(write_video(tmp_path, kind, frames=FRAMES, times=times)))


@pytest.mark.parametrize("kind", ["h264_gop250", "xvid_gop300_packed", "mjpeg"])
def test_one_frame(tmp_path: Path, kind: str) -> None:
    reading = read_both(write_video(tmp_path, kind, frames=1))
    assert_right(reading, 1)
    assert reading.policy == "stretch"


@pytest.mark.parametrize("kind", ["h264_gop250", "h264_mkv"])
def test_times_that_are_not_the_encoders_are_not_trusted(tmp_path: Path, kind: str) -> None:
    reading = read_both(write_video(tmp_path, kind, frames=FRAMES, change=without_times))
    assert_right(reading)
    assert reading.method == "in order"


@pytest.mark.parametrize("kind", ["h264_plain", "h264_mkv"])
def test_duplicate_times_are_not_trusted(tmp_path: Path, kind: str) -> None:
    reading = read_both(write_video(tmp_path, kind, frames=FRAMES, change=with_duplicate_times))
    assert_right(reading)
    assert reading.method == "in order"


@pytest.mark.parametrize("kind", ["xvid_gop12", "mjpeg", "vp9"])
def test_a_truncated_file_has_the_frames_that_are_whole(tmp_path: Path, kind: str) -> None:
    reading = read_both(truncate(write_video(tmp_path, kind, frames=FRAMES)))
    assert 0 < reading.frame_count < FRAMES
    assert_right(reading, reading.frame_count)


@pytest.mark.parametrize("kind", ["xvid_gop300_packed", "h264_ts", "h264_mkv", "fragmented"])
def test_readers_agree_on_what_is_left_of_a_truncated_file(tmp_path: Path, kind: str) -> None:
    assert 0 < read_both(truncate(write_video(tmp_path, kind, frames=FRAMES))).frame_count < FRAMES


@pytest.mark.parametrize(
    "kind", ["xvid_gop12", "h264_plain", "h264_gop12_open", "h264_mkv", "fragmented", "mpeg4_mp4", "vp9"]
)
def test_readers_agree_on_a_damaged_file(tmp_path: Path, kind: str) -> None:
    read_both(damage(write_video(tmp_path, kind, frames=FRAMES), length=60), depth=FRAMES)


@pytest.mark.parametrize("reader", Reader)
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.avi", b"", "the file is empty"),
        ("text.avi", b"not a video at all\n" * 20, r"no video that reader \w+ can open.*preprocess.reader="),
        ("headless.mp4", None, r"no video that reader \w+ can open"),
    ],
)
def test_files_that_are_no_video(tmp_path: Path, reader: Reader, name: str, content: bytes | None, says: str) -> None:
    path = tmp_path / name
    if content is None:
        truncate(write_video(tmp_path, "h264_plain", frames=8, name=name))  # its index was at the end
    else:
        path.write_bytes(content)
    with pytest.raises(ClipError, match=says) as raised:
        read_clips(path, Preprocess(reader=reader))
    assert raised.value.clip == str(path)


@pytest.mark.parametrize("reader", Reader)
def test_a_file_that_is_not_there(tmp_path: Path, reader: Reader) -> None:
    with pytest.raises(ClipError, match=r"gone\.avi: cannot be read \(No such file"):
        read_clips(tmp_path / "gone.avi", Preprocess(reader=reader))


def unknown_codec(data: bytes) -> bytes:
    return data.replace(b"V_VP8", b"V_XYZ")


def no_picture(data: bytes) -> bytes:
    first = data.index(b"movi")
    return data[: first + 4] + bytes(byte ^ 0x5A if i % 7 else byte for i, byte in enumerate(data[first + 4 :]))


@pytest.mark.parametrize("reader", Reader)
@pytest.mark.parametrize(("kind", "spoil"), [("vp8", unknown_codec), ("xvid_gop12", no_picture)])
def test_a_video_of_which_nothing_decodes_names_the_other_reader(
    tmp_path: Path, reader: Reader, kind: str, spoil: Callable[[bytes], bytes]
) -> None:
    path = write_video(tmp_path, kind, frames=12)
    path.write_bytes(spoil(path.read_bytes()))
    other = "opencv" if reader is Reader.pyav else "pyav"
    with pytest.raises(ClipError, match=f"preprocess.reader={other}"):
        read_clips(path, Preprocess(reader=reader))


def test_opencv_refuses_interlaced_video_that_it_would_turn_black(tmp_path: Path) -> None:
    path = write_video(tmp_path, "h264_interlaced", frames=12)
    with pytest.raises(ClipError, match=r"interlaced.*preprocess.reader=pyav"):
        read_clips(path, Preprocess(reader=Reader.opencv))


@pytest.mark.parametrize("name", ["a b'c\"d.avi", "视频 片段.avi", "new\nline.avi", "a:b%03d[1].avi"])
def test_names_that_people_give(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path, "xvid_gop12", frames=FRAMES).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert_right(read_both(Path(name)))


def test_every_kind_survives_odd_sizes(tmp_path: Path) -> None:
    for kind in ("mjpeg", "h264_plain", "xvid_gop12"):
        assert_right(
            read_both(write_video(tmp_path, kind, frames=24, size=(322, 246), name=f"odd{KINDS[kind].suffix}")), 24
        )
