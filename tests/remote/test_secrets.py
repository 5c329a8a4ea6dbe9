"""Secrets of a user's shell, files and settings are found nowhere afterwards: not here, not in AWS, not in MLflow."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from launchers.emulator.client import Emulator
from tests import iam
from tests.emulators import BUCKET, Account
from tests.mlflow_server import free_port
from tests.remote.careless import MISTAKEN, SECRETS, Careless, Day, a_day, forms, job_names


@dataclass(frozen=True)
class Place:
    """Somewhere that a secret could be: contents by name."""

    name: str
    contents: Callable[[], Iterator[tuple[str, bytes]]]


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield str(file.relative_to(folder)), file.read_bytes()


def objects(account: Account) -> Iterator[tuple[str, bytes]]:
    for page in account.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for entry in page.get("Contents", ()):
            got = account.s3.get_object(Bucket=BUCKET, Key=entry["Key"])
            yield entry["Key"], got["Body"].read()
            yield f"{entry['Key']} (metadata)", json.dumps(got["Metadata"]).encode()


def requests(account: Account, jobs: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    for job in jobs:
        described = account.describe("Processing" if "-preprocess-" in job else "Training", job)
        yield job, json.dumps(described, default=str, ensure_ascii=False).encode()


def logs(account: Account, jobs: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    for job in jobs:
        lines = account.log("Processing" if "-preprocess-" in job else "Training", job)
        yield job, "\n".join(line for of_host in lines.values() for line in of_host).encode()


def unpacked(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield a content and, of archives, what they hold."""
    yield name, content
    if content[:2] == b"\x1f\x8b":
        yield name, gzip.decompress(content)
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None:
                    yield from unpacked(f"{name}:{member.name}", file.read())
    elif zipfile.is_zipfile(io.BytesIO(content)):  # of a job that was stopped in the middle, a part may lack its end
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member_name in archive.namelist():
                yield from unpacked(f"{name}:{member_name}", archive.read(member_name))


def found_in(place: Place, wanted: dict[str, bytes]) -> list[str]:
    return [
        f"{what} in {place.name}: {part}"
        for name, content in place.contents()
        for part, inside in unpacked(name, content)
        for what, secret in wanted.items()
        if secret in inside or secret in part.encode()
    ]


def places(user: Careless, account: Account, jobs: tuple[str, ...]) -> list[Place]:
    def folders_of_jobs() -> Iterator[tuple[str, bytes]]:
        for job in jobs:
            yield from files(account.emulator.root / "jobs" / job)

    return [
        Place("what was printed", lambda: iter([("output", "\n".join(user.told).encode())])),
        Place("the folder of the run", lambda: files(user.cwd)),
        Place("temporary files", lambda: files(user.temporary)),
        Place("MLflow", lambda: files(user.store)),
        Place("S3", lambda: objects(account)),
        Place("requests", lambda: requests(account, jobs)),
        Place("CloudWatch", lambda: logs(account, jobs)),
        Place("the instances", folders_of_jobs),
        Place("the emulator", lambda: iter([("calls", (account.emulator.root / "calls.jsonl").read_bytes())])),
    ]


@pytest.fixture
def account(emulator: Emulator) -> Account:
    return Account(emulator)


@pytest.fixture
def day(emulator: Emulator, quick: list[str], videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Day:
    return a_day(emulator, quick, videos, tmp_path_factory)


@pytest.fixture
def user(tmp_path: Path, quick: list[str]) -> Careless:
    return Careless(tmp_path, quick, MISTAKEN)


def refuse_secrets(user: Careless, account: Account, jobs: tuple[str, ...] = ()) -> None:
    assert [one for place in places(user, account, jobs) for one in found_in(place, forms())] == []


def test_after_a_whole_run_and_one_that_failed(day: Day, account: Account) -> None:
    assert len(day.jobs) == 3 and "ClipError" in day.failed.err
    refuse_secrets(day.user, account, day.jobs)


def test_that_search_finds_what_is_in_every_place(day: Day, account: Account) -> None:
    """A class's name goes everywhere, into archives too."""
    wanted = {"a class": b"PanLeft", "a job": b"videolift-train-", "a model's part": b"conv3d"}
    found = {place.name: found_in(place, wanted) for place in places(day.user, account, day.jobs)}
    assert [name for name, where in found.items() if not where and name != "temporary files"] == []
    in_archives = [where for where in found["S3"] if "model.tar.gz:" in where]
    assert any(".keras:" in where for where in in_archives)


def test_after_a_plan(day: Day, account: Account, user: Careless) -> None:
    before = job_names(account.emulator)
    # Nobody answers there, which a plan does not ask.
    text = user.run("action=plan", user.tracking(f"http://127.0.0.1:{free_port()}")).text
    assert "CreateTrainingJob" in text and "cached" in text and job_names(account.emulator) == before
    refuse_secrets(user, account)


@pytest.mark.parametrize("trouble", ["account", "expired"])
def test_after_checks_that_fail(account: Account, user: Careless, trouble: str) -> None:
    tracking = user.tracking(f"http://127.0.0.1:{free_port()}")
    if trouble == "expired":
        account.emulator.fault("expired")
    try:
        text = user.run(tracking, "backend.bucket=not-there-at-all", "backend.role=nobody", code=2).text
    finally:
        account.emulator.clear_faults()
    assert "tracking.uri: http://***@127.0.0.1" in text
    assert ("have expired" if trouble == "expired" else "there is no bucket") in text
    refuse_secrets(user, account)


LOGS_IN = """
import argparse, hashlib, os, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument("--api-key")
parser.add_argument("--out")
key = parser.parse_args().api_key
print("logs in with", os.environ["API_KEY"], "as", os.environ["USER_NAME"])
pathlib.Path(sys.argv[-1], "digest").write_text(hashlib.sha256(key.encode()).hexdigest() + os.environ["API_KEY"][:2])
"""


@pytest.mark.parametrize("stage", ["train", "preprocess"])
def test_a_job_reads_the_secrets_of_a_script_by_itself(
    user: Careless, account: Account, tmp_path: Path, stage: str
) -> None:
    stored = json.dumps({"key": SECRETS["script"], "user": "somebody"})
    manager = account.client("secretsmanager")
    arn = manager.create_secret(Name=f"videolift/{stage}", SecretString=stored)["ARN"]
    (user.cwd / "login.py").write_text(LOGS_IN)
    (user.cwd / "in").mkdir()
    (user.cwd / "in" / "a").touch()
    before, started = set(job_names(account.emulator)), time.time()
    settings = [one for one in user.settings if one.startswith("backend")]
    user.settings = [*settings, "script.path=login.py", f"script.stage={stage}", "script.channels.train=in"]
    user.settings += ["script.args=--api-key {API_KEY} --out {output_dir}"]
    user.settings += [f"script.secrets.API_KEY={arn}:key::", f"script.secrets.USER_NAME={arn}:user::"]
    user.run()
    jobs = tuple(name for name in job_names(account.emulator) if name not in before)
    digest = next(user.cwd.glob("outputs/cache/*-*/**/digest"))
    assert digest.read_text() == hashlib.sha256(SECRETS["script"].encode()).hexdigest() + SECRETS["script"][:2]
    log = next(user.cwd.glob("outputs/cache/*-*/**/script.log"))
    assert log.read_text() == "logs in with *** as ***\n"
    refuse_secrets(user, account, jobs)
    calls = [call for call in account.emulator.calls(of_role=True) if call["time"] >= started]
    assert "GetSecretValue" in {call["operation"] for call in calls}
    assert iam.check(calls, iam.filled(iam.JOB_ROLE, bucket=BUCKET)) == []


def test_a_secret_that_a_job_may_not_read_is_told(user: Careless, account: Account) -> None:
    arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:videolift/nobodys-AbCdEf"
    (user.cwd / "login.py").write_text(LOGS_IN)
    user.settings = [one for one in user.settings if one.startswith("backend")]
    (user.cwd / "in").mkdir()
    (user.cwd / "in" / "a").touch()
    script = ("script.path=login.py", "script.channels.train=in", f"script.secrets.API_KEY={arn}", "tracking=none")
    text = user.run(*script, code=5).text
    assert f"script.secrets.API_KEY: the job cannot read {arn}" in text and "docs/iam/job-role.json" in text


def test_a_secret_is_no_variable_of_a_job(user: Careless) -> None:
    """Those of the service's own names are refused; others cannot be known."""
    secret = SECRETS["AWS_SECRET_ACCESS_KEY"]
    text = user.run(f"backend.environment.AWS_SECRET_ACCESS_KEY={secret}", "tracking=none", code=2).text
    assert "jobs get their permissions from backend.role" in text and secret not in text
