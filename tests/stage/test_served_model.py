from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.cache import model_folder
from launchers.records import RunRecord
from tests.recorded_runs import new_run

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES = ["run", "walk", "跳"]

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
    from launchers import tracking
    from launchers.config import Tracking
    from launchers.records import RunFolder
    outputs, run_id = Path(sys.argv[1]), sys.argv[2]
    for _ in range(2):
        tracking.sync(RunFolder(outputs / "runs" / run_id), Tracking(), outputs)
    print([name for name in ("tensorflow", "keras", "cv2", "av", "videolift.predictor") if name in sys.modules])
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
    assert imported.stdout.strip() == "[]", "the launcher stays free of TensorFlow"
    assert imported.stderr == "", "MLflow is quiet"
    return run.folder.load()


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{REPOSITORY}:{REPOSITORY / 'src'}"
    environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    ended = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert ended.returncode == 0 or "predict" in arguments, ended.stderr
    return ended


def served(outputs: Path, recorded: RunRecord, video: Path) -> subprocess.CompletedProcess[str]:
    """Predict as a user does, in a process that has only what was logged."""
    request, answer = outputs / "input.json", outputs / "output.json"
    answer.unlink(missing_ok=True)
    request.write_text(json.dumps({"dataframe_records": [{"path": str(video)}]}), encoding="utf-8")
    uri = f"runs:/{recorded.mlflow_run}/model"
    command = ["-m", "mlflow", "models", "predict", "--env-manager", "local", "-m", uri]
    command += ["-i", str(request), "-o", str(answer), "-t", "json"]
    return python(*command, PYTHONPATH="", MLFLOW_TRACKING_URI=f"sqlite:///{outputs}/mlflow.db")


def test_mlflow_predicts_the_class_of_a_video(outputs: Path, recorded: RunRecord) -> None:
    video = model_folder(Path(recorded.stages[0].folder)).parent / "a video.mp4"
    ended = served(outputs, recorded, video)
    assert ended.returncode == 0, ended.stderr
    (row,) = json.loads((outputs / "output.json").read_text(encoding="utf-8"))["predictions"]
    top = json.loads(row["top5"])
    assert row["path"] == str(video)
    assert [row["class"], row["probability"]] == top[0]
    assert sorted(name for name, _ in top) == CLASSES
    assert sum(p for _, p in top) == pytest.approx(1, abs=1e-5)


def test_a_file_that_is_no_video_is_named(outputs: Path, recorded: RunRecord) -> None:
    broken = outputs / "text.avi"
    broken.write_text("no video")
    ended = served(outputs, recorded, broken)
    assert ended.returncode != 0
    assert f"ClipError: {broken}" in ended.stderr.strip().splitlines()[-1]


def test_a_model_is_logged_once_with_its_versions(outputs: Path, recorded: RunRecord) -> None:
    (model,) = (outputs / "mlartifacts" / "models").iterdir()
    requirements = (model / "artifacts" / "requirements.txt").read_text().splitlines()
    assert {line.split("==")[0] for line in requirements} == {
        *("av", "keras", "mlflow", "numpy", "opencv-python-headless", "tensorflow")
    }
    assert "signature" in (model / "artifacts" / "MLmodel").read_text()
    assert not list(model.rglob("__pycache__"))
