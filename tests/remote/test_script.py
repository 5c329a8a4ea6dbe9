"""A user's own script as a training job: data in S3 that stay there, and several instances."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from launchers.emulator.client import Emulator
from tests import remote_side, runs
from tests.emulators import Account

SCRIPT = """
import json, os, pathlib, sys
seen = {name: sorted(str(f.relative_to(folder)) for f in pathlib.Path(folder).rglob("*") if f.is_file())
        for name, folder in zip(("train", "lists"), sys.argv[1:])}
host = os.environ["SM_CURRENT_HOST"]
pathlib.Path(os.environ["SM_MODEL_DIR"], host + ".json").write_text(json.dumps([seen, os.environ["SM_HOSTS"]]))
pathlib.Path("/opt/ml/output/data/by-heart.txt").write_text(host)
print("files:", len(seen["train"]))
"""
FAILS = """
import os, pathlib, sys
pathlib.Path(os.environ["SM_MODEL_DIR"], "half").write_text("weights")
pathlib.Path(os.environ["SM_OUTPUT_DIR"], "report.txt").write_text("report")
pathlib.Path("beside.txt").write_text("beside")
sys.exit(3)
"""


def test_data_in_s3_come_to_every_instance(tmp_path: Path, emulator: Emulator, videos: Path) -> None:
    account = Account(emulator)
    account.s3.create_bucket(Bucket="stranger")
    names = sorted(file.relative_to(videos).as_posix() for file in videos.rglob("v_*"))
    for name in names:
        account.s3.put_object(Bucket="stranger", Key=f"films/{name}", Body=(videos / name).read_bytes())
    account.s3.put_object(Bucket="stranger", Key="films/notes.txt", Body=b"nobody's")
    account.s3.put_object(Bucket="stranger", Key="lists/a/first.txt", Body=b"1")
    (tmp_path / "train.py").write_text(SCRIPT)
    settings = [
        *("backend=remote", *remote_side.SETTINGS, "tracking=none", "backend.train.instance_count=2"),
        *("data=ucf101", "data.root=s3://stranger/films", "script.path=train.py", "script.channels.train=videos"),
        *("script.channels.lists=s3://stranger/lists", r"script.metrics.files=files: (\d+)"),
    ]
    ended = runs.run(*settings, "script.args={train} {lists}", cwd=tmp_path)
    assert "uploading videos" not in ended.out
    (record,) = runs.records(tmp_path)
    hosts = Path(runs.stage(record, "script")["folder"]) / "hosts"
    for host in ("algo-1", "algo-2"):
        seen, told = json.loads((hosts / "algo-1" / "model" / f"{host}.json").read_text())
        assert seen == {"train": names, "lists": ["a/first.txt"]} and json.loads(told) == ["algo-1", "algo-2"]
    # A place that a script knows by heart is brought back like the one that it is told.
    assert (hosts / "algo-1/output/data/files/by-heart.txt").read_text() == "algo-1"
    assert runs.metrics(record, "script")["files", 1] == len(names)


def test_what_a_script_wrote_that_failed_is_in_s3_and_its_place_is_told(tmp_path: Path, emulator: Emulator) -> None:
    (tmp_path / "train.py").write_text(FAILS)
    (tmp_path / "a.txt").write_text("a")
    script = ["script.path=train.py", "script.channels.train=a.txt"]
    ended = runs.run("backend=remote", *remote_side.SETTINGS, "tracking=none", *script, cwd=tmp_path, code=5)
    line = next(one for one in ended.err.splitlines() if one.startswith("what the script wrote until then: "))
    bucket, _, key = line.partition("s3://")[2].partition("/")
    packed = Account(emulator).s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        names = {name.removeprefix("./") for name in archive.getnames()}
    assert {f"script/{name}" for name in ("model/half", "elsewhere/output/report.txt", "work/beside.txt")} <= names
