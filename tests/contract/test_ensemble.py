"""Members of an ensemble are trained as stages of their own, and become one model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests import runs


def model_folder(record: dict[str, object], stage: str) -> Path:
    return Path(runs.stage(record, stage)["folder"]) / "hosts" / "algo-1" / "model"


def test_members_train_side_by_side_are_found_again_and_averaged(
    tmp_path: Path, quick: list[str], backend: str
) -> None:
    settings = [*quick, "model=ensemble", "model.name=cnn2d", "seed=5", "stages=[preprocess,train,evaluate]"]
    if backend == "local":
        settings.remove("tracking=none")
    ended = runs.run(*settings, "model.members=2", "backend.train.parallel=2", cwd=tmp_path)
    (record,) = runs.records(tmp_path)
    assert [stage["name"] for stage in record["stages"]] == ["preprocess", "train-1", "train-2", "train", "evaluate"]
    first, second = (runs.stage(record, name) for name in ("train-1", "train-2"))
    assert max(first["started"], second["started"]) < min(first["ended"], second["ended"])
    assert "members        2" in ended.out
    # Alone, the first one is the same training.
    runs.run(*settings, "model.members=1", "stages=[train]", "tracking=none", cwd=tmp_path)
    alone = runs.records(tmp_path)[-1]
    assert (runs.stage(alone, "train")["id"], runs.stage(alone, "train")["cached"]) == (first["id"], True)
    told = runs.metrics(record, "train")
    assert told["members/val_loss", 2] == told["val_loss", 0] != told["members/val_loss", 1]
    by_first = runs.metrics(record, "train-1")
    chosen = int(by_first["chosen_epoch", 0])
    assert abs(told["members/val_loss", 1] - by_first["val_loss", chosen]) < 1e-5
    if backend == "local":
        check_what_is_recorded(tmp_path, record)
        check_the_mean(record)


def check_what_is_recorded(folder: Path, record: dict[str, object]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/outputs/mlflow.db")
    found = client.get_run(str(record["mlflow_run"]))
    told = {f"train-{n}/{key}" for n in (1, 2) for key in ("loss", "val_loss")}
    assert found.data.metrics.keys() >= {"val_loss", "members/val_loss", "test_accuracy", *told}
    assert "loss" not in found.data.metrics  # of which member?
    assert {"train-1.epoch", "train-2.epoch"} <= found.data.tags.keys()
    names = {file.path for file in client.list_artifacts(found.info.run_id, "train-2/training")}
    assert names == {"train-2/training/history.json", "train-2/training/result.txt"}


def check_the_mean(record: dict[str, object]) -> None:
    from videolift.predictor import load_predictor

    whole, *members = (load_predictor(model_folder(record, name)) for name in ("train", "train-1", "train-2"))
    clips = [np.random.default_rng(0).integers(0, 256, (5, 4, 16, 16, 1), np.uint8)]
    apart = [member.probabilities(clips) for member in members]
    assert np.abs(apart[0] - apart[1]).max() > 1e-4
    np.testing.assert_allclose(whole.probabilities(clips), np.mean(apart, axis=0), atol=1e-6)
    history = json.loads((model_folder(record, "train").parent / "output/data/history.json").read_text())
    assert (len(history["history"]), history["chosen_by"]) == (2, "members")
