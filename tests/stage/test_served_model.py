from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient

from launchers.cache import model_folder
from launchers.records import RunRecord
from tests.mlflow_server import QUIET, START_S, free_port
from tests.recorded_runs import new_run
from tests.waiting import HANG_S
from videolift.script_requirements import hide_package

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES = ["run", "walk", "跳"]
NAME = "motions"  # in the registry

TRAIN = """if True:
    import json, sys
    from pathlib import Path
    import keras
    from videolift.plan import to_plain
    from videolift.provenance import library_versions
    from videolift.settings import Preprocess
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    clip = keras.Input((4, 8, 8, 1), dtype="uint8")
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.GlobalAveragePooling3D()]
    layers += [keras.layers.Dense(3, activation="softmax", bias_initializer=keras.initializers.Constant([0, 1, 2]))]
    keras.Model(clip, keras.Sequential(layers)(clip)).save(folder / "model.keras")
    (folder / "classes.txt").write_text("run\\nwalk\\n跳\\n", encoding="utf-8")
    preprocess = Preprocess(depth=4, height=8, width=8, interval=2, windows=3)
    settings = {"preprocess": to_plain(preprocess), "versions": library_versions("train")}
    (folder / "settings.json").write_text(json.dumps(settings))
    import av, numpy
    with av.open(str(folder.parent / "a video.mp4"), "w") as video:
        stream = video.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for n in range(20):
            frame = av.VideoFrame.from_ndarray(numpy.full((48, 64, 3), 10 * n, numpy.uint8), format="rgb24")
            video.mux(stream.encode(frame))
        video.mux(stream.encode())
"""

RECORD = """if True:
    import sys
    from pathlib import Path
    from rich.console import Console
    from launchers import actions
    from launchers.config import Config, Tracking
    from launchers.outputs import Outputs
    config = Config(run=sys.argv[2], tracking=Tracking(register="motions"))
    for _ in range(2):
        actions.sync(Console(width=500), Outputs(Path(sys.argv[1])), config)
    print([name for name in ("tensorflow", "keras", "cv2", "av", "videolift.predictor") if name in sys.modules])
"""

PREDICT = """if True:
    import json, sys
    from pathlib import Path
    from videolift.predictor import load_predictor
    print(json.dumps(load_predictor(Path(sys.argv[2])).predict(Path(sys.argv[1]))))
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out puts")


@pytest.fixture(scope="module")
def recorded(outputs: Path) -> RunRecord:
    run = new_run(outputs)
    run.end()
    python("-c", TRAIN, str(model_folder(Path(run.stage.folder))))
    imported = python("-c", RECORD, str(outputs), run.record.id)
    *said, slow = imported.stdout.splitlines()
    assert [line for line in said if "recorded in" not in line] == ["registered motions version 1"] * 2
    assert slow == "[]", "the launcher stays free of TensorFlow"
    assert imported.stderr == "", "MLflow is quiet"
    assert not list((outputs / "mlartifacts").rglob("__pycache__")), "a server that loads the model may leave one later"
    return run.folder.load()


def model_of(outputs: Path) -> Path:
    (folder,) = (file.parent for file in (outputs / "cache").rglob("model.keras"))
    return folder


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )
    assert ended.returncode == 0, ended.stderr
    return ended


@pytest.fixture(scope="module")
def allowed(outputs: Path, recorded: RunRecord) -> Path:
    """The folder whose videos the server may be asked for, beside one whose videos it may not."""
    video = model_folder(Path(recorded.stages[0].folder)).parent / "a video.mp4"
    allowed, other = outputs / "视频", outputs / "视频 others"
    for folder in (allowed, other):
        folder.mkdir()
        shutil.copy(video, folder)
    (allowed / "text.avi").write_text("no video")
    (allowed / "link.mp4").symlink_to(other / "a video.mp4")
    (allowed / "loop.mp4").symlink_to("loop.mp4")
    (allowed / "list.mp4").write_text("ffconcat version 1.0\nfile 'a video.mp4'\n")
    os.mkfifo(allowed / "pipe.mp4")
    return allowed


@pytest.fixture(scope="module")
def address(outputs: Path, recorded: RunRecord, allowed: Path) -> Iterator[str]:
    """`mlflow models serve` of the registered model, in a process that has only what was logged."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "-m", f"models:/{NAME}/1"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # as in an activated environment
    hide_package(outputs / "hiding")
    variables = {
        "PATH": path,
        "PYTHONPATH": str(outputs / "hiding"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{outputs}/mlflow.db",
        **QUIET,
    }
    with (outputs / "server.txt").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            env={**os.environ, **variables, "VIDEOLIFT_VIDEOS": str(allowed)},
            **{"stdout": log, "stderr": log},
            start_new_session=True,
            cwd=outputs,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", process, outputs / "server.txt")
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(ping: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(ping, timeout=5):
            return
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def classified(address: str, *rows: dict[str, str]) -> list[dict[str, Any]]:
    body = json.dumps({"dataframe_records": rows}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=HANG_S) as answer:
        found: list[dict[str, Any]] = json.load(answer)["predictions"]
    return found


def test_a_served_model_classifies_videos_that_it_is_sent_and_those_of_one_folder(address: str, allowed: Path) -> None:
    content = base64.b64encode((allowed / "a video.mp4").read_bytes()).decode()
    sent, named, absolute = classified(
        address, {"video": content}, {"path": "a video.mp4"}, {"path": str(allowed / "a video.mp4")}
    )
    top = json.loads(sent["top5"])
    assert [sent["class"], sent["probability"]] == top[0]
    assert sorted(name for name, _ in top) == CLASSES and sum(p for _, p in top) == pytest.approx(1, abs=1e-5)
    for other in (named, absolute):
        assert (other["class"], other["top5"], other["error"]) == (sent["class"], sent["top5"], "")
    # What `predict` writes of the same video.
    here = python("-c", PREDICT, str(allowed / "a video.mp4"), str(model_of(allowed.parent)))
    assert json.loads(here.stdout) == top


def test_a_served_model_says_of_each_row_what_is_wrong_with_it(address: str, allowed: Path) -> None:
    forbidden = [
        "../视频 others/a video.mp4",
        str(allowed.parent / "视频 others" / "a video.mp4"),
        "link.mp4",
        "/etc/passwd",
    ]
    answers = classified(address, *({"path": path} for path in forbidden))
    assert {answer["error"] for answer in answers} == {"path: is not below the folder that VIDEOLIFT_VIDEOS allows"}
    assert not any(answer["class"] for answer in answers)
    broken, absent, garbled, nothing, both = classified(
        *(address, {"path": "text.avi"}, {"path": "absent.avi"}, {"video": "%%%"}, {"path": ""}),
        {"path": "a video.mp4", "video": "aGk="},
    )
    assert broken["error"] and broken["path"] == "text.avi" and "/" not in broken["error"]
    assert "No such file" in absent["error"]
    assert garbled["error"].startswith("video: is not base64")
    assert nothing["error"] == both["error"] == "send either video, a file's bytes in base64, or path"


def test_a_path_that_nobody_expects_is_an_error_of_its_row(address: str) -> None:
    names = ["a\0b", "loop.mp4", "x" * 5000, "pipe.mp4", ".", "list.mp4"]
    good, *answers = classified(address, {"path": "a video.mp4"}, *({"path": name} for name in names))
    assert good["class"] and not good["error"]
    assert [answer["path"] for answer in answers] == names
    assert not any(answer["class"] for answer in answers)
    errors = [answer["error"] for answer in answers]
    assert errors[:5] == ["path: no file can have it"] * 3 + ["path: is not a regular file"] * 2
    assert "list of other files" in errors[5]


@pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")  # of MLflow itself, when it is imported
def test_half_a_character_is_an_error_of_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's server refuses such a request by itself; its clients in Python do not."""
    from launchers.served_model import VideoClassifier

    monkeypatch.setenv("VIDEOLIFT_VIDEOS", str(tmp_path))
    rows = pd.DataFrame({"path": ["\ud800.mp4", "../x"]}, dtype=object)
    found = VideoClassifier().predict(None, rows)  # type: ignore[arg-type]
    assert [error.partition(":")[2].split()[0] for error in found["error"]] == ["no", "is"]
    assert list(found["path"]) == ["\\ud800.mp4", "../x"]


def test_the_registered_model_names_its_run_and_is_registered_once(outputs: Path, recorded: RunRecord) -> None:
    client = MlflowClient(f"sqlite:///{outputs}/mlflow.db")
    (version,) = client.search_model_versions(f"name='{NAME}'")
    assert (version.run_id, version.tags["videolift.stage.train"]) == (recorded.mlflow_run, recorded.stages[0].id)


def test_a_model_is_logged_once_with_its_versions(outputs: Path, recorded: RunRecord) -> None:
    (model,) = (outputs / "mlartifacts" / "models").iterdir()
    requirements = (model / "artifacts" / "requirements.txt").read_text().splitlines()
    assert {line.split("==")[0] for line in requirements} == {
        *("av", "keras", "mlflow", "numpy", "opencv-python-headless", "tensorflow")
    }
    assert "signature" in (model / "artifacts" / "MLmodel").read_text()
