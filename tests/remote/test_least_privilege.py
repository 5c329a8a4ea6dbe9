"""docs/iam against what is really called: nothing is lacking, and nothing is granted that nobody needs.

What is called is what the emulator has recorded: of the command line, as people use it, and of the jobs' role.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from launchers.config import Backend
from launchers.emulator.client import Emulator
from launchers.remote.aws import Aws, AwsError
from launchers.remote.s3 import Location
from launchers.remote.upload import IN_PARTS_FROM, plan_upload, upload
from tests import iam, runs
from tests.emulators import BUCKET, Account
from tests.remote.careless import ACCESS_KEY, PREFIX, Careless, Day, a_day, job_names

# Called by action=push, which needs Docker: tests/docker/test_push.py sees these and no others.
PUSHING = {"ecr:DescribeRepositories", "ecr:CreateRepository", "ecr:GetAuthorizationToken"}
# Called where the answer to HeadBucket lacks the region; the emulator's has it.
WHERE_S3_SAYS_LESS = {"s3:GetBucketLocation"}
HELD = Path(__file__).resolve().parent / "held.py"


@pytest.fixture(scope="module")
def policy() -> iam.Policy:
    return iam.filled(iam.PERSON, bucket=BUCKET)


@pytest.fixture
def day(emulator: Emulator, quick: list[str], videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Day:
    return a_day(emulator, quick, videos, tmp_path_factory)


def of_person(emulator: Emulator) -> list[dict[str, Any]]:
    return [call for call in emulator.calls() if call["access_key"] == ACCESS_KEY]


def interrupted(process: subprocess.Popen[str], account: Account, kind: str, before: set[str]) -> None:
    """Press Ctrl-C once a command follows its job, which is to be stopped then."""
    assert process.stdout is not None
    told = [next((line for line in process.stdout if " on 1 x ml." in line), "")]
    process.send_signal(signal.SIGINT)
    ended = runs.wait(process)
    assert ended.code == 130, "".join(told) + ended.text
    (job,) = (name for name in job_names(account.emulator) if name not in before)
    assert account.ended(kind, job)[f"{kind}JobStatus"] == "Stopped"


def stop_a_training(user: Careless, account: Account) -> None:
    """Submit without waiting, come back, and stop it."""
    gate = (f"model.builder={HELD}:build", f"model.args.file={user.cwd / 'gate'}", "model.args.batches=1")
    before = set(job_names(account.emulator))
    user.run("stages=[train]", *gate, "backend.wait=false", "tracking=none", "backend.job_tags.team=vision")
    run_id = runs.records(user.cwd)[-1]["id"]
    resumed = runs.start("action=resume", f"run={run_id}", "tracking=none", cwd=user.cwd, **user.variables())
    interrupted(resumed, account, "Training", before)


def stop_a_preprocessing(user: Careless, account: Account) -> None:
    slow = ("preprocess.workers=1", "preprocess.height=1200", "preprocess.width=1600", "preprocess.depth=16")
    before = set(job_names(account.emulator))
    settings = [*user.settings, *slow, "stages=[preprocess]", "tracking=none"]
    interrupted(runs.start(*settings, cwd=user.cwd, **user.variables()), account, "Processing", before)


def upload_in_parts(user: Careless, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a large file in three tries: cut off, gone on with, and, after it was cut off again, another content."""
    for name, value in user.variables().items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    client = Aws(Backend(region="us-east-1")).client("s3")
    target, file = Location(BUCKET, PREFIX) / "large", user.temporary / "large.npy"

    def send(content: bytes, *, cut_off: bool = False) -> None:
        file.write_bytes(content * (IN_PARTS_FROM + 1))
        if not cut_off:
            upload(client, plan_upload(client, {"large.npy": file}, target))
            return
        emulator.fault("error", operation="CompleteMultipartUpload", status=400, code="Cut", times=1)
        with pytest.raises(AwsError, match="Cut"):
            upload(client, plan_upload(client, {"large.npy": file}, target))

    send(b"a", cut_off=True)
    send(b"a")
    send(b"b", cut_off=True)
    send(b"c")


def use_videos_in_s3(user: Careless, account: Account, videos: Path) -> None:
    place = f"{PREFIX}/their-videos"
    for file in videos.rglob("*.avi"):
        account.s3.upload_file(str(file), BUCKET, f"{place}/{file.relative_to(videos).as_posix()}")
    account.put(f"{place}/list.csv", "path,label\n")
    text = user.run(f"data.root=s3://{BUCKET}/{place}", "action=plan", "stages=[preprocess]", "tracking=none").text
    assert "the list of videos" in text  # another file lies there


@pytest.fixture
def everything(day: Day, emulator: Emulator, videos: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was called by a person who did about everything."""
    user, account = day.user, Account(emulator)
    upload_in_parts(user, emulator, monkeypatch)
    use_videos_in_s3(user, account, videos)
    stop_a_preprocessing(user, account)
    stop_a_training(user, account)
    return of_person(emulator)


def test_a_person_lacks_nothing_and_has_nothing_to_spare(everything: list[dict[str, Any]], policy: iam.Policy) -> None:
    assert iam.check(everything, policy) == []
    assert iam.unused(everything, policy) == PUSHING | WHERE_S3_SAYS_LESS
    assert {call["operation"] for call in everything if call["status"] == 403} == set()


def test_the_role_of_jobs_covers_their_traffic(day: Day, emulator: Emulator) -> None:
    calls = [call for call in emulator.calls(of_role=True) if day.started <= call["time"] <= day.ended]
    assert {call["operation"] for call in calls} >= {"GetObject", "PutObject"}
    assert iam.check(calls, iam.filled(iam.JOB_ROLE, bucket=BUCKET)) == []


def test_another_prefix_is_not_granted(day: Day, emulator: Emulator, policy: iam.Policy) -> None:
    """So that the tests above can fail."""
    elsewhere = [{**call, "resource": str(call["resource"]).replace(PREFIX, "theirs")} for call in of_person(emulator)]
    lacking = iam.check(elsewhere, policy)
    assert any(problem.startswith("s3:PutObject on") for problem in lacking)
    assert any(problem.startswith("s3:GetObject on") for problem in lacking)
