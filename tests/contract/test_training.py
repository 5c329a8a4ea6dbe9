from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests import runs
from tests.under_way import UnderWay

# Of `quick` in float32, as they were first recorded: a change of the code that moves files or names keeps them.
GOLDEN_TRAINING = {
    ("parameters", 0): 329254,
    ("accuracy", 1): 0.0833333,
    ("loss", 1): 1.8150898,
    ("val_accuracy", 1): 0.1666667,
    ("val_loss", 1): 1.7917913,
    ("accuracy", 2): 0.3333333,
    ("loss", 2): 1.7748486,
    ("val_accuracy", 2): 0.1666667,
    ("val_loss", 2): 1.7903900,
    ("chosen_epoch", 0): 2,
}
GOLDEN_EVALUATION = {
    ("test_loss", 0): 1.7950065,
    ("test_accuracy", 0): 0.1666667,
    ("test_top5_accuracy", 0): 0.8333333,
    ("test_video_loss", 0): 1.7950065,
    ("test_video_accuracy", 0): 0.1666667,
    ("test_video_top5_accuracy", 0): 0.8333333,
    ("test_leak_rate", 0): 0,
}
SAME_ON_OTHER_PROCESSORS = 1e-3  # relative: sums are rounded in another order there
PREPROCESS = "stages=[preprocess]"
TRAIN = "stages=[preprocess,train]"


WITH_LAMBDA = """import keras
    layers = [keras.layers.Lambda(lambda x: x / 255, name="half"), keras.layers.Flatten()]
    layers.append(keras.layers.Dense(classes, activation="softmax"))
    return keras.Sequential([keras.Input(shape, dtype="uint8"), *layers])"""


def wait_for_epoch(process: subprocess.Popen[str], cwd: Path, under_way: UnderWay, epoch: int) -> None:
    while process.poll() is None:
        for file in under_way.files(cwd, "train", "events-*.jsonl"):
            if '"key": "loss", "value"' in file.read_text() and f'"step": {epoch},' in file.read_text():
                return
        time.sleep(0.02)
    raise AssertionError(f"ended before epoch {epoch}: {runs.wait(process).text}")


def test_a_whole_run_leaves_what_the_contract_says(tmp_path: Path, quick: list[str], videos: Path) -> None:
    data = tmp_path / "训练"
    shutil.copytree(videos, data)
    quick = [f"data.root={data}" if one.startswith("data.root=") else one for one in quick]
    ended = runs.run(*quick, cwd=tmp_path)
    record = runs.records(tmp_path)[0]
    assert record["status"] == "FINISHED"
    assert runs.metrics(record, "train") == pytest.approx(GOLDEN_TRAINING, rel=SAME_ON_OTHER_PROCESSORS)
    assert runs.metrics(record, "evaluate") == pytest.approx(GOLDEN_EVALUATION, rel=SAME_ON_OTHER_PROCESSORS)
    folder = {s["name"]: Path(s["folder"]) / "hosts" / "algo-1" for s in record["stages"]}
    assert {f.name for f in (folder["train"] / "model").iterdir()} == {"model.keras", "classes.txt", "settings.json"}
    classes = (folder["train"] / "model" / "classes.txt").read_text().splitlines()
    assert classes == sorted(classes) and len(classes) == 6
    result = (folder["train"] / "output" / "data" / "result.txt").read_text().splitlines()
    assert result[0] == "epoch\tloss\tacc\tval_loss\tval_acc"
    assert [line.split("\t")[0] for line in result[1:]] == ["0", "1"]
    evaluation = json.loads((folder["evaluate"] / "output" / "data" / "evaluation.json").read_text())
    assert sum(map(sum, evaluation["confusion"])) == evaluation["videos"]
    assert {"test_accuracy", "test_loss", "test_top5_accuracy", "test_leak_rate"} <= set(evaluation["metrics"])
    pictures = {f.name for f in (folder["visualize"] / "output" / "data").glob("*.png")}
    assert pictures == {"contact_sheet.png", "learning_curves.png", "confusion_matrix.png"}
    assert "test accuracy" in ended.out
    # The second time nothing is computed, and the first run is named as the origin.
    again = runs.run(*quick, cwd=tmp_path)
    assert again.out.count("cached, computed by " + record["id"]) == 4
    # Another split or model does not decode again.
    other = runs.run(*quick, TRAIN, "model=cnn2d", "model.epoch=1", cwd=tmp_path)
    assert "preprocess: cached" in other.out and "train: cached" not in other.out
    # A finished run needs its videos no more, and every picture of it is drawn.
    shutil.rmtree(data)
    runs.run("stages=[visualize]", f"run={record['id']}", "visualize.units=[0,1]", "tracking=none", cwd=tmp_path)
    first = runs.records(tmp_path)[0]
    assert first["status"] == "FINISHED"
    assert [s["id"] for s in first["stages"][:3]] == [s["id"] for s in record["stages"][:3]]
    drawn = {f.name for f in Path(runs.stage(first, "visualize")["folder"]).glob("hosts/algo-1/output/data/*.*g*")}
    network = {"gradcam_conv3d_3.png", "maximize_conv3d_3.png", "maximize_conv3d_3.gif", "embedding.png"}
    assert drawn == pictures | network


def test_3_epochs_kill_and_3_more_are_6_epochs(tmp_path: Path, quick: list[str], under_way: UnderWay) -> None:
    # Epochs of some tenths of a second: the kill is sure to come before the last one.
    size = ("preprocess.height=48", "preprocess.width=48", "preprocess.depth=10")
    settings = [*quick, *size, TRAIN, "model.epoch=6", "model.dropout=true", "augment=light"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for cwd in (straight, killed):
        cwd.mkdir()
    runs.run(*settings, cwd=straight)
    process = runs.start(*settings, cwd=killed)
    wait_for_epoch(process, killed, under_way, 3)
    (trainer,) = under_way.processes(process.pid)
    trainer.kill()
    assert runs.wait(process).code == 5
    again = runs.run(*settings, cwd=killed)
    assert "goes on after epoch" in again.out
    assert runs.metrics(runs.records(straight)[0], "train") == runs.metrics(runs.records(killed)[-1], "train")


def test_ctrl_c_during_training_is_resumed_by_the_same_command(
    tmp_path: Path, quick: list[str], under_way: UnderWay
) -> None:
    settings = [*quick, TRAIN, "model.epoch=40"]
    process = runs.start(*settings, cwd=tmp_path)
    wait_for_epoch(process, tmp_path, under_way, 2)
    process.send_signal(signal.SIGINT)
    assert runs.wait(process).code == 130
    assert runs.records(tmp_path)[0]["status"] == "KILLED"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run = f"run={runs.records(tmp_path)[0]['id']}"
    ignored = runs.run("action=resume", run, "model.epoch=3", cwd=tmp_path, code=2)
    assert "model.epoch: an existing run keeps its own settings" in ignored.err
    again = runs.run("action=resume", run, "tracking=none", f"outputs={tmp_path / 'outputs'}", cwd=elsewhere)
    assert "goes on after epoch" in again.out
    assert [r["status"] for r in runs.records(tmp_path)] == ["FINISHED"]


def test_divergence_stops_with_a_clear_error(tmp_path: Path, quick: list[str]) -> None:
    ended = runs.run(*quick, TRAIN, "model.learning_rate=1e30", "model.optimizer=sgd", cwd=tmp_path, code=4)
    assert "the loss became nan" in ended.err
    assert "model.learning_rate (now 1e+30)" in ended.err
    assert "Traceback" not in ended.text
    assert runs.records(tmp_path)[0]["status"] == "FAILED"
    assert not list((tmp_path / "outputs" / "cache").glob("train-*/finished.json"))


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("return 3", 2, "returned int, not a keras.Model"),
        ("raise ZeroDivisionError('my own mistake')", 5, "ZeroDivisionError: my own mistake"),
        (WITH_LAMBDA, 2, "could not be loaded once it is saved: layer half (Lambda): "),
    ],
)
def test_a_users_model_that_fails_is_told_with_its_reason(
    tmp_path: Path, quick: list[str], body: str, code: int, message: str
) -> None:
    (tmp_path / "mine.py").write_text(f"def build(shape, classes):\n    {body}\n")
    ended = runs.run(*quick, TRAIN, "model.builder=mine.py:build", cwd=tmp_path, code=code)
    assert message in ended.err
    assert ("loss", 1) not in runs.metrics(runs.records(tmp_path)[0], "train")  # it did not begin


def test_a_users_model_trains_with_its_arguments(tmp_path: Path, quick: list[str]) -> None:
    source = """
        import keras

        @keras.saving.register_keras_serializable("mine")
        class Halve(keras.layers.Layer):
            def call(self, x):
                return x / 2

        def build(shape, classes, width):
            return keras.Sequential([
                keras.Input(shape, dtype="uint8"),
                keras.layers.Rescaling(1 / 255),
                Halve(),
                keras.layers.Flatten(),
                keras.layers.Dense(width, activation="relu"),
                keras.layers.Dense(classes, activation="softmax"),
            ])
    """
    folder = tmp_path / "我的 model"
    folder.mkdir()
    (folder / "mine.py").write_text("\n".join(line[8:] for line in source.splitlines()))
    stages = "stages=[preprocess,train,evaluate]"
    settings = [*quick, stages, "model.builder=我的 model/mine.py:build", "model.args.width=5", "model.batch=500"]
    ended = runs.run(*settings, cwd=tmp_path)
    assert "model.batch=500 is reduced to" in ended.out
    assert runs.metrics(runs.records(tmp_path)[0], "train")[("parameters", 0)] == (4 * 16 * 16 + 1) * 5 + 6 * 6


def test_two_processes_at_once_do_the_work_once(tmp_path: Path, quick: list[str]) -> None:
    long = ("preprocess.height=1200", "preprocess.width=1600", "preprocess.workers=1")
    processes = [runs.start(*quick, *long, PREPROCESS, f"name=twin{n}", cwd=tmp_path) for n in range(2)]
    ended = [runs.wait(process) for process in processes]
    assert [e.code for e in ended] == [0, 0], ended[0].text + ended[1].text
    cached = sorted(runs.stage(record, "preprocess")["cached"] for record in runs.records(tmp_path))
    assert cached == [False, True]
    assert sum("another process computes it; waiting" in e.out for e in ended) == 1
