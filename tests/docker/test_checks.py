"""What keeps containers from running is one clear sentence with its remedy, before any work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import runs

ONLY = "stages=[preprocess]"


def refused(cwd: Path, settings: list[str], code: int = 2, **variables: str) -> str:
    ended = runs.run(*settings, ONLY, cwd=cwd, code=code, **variables)
    assert "Traceback" not in ended.text
    assert not (cwd / "outputs" / "runs").exists()
    return ended.err


def test_docker_is_not_installed(tmp_path: Path, quick: list[str]) -> None:
    folders = [f for f in os.environ["PATH"].split(":") if not (Path(f) / "docker").exists()]
    assert "Docker is not installed" in refused(tmp_path, quick, PATH=":".join(folders))


def test_docker_is_not_running(tmp_path: Path, quick: list[str]) -> None:
    text = refused(tmp_path, quick, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert "Docker is not running; start Docker Desktop, or say sudo systemctl start docker" in text


def test_an_engine_elsewhere_cannot_see_the_videos(tmp_path: Path, quick: list[str]) -> None:
    text = refused(tmp_path, quick, DOCKER_HOST="tcp://203.0.113.7:2375")
    assert "on another machine (tcp://203.0.113.7)" in text
    assert "unset DOCKER_HOST" in text


def test_an_image_that_is_nowhere(tmp_path: Path, quick: list[str]) -> None:
    text = refused(tmp_path, [*quick, "backend.preprocess.image=localhost:9/nosuch:1"], code=5)
    assert "localhost:9/nosuch:1: was not fetched" in text


def test_a_base_image_that_is_nowhere(tmp_path: Path, quick: list[str]) -> None:
    text = refused(tmp_path, [*quick, "backend.preprocess.base_image=localhost:9/nosuch:1"], code=5)
    assert "was not built" in text
    assert "backend.preprocess.base_image=IMAGE" in text


def test_a_folder_without_wheels(tmp_path: Path, quick: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    settings = [*quick, "backend.build.wheels=empty", "backend.preprocess.base_image=debian:none"]
    text = refused(tmp_path, settings)
    assert "there are no wheels" in text
    assert "pip download" in text


def test_a_password_for_the_index_is_refused(tmp_path: Path, quick: list[str]) -> None:
    mirror = "backend.build.pip_index_url=https://user:hunter2@mirror.test/simple"
    text = refused(tmp_path, [*quick, mirror, "backend.preprocess.base_image=debian:none"])
    assert "backend.build.pip_index_url" in text
    assert "hunter2" not in text


@pytest.mark.parametrize("setting", ["backend.gpus=many", "backend.preprocess.memory=lots", "backend.train.cpus=0"])
def test_values_are_checked_with_all_others(tmp_path: Path, quick: list[str], setting: str) -> None:
    assert setting.partition("=")[0] in refused(tmp_path, [*quick, setting])
