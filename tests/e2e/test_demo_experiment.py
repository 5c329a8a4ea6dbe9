"""The README's main command, and what it leaves in MLflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests import runs

DRAWN = runs.REPOSITORY / "docs" / "drawn.py"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The main job, then a single-frame model on the same arrays."""
    cwd = tmp_path_factory.mktemp("demo")
    runs.run(cwd=cwd)
    runs.run("model=cnn2d", cwd=cwd)
    return cwd


def client(cwd: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{cwd / 'outputs' / 'mlflow.db'}")


def recorded(cwd: Path, filter_string: str = "") -> list[Run]:
    found = client(cwd).search_experiments()
    return list(client(cwd).search_runs([e.experiment_id for e in found], filter_string, order_by=["start_time ASC"]))


@pytest.mark.timeout(900)
def test_the_3d_model_learns_motion_and_a_single_frame_says_nothing(demo: Path) -> None:
    first, second = (
        {key: value for (key, _), value in runs.metrics(record, "evaluate").items()} for record in runs.records(demo)
    )
    assert first["test_accuracy"] >= 0.8
    assert second["test_accuracy"] <= 0.30  # chance is 1/6; the highest of many seeds was 0.22
    assert first["test_leak_rate"] == 0
    assert runs.stage(runs.records(demo)[1], "preprocess")["cached"]


def test_mlflow_has_what_a_person_looks_for(demo: Path) -> None:
    run, other = recorded(demo)
    record = runs.records(demo)[0]
    assert run.info.status == "FINISHED"
    assert run.data.params["model.epoch"] == "20"
    assert run.data.params["preprocess.depth"] == "10"
    history = client(demo).get_metric_history(run.info.run_id, "val_accuracy")
    assert [m.step for m in history] == list(range(1, 21))
    told = runs.metrics(record, "evaluate")
    assert run.data.metrics["test_accuracy"] == pytest.approx(told[("test_accuracy", 0)])
    assert any(key.startswith("system/train/") for key in run.data.metrics)
    assert run.data.tags["videolift.backend"] == "local"
    assert run.data.tags["videolift.stage.train"] == runs.stage(record, "train")["id"]
    assert other.data.tags["videolift.cached.preprocess"] == record["id"]
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.name.startswith("demo-")
    pictures = {f.path for f in client(demo).list_artifacts(run.info.run_id, "pictures")}
    assert pictures == {f"pictures/{n}.png" for n in ("contact_sheet", "learning_curves", "confusion_matrix")}
    names = {f.path for f in client(demo).list_artifacts(run.info.run_id)}
    assert {"config.yaml", "plan.json", "pictures", "evaluation", "training"} <= names


def test_the_logged_model_predicts_from_a_video_path(demo: Path, tmp_path: Path) -> None:
    run = recorded(demo)[0]
    videos = next((demo / "outputs" / "data").iterdir())
    chosen = [str(videos / name) for name in ("PanLeft/v_PanLeft_g01_c01.avi", "TiltUp/v_TiltUp_g03_c02.mp4")]
    (tmp_path / "in.json").write_text(
        json.dumps({"dataframe_split": {"columns": ["path"], "data": [[c] for c in chosen]}})
    )
    subprocess.run(
        [
            *(sys.executable, "-m", "mlflow", "models", "predict", "--env-manager", "local"),
            *("--model-uri", f"runs:/{run.info.run_id}/model"),
            *("--input-path", str(tmp_path / "in.json"), "--output-path", str(tmp_path / "out.json")),
            *("--content-type", "json"),
        ],
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": f"sqlite:///{demo / 'outputs' / 'mlflow.db'}",
            "VIDEOLIFT_VIDEOS": str(videos),
        },
        check=True,
        capture_output=True,
    )
    rows = json.loads((tmp_path / "out.json").read_text())["predictions"]
    assert [row["class"] for row in rows] == ["PanLeft", "TiltUp"]


def test_visualize_again_works_on_a_finished_run(demo: Path, tmp_path: Path) -> None:
    record = runs.records(demo)[0]
    ended = runs.run("stages=[visualize]", f"run={record['id']}", "visualize.units=[3,4]", cwd=demo)
    assert f"goes on with run {record['id']}" in ended.out
    run = recorded(demo)[0]
    assert run.info.status == "FINISHED"
    pictures = {f.path.removeprefix("pictures/") for f in client(demo).list_artifacts(run.info.run_id, "pictures")}
    assert pictures >= {"contact_sheet.png", "gradcam_conv3d_3.png", "maximize_conv3d_3.gif", "embedding.png"}
    assert [s["name"] for s in runs.records(demo)[0]["stages"]] == ["preprocess", "train", "evaluate", "visualize"]
    subprocess.run([sys.executable, str(DRAWN), str(demo / "outputs"), str(tmp_path)], check=True)
    assert {f.name for f in tmp_path.iterdir()} == {"gradcam.png", "maximize.gif", "embedding.png"}
    before = runs.records(demo)[0]
    again = ("stages=[visualize]", f"run={record['id']}")
    wrong = runs.run(*again, "visualize.layer=conv", cwd=demo, code=2)
    assert "visualize.layer: the model has no layer 'conv'; it has" in wrong.err and "conv3d_3 (64)" in wrong.err
    assert "goes on" not in wrong.out  # it is told before a job begins
    wrong = runs.run(*again, "visualize.units=[64]", cwd=demo, code=2)
    assert "visualize.units: conv3d_3 has 64 units" in wrong.err and "is left as it was" in wrong.out
    run = recorded(demo)[0]
    assert runs.records(demo)[0] == before and run.info.status == "FINISHED"
    assert run.data.tags["videolift.stage.visualize"] == runs.stage(before, "visualize")["id"]
