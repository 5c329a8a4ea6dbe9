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
