"""Which videos a prediction is for, and how the tables of its hosts become one."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from launchers.base import Stage
from launchers.cache import StageFolder
from launchers.checksums import open_checksums
from launchers.config import Config, problems
from launchers.display import StageDisplay
from launchers.planning import PlannedStage, prepare_stage
from launchers.predicting import UNREADABLE, absolute_input, clip_of, find_videos, merge, shown
from launchers.shares import hard_link_or_copy, lay_out, link
from tests.limits import no_more_files
from videolift.errors import DataError, PartError
from videolift.files import PREDICTIONS_FILE
from videolift.manifest import Clip, Manifest
from videolift.plan import Plan
from videolift.settings import Data, Predict, Source
from videolift.workspace import Kind

HEAD = ["path", "class", "probability", "class_2", "probability_2", "error"]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    here = tmp_path / "here [1]"
    for name in ("a.mp4", "clips/b.mp4", "clips/深/c.avi", "clips/.hidden", "clips/[x].mp4"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "d.mp4").touch()
    return here


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("a.mp4", ["a.mp4"]),
        ("clips", ["clips/[x].mp4", "clips/b.mp4", "clips/深/c.avi"]),
        ("clips/*.mp4", ["clips/[x].mp4", "clips/b.mp4"]),
        ("**/*.avi", ["clips/深/c.avi"]),
        ("clips/[x].mp4", ["clips/[x].mp4"]),
        ("./clips/../a.mp4", ["a.mp4"]),
    ],
)
def test_a_file_a_folder_and_a_pattern_are_understood(here: Path, wanted: str, names: list[str]) -> None:
    assert find_videos(absolute_input(wanted, here), here) == (here, names)


def test_videos_of_another_folder_are_named_from_there(here: Path) -> None:
    elsewhere = here.parent / "elsewhere"
    assert find_videos(str(elsewhere), here) == (elsewhere, ["d.mp4"])
    assert find_videos(absolute_input("../elsewhere/*", here), here) == (elsewhere, ["d.mp4"])
    both = find_videos(absolute_input("../*/*.mp4", here), here)
    assert both == (here.parent, ["elsewhere/d.mp4", "here [1]/a.mp4"])


@pytest.mark.parametrize("wanted", ["absent.mp4", "clips/*.mkv", "clips/深/absent"])
def test_no_video_is_an_error_that_names_the_place(here: Path, wanted: str) -> None:
    with pytest.raises(DataError, match=r"predict\.input: there is no file"):
        find_videos(absolute_input(wanted, here), here)


def test_links_are_followed_and_what_is_no_file_has_a_row(here: Path) -> None:
    (here / "clips" / "linked").symlink_to(here.parent / "elsewhere")
    (here / "clips" / "深" / "up").symlink_to(here / "clips")
    (here / "clips" / "gone.mp4").symlink_to(here / "nothing")
    (here / "clips" / "loop.mp4").symlink_to("loop.mp4")
    os.mkfifo(here / "clips" / "pipe.mp4")
    names = [*("clips/[x].mp4", "clips/b.mp4", "clips/gone.mp4", "clips/linked/d.mp4", "clips/loop.mp4")]
    names += ["clips/pipe.mp4", "clips/深/c.avi"]
    assert find_videos(absolute_input("clips", here), here) == (here, names)
    root, found = find_videos(absolute_input("clips/*.mp4", here), here)
    assert (root, found) == (here, [name for name in names if name.count("/") == 1])
    with open_checksums(here / "sums.db") as checksums:
        clips = [clip_of(here, name, checksums) for name in names]
    assert [clip.id for clip in clips if clip.sha256 == UNREADABLE] == [names[2], names[4], names[5]]


@pytest.mark.parametrize("wanted", ["clips", "clips/*", "clips/bad*.mp4"])
def test_a_name_that_is_not_utf8_is_refused_by_name(here: Path, wanted: str) -> None:
    (here / "clips" / "bad\udcff.mp4").touch()
    with pytest.raises(DataError, match=r"predict\.input=.*: 1 file name is not UTF-8: 'clips/bad\\udcff.mp4'. Rename"):
        find_videos(absolute_input(wanted, here), here)


def test_too_many_open_files_are_no_property_of_a_video(here: Path) -> None:
    (here / "a.mp4").write_bytes(b"a")
    with open_checksums(here / "sums.db") as checksums, no_more_files(), pytest.raises(OSError, match="Too many open"):
        clip_of(here, "a.mp4", checksums)


def test_a_job_is_shown_the_videos_and_not_what_lies_beside_their_folder(here: Path, tmp_path: Path) -> None:
    (here / "private").touch()
    (here / "clips" / "gone.mp4").symlink_to(here / "nothing")
    (here / "clips" / "loop.mp4").symlink_to("loop.mp4")
    for give, folder in ((hard_link_or_copy, "copied"), (link, "linked")):
        prepared = predict_stage(tmp_path / folder, here, "clips")
        (videos,) = (space.channels["videos"] for space in lay_out(prepared, give).values())
        seen = sorted(path.relative_to(videos).as_posix() for path in videos.rglob("*") if not path.is_dir())
        assert seen == ["clips/[x].mp4", "clips/b.mp4", "clips/gone.mp4", "clips/loop.mp4", "clips/深/c.avi"]
    inside = predict_stage(tmp_path / "whole", here / "clips", ".")
    assert inside.dealt["videos"]["algo-1"].whole, "a folder that was asked for may be seen"


def predict_stage(folder: Path, here: Path, wanted: str) -> Stage:
    place = absolute_input(wanted, here)
    root, names = find_videos(place, here)
    plan = Plan("predict", "predict-0", predict=Predict(input=place))
    planned = PlannedStage("predict", "predict-0", plan, ("algo-1",))
    return prepare_stage(planned, folder, manifest(*names), Data(Source.folder, root=str(root)), {})


def test_a_file_that_cannot_be_read_is_not_said_to_be_left_out() -> None:
    told = {}
    for name in ("predict", "preprocess"):
        out = io.StringIO()
        StageDisplay(Console(file=out), name).event({"type": "clip_error", "clip": "a.txt", "error": "no video"})
        told[name] = out.getvalue().strip()
    assert told["predict"] == "predict: cannot read a.txt: no video"
    assert told["preprocess"] == "preprocess: left out a.txt: no video"


def stage(folder: Path, tables: dict[str, list[list[str]]]) -> Stage:
    made = Stage(Plan("predict", "predict-0"), Kind.processing, StageFolder(folder, Kind.processing), tuple(tables))
    for host, rows in tables.items():
        file = made.workspace(host, {}).output / PREDICTIONS_FILE
        file.parent.mkdir(parents=True)
        with file.open("w", encoding="utf-8", newline="") as lines:
            csv.writer(lines).writerows([HEAD, *rows])
    return made


def row(name: str, error: str = "") -> list[str]:
    return [name, "", "", "", "", error] if error else [name, "Jump", "0.900000", "Run", "0.100000", ""]


def manifest(*names: str) -> Manifest:
    return Manifest(("Jump", "Run"), tuple(Clip(name, 0, name, "test", "", 1) for name in names), "predict")


def test_tables_of_hosts_become_one_in_order(tmp_path: Path) -> None:
    made = stage(tmp_path, {"algo-1": [row("a"), row("c")], "algo-2": [row("b", "it, is\nbroken"), row("d")]})
    for _ in range(2):  # merged again after a crash, it is the same
        table, failed = merge(made, manifest("a", "b", "c", "d"))
        assert failed == 1
        with table.open(encoding="utf-8", newline="") as lines:
            assert [line[0] for line in csv.reader(lines)] == ["path", "a", "b", "c", "d"]
    lines, more, failed = shown(table, 3)
    assert (more, failed) == (1, 1)
    assert lines[0] == HEAD and lines[2] == ["b", "", "", "", "", "it, is\nbroken"]
    whole = stage(tmp_path / "x", {"algo-1": [row("a")]}).workspace("algo-1", {}).output
    assert shown(whole / PREDICTIONS_FILE, 3) == ([HEAD[:-1], row("a")[:-1]], 0, 0)


def test_a_video_without_a_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(PartError, match="1 videos have no row, the first is b"):
        merge(stage(tmp_path, {"algo-1": [row("a")]}), manifest("a", "b"))


def test_where_nothing_can_be_read_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 2 videos can be read, the first one is a: torn"):
        merge(stage(tmp_path, {"algo-1": [row("a", "torn"), row("b", "torn")]}), manifest("a", "b"))


def test_settings_of_a_prediction_are_checked() -> None:
    config = Config(run="x", stages=["predict"], predict=Predict(input=" ", top=0, workers=-1))
    assert [line.split(":")[0] for line in problems(config)] == ["predict.top", "predict.workers", "predict.input"]
