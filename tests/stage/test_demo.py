from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from videolift.demo import CLIPS, FRAMES, GROUPS, HEIGHT, MOTIONS, WIDTH, write_demo
from videolift.errors import StorageError
from videolift.manifest import make_manifest, sha256_file
from videolift.settings import Data

SRC = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "videos"
    done = command(str(root))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "demo data: 288/288 clips"
    return root


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "videolift.demo", *arguments],
        env={"PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=False,
    )


def files(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): sha256_file(path) for path in root.rglob("*") if path.is_file()}


def frames(path: Path) -> np.ndarray:
    """Return the luma of each frame, uint8 (frame, height, width)."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return np.array([frame.to_ndarray()[:HEIGHT] for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def videos(demo) -> dict[str, np.ndarray]:
    """Return each class's clips, uint8 (clip, frame, height, width)."""
    return {label: np.array([frames(path) for path in sorted((demo / label).iterdir())]) for label in MOTIONS}


def test_every_class_sees_every_scene_equally_often(demo):
    manifest = make_manifest(Data(root=str(demo)), seed=0)
    assert manifest.classes == tuple(sorted(MOTIONS))
    assert len(manifest.clips) == len(MOTIONS) * GROUPS * CLIPS == 288
    assert set(manifest.counts("test").values()) == {GROUPS * CLIPS // 4}
    assert min(manifest.counts("val").values()) > 0
    assert manifest.leak_rate == 0


def test_it_is_small(demo):
    assert sum(path.stat().st_size for path in demo.rglob("*.*")) < 6e6


def test_two_containers_and_codecs_are_really_used_in_every_class_and_scene(demo):
    kinds = {".avi": ("avi", "mpeg4", "XVID"), ".mp4": ("mov,mp4,m4a,3gp,3g2,mj2", "h264", "avc1")}
    for path in demo.glob("*/*_g01_*"):
        with av.open(str(path)) as container:
            codec = container.streams.video[0].codec_context
            assert (container.format.name, codec.name, codec.codec_tag) == kinds[path.suffix]
    for label in MOTIONS:
        for group in range(1, GROUPS + 1):
            found = [path.suffix for path in (demo / label).glob(f"*_g{group:02d}_*")]
            assert sorted(found) == [".avi"] * (CLIPS // 2) + [".mp4"] * (CLIPS // 2)


def test_every_clip_decodes_to_its_frames(videos):
    for clips in videos.values():
        assert clips.shape == (GROUPS * CLIPS, FRAMES, HEIGHT, WIDTH)


# All classes are drawn from one distribution, so their means differ by chance only: four standard errors are allowed.
@pytest.mark.parametrize("moment", ["mean", "std"])
@pytest.mark.parametrize("frame", [0, FRAMES // 2, FRAMES - 1])
def test_single_frames_of_all_classes_are_alike(videos, moment, frame):
    of_clip = {label: getattr(clips[:, frame].astype(float), moment)((1, 2)) for label, clips in videos.items()}
    everything = np.concatenate(list(of_clip.values()))
    error = everything.std() / np.sqrt(GROUPS * CLIPS)
    assert all(abs(values.mean() - everything.mean()) < 4 * error for values in of_clip.values())


def test_where_things_move_tells_the_classes_apart(videos):
    for label, (right, down, roll) in MOTIONS.items():
        for clip in videos[label][::7]:
            first, second = clip[FRAMES // 2].astype(float), clip[FRAMES // 2 + 1].astype(float)
            slope_y, slope_x = np.gradient(first)
            x, y = np.arange(WIDTH) - WIDTH / 2, np.arange(HEIGHT)[:, None] - HEIGHT / 2
            spin = slope_y * x - slope_x * y
            basis = np.array([slope_x.ravel(), slope_y.ravel(), spin.ravel()]).T
            flow = np.linalg.lstsq(basis, (first - second).ravel(), rcond=None)[0]  # seen motion, against the camera's
            expected = np.array([-right, -down, -roll])
            assert np.argmax(np.abs(flow) * (1, 1, 24)) == np.argmax(np.abs(expected))
            assert (flow * expected).sum() > 0


def test_the_same_bytes_every_time(demo, tmp_path):
    everything = files(demo)
    for name in ("once", "again"):
        write_demo(tmp_path / name, groups=2)
        assert files(tmp_path / name).items() <= everything.items()


def test_what_is_there_is_not_written_again(demo):
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*")}
    write_demo(demo)
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*")} == before


def test_interrupted_writing_leaves_nothing(tmp_path):
    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_demo(tmp_path / "demo", interrupt, groups=1)
    assert list(tmp_path.iterdir()) == []


def test_killed_writing_leaves_nothing_that_looks_finished(tmp_path):
    code = (
        "import os, pathlib, sys, videolift.demo as d; d.write_demo(pathlib.Path(sys.argv[1]), lambda *_: os._exit(9))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "demo"], env={"PYTHONPATH": str(SRC)}, check=False)
    assert done.returncode == 9
    assert not (tmp_path / "demo").exists()


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match="something else than the demo data"):
        write_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"demo: cannot be written"):
        write_demo(tmp_path / "file/demo")


def test_whoever_is_second_finds_the_first_ones_videos(tmp_path):
    root = tmp_path / "demo"
    write_demo(root, lambda done, _: write_demo(root, groups=1, clips=1) if done == 1 else None, groups=1, clips=1)
    assert len(files(root)) == len(MOTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_command_line_says_what_is_wrong(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for arguments, code, said in [((), 2, "usage: "), ((str(tmp_path),), 6, "StorageError: ")]:
        done = command(*arguments)
        assert done.returncode == code
        assert done.stderr.startswith(said)
        assert "Traceback" not in done.stderr
