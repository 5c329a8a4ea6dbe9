"""Grids on this machine: real sweeps of the real command."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from launchers.sweeps.record import State
from tests import runs
from tests.sweeps.sweeps import TRAIN, finished, in_mlflow, records, states, trained, wait_until

SIX = ("model.learning_rate=1e-2,3e-3", "preprocess.interval=1,2,3")
SMALL = ("model=cnn2d", TRAIN, "sweep.threads=1")


@pytest.fixture
def small(quick: list[str]) -> list[str]:
    return ["-m", *quick, *SMALL]


def test_six_children_two_at_a_time_and_killed_in_the_middle_are_those_of_one_after_the_other(
    small: list[str], tmp_path: Path
) -> None:
    plain, killed = tmp_path / "plain", tmp_path / "killed"
    for cwd in (plain, killed):
        cwd.mkdir()
    runs.run(*small, *SIX, cwd=plain)
    recorded = [*small, *SIX, "tracking=mlflow", "tracking.log_model=false", "sweep.parallel=2"]
    process = runs.start(*recorded, cwd=killed)
    wait_until(process, killed, lambda r: finished(2)(r) and r.count(State.running) == 2)
    process.kill()
    runs.wait(process)
    (left,) = records(killed)
    done = {child.number: child.run for child in left.children if child.state is State.finished}
    # Typed in another way, it is the same sweep.
    same = [*recorded[:-1], "sweep.parallel=3", "model.learning_rate=0.01,0.003"]
    ended = runs.run(*same, cwd=killed)
    (now,), (sequential,) = records(killed), records(plain)
    assert now.id == sequential.id == left.id
    assert states(now) == ["finished"] * 6
    assert {number: now.children[number].run for number in done} == done
    assert len(runs.records(killed)) == 6
    for one, other in zip(sequential.children, now.children, strict=True):
        assert trained(plain, one) == trained(killed, other)
    assert one.label in ended.out
    preprocessed = [runs.stage(record, "preprocess") for record in runs.records(plain)]
    assert len({stage["id"] for stage in preprocessed}) == sum(not stage["cached"] for stage in preprocessed) == 3
    parent, children = in_mlflow(killed)
    assert parent.info.status == "FINISHED"
    names = {f"learning_rate={rate} interval={k}" for rate in ("0.01", "0.003") for k in (1, 2, 3)}
    assert {run.info.run_name for run in children} == names
    assert {run.info.status for run in children} == {"FINISHED"}
    assert parent.data.tags["videolift.best_run"] in {run.info.run_id for run in children}
    # All is done: nothing is run again.
    before = [run["created"] for run in runs.records(killed)]
    ended_at = [child.ended for child in now.children]
    runs.run(*same, cwd=killed)
    assert [run["created"] for run in runs.records(killed)] == before
    assert [child.ended for child in records(killed)[0].children] == ended_at
    assert len(in_mlflow(killed)[1]) == 6


def test_a_failing_child_is_told_and_alone_is_run_again(small: list[str], tmp_path: Path) -> None:
    swept = [*small, "model.optimizer=sgd", "model.learning_rate=1e30,1e-2"]
    ended = runs.run(*swept, "sweep.parallel=2", cwd=tmp_path, code=4)
    assert "Traceback" not in ended.text
    assert "the loss became" in ended.out
    assert states(records(tmp_path)[0]) == ["failed", "finished"]
    best = records(tmp_path)[0].best
    assert best is not None and f"model.learning_rate={best.parameters['model.learning_rate']}" in ended.out
    again = runs.run(*swept, cwd=tmp_path, code=4)
    assert "the loss became" in again.out
    assert len(runs.records(tmp_path)) == 2
    assert [r["status"] for r in runs.records(tmp_path)].count("FAILED") == 1


def test_a_sweep_may_stop_at_the_first_failure(small: list[str], tmp_path: Path) -> None:
    swept = [*small, "model.optimizer=sgd", "model.learning_rate=1e30,1e-2", "sweep.on_failure=stop"]
    runs.run(*swept, cwd=tmp_path, code=4)
    assert states(records(tmp_path)[0]) == ["failed", "waiting"]


def test_what_is_edited_changes_nothing_in_a_sweep_and_is_asked_about_afterwards(
    small: list[str], tmp_path: Path
) -> None:
    program = tmp_path / "program"
    for part in ("conf", "launchers", "src"):
        shutil.copytree(runs.REPOSITORY / part, program / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(runs.RUN, program / "run.py")
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import keras\n"
        "def build(shape, classes):\n"
        "    head = keras.layers.Dense(classes, activation='softmax')\n"
        "    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), head])\n"
    )
    further = tmp_path / "further"
    (further / "model").mkdir(parents=True)
    (further / "model" / "mine.yaml").write_text("defaults: [cnn2d, _self_]\nbatch: 8\n")
    swept = ["--config-dir", str(further), *small, "model=mine", f"model.builder={mine}:build"]
    swept += ["model.learning_rate=1e-2,1e-3,1e-4"]

    def start(*more: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(program / "run.py"), *swept, *more]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=tmp_path, text=True, env={**os.environ}, **pipes)  # type: ignore[call-overload,no-any-return]

    process = start()
    wait_until(process, tmp_path, finished(1))
    with (program / "src" / "videolift" / "models.py").open("a") as source:
        source.write("raise ZeroDivisionError\n")
    (program / "launchers" / "follow.py").write_text("raise ZeroDivisionError\n")
    mine.write_text("raise ZeroDivisionError\n")
    (further / "model" / "mine.yaml").unlink()
    wait_until(process, tmp_path, finished(2))
    process.send_signal(signal.SIGINT)
    assert runs.wait(process).code == 130
    (left,) = records(tmp_path)
    assert states(left) == ["finished", "finished", "stopped"]
    shutil.copy(runs.REPOSITORY / "launchers" / "follow.py", program / "launchers" / "follow.py")
    (further / "model" / "mine.yaml").write_text("defaults: [cnn2d, _self_]\nbatch: 8\n")
    asked = runs.wait(start())
    assert asked.code == 2
    assert f"{left.id} of the same command is not finished (2 of 3 children are)" in asked.err
    assert "sweep.resume=frozen" in asked.err and "your own model or script changed" in asked.err
    frozen = runs.wait(start("sweep.resume=frozen"))
    assert frozen.code == 0, frozen.text
    (now,) = records(tmp_path)
    assert states(now) == ["finished"] * 3
    assert now.children[2].run == left.children[2].run
    new = runs.wait(start("sweep.resume=new"))
    assert new.code == 5
    assert states(records(tmp_path)[-1]) == ["failed"] * 3
    assert len(records(tmp_path)) == 2


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_other_launchers_of_hydras_run_a_sweep(launcher: str, small: list[str], tmp_path: Path) -> None:
    swept = [*small, "preprocess.interval=1,2", f"hydra/launcher={launcher}", "stages=[preprocess]"]
    runs.run(*swept, cwd=tmp_path)
    (record,) = records(tmp_path)
    assert states(record) == ["finished"] * 2
    assert {child.run for child in record.children} == {run["id"] for run in runs.records(tmp_path)}


def test_everything_wrong_with_any_child_is_told_before_anything_is_run(small: list[str], tmp_path: Path) -> None:
    roots = f"data.root={tmp_path / 'nowhere'},{tmp_path / 'elsewhere'}"
    ended = runs.run(*small, roots, cwd=tmp_path, code=3)
    assert "nowhere" in ended.err and "elsewhere" in ended.err
    assert not (tmp_path / "outputs" / "runs").exists()
    waiting = runs.run(*small, "seed=1,2", "outputs=a,b", cwd=tmp_path, code=2)
    assert "outputs: all children of a sweep have the same" in waiting.err


def test_a_plan_of_a_sweep_shows_what_is_shared_and_runs_nothing(small: list[str], tmp_path: Path) -> None:
    shown = runs.run(*small, *SIX, "action=plan", cwd=tmp_path).out
    assert shown.count("computed once for") == 3
    assert not (tmp_path / "outputs" / "runs").exists()
    assert not (tmp_path / "outputs" / "sweeps").exists()


def test_an_ensemble_takes_over_the_training_of_the_child_before(small: list[str], tmp_path: Path) -> None:
    ended = runs.run(*small, "model.epoch=1", "model.members=1,2", cwd=tmp_path)
    (record,) = records(tmp_path)
    assert states(record) == ["finished"] * 2
    assert ended.out.count("computed once for") == 2  # arrays, and what is the first member
    alone, whole = (next(r for r in runs.records(tmp_path) if r["id"] == child.run) for child in record.children)
    first, second = (runs.stage(whole, name) for name in ("train-1", "train-2"))
    assert (first["id"], first["origin"]) == (runs.stage(alone, "train")["id"], alone["id"])
    assert not second["cached"]
    assert record.children[1].value == runs.metrics(whole, "train")["val_accuracy", 0]


def test_settings_of_sweeps_are_refused_without_one(small: list[str], tmp_path: Path) -> None:
    ended = runs.run(*small[1:], cwd=tmp_path, code=2)
    assert "sweep.threads: is for sweeps; say python run.py -m" in ended.err


def test_the_next_start_of_anything_closes_a_sweep_whose_launcher_died(small: list[str], tmp_path: Path) -> None:
    recorded = [word for word in small if word != "tracking=none"]
    process = runs.start(*recorded, "seed=1,2", cwd=tmp_path)
    wait_until(process, tmp_path, lambda record: record.count(State.running) == 1)
    process.kill()
    runs.wait(process)
    assert in_mlflow(tmp_path)[0].info.status == "RUNNING"
    alone = [word for word in recorded if word not in ("-m", "sweep.threads=1", TRAIN)]
    ended = runs.run(*alone, "stages=[preprocess]", "tracking.enabled=true", cwd=tmp_path)
    (record,) = records(tmp_path)
    assert f"sweep {record.id} was left by a launcher that died; it is marked KILLED" in ended.out
    assert (record.status.value, states(record)) == ("KILLED", ["stopped", "waiting"])
    client = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    assert client.get_run(str(record.mlflow_run)).info.status == "KILLED"
