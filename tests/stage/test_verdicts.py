"""Whatever reading one file raises is told of that file and ends nothing; what the machine lacks is told of no file."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest

from launchers.checksums import open_checksums
from launchers.predicting import UNREADABLE, absolute_input, clip_of, find_videos
from tests.videos import write_video
from videolift import preprocess as stage
from videolift.errors import ClipError, StageError, StorageError, as_expected
from videolift.events import Events
from videolift.job import Job
from videolift.manifest import Clip, Manifest
from videolift.parts import HostParts
from videolift.plan import Plan
from videolift.predictor import Predictor
from videolift.settings import BadVideo, Preprocess, Reader
from videolift.video import read_clips
from videolift.workspace import Kind, Workspace

SMALL = {"depth": 4, "height": 16, "width": 16}
UNFORESEEN: list[Exception] = [
    UnicodeDecodeError("utf-8", b"\xc4", 0, 1, "invalid continuation byte"),
    RuntimeError("two\nlines"),
    AssertionError(),
    IndexError("list index out of range"),
    OverflowError("int too big"),
    KeyError("rotation"),
    OSError(errno.EIO, "Input/output error", "/secret/a.mp4"),
    OSError(errno.ESTALE, "Stale file handle"),
    cv2.error("(-215:Assertion failed) !ssize.empty()"),
]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path, "h264_plain", frames=8, size=(64, 48), name="a.mp4")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Let opening a video raise an error."""

    def fail(error: Exception) -> None:
        def raise_it(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(av, "open", raise_it)

    return fail


@pytest.mark.parametrize("reader", Reader)
@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_an_unforeseen_error_is_told_of_the_file_and_its_traceback_logged(
    error: Exception,
    reader: Reader,
    video: Path,
    failing: Callable[[Exception], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing(error)
    with pytest.raises(ClipError) as raised:
        read_clips(video, Preprocess(reader=reader, **SMALL))  # type: ignore[arg-type]
    assert raised.value.clip == str(video)
    assert raised.value.__cause__ is error
    assert type(error).__name__ in raised.value.reason
    assert not any(text in raised.value.reason for text in ("\n", "/secret"))
    assert "raise_it" in caplog.text


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError("Unable to allocate 3 TiB"), StageError),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), StorageError),
        (OSError(errno.ENFILE, "Too many open files in system"), StorageError),
        (OSError(errno.EMFILE, "Too many open files"), StorageError),
    ],
)
def test_what_the_machine_lacks_is_no_property_of_the_file(
    error: Exception, kind: type, video: Path, failing: Callable[[Exception], None]
) -> None:
    failing(error)
    with pytest.raises(type(error), match=r"a\.mp4") as raised:
        stage.read_clip(video.parent, Preprocess(bad_video=BadVideo.skip, **SMALL), clip(video))  # type: ignore[arg-type]
    assert isinstance(as_expected(raised.value), kind)


def clip(file: Path, size: int | None = None) -> Clip:
    return Clip(file.name, 0, file.name, "train", "", file.stat().st_size if size is None else size)


def unreadable(folder: Path) -> dict[str, str]:
    """Make files that cannot be read, whoever reads them, and return what is told of each."""
    (folder / "closed.mp4").symlink_to("x" * 300)  # that stat cannot follow, as one into a folder that is closed to us
    (folder / "disk.mp4").symlink_to("/proc/self/mem")  # of which no byte can be read, as of a broken disk
    (folder / "gone.mp4").symlink_to(folder / "nothing")
    return {"closed.mp4": "File name too long", "disk.mp4": "Input/output error", "gone.mp4": "No such file"}


def job(root: Path, clips: list[Clip], preprocess: Preprocess) -> Job:
    workspace = Workspace(Kind.processing, root / "ml", "algo-1", ("algo-1",), {"videos": root})
    workspace.create_results()
    plan = Plan("preprocess", "preprocess-0", preprocess=preprocess)
    return Job(workspace, plan, Manifest(("a",), tuple(clips), "folder"), Events(root / "events.jsonl", "algo-1"))


def test_preprocess_leaves_out_what_cannot_be_read_and_names_it(tmp_path: Path, video: Path) -> None:
    told = unreadable(tmp_path)
    clips = [clip(video), *(clip(tmp_path / name, 0) for name in told)]
    settings = Preprocess(bad_video=BadVideo.skip, max_bad_share=0.9, workers=1, **SMALL)  # type: ignore[arg-type]
    one = job(tmp_path, clips, settings)
    stage.run(one)
    one.events.close()
    errors = {entry.clip: entry.error for entry in HostParts(one.workspace.parts).entries() if entry.error}
    assert errors.keys() == told.keys()
    assert all(told[name] in str(errors[name]) for name in told)
    for name in told:
        with pytest.raises(ClipError, match=rf"^{name}: cannot be read .*bad_video=skip leaves such files out"):
            stage.read_clip(tmp_path, Preprocess(**SMALL), clip(tmp_path / name, 0))  # type: ignore[arg-type]


def test_a_file_that_changed_since_it_was_listed_is_never_left_out(video: Path) -> None:
    with pytest.raises(ClipError, match=r"a\.mp4: changed since it was listed"):
        stage.read_clip(video.parent, Preprocess(bad_video=BadVideo.skip, **SMALL), clip(video, 1))  # type: ignore[arg-type]


def test_predict_lists_what_cannot_be_read(tmp_path: Path, video: Path) -> None:
    told = unreadable(tmp_path)
    root, names = find_videos(absolute_input(".", tmp_path), tmp_path)
    assert (root, names) == (tmp_path, [video.name, *told])
    with open_checksums(tmp_path / ".sums.db") as checksums:
        clips = [clip_of(root, name, checksums) for name in names]
    assert [one.id for one in clips if one.sha256 == UNREADABLE] == list(told)


@pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")  # of MLflow itself, when it is imported
def test_a_served_model_tells_it_in_the_row(
    tmp_path: Path, video: Path, failing: Callable[[Exception], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from launchers.served_model import VideoClassifier

    classifier = VideoClassifier()

    def network(clips: np.ndarray, *, training: bool) -> np.ndarray:
        return np.full((len(clips), 2), 0.5)

    classifier._predictor = Predictor(network, ["a", "b"], Preprocess(**SMALL))  # type: ignore[arg-type]
    monkeypatch.setenv("VIDEOLIFT_VIDEOS", str(tmp_path))
    rows = pd.DataFrame({"path": [video.name]})
    assert list(classifier.predict(None, rows)["class"]) == ["a"]  # type: ignore[arg-type]
    failing(UnicodeDecodeError("utf-8", b"\xc4", 0, 1, "invalid continuation byte"))
    (answer,) = classifier.predict(None, rows).to_dict("records")  # type: ignore[arg-type]
    assert "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xc4" in answer["error"]
    assert not answer["class"]
