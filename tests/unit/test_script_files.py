"""What a script wrote anywhere below the root of its job is kept, whatever it is and however the script ended."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from videolift.script_files import collect, remember, work_folder
from videolift.workspace import Kind, Workspace


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return started(tmp_path / "job", Kind.training)


def started(root: Path, kind: Kind) -> Workspace:
    """Return the workspace of a job whose script is about to start."""
    space = Workspace(kind, root, "algo-1", ("algo-1",), {})
    space.lay_out()
    for file in (work_folder(space) / "train.py", space.inputs / "train" / "a.avi"):
        write(file, "as it was")
    remember(space)
    return space


def write(file: Path, content: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


def kept(space: Workspace) -> dict[str, str]:
    files = (file for file in space.output.rglob("*") if file.is_file())
    return {file.relative_to(space.output).as_posix(): file.read_text() for file in files}


def test_files_are_kept_wherever_a_script_wrote_them(space: Workspace) -> None:
    for place, content in {
        work_folder(space) / "history.json": "beside",
        work_folder(space) / "train.py": "rewritten",
        space.scratch / "results" / "up.txt": "above it",
        space.output / "by-heart.txt": "by heart",
        space.output / "files" / "told.txt": "as told",
        space.root / "output" / "report.txt": "SM_OUTPUT_DIR",
        space.root / "root.txt": "root",
        space.inputs / "train" / "labels.cache": "cache of the data",
        space.inputs / "train" / "a.avi": "rewritten data",
        work_folder(space) / "__pycache__" / "x.pyc": "",
    }.items():
        write(place, content)
    assert collect(space).elsewhere == [
        *("input/data/train/a.avi", "input/data/train/labels.cache"),
        *("output/report.txt", "root.txt", "scratch/results/up.txt"),
    ]
    assert kept(space) == {
        "work/history.json": "beside",
        "work/train.py": "rewritten",
        "files/by-heart.txt": "by heart",
        "files/told.txt": "as told",
        "elsewhere/output/report.txt": "SM_OUTPUT_DIR",
        "elsewhere/root.txt": "root",
        "elsewhere/input/data/train/labels.cache": "cache of the data",
        "elsewhere/input/data/train/a.avi": "rewritten data",
        "elsewhere/scratch/results/up.txt": "above it",
    }
    assert not space.scratch.exists() and not collect(space).elsewhere


def test_of_two_places_with_one_name_both_are_kept(space: Workspace) -> None:
    write(space.output / "files" / "x", "as told")
    write(space.output / "x", "by heart")
    write(space.output / "files" / "y", "a file")
    write(space.output / "y" / "z", "in a folder of its name")
    collect(space)
    assert kept(space) == {
        "files/x": "as told",
        "elsewhere/output/data/x": "by heart",
        "files/y": "a file",
        "elsewhere/output/data/y/z": "in a folder of its name",
    }


def test_a_large_file_is_moved_whatever_its_size(space: Workspace) -> None:
    with (work_folder(space) / "weights.bin").open("wb") as file:
        file.truncate(3 << 30)  # without blocks
    collect(space)
    assert (space.output / "work" / "weights.bin").stat().st_size == 3 << 30


def test_a_change_that_keeps_size_and_time_is_seen(space: Workspace) -> None:
    file = work_folder(space) / "train.py"
    before = file.stat()
    file.write_text("AS IT WAS")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    collect(space)
    assert kept(space) == {"work/train.py": "AS IT WAS"}


def test_links_to_what_the_script_wrote_become_files_and_others_are_listed(space: Workspace, tmp_path: Path) -> None:
    work = work_folder(space)
    write(space.model / "epoch_2.keras", "weights")
    (space.model / "last.keras").symlink_to("epoch_2.keras")
    os.link(space.model / "epoch_2.keras", space.model / "best.keras")
    write(work / "run_1" / "log.txt", "log")
    (work / "log.txt").symlink_to(work / "run_1" / "log.txt")
    (work / "last").symlink_to("run_1", target_is_directory=True)
    (work / "data").symlink_to(space.inputs / "train", target_is_directory=True)
    (work / "gone").symlink_to("nowhere")
    (space.model / "film.avi").symlink_to(space.inputs / "train" / "a.avi")
    (work / "elsewhere.txt").symlink_to(write(tmp_path / "tmp" / "x.txt", "in TMPDIR"))
    os.mkfifo(space.model / "pipe")
    (work / "empty").mkdir()
    found = collect(space)
    assert {file.name: file.read_text() for file in space.model.iterdir()} == {
        "epoch_2.keras": "weights",
        "last.keras": "weights",
        "best.keras": "weights",
    }
    # An archive would hold none of them as a link.
    assert all(file.lstat().st_nlink == 1 and not file.is_symlink() for file in space.model.iterdir())
    listed = [line.partition(" -> ")[0] for line in found.links]
    assert listed == ["scratch/work/data", "scratch/work/gone", "scratch/work/last", "model/film.avi"]
    links = kept(space).pop("links.txt").splitlines()
    assert links == found.links and "scratch/work/last -> run_1" in links
    assert {name: text for name, text in kept(space).items() if name != "links.txt"} == {
        "work/run_1/log.txt": "log",
        "work/log.txt": "log",
        "work/elsewhere.txt": "in TMPDIR",
    }
    assert (space.output / "work" / "empty").is_dir()


@pytest.mark.parametrize("finished", [True, False])
def test_of_a_processing_job_model_and_checkpoints_by_heart_are_kept(tmp_path: Path, finished: bool) -> None:
    space = started(tmp_path, Kind.processing)
    write(space.root / "processing" / "output" / "table.csv", "by heart")
    write(space.model / "m", "model")
    write(space.checkpoints / "c", "checkpoint")
    collect(space, finished=finished)
    found = {"files/table.csv": "by heart", "elsewhere/model/m": "model"}
    if finished:  # else the next try goes on from there
        found["elsewhere/processing/checkpoints/c"] = "checkpoint"
    assert kept(space) == found and (space.checkpoints / "c").is_file() is not finished


@pytest.mark.parametrize("close", [lambda folder: folder.chmod(0), shutil.rmtree], ids=["closed", "gone"])
def test_a_script_may_close_or_remove_its_own_folder(space: Workspace, close: Callable[[Path], None]) -> None:
    write(space.output / "files" / "x", "1")
    write(work_folder(space) / "y", "2")
    close(work_folder(space))
    collect(space)
    assert kept(space).items() >= {"files/x": "1"}.items() and not space.scratch.exists()
