from __future__ import annotations

import json
from pathlib import Path

import pytest

from videolift.errors import VideoliftError
from videolift.workspace import Kind, Workspace, find_workspace


def laid_out(root: Path, kind: Kind, channel: Path) -> Workspace:
    space = Workspace(kind, root, "algo-2", ("algo-1", "algo-2"), {"arrays": channel})
    space.lay_out()
    return space


@pytest.mark.parametrize("kind", list(Kind))
def test_a_job_finds_from_its_configuration_files_what_the_launcher_laid_out(tmp_path: Path, kind: Kind) -> None:
    data = tmp_path / "数据 'x'\n[1]"
    data.mkdir()
    (data / "clip").write_text("here")
    written = laid_out(tmp_path / "job", kind, data)
    found = find_workspace({}, tmp_path / "job")
    assert (found.channel("arrays") / "clip").read_text() == "here"
    for name in ("kind", "host", "hosts", "model", "output", "checkpoints", "failure_file", "events_file"):
        assert getattr(found, name) == getattr(written, name), name


def test_sm_variables_are_believed_first(tmp_path: Path) -> None:
    written = laid_out(tmp_path, Kind.training, tmp_path)
    environ = {**written.variables(), "SM_CURRENT_HOST": "algo-1", "SM_CHANNEL_ARRAYS": str(tmp_path / "elsewhere")}
    found = find_workspace(environ, tmp_path)
    assert found.host == "algo-1"
    assert found.channel("arrays") == tmp_path / "elsewhere"


def test_the_layout_is_that_of_a_sagemaker_container(tmp_path: Path) -> None:
    laid_out(tmp_path / "t", Kind.training, tmp_path)
    laid_out(tmp_path / "p", Kind.processing, tmp_path)
    assert (tmp_path / "t" / "input" / "data" / "arrays").is_dir()
    assert json.loads((tmp_path / "t/input/config/resourceconfig.json").read_text())["hosts"] == ["algo-1", "algo-2"]
    config = json.loads((tmp_path / "p" / "config" / "processingjobconfig.json").read_text())
    assert config["ProcessingInputs"][0]["S3Input"]["LocalPath"] == "/opt/ml/processing/input/arrays"


def test_a_notebooks_own_opt_ml_is_no_job(tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "resource-metadata.json").write_text("{}")
    (tmp_path / "input" / "data").mkdir(parents=True)
    with pytest.raises(VideoliftError, match="no job here"):
        find_workspace({}, tmp_path)


def test_a_missing_channel_names_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(VideoliftError, match="channel model: the job has none; it has arrays"):
        laid_out(tmp_path, Kind.training, tmp_path).channel("model")
