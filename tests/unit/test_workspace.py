from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from videolift.errors import VideoliftError
from videolift.workspace import Kind, Workspace, find_workspace


def laid_out(root: Path, kind: Kind, channel: Path, *, mounted: bool = False) -> Workspace:
    space = Workspace(kind, root, "algo-2", ("algo-1", "algo-2"), {"arrays": channel})
    space.lay_out(mounted=mounted)
    return space


def read(file: Path) -> Any:
    return json.loads(file.read_text())


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
    assert read(tmp_path / "t/input/config/resourceconfig.json") == {
        "current_host": "algo-2",
        "current_instance_type": "local",
        "current_group_name": "homogeneousCluster",
        "hosts": ["algo-1", "algo-2"],
        "instance_groups": [
            {
                "instance_group_name": "homogeneousCluster",
                "instance_type": "local",
                "hosts": ["algo-1", "algo-2"],
            }
        ],
        "network_interface_name": "lo",
    }
    assert read(tmp_path / "t/input/config/inputdataconfig.json")["arrays"]["TrainingInputMode"] == "File"
    assert read(tmp_path / "p/config/resourceconfig.json") == {"current_host": "algo-2", "hosts": ["algo-1", "algo-2"]}
    config = read(tmp_path / "p/config/processingjobconfig.json")
    assert config["ProcessingInputs"][0]["S3Input"]["LocalPath"] == "/opt/ml/processing/input/arrays"
    assert config["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]["LocalPath"] == "/opt/ml/processing/output"


@pytest.mark.parametrize("kind", list(Kind))
def test_one_layout_replaces_the_other(tmp_path: Path, kind: Kind) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "clip").write_text("here")
    place = tmp_path / "job" / ("input/data/arrays" if kind is Kind.training else "processing/input/arrays")
    for mounted in (False, True, True, False, False):
        laid_out(tmp_path / "job", kind, data, mounted=mounted)
        assert place.is_dir()
        assert place.is_symlink() is not mounted
        assert [file.name for file in place.iterdir()] == ([] if mounted else ["clip"])


def test_a_container_has_a_network(tmp_path: Path) -> None:
    laid_out(tmp_path, Kind.training, tmp_path, mounted=True)
    assert read(tmp_path / "input/config/resourceconfig.json")["network_interface_name"] == "eth0"


def test_a_job_makes_the_folders_that_it_was_not_given(tmp_path: Path) -> None:
    Workspace(Kind.training, tmp_path / "t", "algo-1", ("algo-1",), {}).create_results()
    Workspace(Kind.processing, tmp_path / "p", "algo-1", ("algo-1",), {}).create_results()
    found = sorted(str(folder.relative_to(tmp_path)) for folder in tmp_path.rglob("*"))
    assert found == [
        "p",
        "p/processing",
        "p/processing/output",
        "p/processing/output/algo-1",
        "t",
        "t/model",
        "t/output",
        "t/output/data",
    ]


def test_a_notebooks_own_opt_ml_is_no_job(tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "resource-metadata.json").write_text("{}")
    (tmp_path / "input" / "data").mkdir(parents=True)
    with pytest.raises(VideoliftError, match="no job here"):
        find_workspace({}, tmp_path)


def test_a_missing_channel_names_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(VideoliftError, match="channel model: the job has none; it has arrays"):
        laid_out(tmp_path, Kind.training, tmp_path).channel("model")
