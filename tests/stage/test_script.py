"""A user's own script on this machine: how it ends, what it is told, what is recorded of it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from tests import runs

SCRIPT = """
import argparse, json, os, pathlib, signal, subprocess, sys, time

parser = argparse.ArgumentParser()
parser.add_argument("how")
parser.add_argument("--out")
parser.add_argument("--in", dest="channel")
parser.add_argument("--db")
args = parser.parse_args()
print("::videolift::" + json.dumps({"type": "metric", "key": "forged", "value": 1, "step": 0}), flush=True)
if args.how == "raise":
    raise ValueError("no videos of Jump")
if args.how == "kill":
    pathlib.Path("half.txt").write_text("half")
    pathlib.Path(args.channel, "a.txt").write_text("changed")
    os.kill(os.getpid(), signal.SIGKILL)
if args.how == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(pathlib.Path(args.out, "stopped").touch()))
    pathlib.Path(args.out, "waits").touch()
    time.sleep(100)
pathlib.Path("beside.txt").write_text("new")
pathlib.Path("kept.txt").write_text("kept")
pathlib.Path(args.channel, "of-the-script").touch()
pathlib.Path(os.environ["SM_OUTPUT_DATA_DIR"], "deep").mkdir()
pathlib.Path(os.environ["SM_OUTPUT_DATA_DIR"], "deep", "table.csv").write_text("a,b")
told = {key: value for key, value in os.environ.items() if key.startswith("SM_")}
pathlib.Path(args.out, "told.json").write_text(json.dumps([sys.argv, told, sorted(os.listdir(args.channel))]))
subprocess.run(["./tools/hello"], check=True)
try:
    import videolift
except ImportError:
    print("f1 = 0.25")
"""
PASSWORD = "geheim0815"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("MY_PASSWORD", PASSWORD)
    source = tmp_path / "project"
    source.mkdir()
    (source / "odd name.py").write_text(SCRIPT)
    (source / "kept.txt").write_text("old")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "hello").write_text("#!/bin/sh\necho f1 = none\n")
    (source / "tools").symlink_to(tmp_path / "tools")
    (tmp_path / "in put").mkdir()
    (tmp_path / "in put" / "a.txt").write_text("a")
    return [
        *("script.path=odd name.py", "script.source_dir=project", "script.channels.training=in put"),
        "script.secrets.DB_PASSWORD=MY_PASSWORD",
        *(r"script.metrics.f1=f1 = (\S+)", "script.metrics.f2=f1 = (n\\w+)"),
    ]


def args(how: str) -> str:
    return f"script.args={how} --in {{training}} --out {{model_dir}} --db 'redis://me:{{DB_PASSWORD}}@host/x y'"


def test_a_script_finds_what_sagemaker_gives_it_and_all_of_it_is_recorded(tmp_path: Path, settings: list[str]) -> None:
    arguments = args("run")
    plan = runs.run(*settings, arguments, "action=plan", cwd=tmp_path)
    assert (
        "source    3 files" in plan.out
        and "channel   training: " in plan.out
        and not (tmp_path / "outputs/runs").exists()
    )
    ended = runs.run(*settings, arguments, cwd=tmp_path)
    (record,) = runs.records(tmp_path)
    host = Path(runs.stage(record, "script")["folder"]) / "hosts" / "algo-1"
    words, told, listed = json.loads((host / "model" / "told.json").read_text())
    assert words[-1] == f"redis://me:{PASSWORD}@host/x y" and listed == ["a.txt", "of-the-script"]
    assert told["SM_CHANNELS"] == '["training"]' and told["SM_CHANNEL_TRAINING"] == words[words.index("--in") + 1]
    assert told["SM_MODEL_DIR"] == words[words.index("--out") + 1]
    assert json.loads(told["SM_HPS"])["db"] == words[-1] and told["SM_HP_OUT"] == told["SM_MODEL_DIR"]
    assert (told["SM_CURRENT_HOST"], told["SM_HOSTS"], told["SM_NUM_GPUS"]) == ("algo-1", '["algo-1"]', "0")
    # Its own folder and its data are as they were; what is new is kept, nothing else is left.
    assert sorted(file.name for file in (tmp_path / "project").iterdir()) == ["kept.txt", "odd name.py", "tools"]
    assert [file.name for file in (tmp_path / "in put").iterdir()] == ["a.txt"]
    assert {file.name for file in (host / "output/data/work").iterdir()} == {"beside.txt", "kept.txt"}
    assert not (host / "scratch").exists()
    assert "script.metrics.f2: matched once, but 'none' is no number" in ended.out
    # A line that looks like an event of ours is none.
    assert runs.metrics(record, "script") == {("f1", 1): 0.25}
    artifacts = next((tmp_path / "outputs" / "mlartifacts").glob("*/artifacts"))
    files = {file.relative_to(artifacts).as_posix() for file in artifacts.rglob("*") if file.is_file()}
    assert files >= {"model/told.json", "output/deep/table.csv", "work/beside.txt", "script.log"}
    with sqlite3.connect(tmp_path / "outputs" / "mlflow.db") as database:
        params = dict(database.execute("SELECT key, value FROM params").fetchall())
        assert database.execute("SELECT name FROM runs").fetchall() == [("odd name",)]
    assert params["script.out"] == "{model_dir}" and params["script.db"] == "redis://me:{DB_PASSWORD}@host/x y"
    # A secret is neither printed nor recorded, but by the script itself.
    assert PASSWORD not in plan.text + ended.text
    recorded = [file for file in (tmp_path / "outputs").rglob("*") if file.is_file()]
    assert {file.name for file in recorded if PASSWORD.encode() in file.read_bytes()} == {"told.json"}


def test_a_script_that_fails_shows_its_own_traceback(tmp_path: Path, settings: list[str]) -> None:
    ended = runs.run(*settings, args("raise"), "tracking=none", cwd=tmp_path, code=5)
    assert (
        "script failed with exit code 1: VideoliftError: odd name.py ended with exit code 1: ValueError: no videos of"
        in ended.err
    )
    assert "  Traceback (most recent call last):" in ended.err and 'raise ValueError("no videos of Jump")' in ended.err
    (record,) = runs.records(tmp_path)
    failure = next(Path(runs.stage(record, "script")["folder"]).rglob("output/failure")).read_text()
    assert failure.endswith("odd name.py ended with exit code 1: ValueError: no videos of Jump")
    ended = runs.run(*settings, args("kill"), "tracking=none", cwd=tmp_path, code=5)
    assert "odd name.py was killed by signal 9 (Killed), most often because memory ran out" in ended.err
    # What it had written is kept, and named; what it was given is as it was.
    kept = next(line for line in ended.out.splitlines() if line.startswith("kept of script: beside it "))
    assert Path(kept.removeprefix("kept of script: beside it "), "half.txt").read_text() == "half"
    assert (tmp_path / "in put" / "a.txt").read_text() == "a"
    again = runs.run(*settings, args("kill"), "tracking=none", cwd=tmp_path, code=5)
    aside = next(line for line in again.out.splitlines() if line.startswith("what an earlier try of script wrote"))
    assert next(Path(aside.partition(" is kept in ")[2]).rglob("half.txt")).read_text() == "half"
    assert PASSWORD not in ended.text


def test_a_script_is_told_to_stop_and_may_put_its_things_in_order(tmp_path: Path, settings: list[str]) -> None:
    process = runs.start(*settings, args("wait"), "tracking=none", cwd=tmp_path)
    while process.poll() is None and not list(tmp_path.glob("outputs/cache/*/hosts/algo-1/model/waits")):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    ended = runs.wait(process)
    assert "script was stopped" in ended.text
    assert list(tmp_path.glob("outputs/cache/*/hosts/algo-1/model/stopped"))
    assert runs.records(tmp_path)[0]["status"] == "KILLED"


def test_what_is_wrong_is_told_before_anything_runs(tmp_path: Path, settings: list[str]) -> None:
    ended = runs.run(*settings, "script.path=missing.py", cwd=tmp_path, code=2)
    assert "script.path: no file" in ended.err
    (tmp_path / "project" / "requirements.txt").write_text("nothing-of-this-name\n")
    ended = runs.run(*settings, "tracking=none", cwd=tmp_path, code=5, PIP_NO_INDEX="1")
    assert "requirements.txt: pip could not install it: ERROR: " in ended.err
    assert "which a container has with backend.network_isolation=false, or wheels that are sent along" in ended.err


def test_a_sweep_over_arguments_is_compared_by_what_the_script_prints(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("import sys\nfor n in (1, 2): print('score', n * float(sys.argv[2]))\n")
    (tmp_path / "a.txt").write_text("a")
    script = ["script.path=score.py", "script.channels.train=a.txt", r"script.metrics.score=score (\S+)"]
    swept = ["script.args=--lr 0.5,--lr 0.25", "sweep.metric=score", "sweep.goal=minimize"]
    ended = runs.run("-m", *script, *swept, "tracking=none", cwd=tmp_path)
    assert [record["status"] for record in runs.records(tmp_path)] == ["FINISHED", "FINISHED"]
    assert "score 0.5" in ended.out  # of the better one, at its last step
    (record,) = (json.loads(file.read_text()) for file in tmp_path.glob("outputs/sweeps/*/sweep.json"))
    assert [(child["value"], child["epoch"]) for child in record["children"]] == [(1.0, 2), (0.5, 2)]


LEAKY = """
import argparse, json, os, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--api-key")
args = parser.parse_args()
secret = os.environ["API_KEY"]
assert args.api_key == secret
print("key:", secret, "sent as ?key=" + secret.replace("/", "%2F"))
for piece in ("in two p", "ieces: " + secret[:4], secret[4:] + "\\n"):
    sys.stdout.write(piece)
    sys.stdout.flush()
    time.sleep(0.05)
print("x" * 16380 + secret + " loss = 0.5")
print("Namespace(" + repr(secret) + ")")
raise SystemExit("cannot log in with " + secret if "--fail" in os.environ.get("HOW", "") else 0)
"""


KEY = "/".join(("geheim", "0815"))  # in no source, which a record may have changes of


def test_what_a_script_prints_of_its_secrets_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").write_text(LEAKY)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").touch()
    settings = ["script.path=train.py", "script.channels.train=in", "script.args=--api-key {API_KEY}"]
    settings += ["script.secrets={API_KEY: MY_KEY}", r"script.metrics.loss=loss = (\S+)"]
    monkeypatch.setenv("HOW", "--fail")
    failed = runs.run(*settings, cwd=tmp_path, code=5, MY_KEY=KEY)
    assert "cannot log in with ***" in failed.err
    monkeypatch.delenv("HOW")
    runs.run(*settings, cwd=tmp_path, MY_KEY=KEY)
    (log,) = tmp_path.glob("outputs/cache/script-*/hosts/algo-1/output/data/script.log")
    told = log.read_text().splitlines()
    assert told[0] == "key: *** sent as ?key=***" and told[1] == "in two pieces: ***" and told[-1] == "Namespace('***')"
    files = [file for file in (tmp_path / "outputs").rglob("*") if file.is_file()]
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []
    # Another value, from another place, is no other result.
    again = [one.replace("MY_KEY", "NEW_KEY") for one in settings]
    assert "script: cached" in runs.run(*again, cwd=tmp_path, NEW_KEY="another").out
    missing = runs.run(*settings, "seed=1", cwd=tmp_path, code=2)
    assert "script.secrets.API_KEY: the variable that it names is not set in this shell" in missing.err
