"""Whole runs in real containers: the same results as on this machine, and what the service would do."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from launchers.container_job import own
from launchers.recipe import Recipe
from tests import runs
from tests.containers import docker
from tests.engine import BASE_IMAGE

ONLY = "stages=[preprocess]"
TRAIN = "stages=[preprocess,train]"
PREPROCESS_IMAGE = Recipe("preprocess", BASE_IMAGE, own_source=True)
CANARY = "AKIA0CANARY0CANARY00"


def locally(settings: list[str]) -> list[str]:
    """Return settings of the same run on backend=local."""
    return ["backend=local", *(s for s in settings if not s.startswith("backend"))]


def test_containers_give_the_same_bytes_metrics_and_files_as_this_machine(tmp_path: Path, quick: list[str]) -> None:
    # A folder whose name Docker, a shell or CSV could take apart.
    there, here = tmp_path / "视频 a:b,c=d \"e\" 'f' [g]", tmp_path / "here"
    for cwd in (there, here):
        cwd.mkdir()
    ended = runs.run(*quick, cwd=there)
    runs.run(*locally(quick), cwd=here)
    (record,), (same,) = runs.records(there), runs.records(here)
    assert runs.arrays(record) == runs.arrays(same)
    for stage in ("train", "evaluate"):
        assert runs.metrics(record, stage) == runs.metrics(same, stage) != {}
    assert [s["id"] for s in record["stages"]] == [s["id"] for s in same["stages"]]
    for stage in record["stages"]:
        assert files_of(stage) == files_of(runs.stage(same, stage["name"])) != set()
    assert "test accuracy" in ended.out
    assert "libraries" in ended.out
    run = Path(record["stages"][0]["folder"]).parents[1] / "runs" / record["id"]
    assert (run / "parity.csv").read_text().startswith("library,here,preprocess image,train image\npython,3.1")
    # What is computed is not computed again, whoever asks, and no image is built again.
    again = runs.run(*locally(quick), cwd=there)
    assert again.out.count("cached, computed by") == 4
    assert "building" not in runs.run(*quick, cwd=there).out


def files_of(stage: dict[str, object]) -> set[str]:
    folder = Path(str(stage["folder"])) / "hosts"
    found = {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file() and "input" not in f.parts}
    return {name for name in found if "/config/" not in name}


def test_metrics_are_in_mlflow(tmp_path: Path, quick: list[str]) -> None:
    settings = [s for s in quick if s != "tracking=none"]
    runs.run(*settings, TRAIN, cwd=tmp_path)
    from mlflow import MlflowClient

    (record,) = runs.records(tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    assert [m.step for m in client.get_metric_history(record["mlflow_run"], "loss")] == [1, 2]
    assert client.get_run(record["mlflow_run"]).info.status == "FINISHED"
    assert "parity.csv" in [f.path for f in client.list_artifacts(record["mlflow_run"])]


def test_each_of_three_hosts_sees_its_own_files_only(tmp_path: Path, quick: list[str], videos: Path) -> None:
    bad = tmp_path / "videos"
    bad.mkdir()
    for file in videos.rglob("*.avi"):
        target = bad / file.relative_to(videos)
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(file)  # a link that leads out of what a container sees
    runs.run(*quick, ONLY, f"data.root={bad}", "backend.preprocess.instance_count=3", cwd=tmp_path)
    record = runs.records(tmp_path)[0]
    # A host counts what its channel holds.
    told = runs.metrics(record, "preprocess")
    assert [told[f"clips_algo-{n}", 0] for n in (1, 2, 3)] == [8, 8, 8]
    assert not (Path(record["stages"][0]["folder"]) / "shares").exists()


def test_two_training_hosts_train_as_one_and_the_first_writes_the_model(tmp_path: Path, quick: list[str]) -> None:
    settings = [*quick, TRAIN, "model.dropout=false", "model.batch=7"]
    one, two = tmp_path / "one", tmp_path / "two"
    for cwd in (one, two):
        cwd.mkdir()
    runs.run(*settings, cwd=one)
    ended = runs.run(*settings, "backend.train.instance_count=2", cwd=two)
    (alone,), (record,) = runs.records(one), runs.records(two)
    told, expected = runs.metrics(record, "train"), runs.metrics(alone, "train")
    assert told.pop(("hosts", 0)) == told.pop(("replicas", 0)) == 2
    assert told == pytest.approx(expected, rel=1e-4)
    hosts = Path(runs.stage(record, "train")["folder"]) / "hosts"
    assert (hosts / "algo-1" / "model" / "model.keras").is_file()
    assert not list((hosts / "algo-2" / "model").iterdir())
    assert "divided among 2 replicas on 2 hosts" in ended.out
    resources = json.loads((hosts / "algo-2" / "input" / "config" / "resourceconfig.json").read_text())
    assert (resources["current_host"], resources["hosts"]) == ("algo-2", ["algo-1", "algo-2"])


def test_our_script_in_a_stock_image_gives_the_same(tmp_path: Path, quick: list[str]) -> None:
    byoc, byos = tmp_path / "byoc", tmp_path / "byos"
    for cwd in (byoc, byos):
        cwd.mkdir()
    runs.run(*quick, TRAIN, cwd=byoc)
    runs.run(*quick, TRAIN, "backend.preprocess.mode=byos", "backend.train.mode=byos", cwd=byos)
    (own_image,), (stock,) = runs.records(byoc), runs.records(byos)
    assert runs.arrays(own_image) == runs.arrays(stock)
    assert runs.metrics(own_image, "train") == runs.metrics(stock, "train")


def test_an_image_that_is_brought_is_used_and_one_with_other_source_refused(tmp_path: Path, quick: list[str]) -> None:
    runs.run(*quick, ONLY, cwd=tmp_path)
    docker("tag", PREPROCESS_IMAGE.tag, "brought:1")
    stock = Recipe("preprocess", BASE_IMAGE, own_source=False)
    runs.run(*quick, ONLY, "backend.preprocess.mode=byos", "outputs=stock", cwd=tmp_path)
    docker("tag", stock.tag, "brought:2")
    try:
        used = runs.run(*quick, ONLY, "backend.preprocess.image=brought:1", "outputs=other", cwd=tmp_path)
        assert "preprocess: done" in used.out
        refused = runs.run(*quick, ONLY, "backend.preprocess.image=brought:2", cwd=tmp_path, code=2)
        assert "brought:2 brings no videolift; say backend.preprocess.mode=byos" in refused.err
    finally:
        docker("rmi", "brought:1", "brought:2")


def test_other_libraries_are_told_or_refused(tmp_path: Path, quick: list[str]) -> None:
    runs.run(*quick, ONLY, "backend.preprocess.mode=byos", cwd=tmp_path)
    stock = Recipe("preprocess", BASE_IMAGE, own_source=False)
    change = "sed -i 's/^Version: .*/Version: 17.0.1/' /opt/videolift/lib/av-*.dist-info/METADATA"
    name = "other-av-of-the-test"
    docker("run", "--name", name, "--network", "none", "--entrypoint", "sh", stock.tag, "-c", change)
    docker("commit", name, "other-av:1")
    docker("rm", name)
    other = ["backend.preprocess.mode=byos", "backend.preprocess.image=other-av:1"]
    try:
        told = runs.run(*quick, ONLY, *other, cwd=tmp_path)
        assert "libraries differ" in told.out
        assert "17.0.1" in told.out
        assert "preprocess: cached" not in told.out, "another version makes other arrays"
        strict = runs.run(
            *quick, ONLY, *other, "seed=1", "backend.parity=strict", "outputs=strict", cwd=tmp_path, code=2
        )
        assert "av is 17.0.1 in the preprocess image" in strict.err
    finally:
        docker("rmi", "other-av:1")


def test_a_failing_container_is_told_and_can_be_seen_again_here(
    tmp_path: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    body = ("print(dict(os.environ))", "raise ZeroDivisionError('my mistake')")
    (tmp_path / "mine.py").write_text("import os\n\ndef build(shape, classes):\n    " + "\n    ".join(body) + "\n")
    settings = [s for s in quick if s != "tracking=none"]
    failed = runs.run(*settings, TRAIN, "model.builder=mine.py:build", cwd=tmp_path, code=5)
    assert "train failed with exit code 1: ZeroDivisionError: my mistake" in failed.err
    assert 'raise ZeroDivisionError("my mistake")' in failed.err.replace("'", '"')
    command = next(line for line in failed.err.splitlines() if line.startswith("the same here: "))
    words = shlex.split(command.removeprefix("the same here: "))
    assert words[:3] == ["python", "run.py", "backend=local"]
    here = runs.run(*words[2:], "outputs=again", cwd=tmp_path, code=5)
    assert "ZeroDivisionError: my mistake" in here.err
    # Nothing of this process's environment enters a container, so a secret cannot get anywhere from there.
    files = [f for f in (tmp_path / "outputs").rglob("*") if f.is_file()]
    assert [str(f) for f in files if CANARY.encode() in f.read_bytes()] == []
    assert CANARY not in failed.text


def test_of_two_hosts_the_one_that_failed_is_told(tmp_path: Path, quick: list[str]) -> None:
    mistake = (
        "import keras, socket\n\n"
        "def build(shape, classes):\n"
        "    if socket.gethostname() == 'algo-2':\n"
        "        raise ZeroDivisionError('my mistake')\n"
        "    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(classes)])\n"
    )
    (tmp_path / "mine.py").write_text(mistake)
    settings = [TRAIN, "model.builder=mine.py:build", "backend.train.instance_count=2"]
    failed = runs.run(*quick, *settings, cwd=tmp_path, code=5)
    assert "train on algo-2 failed with exit code 1: ZeroDivisionError: my mistake" in failed.err


def test_what_is_finished_here_is_not_taken_for_the_result_of_an_unknown_image(
    tmp_path: Path, quick: list[str]
) -> None:
    runs.run(*locally(quick), ONLY, cwd=tmp_path)
    assert "cached" in runs.run(*quick, ONLY, "action=plan", cwd=tmp_path).out
    unknown = runs.run(*quick, ONLY, "action=plan", "backend.preprocess.base_image=localhost:9/other:1", cwd=tmp_path)
    assert "cached" not in unknown.out


def test_out_of_memory_names_the_limit_and_the_clip(tmp_path: Path, quick: list[str]) -> None:
    size = ("preprocess.height=3000", "preprocess.width=3000", "preprocess.depth=64", "preprocess.color=true")
    limit = ("backend.preprocess.memory=256m", "preprocess.workers=1")
    ended = runs.run(*quick, ONLY, *size, *limit, cwd=tmp_path, code=5)
    assert "exit code 137" in ended.err
    assert "memory ran out: the limit is backend.preprocess.memory=256m" in ended.err
    assert "the clips begun last: " in ended.err
    assert ".avi" in ended.err


def test_two_runs_at_once_do_not_disturb_each_other(tmp_path: Path, quick: list[str]) -> None:
    started = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        started.append(runs.start(*quick, TRAIN, "backend.train.instance_count=2", cwd=tmp_path / name))
    ended = [runs.wait(process) for process in started]
    assert [e.code for e in ended] == [0, 0], ended[0].text + ended[1].text
    metrics = [runs.metrics(runs.records(tmp_path / name)[0], "train") for name in ("a", "b")]
    assert metrics[0] == metrics[1]


def test_a_users_files_are_the_users(tmp_path: Path, quick: list[str]) -> None:
    runs.run(*quick, ONLY, cwd=tmp_path)
    hosts = tmp_path / "hosts, of a user"
    (hosts / "algo-1").mkdir(parents=True)
    (hosts / "algo-1" / "written by root").write_text("")
    (hosts / "a link").symlink_to("/etc")
    own(hosts, PREPROCESS_IMAGE.tag, 12345, 12346)
    owners = {(f.lstat().st_uid, f.lstat().st_gid) for f in (hosts, *hosts.rglob("*"))}
    assert owners == {(12345, 12346)}
    assert Path("/etc").stat().st_uid == 0


def test_what_a_killed_launcher_leaves_is_removed_by_the_next_start(tmp_path: Path, quick: list[str]) -> None:
    process = runs.start(*quick, TRAIN, "model.epoch=500", "backend.train.instance_count=2", cwd=tmp_path)
    for line in process.stdout or ():
        if "epoch 2" in line:
            break
    process.kill()
    runs.wait(process)
    again = runs.start(*quick, TRAIN, "model.epoch=500", "backend.train.instance_count=2", cwd=tmp_path)
    said = ""
    for line in again.stdout or ():
        said += line
        if "epoch 4" in line or "epoch 5" in line:
            break
    again.terminate()
    assert runs.wait(again).code == 130
    assert said.count("removed container videolift-train-") == 2
    assert "goes on with run" in said
    assert "goes on after epoch" in said


def test_action_build_makes_the_images_and_says_what_is_in_them(tmp_path: Path, quick: list[str]) -> None:
    told = runs.run(*quick, "action=build", cwd=tmp_path)
    assert "preprocess image" in told.out and "train image" in told.out
    assert not (tmp_path / "outputs" / "runs").exists()
