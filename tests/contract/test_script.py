"""Scripts of strangers, which know nothing of videolift, run as they are on every backend."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests import runs
from tests.wheels import SCRIPTS, project


@pytest.fixture
def given(videos: Path, backend: str, backend_settings: list[str]) -> list[str]:
    return [f"backend={backend}", *backend_settings, "data=folder", f"data.root={videos}", "tracking=none"]


def results(record: dict[str, object], stage: str, kind: str = "output/data") -> Path:
    return Path(runs.stage(record, stage)["folder"]) / "hosts" / "algo-1" / kind


def test_a_script_of_keras_trains_on_our_arrays(tmp_path: Path, given: list[str], backend: str) -> None:
    arguments = "--data-dir {train} --epochs=2 --batch-size 4 --shuffle --output '{model_dir}/my model.keras'"
    shape = {"depth": 4, "height": 16, "width": 16}
    size = [f"preprocess.{key}={value}" for key, value in shape.items()]
    script = [
        f"script.path={SCRIPTS / 'keras_argparse.py'}",
        f"script.args={arguments}",
        "script.channels.train=arrays",
    ]
    ended = runs.run(*given, *size, *script, cwd=tmp_path)
    (record,) = runs.records(tmp_path)
    assert record["status"] == "FINISHED" and record["name"] == "keras_argparse"
    assert [stage["name"] for stage in record["stages"]] == ["preprocess", "script"]
    told = runs.metrics(record, "script")  # nothing says where in the output they are
    curves = ("loss", "accuracy", "val_loss", "val_accuracy")
    assert {(key, step) for key in curves for step in (1, 2)} | {("evaluate_loss", 1)} <= told.keys()
    history = json.loads((results(record, "script") / "work" / "history.json").read_text())
    for key in curves:
        assert [told[key, step] for step in (1, 2)] == pytest.approx(history[key], abs=1e-4)
    assert (results(record, "script", "model") / "my model.keras").is_file()
    assert "script: epoch 2  loss" in ended.out


def test_a_project_with_requirements_brings_its_own_wheel(tmp_path: Path, given: list[str]) -> None:
    source, data = project(tmp_path / "项目 (1)"), tmp_path / "data [x]"
    (data / "labels").mkdir(parents=True)
    np.save(data / "x.npy", np.eye(6))
    np.save(data / "labels" / "y.npy", np.arange(6) % 2)
    (data / ".hidden").write_text("not the script's")
    (source / ".git").mkdir()
    (source / ".git" / "config").write_text("url = https://me:geheim@example.com/x")
    settings = [
        *(one for one in given if not one.startswith("data")),
        *("script.path=train.py", f"script.source_dir={source.name}", "script.args=--epochs 3 --lr 0.5"),
        *("script.channels.training=data [x]", r"script.metrics.loss=\[(?P<step>\d+)/.* train_loss=(\S+)"),
    ]
    runs.run(*settings, cwd=tmp_path)
    (record,) = runs.records(tmp_path)
    told = runs.metrics(record, "script")
    assert told["loss", 1] > told["loss", 2] > told["loss", 3] > 0
    output = results(record, "script")
    assert [file.name[:20] for file in (output / "files" / "tensorboard").iterdir()] == ["events.out.tfevents."]
    assert (results(record, "script", "model") / "weights.index").is_file()
    assert "*** training ***" in (output / "script.log").read_text()
    sent = Path(runs.stage(record, "script")["folder"]) / "plan" / "source"
    assert {file.name for file in sent.iterdir()} == {"train.py", "network", "requirements.txt", "wheels"}
    assert (tmp_path / "项目 (1)" / "wheels").is_dir() and not list(tmp_path.rglob("tinybanner.py"))
    # Another metric is found in what was printed: nothing is computed again.
    again = runs.run(*settings, "script.metrics.hits=acc=(\\S+)", cwd=tmp_path)
    assert f"script: cached, computed by {record['id']}" in again.out
    assert {step for key, step in runs.metrics(runs.records(tmp_path)[-1], "script") if key == "hits"} == {1, 2, 3}


def test_a_preprocessing_script_shares_the_videos_among_hosts(tmp_path: Path, given: list[str], videos: Path) -> None:
    script = ["script.stage=preprocess", f"script.path={SCRIPTS / 'count_bytes.py'}"]
    script += ["script.args={videos} -o {output_dir} --bins 4 8"]
    runs.run(*given, *script, "backend.preprocess.instance_count=2", cwd=tmp_path)
    (record,) = runs.records(tmp_path)
    made = Path(runs.stage(record, "preprocess-script")["folder"]) / "arrays"
    wanted = {f"{video.parent.name}/{video.stem}.npz" for video in videos.rglob("*") if video.is_file()}
    assert {file.relative_to(made).as_posix() for file in made.rglob("*.npz")} == wanted
    # Of two hosts that gave one name to different files, both are kept.
    done = [json.loads((made / host / "done.json").read_text()) for host in ("algo-1", "algo-2")]
    assert sorted([*done[0], *done[1]]) == sorted(Path(video).name for video in videos.rglob("*") if video.is_file())
    assert all(len(names) < len(wanted) for names in done)


def state(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Return content, mode and time of change of every file below a folder."""
    files = {file: file.stat() for file in folder.rglob("*") if file.is_file()}
    return {str(file): (file.read_bytes(), status.st_mode, status.st_mtime_ns) for file, status in files.items()}


@pytest.mark.parametrize("stage", ["train", "preprocess"])
def test_a_script_changes_copies_and_everything_that_it_writes_is_kept(
    tmp_path: Path, given: list[str], videos: Path, stage: str
) -> None:
    (tmp_path / "weights").mkdir()
    np.save(tmp_path / "weights" / "w.npy", np.arange(6))
    channels = ["script.channels.films=videos", "script.channels.weights=weights"]
    arguments = "{films} {weights} {model_dir}"
    if stage == "train":
        channels += ["script.channels.made=arrays", "preprocess.depth=2", "preprocess.height=8", "preprocess.width=8"]
        arguments = f"{{made}} {arguments}"
        runs.run(*given, *channels[2:][1:], "stages=[preprocess]", cwd=tmp_path)
    places = [videos, tmp_path / "weights", *(tmp_path / "outputs" / "cache").glob("preprocess-*/arrays")]
    before = [state(place) for place in places]
    script = [f"script.path={SCRIPTS / 'spoil_inputs.py'}", f"script.stage={stage}", f"script.args={arguments}"]
    ended = runs.run(*given, *channels, *script, cwd=tmp_path)
    assert [state(place) for place in places] == before and len(before) == (3 if stage == "train" else 2)
    (record,) = [one for one in runs.records(tmp_path) if one["name"] == "spoil_inputs"]
    folder = Path(record["stages"][-1]["folder"])
    found = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    top = "hosts/algo-1/" + ("output/data" if stage == "train" else "processing/output/algo-1")
    model = "hosts/algo-1/model" if stage == "train" else f"{top}/model"
    assert found[f"{top}/work/beside.txt"] == b"beside"
    assert found[f"{top}/elsewhere/scratch/above.txt"] == b"above"
    assert found[f"{top}/elsewhere/output/report.txt"] == b"report"
    caches = [name for name in found if name.startswith(f"{top}/elsewhere/") and name.endswith("/labels.cache")]
    assert len(caches) == len(before)
    assert found[f"{model}/model.txt"] == found[f"{model}/last.txt"] == b"model"
    assert "elsewhere" in ended.out
    # Copies are gone with the job.
    inputs = ("hosts/algo-1/input/data/", "hosts/algo-1/processing/input/")
    assert not [name for name in found if name.startswith(inputs)]
