from __future__ import annotations

import itertools
import json
import logging
import math
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from launchers import tracking
from launchers.config import Tracking
from launchers.mlflow_store import connect, name_of, tracking_uri
from launchers.records import RunFolder, Status
from launchers.redaction import redacted
from tests.mlflow_server import MlflowServer, free_port, mlflow_server, silence, silent_port
from tests.recorded_runs import CONFIG, DATA, FakeRun, new_run
from tests.waiting import HANG_S, wait_until
from videolift.errors import VideoliftError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("database")
    MlflowClient(tracking_uri=tracking_uri(Tracking(), outputs)).search_experiments()
    return outputs / "mlflow.db"


@pytest.fixture
def outputs(tmp_path: Path, empty_database: Path) -> Path:
    folder = tmp_path / "out puts 'q\" ?#%20 视频"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")  # making the tables takes seconds
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, folder / "mlflow.db")
    with mlflow_server(f"sqlite:///{folder}/mlflow.db", folder / "log.txt", folder / "artifacts") as running:
        yield running


_numbers = itertools.count()


def some_id() -> str:
    return f"2026-11-23_10-00-00_{next(_numbers):04d}"


def client_of(run: FakeRun, **settings: str) -> MlflowClient:
    return MlflowClient(tracking_uri=tracking_uri(Tracking(**settings), run.outputs))  # type: ignore[arg-type]


def runs_of(run: FakeRun, **settings: str) -> list[Run]:
    client = client_of(run, **settings)
    experiments = [e.experiment_id for e in client.search_experiments()]
    return list(client.search_runs(experiments, f"tags.`videolift.run` = '{run.record.id}'"))


def only_run(run: FakeRun, **settings: str) -> Run:
    (found,) = runs_of(run, **settings)
    return found


def values(run: FakeRun, key: str, **settings: str) -> list[tuple[int, float]]:
    history = client_of(run, **settings).get_metric_history(only_run(run, **settings).info.run_id, key)
    return sorted((m.step, m.value) for m in history)


def artifacts(run: FakeRun, folder: str = "", **settings: str) -> set[str]:
    found = client_of(run, **settings).list_artifacts(only_run(run, **settings).info.run_id, folder)
    return {a.path for a in found}


def artifact_text(run: FakeRun, name: str, tmp_path: Path) -> str:
    target = tmp_path / "downloaded"
    target.mkdir(exist_ok=True)
    path = client_of(run).download_artifacts(only_run(run).info.run_id, name, str(target))
    return Path(path).read_text(encoding="utf-8")


def in_fresh_process(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )


def test_a_run_is_recorded_whole(outputs: Path, tmp_path: Path) -> None:
    run = new_run(outputs, tags={"team": "vision"})
    tracker = run.tracker()
    tracker.start(run.record)
    tracker.stage(run.stage)
    run.epochs(1, 2, 3)
    run.picture(b"png")
    run.tag("epoch", "3 (last)")
    run.tell(tracker)
    run.finish(tracker)
    assert tracker.problem is None
    assert run.folder.load().synced
    found = only_run(run)
    assert (found.info.run_name, found.info.status, found.info.run_id) == ("cnn3d", "FINISHED", run.record.mlflow_run)
    assert found.info.end_time == int(1000 * (run.record.ended or 0))
    assert values(run, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert values(run, "system/train/cpu_utilization_percentage") == [(1, 91.0), (2, 92.0), (3, 93.0)]
    assert found.data.params["model.epoch"] == "3"
    assert found.data.params["model.learning_rate"] == "null"
    assert found.data.params["model.dropout"] == "true"
    assert found.data.params["stages"] == '["preprocess", "train"]'
    expected = {
        "team": "vision",
        "epoch": "3 (last)",
        "videolift.run": run.record.id,
        "videolift.backend": "local",
        "videolift.stage.train": run.stage.id,
        "videolift.data.digest": run.record.data["digest"],
        "mlflow.source.name": "run.py",
    }
    assert expected.items() <= found.data.tags.items()
    assert {"videolift.host", "videolift.version.python", "videolift.version.mlflow"} <= found.data.tags.keys()
    assert artifacts(run) >= {"run.json", "config.yaml", "pictures"}
    assert artifacts(run, "pictures") == {"pictures/contact_sheet.png"}
    assert json.loads(artifact_text(run, "run.json", tmp_path))["status"] == "FINISHED"


def test_the_data_is_an_input_once(outputs: Path) -> None:
    run = new_run(outputs)
    run.end()
    for _ in range(2):
        tracking.sync(run.folder, Tracking(), outputs)
    (dataset,) = [i.dataset for i in only_run(run).inputs.dataset_inputs]
    assert (dataset.name, dataset.source_type) == ("camera motions", "local")
    assert dataset.digest == run.record.data["digest"][:36]
    assert json.loads(dataset.profile)["splits"] == run.record.data["splits"]


def test_metrics_appear_while_the_run_goes_on(outputs: Path) -> None:
    run = new_run(outputs)
    tracker = run.tracker()
    tracker.start(run.record)
    run.epochs(1)
    run.tell(tracker)
    wait_until(lambda: "val_loss" in only_run(run).data.metrics)
    found = only_run(run)
    run.finish(tracker)
    assert found.info.status == "RUNNING"
    assert found.data.metrics["loss"] == 1.0


def test_events_told_again_are_recorded_once(outputs: Path) -> None:
    run = new_run(outputs)
    tracker = run.tracker()
    tracker.start(run.record)
    for epoch in (1, 2, 3):
        run.epochs(epoch)
        run.tell(tracker)
    run.finish(tracker)
    tracking.sync(run.folder, Tracking(), outputs)
    assert values(run, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_an_epoch_done_again_shows_its_newest_value(outputs: Path) -> None:
    run = new_run(outputs)
    tracker = run.tracker()
    tracker.start(run.record)
    run.metrics({"loss": 0.9}, step=1)
    run.tell(tracker)
    time.sleep(0.01)
    run.metrics({"loss": 0.8}, step=1)
    run.tell(tracker)
    run.finish(tracker)
    assert only_run(run).data.metrics["loss"] == 0.8


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(outputs: Path) -> None:
    run = new_run(outputs)
    tracker = run.tracker()
    tracker.start(run.record)
    run.epochs(1)
    run.tell(tracker)
    run.finish(tracker, Status.KILLED)
    assert only_run(run).info.status == "KILLED"
    run.record.status, run.record.ended = Status.RUNNING, None
    run.record.config = {**CONFIG, "model": {"epoch": 6, "width": 8}}
    again = run.tracker()
    again.start(run.record)
    assert only_run(run).info.status == "RUNNING"
    run.epochs(2)
    run.tell(again)
    run.finish(again)
    found = only_run(run)
    assert again.problem is None
    assert found.info.status == "FINISHED"
    assert values(run, "loss") == [(1, 1.0), (2, 0.5)]
    assert found.data.params["model.width"] == "8"
    assert found.data.tags["videolift.changed_params"] == "model.epoch: 3 -> 6"


def test_a_cached_stage_names_its_origin(outputs: Path) -> None:
    run = new_run(outputs)
    run.stage.cached, run.stage.origin = True, "earlier"
    run.epochs(1)
    run.end()
    tracking.sync(run.folder, Tracking(), outputs)
    assert only_run(run).data.tags["videolift.cached.train"] == "earlier"
    assert values(run, "loss") == [(1, 1.0)]


def test_values_that_are_no_numbers_are_recorded(outputs: Path, server: MlflowServer) -> None:
    for settings in ({}, {"uri": server.uri}):
        run = new_run(outputs, run_id=some_id())
        run.metrics({"nan": math.nan, "up": math.inf, "down": -math.inf})
        run.end()
        tracking.sync(run.folder, Tracking(timeout_s=HANG_S, **settings), outputs)  # type: ignore[arg-type]
        metrics = only_run(run, **settings).data.metrics
        assert math.isnan(metrics["nan"])
        assert (metrics["up"], metrics["down"]) == (sys.float_info.max, -sys.float_info.max)  # as MLflow keeps infinity


def test_long_and_many_settings_are_not_lost(outputs: Path, tmp_path: Path) -> None:
    long = "视频" * 5000
    config = {"long": long, "many": {f"key{n}": n for n in range(250)}, "empty": "", "odd key (%)": 1}
    run = new_run(outputs, config=config)
    run.end()
    tracking.sync(run.folder, Tracking(), outputs)
    params = only_run(run).data.params
    assert len(params) == 253
    assert params["long"].endswith("cut: 10000 characters")
    assert params["odd key ___"] == "1"
    assert long in artifact_text(run, "config.yaml", tmp_path)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("loss", "loss"),
        ("精度/跳 a", "精度/跳 a"),
        ("f1(top-5)", "f1_top-5_"),
        ("/a//b/", "a/b"),
        ("../x", "_"),
        ("", "_"),
    ],
)
def test_names_fit_mlflow(key: str, name: str) -> None:
    assert name_of(key) == name


def test_variables_of_the_shell_do_not_interfere(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.setenv(name, "nonsense")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")
    run = new_run(outputs)
    tracker = run.tracker()
    tracker.start(run.record)
    run.epochs(1)
    run.tell(tracker)
    run.finish(tracker)
    assert tracker.problem is None
    assert values(run, "loss") == [(1, 1.0)]


def test_an_artifact_outside_the_output_folder_is_not_taken(outputs: Path) -> None:
    run = new_run(outputs)
    (outputs / "secret.txt").write_text("secret")
    run.output.mkdir(parents=True)
    (run.output / "link.txt").symlink_to(outputs / "secret.txt")
    for path in (str(outputs / "secret.txt"), "../../../../../../secret.txt", "link.txt", "missing.txt"):
        run.announce(path, "taken")
    run.end()
    tracking.sync(run.folder, Tracking(), outputs)
    assert artifacts(run, "taken") == set()


def test_a_file_that_comes_after_its_event_is_recorded_at_the_end(outputs: Path) -> None:
    run = new_run(outputs)
    tracker = run.tracker()
    tracker.start(run.record)
    run.announce("late.txt", "files")
    run.tell(tracker)
    (run.output / "late.txt").write_text("here")
    run.finish(tracker)
    assert artifacts(run, "files") == {"files/late.txt"}


def test_a_server_records_as_sqlite_does(outputs: Path, server: MlflowServer) -> None:
    run = new_run(outputs, run_id=some_id())
    tracker = run.tracker(uri=server.uri, timeout_s=HANG_S)
    tracker.start(run.record)
    run.epochs(1, 2)
    run.picture(b"png")
    run.tell(tracker)
    run.finish(tracker)
    assert tracker.problem is None
    assert values(run, "loss", uri=server.uri) == [(1, 1.0), (2, 0.5)]
    assert artifacts(run, "pictures", uri=server.uri) == {"pictures/contact_sheet.png"}


@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_an_unreachable_server_costs_seconds(kind: str, outputs: Path, caplog: pytest.LogCaptureFixture) -> None:
    with silent_port() as silent:
        uri = f"http://127.0.0.1:{silent if kind == 'silent' else free_port()}"
        run = new_run(outputs)
        started = time.monotonic()
        with caplog.at_level(logging.WARNING):
            tracker = run.tracker(uri=uri, timeout_s=2)
            tracker.start(run.record)
            run.epochs(1, 2, 3)
            run.tell(tracker)
            run.finish(tracker)
        assert time.monotonic() - started < HANG_S
    assert not run.folder.load().synced
    (warning,) = [r.message for r in caplog.records if "tracking:" in r.message]
    assert uri in warning
    assert f"python run.py action=sync run={run.record.id}" in warning


def test_a_closed_port_does_not_even_import_mlflow(outputs: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from launchers import tracking
        from launchers.config import Tracking
        from tests.recorded_runs import new_run
        outputs = Path(sys.argv[1])
        assert tracking.close_dead(outputs, Tracking()) == []
        run = new_run(outputs)
        tracker = run.tracker(uri="http://127.0.0.1:9")
        tracker.start(run.record)
        run.finish(tracker)
        print([name for name in ("mlflow", "tensorflow", "keras", "cv2", "av") if name in sys.modules])
    """
    answer = in_fresh_process(code, str(outputs))
    assert answer.stdout.strip() == "[]", answer.stderr


def test_what_could_not_be_recorded_is_synced_once(outputs: Path) -> None:
    run = new_run(outputs)
    tracker = run.tracker(uri="http://127.0.0.1:9")
    tracker.start(run.record)
    run.epochs(1, 2, 3)
    run.picture(b"png")
    run.finish(tracker)
    with pytest.raises(VideoliftError, match=r"127\.0\.0\.1:9 does not answer.*sync it when"):
        tracking.sync(run.folder, Tracking(uri="http://127.0.0.1:9"), outputs)
    for _ in range(2):
        tracking.sync(run.folder, Tracking(), outputs)
    record = run.folder.load()
    assert record.synced
    assert record.mlflow_run == only_run(run).info.run_id
    assert only_run(run).info.status == "FINISHED"
    assert values(run, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert artifacts(run, "pictures") == {"pictures/contact_sheet.png"}


def test_a_half_recorded_run_whose_id_was_lost_is_completed(outputs: Path) -> None:
    run = new_run(outputs)
    tracker = run.tracker()
    tracker.start(run.record)
    run.epochs(1)
    run.tell(tracker)
    run.finish(tracker, Status.KILLED)
    run.epochs(2, 3)
    run.record.mlflow_run = run.record.mlflow_uri = None
    run.end()
    tracking.sync(run.folder, Tracking(), outputs)
    assert values(run, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert only_run(run).info.status == "FINISHED"


def test_an_unfinished_stage_is_synced_up_to_the_end_of_its_run(outputs: Path) -> None:
    run = new_run(outputs)
    run.epochs(1, 2)
    run.end(Status.FAILED)
    time.sleep(0.01)
    run.epochs(3)  # of another run, that went on from there and finished the stage
    run.record.stages[0].folder += ".partial"
    run.folder.save(run.record)
    tracking.sync(run.folder, Tracking(), outputs)
    assert values(run, "loss") == [(1, 1.0), (2, 0.5)]


def test_a_server_that_freezes_in_the_middle_holds_nothing_up(
    outputs: Path, server: MlflowServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(outputs, run_id=some_id())
    tracker = run.tracker(uri=server.uri, timeout_s=HANG_S)
    tracker.start(run.record)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    run.epochs(1)
    run.tell(tracker)
    server.freeze()
    started = time.monotonic()
    run.epochs(2, 3)
    run.tell(tracker)
    assert tracker.problem is None, "it is told while the first request still waits for an answer"
    with caplog.at_level(logging.WARNING):
        run.finish(tracker)
    assert time.monotonic() - started < HANG_S
    server.thaw()
    assert not run.record.synced
    assert sum("action=sync" in r.message for r in caplog.records) == 1
    tracking.sync(run.folder, Tracking(uri=server.uri, timeout_s=HANG_S), outputs)
    assert values(run, "loss", uri=server.uri) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert only_run(run, uri=server.uri).info.status == "FINISHED"


def test_a_server_that_comes_back_gets_the_whole_run(
    outputs: Path, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "SECOND_TRY_S", HANG_S)
    run = new_run(outputs, run_id=some_id())
    tracker = run.tracker(uri=server.uri, timeout_s=HANG_S)
    tracker.start(run.record)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    server.freeze()
    run.epochs(1, 2)
    run.tell(tracker)
    wait_until(lambda: tracker.problem is not None)
    server.thaw()
    run.finish(tracker)
    assert tracker.problem is None
    assert run.folder.load().synced
    assert values(run, "loss", uri=server.uri) == [(1, 1.0), (2, 0.5)]


def test_credentials_are_neither_printed_nor_recorded(
    outputs: Path, server: MlflowServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    uri = server.uri.replace("://", "://someone:hush-hush@")
    run = new_run(outputs, run_id=some_id(), config={"tracking": {"uri": uri}, "list": [uri]}, error=f"no {uri}")
    tracker = run.tracker(uri=uri, timeout_s=HANG_S)
    tracker.start(run.record)
    run.tag("where", uri)
    run.tell(tracker)
    run.finish(tracker)
    assert tracker.problem is None
    assert run.record.mlflow_uri == server.uri.replace("://", "://***@")
    dead = new_run(outputs, run_id=some_id())
    dead.finish(dead.tracker(uri="http://someone:hush-hush@127.0.0.1:9"))
    recorded = [f for f in server.log.parent.rglob("*") if f.is_file() and f.suffix != ".txt"]
    assert recorded
    assert not [f for f in recorded if b"hush-hush" in f.read_bytes()]
    assert "hush-hush" not in caplog.text + "".join(capfd.readouterr()) + (dead.folder.path / "run.json").read_text()


def test_redaction_finds_every_form() -> None:
    assert redacted({"a": ["x://u:p@h/y", 1, None], "b": "https://tok@h:1 and s3://k:p@ss@b"}) == {
        "a": ["x://***@h/y", 1, None],
        "b": "https://***@h:1 and s3://***@b",
    }
    assert redacted("mail a@b.c, http://h/x@y") == "mail a@b.c, http://h/x@y"


def test_a_run_whose_launcher_was_killed_is_closed_at_the_next_start(outputs: Path) -> None:
    code = """if True:
        import sys, time
        from pathlib import Path
        from tests.recorded_runs import new_run
        run = new_run(Path(sys.argv[1]))
        with run.folder.held():
            tracker = run.tracker()
            tracker.start(run.record)
            run.epochs(1)
            print("ready", flush=True)
            time.sleep(600)
    """
    command = [sys.executable, "-c", code, str(outputs)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "ready\n"
        assert tracking.close_dead(outputs, Tracking()) == []  # it is alive
        launcher.send_signal(signal.SIGKILL)
    (run_id,) = [f.name for f in (outputs / "runs").iterdir()]
    assert tracking.close_dead(outputs, Tracking()) == [run_id]
    assert tracking.close_dead(outputs, Tracking()) == []
    record = RunFolder(outputs / "runs" / run_id).load()
    assert (record.status, record.stages[0].status, record.synced) == (Status.KILLED, Status.KILLED, True)
    client = MlflowClient(tracking_uri=tracking_uri(Tracking(), outputs))
    found = client.get_run(str(record.mlflow_run))
    assert found.info.status == "KILLED"
    assert found.data.metrics["loss"] == 1.0


def test_a_detached_run_stays_open(outputs: Path) -> None:
    run = new_run(outputs, tags={tracking.DETACHED_TAG: tracking.DETACHED})
    tracker = run.tracker()
    tracker.start(run.record)
    tracker.finish(run.record)
    assert tracking.close_dead(outputs, Tracking()) == []
    assert only_run(run).info.status == "RUNNING"
    assert not run.folder.load().synced


def test_dead_runs_do_not_hold_up_a_start_without_server(outputs: Path) -> None:
    dead = [new_run(outputs, run_id=some_id()) for _ in range(3)]
    with silence() as (silent, tries):
        settings = Tracking(uri=f"http://127.0.0.1:{silent}", timeout_s=2)
        assert len(tracking.close_dead(outputs, settings)) == len(dead)
        run = new_run(outputs, run_id=some_id())
        tracker = tracking.MlflowTracker(settings, outputs, run.folder)
        tracker.start(run.record)
        run.finish(tracker)
        assert tries() == 2, "the first question and the second try, not one for each run"


def test_runs_on_the_same_data_may_begin_at_once(outputs: Path) -> None:
    children = [new_run(outputs, run_id=some_id()) for _ in range(8)]
    trackers = [child.tracker() for child in children]
    together = threading.Barrier(len(children))

    def begin(child: FakeRun, tracker: tracking.MlflowTracker) -> None:
        together.wait(60)
        tracker.start(child.record)

    threads = [threading.Thread(target=begin, args=pair) for pair in zip(children, trackers, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [tracker.problem for tracker in trackers] == [None] * len(children)
    for child, tracker in zip(children, trackers, strict=True):
        child.finish(tracker)
        (data,) = only_run(child).inputs.dataset_inputs
        assert data.dataset.digest == str(DATA["digest"])[:36]


def test_a_run_that_is_tried_again_shows_no_error_of_the_first_time(outputs: Path) -> None:
    run = new_run(outputs)
    run.record.error = "the loss became nan"
    run.end(Status.FAILED)
    tracking.sync(run.folder, Tracking(), outputs)
    assert only_run(run).data.tags["videolift.error"] == "the loss became nan"
    run.record.error = None
    run.end()
    tracking.sync(run.folder, Tracking(), outputs)
    assert "videolift.error" not in only_run(run).data.tags


def test_a_deleted_run_is_recorded_anew(outputs: Path) -> None:
    run = new_run(outputs)
    run.end()
    tracking.sync(run.folder, Tracking(), outputs)
    first = only_run(run).info.run_id
    client_of(run).delete_run(first)
    tracking.sync(run.folder, Tracking(), outputs)
    assert only_run(run).info.run_id != first


def test_a_deleted_experiment_is_told_about(outputs: Path) -> None:
    client, experiment = connect(Tracking(), outputs)
    client.delete_experiment(experiment)
    run = new_run(outputs)
    run.end()
    with pytest.raises(VideoliftError, match=r"videolift.*deleted.*restore it, or.*tracking\.experiment="):
        tracking.sync(run.folder, Tracking(), outputs)


def test_two_processes_may_make_the_database_at_once(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from tests.recorded_runs import new_run
        run = new_run(Path(sys.argv[1]), run_id=sys.argv[2])
        tracker = run.tracker()
        tracker.start(run.record)
        run.epochs(1)
        run.finish(tracker)
        assert tracker.problem is None, tracker.problem
    """
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], cwd=REPOSITORY, stderr=subprocess.PIPE)
        for name in ("one", "two")
    ]
    ends = [(p.communicate(timeout=HANG_S)[1], p.returncode) for p in both]
    assert [code for _, code in ends] == [0, 0], ends
    assert ends[0][0] == b"", "MLflow is quiet"


def test_a_dead_run_that_was_not_tracked_stays_untracked(outputs: Path) -> None:
    run = new_run(outputs, config={**CONFIG, "tracking": {"enabled": False}})
    assert tracking.close_dead(outputs, Tracking()) == [run.record.id]
    assert run.folder.load().status is Status.KILLED
    assert runs_of(run) == []


def test_a_dead_run_of_another_server_is_told_about_and_not_recorded_here(
    outputs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = new_run(outputs)
    run.record.mlflow_uri = "http://elsewhere:5000"
    run.folder.save(run.record)
    with caplog.at_level(logging.WARNING):
        assert tracking.close_dead(outputs, Tracking()) == [run.record.id]
    assert "tracking.uri=http://elsewhere:5000" in caplog.text
    assert runs_of(run) == []
