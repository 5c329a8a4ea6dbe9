from __future__ import annotations

import csv
import io
import json
import logging
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from rich.console import Console

from launchers.config import Config, Tracking
from launchers.mlflow_store import tracking_uri
from launchers.outputs import Outputs
from launchers.records import Status
from launchers.sweeps.dead import close_dead_sweeps
from launchers.sweeps.parent import ui_address
from launchers.sweeps.record import State
from launchers.sweeps.results import best_command, to_csv
from tests.mlflow_server import silence
from tests.recorded_sweeps import FakeSweep, new_sweep
from tests.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
SECRET = "hunter2"


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("database")
    MlflowClient(tracking_uri=tracking_uri(Tracking(), outputs)).search_experiments()
    return outputs / "mlflow.db"


@pytest.fixture
def outputs(tmp_path: Path, empty_database: Path) -> Path:
    folder = tmp_path / "out puts 视频"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    return folder


def client_of(sweep: FakeSweep) -> MlflowClient:
    return MlflowClient(tracking_uri=tracking_uri(sweep.tracking, sweep.outputs))


def runs_of(sweep: FakeSweep) -> list[Run]:
    client = client_of(sweep)
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()]))


def parents_of(sweep: FakeSweep) -> list[Run]:
    return [run for run in runs_of(sweep) if "mlflow.parentRunId" not in run.data.tags]


def only_parent(sweep: FakeSweep) -> Run:
    (found,) = parents_of(sweep)
    return found


def artifacts(sweep: FakeSweep) -> set[str]:
    return {a.path for a in client_of(sweep).list_artifacts(only_parent(sweep).info.run_id, "sweep")}


def artifact_bytes(sweep: FakeSweep, name: str, folder: Path) -> bytes:
    folder.mkdir(exist_ok=True)
    return Path(client_of(sweep).download_artifacts(only_parent(sweep).info.run_id, name, str(folder))).read_bytes()


def newest(sweep: FakeSweep, key: str) -> float:
    return float(only_parent(sweep).data.metrics[key])


def test_a_sweep_is_recorded_whole_while_threads_record_its_children(outputs: Path, tmp_path: Path) -> None:
    sweep = new_sweep(outputs)
    parent = sweep.parent()
    parent.open(sweep.record)
    accuracies = [0.5, 0.6, 0.875, 0.7, None, 0.8]
    states = [State.finished] * 4 + [State.failed, State.finished]

    def run(numbers: Sequence[int]) -> None:
        for number in numbers:
            sweep.child(number, accuracies[number], state=states[number])

    threads = [threading.Thread(target=run, args=(numbers,)) for numbers in ((0, 2, 4), (1, 3, 5))]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        parent.update(sweep.record)
        time.sleep(0.02)
    assert only_parent(sweep).info.status == "RUNNING"
    sweep.end(Status.FAILED)
    parent.close(sweep.record)

    assert parent.problem is None
    found = only_parent(sweep)
    best = sweep.record.children[2].mlflow_run
    assert (found.info.run_name, found.info.status, found.info.run_id) == (
        *(sweep.record.name, "FAILED"),
        sweep.folder.load().mlflow_run,
    )
    assert found.info.end_time == int(1000 * (sweep.record.ended or 0))
    children = [run for run in runs_of(sweep) if run.info.run_id != found.info.run_id]
    assert [run.data.tags["mlflow.parentRunId"] for run in children] == [found.info.run_id] * 6
    assert found.data.params == {
        "sweep.name": "grid",
        "sweep.metric": "val_accuracy",
        "sweep.goal": "maximize",
        "model.learning_rate": "0.0003, 0.001, 0.003",
        "model.batch": "16, 32",
    }
    assert found.data.metrics == {"best_val_accuracy": 0.875, "finished": 5.0, "failed": 1.0, "pruned": 0.0}
    expected = {
        "videolift.sweep": sweep.record.id,
        "videolift.jobs": "6",
        "videolift.best_run": best,
        "videolift.best_command": best_command(sweep.record),
        "mlflow.source.name": "run.py",
    }
    assert expected.items() <= found.data.tags.items()
    assert {"videolift.host", "videolift.version.mlflow"} <= found.data.tags.keys()
    note = found.data.tags["mlflow.note.content"]
    assert f"[child 2](#/experiments/{found.info.experiment_id}/runs/{best})" in note
    assert str(best_command(sweep.record)) in note and "the loss became nan" in note
    assert artifacts(sweep) == {
        *("sweep/results.csv", "sweep/results.html", "sweep/sweep.json", "sweep/parallel_coordinates.png"),
        *("sweep/val_accuracy_vs_model.learning_rate.png", "sweep/val_accuracy_vs_model.batch.png"),
    }
    assert artifact_bytes(sweep, "sweep/results.csv", tmp_path / "got").decode() == to_csv(sweep.record)
    assert json.loads(artifact_bytes(sweep, "sweep/sweep.json", tmp_path / "got"))["status"] == "FAILED"
    page = artifact_bytes(sweep, "sweep/results.html", tmp_path / "got").decode()
    assert f'"http://127.0.0.1:5000/#/experiments/{found.info.experiment_id}/runs/{best}"' in page


def test_a_sweep_whose_launcher_was_killed_goes_on_below_the_same_run(outputs: Path) -> None:
    code = """if True:
        import sys, time
        from pathlib import Path
        from tests.recorded_sweeps import new_sweep
        sweep = new_sweep(Path(sys.argv[1]))
        parent = sweep.parent()
        parent.open(sweep.record)
        sweep.child(0, 0.5)
        parent.update(sweep.record)
        print(sweep.record.mlflow_run, flush=True)
        time.sleep(600)
    """
    command = [sys.executable, "-c", code, str(outputs)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        first = launcher.stdout.readline().strip()
        launcher.send_signal(signal.SIGKILL)
    sweep = new_sweep(outputs)  # as it was before the run's id was written down
    assert sweep.record.mlflow_run is None
    assert only_parent(sweep).info.status == "RUNNING"
    parent = sweep.parent()
    parent.open(sweep.record)
    sweep.child(1, 0.6)
    sweep.end()
    parent.close(sweep.record)
    assert sweep.record.mlflow_run == only_parent(sweep).info.run_id == first
    assert only_parent(sweep).info.status == "FINISHED" and len(runs_of(sweep)) == 3


def test_a_run_that_was_deleted_is_made_anew_and_takes_its_children_in(outputs: Path) -> None:
    sweep = new_sweep(outputs, 2)
    parent = sweep.parent()
    parent.open(sweep.record)
    sweep.child(0, state=State.failed)
    sweep.end()
    parent.close(sweep.record)
    first = only_parent(sweep).info.run_id
    client_of(sweep).delete_run(first)
    again = sweep.parent()
    again.open(sweep.record)
    again.close(sweep.record)
    assert only_parent(sweep).info.run_id != first
    child = client_of(sweep).get_run(str(sweep.record.children[0].mlflow_run))
    assert child.data.tags["mlflow.parentRunId"] == only_parent(sweep).info.run_id
    assert sweep.runs[0].folder.load().parent == only_parent(sweep).info.run_id


def test_a_sweep_that_is_only_closed_is_recorded(outputs: Path, caplog: pytest.LogCaptureFixture) -> None:
    sweep = new_sweep(outputs, 1)
    sweep.end(Status.KILLED)
    sweep.parent().close(sweep.record)
    assert only_parent(sweep).info.status == "KILLED"
    assert caplog.text == ""


def left_by_its_launcher(outputs: Path, **fields: Any) -> FakeSweep:
    """Return a sweep whose launcher was killed when one child was done and the next one ran."""
    sweep = new_sweep(outputs, 3, **fields)
    sweep.parent().open(sweep.record)
    sweep.child(0, 0.5)
    sweep.record.children[1].state = State.running
    sweep.folder.save(sweep.record)
    return sweep


def close_all(sweep: FakeSweep, **tracking: Any) -> str:
    console = Console(file=io.StringIO(), markup=False)
    close_dead_sweeps(console, Outputs(sweep.outputs), Config(tracking=Tracking(**tracking)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_dead_sweep_is_closed_where_it_is_recorded_by_a_command_of_another_experiment(outputs: Path) -> None:
    sweep = left_by_its_launcher(outputs)
    before = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in runs_of(sweep)}
    assert f"sweep {sweep.record.id} was left" in close_all(sweep, experiment="another")
    assert {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in runs_of(sweep)} == before
    record = sweep.folder.load()
    assert (only_parent(sweep).info.status, only_parent(sweep).info.run_id) == ("KILLED", record.mlflow_run)
    assert record.status is Status.KILLED
    assert [child.state.value for child in record.children] == ["finished", "stopped", "waiting"]
    # It goes on below the run that it has.
    going_on = FakeSweep(outputs, sweep.folder, record, Tracking(experiment="another"))
    going_on.parent().open(record)
    assert only_parent(sweep).info.run_id == record.mlflow_run


@pytest.mark.parametrize("elsewhere", [{"enabled": False}, {"uri": f"http://me:{SECRET}@127.0.0.1:1"}])
def test_a_dead_sweep_that_is_recorded_elsewhere_is_left_to_a_command_that_records_there(
    elsewhere: dict[str, Any], outputs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = left_by_its_launcher(outputs)
    written = sweep.folder.record_file.read_bytes()
    assert close_all(sweep, **elsewhere) == ""
    assert sweep.folder.record_file.read_bytes() == written
    assert f"recorded in {sweep.record.mlflow_uri}" in caplog.text and SECRET not in caplog.text
    assert close_all(sweep)
    assert only_parent(sweep).info.status == "KILLED"


def test_a_dead_sweep_that_is_not_recorded_gets_no_run(outputs: Path) -> None:
    sweep = left_by_its_launcher(outputs, tracking={"enabled": False})
    run = sweep.runs[0]
    run.record.config["tracking"] = {"enabled": False}
    run.folder.save(run.record)
    assert close_all(sweep)
    assert sweep.folder.load().status is Status.KILLED
    assert all("videolift.jobs" not in run.data.tags for run in runs_of(sweep))


def test_a_detached_sweep_stays_open_until_it_is_gone_on_with(outputs: Path) -> None:
    sweep = new_sweep(outputs, 2)
    told = []
    for status in (Status.RUNNING, Status.FINISHED):
        parent = sweep.parent()
        parent.open(sweep.record)
        sweep.record.status = status
        parent.close(sweep.record)
        told.append((only_parent(sweep).info.status, only_parent(sweep).data.tags["videolift.detached"]))
    assert told == [("RUNNING", "yes"), ("FINISHED", "no")]


def test_the_newest_counts_are_those_of_the_newest_session(outputs: Path) -> None:
    sweep = new_sweep(outputs, 2)
    for last in (State.failed, State.pruned):
        parent = sweep.parent()
        parent.open(sweep.record)
        sweep.record.children[0].state = State.finished
        sweep.record.children[1].state = State.running
        parent.update(sweep.record)
        wait_until(lambda: only_parent(sweep).data.metrics.get("failed") == 0.0)
        sweep.record.children[1].state = last
        parent.update(sweep.record)
        sweep.end()
        parent.close(sweep.record)
        assert newest(sweep, last.value) == 1.0
    assert (newest(sweep, "finished"), newest(sweep, "failed")) == (1.0, 0.0)
    history = client_of(sweep).get_metric_history(only_parent(sweep).info.run_id, "failed")
    assert [point.value for point in sorted(history, key=lambda point: point.step)] == [0.0, 1.0, 0.0]
    assert len(client_of(sweep).get_metric_history(only_parent(sweep).info.run_id, "finished")) == 1


def test_what_a_sampler_has_chosen_is_written_at_the_end_and_what_changed_is_told(outputs: Path) -> None:
    sweep = new_sweep(outputs, 6, sampler="optuna")
    everything, sweep.record.children = sweep.record.children, sweep.record.children[:2]
    for children in (everything[:2], everything):
        sweep.record.children = children
        parent = sweep.parent()
        parent.open(sweep.record)
        sweep.end()
        parent.close(sweep.record)
    assert only_parent(sweep).data.params["model.learning_rate"] == "0.0003"
    assert only_parent(sweep).data.tags["videolift.changed_params"] == (
        "model.learning_rate: 0.0003 -> 0.0003, 0.001, 0.003"
    )
    assert only_parent(sweep).data.tags["videolift.jobs"] == "6"


def test_a_server_that_does_not_answer_costs_seconds_and_a_warning(
    outputs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with silence() as (silent, tries):
        sweep = new_sweep(outputs, 6, tracking={"uri": f"http://me:{SECRET}@127.0.0.1:{silent}", "timeout_s": 2})
        parent = sweep.parent()
        parent.open(sweep.record)
        for child in sweep.record.children:
            child.state = State.failed
            parent.update(sweep.record)
        sweep.end(Status.FAILED)
        parent.close(sweep.record)
        assert tries() == 2, "when it begins, and when it ends"
    (warning,) = caplog.messages
    assert "does not answer" in warning and "once the server answers, the same command records it" in warning
    assert SECRET not in warning and sweep.record.mlflow_run is None
    lines = (sweep.folder.path / "results" / "results.csv").read_text(encoding="utf-8").splitlines()
    assert [row["state"] for row in csv.DictReader(lines)] == ["failed"] * 6


def test_what_a_server_missed_is_recorded_once_when_the_sweep_ends(
    outputs: Path, tmp_path: Path, empty_database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = tmp_path / "not yet" / "mlflow.db"
    sweep = new_sweep(outputs, 2, tracking={"uri": f"sqlite:///{database}"})
    parent = sweep.parent()
    parent.open(sweep.record)
    sweep.child(0, state=State.failed)
    assert not sweep.runs[0].folder.load().synced
    database.parent.mkdir()
    shutil.copy(empty_database, database)
    parent.update(sweep.record)
    sweep.end(Status.FAILED)
    assert parent.problem is not None and runs_of(sweep) == []
    parent.close(sweep.record)
    assert parent.problem is None and "the whole sweep is recorded now" in caplog.text
    assert only_parent(sweep).info.status == "FAILED" and len(runs_of(sweep)) == 2
    assert sweep.record.children[0].mlflow_run is not None
    assert sweep.folder.load().children[0].mlflow_run == sweep.record.children[0].mlflow_run


def test_a_sweep_that_is_not_tracked_has_its_tables_and_no_run(outputs: Path) -> None:
    sweep = new_sweep(outputs, 1, tracking={"enabled": False})
    parent = sweep.parent()
    parent.open(sweep.record)
    parent.update(sweep.record)
    parent.close(sweep.record)
    assert {file.name for file in (sweep.folder.path / "results").iterdir()} == {"results.csv", "results.html"}
    assert sweep.record.mlflow_run is None and runs_of(sweep) == []


def test_pictures_that_cannot_be_drawn_are_told_about(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = new_sweep(outputs, 2)
    sweep.record.children[0].state, sweep.record.children[0].value = State.finished, 0.5
    parent = sweep.parent()
    parent.open(sweep.record)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    sweep.end()
    parent.close(sweep.record)
    assert caplog.records[0].levelno == logging.WARNING
    assert "pictures were not drawn" in caplog.text and "videolift.sweep_pictures" in caplog.text
    assert only_parent(sweep).info.status == "FINISHED" and "sweep/results.csv" in artifacts(sweep)


def test_no_credentials_are_recorded(outputs: Path, tmp_path: Path) -> None:
    address = f"http://me:{SECRET}@host/videos"
    sweep = new_sweep(outputs, 2, name=f"data.root={address}", command=[f"data.root={address}"])
    for child in sweep.record.children:
        child.parameters["data.root"] = address
        child.overrides, child.error, child.state = [f"data.root={address}"], address, State.failed
    sweep.record.children[0].state, sweep.record.children[0].value = State.finished, 0.5
    parent = sweep.parent()
    parent.open(sweep.record)
    sweep.end()
    parent.close(sweep.record)
    run = only_parent(sweep)
    assert "***@host" in run.info.run_name and "***@host" in run.data.params["data.root"]
    assert SECRET not in f"{run.info} {run.data.to_dictionary()}"
    files = sorted(artifacts(sweep))
    assert len(files) == 7
    assert not [name for name in files if SECRET.encode() in artifact_bytes(sweep, name, tmp_path / "got")]


@pytest.mark.parametrize(
    ("uri", "here", "address"),
    [
        ("http://me:secret@host:5000/mlflow/", False, "http://host:5000/mlflow"),
        ("sqlite:////outputs/mlflow.db", True, "http://127.0.0.1:5000"),
        ("postgresql://host/db", False, None),
    ],
)
def test_pages_are_linked_to_where_they_are_shown(uri: str, here: bool, address: str | None) -> None:
    assert ui_address(uri, here=here) == address
