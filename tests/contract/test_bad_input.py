"""What a person gets wrong ends in one clear error, its exit code, and nothing half-written that looks finished."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import runs


def refused(cwd: Path, code: int, *settings: str) -> str:
    ended = runs.run("stages=[preprocess]", "tracking=none", *settings, cwd=cwd, code=code)
    assert "Traceback" not in ended.text
    assert not list((cwd / "outputs" / "cache").glob("*/finished.json"))
    return ended.err


def test_a_missing_root(tmp_path: Path, backend: str, backend_settings: list[str]) -> None:
    text = refused(tmp_path, 3, f"backend={backend}", *backend_settings, "data=folder", "data.root=no such folder")
    assert "no such folder" in text
    assert "data.root" in text


def test_a_folder_without_videos(tmp_path: Path, backend: str, backend_settings: list[str]) -> None:
    (tmp_path / "videos" / "a").mkdir(parents=True)
    (tmp_path / "videos" / "a" / "notes.txt").write_text("no video")
    assert "video" in refused(tmp_path, 3, f"backend={backend}", *backend_settings, "data=folder", "data.root=videos")


def test_one_class_only(tmp_path: Path, videos: Path, quick: list[str]) -> None:
    shutil.copytree(videos / "PanLeft", tmp_path / "videos" / "PanLeft")
    assert "class" in refused(tmp_path, 3, *quick, "data.root=videos")


def test_more_classes_asked_for_than_there_are(tmp_path: Path, quick: list[str]) -> None:
    assert "data.nclass" in refused(tmp_path, 2, *quick, "data.nclass=7")


def test_outputs_that_is_a_file(tmp_path: Path, quick: list[str]) -> None:
    (tmp_path / "taken").write_text("")
    text = refused(tmp_path, 6, *quick, "outputs=taken")
    assert "taken" in text
    assert "choose another folder" in text


def test_a_run_that_does_not_exist(tmp_path: Path) -> None:
    assert "no run 'nosuch'" in refused(tmp_path, 2, "action=resume", "run=nosuch")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MB."""
    if os.geteuid() != 0 and os.environ.get("CI") != "true":
        pytest.skip("only root can mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_and_the_same_command_with_room(tmp_path: Path, small_disk: Path, quick: list[str]) -> None:
    settings = [*quick, "preprocess.height=96", "preprocess.width=96", "preprocess.depth=8", "outputs=disk"]
    text = refused(tmp_path, 6, *settings)
    assert "the disk is full" in text
    assert not list((small_disk / "cache").glob("*/finished.json"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    runs.run("stages=[preprocess]", *settings, cwd=tmp_path)
    assert list((small_disk / "cache").glob("*/finished.json"))


def test_a_layer_that_the_network_will_not_have(quick: list[str], tmp_path: Path) -> None:
    pictures = ("visualize.pictures=[maximize]", "visualize.layer=conv")
    ended = runs.run(
        *quick, "model=cnn2d", "stages=[preprocess,train,evaluate,visualize]", *pictures, cwd=tmp_path, code=2
    )
    assert "train: ConfigError: visualize.layer: the model has no layer 'conv'; it has" in ended.err
    assert ("loss", 1) not in runs.metrics(runs.records(tmp_path)[0], "train")  # it did not begin
