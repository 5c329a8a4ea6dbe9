"""A training job of two instances gives what one gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import runs

TRAIN = ("stages=[preprocess,train,evaluate]", "model.dropout=false")
CURVES = ("loss", "accuracy", "val_loss", "val_accuracy")


def test_two_instances_train_as_one(tmp_path: Path, quick: list[str]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for cwd in (one, two):
        cwd.mkdir()
    runs.run("backend=local", *(s for s in quick if not s.startswith("backend")), *TRAIN, cwd=one)
    runs.run(*quick, *TRAIN, "backend.train.instance_count=2", cwd=two)
    (alone,), (together,) = runs.records(one), runs.records(two)
    expected = {key: value for key, value in runs.metrics(alone, "train").items() if key[0] in CURVES}
    found = runs.metrics(together, "train")
    assert len(expected) == 2 * len(CURVES)
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-4)
    assert found["hosts", 0] == 2
    hosts = Path(runs.stage(together, "train")["folder"]) / "hosts"
    assert (hosts / "algo-1" / "model" / "model.keras").is_file()
    assert [f.name for f in (hosts / "algo-2" / "output" / "data").iterdir()] == ["events-algo-2.jsonl"]
    assert runs.metrics(together, "evaluate")["test_accuracy", 0] == pytest.approx(
        runs.metrics(alone, "evaluate")["test_accuracy", 0]
    )
