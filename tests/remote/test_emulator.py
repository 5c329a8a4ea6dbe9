"""The emulator against plain boto3, over HTTP, with jobs that are processes of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from launchers.emulator.choice import EmulatorError
from launchers.emulator.hosts_in_namespaces import NamespaceHosts
from tests.containers import skip_without
from tests.emulators import (
    BUCKET,
    ENDED,
    IMAGE,
    PATIENCE_S,
    ROLE,
    Account,
    channel,
    processing,
    processing_input,
    running_emulator,
    training,
)

GRACE_S = 3.0


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    root = tmp_path_factory.mktemp("emulator")
    skip_without(NamespaceHosts(root).problem())
    with running_emulator(root, hosts="namespaces", grace_s=GRACE_S) as emulator:
        yield Account(emulator)


@pytest.fixture(autouse=True)
def _no_faults_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "account" in request.fixturenames:
        request.getfixturevalue("account").emulator.clear_faults()


LIST_INPUT = """
import os, pathlib, socket
host = socket.gethostname()
root = pathlib.Path('/opt/ml/processing')
files = [p for p in (root / 'input').rglob('*') if p.is_file() and p.name != 'stage.py']
names = sorted(str(p.relative_to(root / 'input')) for p in files)
(root / 'output' / f'{host}.txt').write_text('\\n'.join(names))
"""


def test_a_sharded_input_is_dealt_by_sorted_key_and_every_host_uploads(account: Account) -> None:
    for name in ("b/2.avi", "a/1 (x).avi", "b/1.avi", "c.avi", "数.avi"):
        account.put(f"p-shards/in/{name}", name)
    account.put("p-shards/plan/plan.json", "{}")
    videos = processing_input("videos", f"s3://{BUCKET}/p-shards/in", sharded=True)
    plan = processing_input("plan", f"s3://{BUCKET}/p-shards/plan/")
    account.process("p-shards", LIST_INPUT, hosts=2, inputs=(videos, plan))
    assert account.ended("Processing", "p-shards")["ProcessingJobStatus"] == "Completed"
    assert account.text("p-shards/out/algo-1.txt").splitlines() == [
        *("plan/plan.json", "videos/a/1 (x).avi", "videos/b/2.avi", "videos/数.avi"),
    ]
    assert account.text("p-shards/out/algo-2.txt").splitlines() == ["plan/plan.json", "videos/b/1.avi", "videos/c.avi"]


def test_a_manifest_names_the_objects(account: Account) -> None:
    for name in ("a/1.avi", "a/2.avi", "b/3.avi"):
        account.put(f"p-manifest/in/{name}")
    account.put("p-manifest/list", json.dumps([{"prefix": f"s3://{BUCKET}/p-manifest/in/"}, "b/3.avi", "a/1.avi"]))
    videos = processing_input("v", f"s3://{BUCKET}/p-manifest/list", kind="ManifestFile")
    account.process("p-manifest", LIST_INPUT, inputs=(videos,))
    assert account.ended("Processing", "p-manifest")["ProcessingJobStatus"] == "Completed"
    assert account.text("p-manifest/out/algo-1.txt").splitlines() == ["v/a/1.avi", "v/b/3.avi"]


def test_a_processing_job_sees_what_the_service_shows_it_and_nothing_of_this_shell(account: Account) -> None:
    code = (
        "import json, os, socket\n"
        "config = {n: json.load(open(f'/opt/ml/config/{n}.json')) for n in ('resourceconfig', 'processingjobconfig')}\n"
        "hosts = {h: socket.gethostbyname(h) for h in ('algo-1', 'algo-2')}\n"
        "print(json.dumps([config, hosts, dict(os.environ), os.getcwd(), os.getpid()]))"
    )
    request = account.process("p-sees", code, hosts=2, Environment={"COLOR": "grün"})
    account.ended("Processing", "p-sees")
    lines = account.log("Processing", "p-sees", lambda lines: len(lines) == 2)
    config, hosts, environment, folder, pid = json.loads(lines["algo-2"][0])
    assert config["resourceconfig"] == {"current_host": "algo-2", "hosts": ["algo-1", "algo-2"]}
    assert config["processingjobconfig"]["ProcessingJobName"] == "p-sees"
    assert config["processingjobconfig"]["ProcessingOutputConfig"] == request["ProcessingOutputConfig"]
    assert len(set(hosts.values())) == 2 and all(address.startswith("127.") for address in hosts.values())
    assert environment["COLOR"] == "grün" and environment["AWS_REGION"] == "us-east-1"
    assert {name for name in environment if "KEY" in name or "ENDPOINT" in name or "PYTEST" in name} == set()
    assert (folder, pid) == ("/", 1)


def test_our_own_image_runs_its_entrypoint_with_our_source_and_others_do_not_have_it(account: Account) -> None:
    image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/videolift-train:abc"
    request = training("t-ours", AlgorithmSpecification={"TrainingImage": image, "TrainingInputMode": "File"})
    account.put("scripts/t-ours/stage.py")
    account.sagemaker.create_training_job(**request)
    assert "channel plan: the job has none" in account.ended("Training", "t-ours")["FailureReason"]
    account.train("t-theirs", "import videolift")
    account.ended("Training", "t-theirs")
    assert "No module named 'videolift'" in account.log("Training", "t-theirs")["algo-1"][-1]


TRAIN = """
import json, os, pathlib, sys
config = {p.stem: json.loads(p.read_text()) for p in pathlib.Path('/opt/ml/input/config').iterdir()}
host = config['resourceconfig']['current_host']
pathlib.Path('/opt/ml/model', f'{host}.h5').write_text('weights of ' + host)
pathlib.Path('/opt/ml/output/data', f'{host}.jsonl').write_text('events of ' + host)
print(json.dumps([config, sys.argv[1:], os.environ['TRAINING_JOB_NAME'], os.environ['TRAINING_JOB_ARN']]))
"""


def test_a_training_job_uploads_the_model_and_output_of_all_hosts(account: Account) -> None:
    account.put("t-two/arrays/x.npz", "x")
    account.train(
        "t-two",
        TRAIN,
        hosts=2,
        channels=(channel("arrays", f"s3://{BUCKET}/t-two/arrays"),),
        HyperParameters={"epoch": "3"},
        Tags=[{"Key": "project", "Value": "数"}],
    )
    ended = account.ended("Training", "t-two")
    assert ended["TrainingJobStatus"] == "Completed", ended.get("FailureReason")
    transitions = ended["SecondaryStatusTransitions"]
    assert [entry["Status"] for entry in transitions] == [
        *("Starting", "Downloading", "Training", "Uploading", "Completed"),
    ]
    assert all(entry["StartTime"] <= entry["EndTime"] for entry in transitions)
    assert all(before["EndTime"] == after["StartTime"] for before, after in pairwise(transitions))
    assert ended["CreationTime"] <= ended["TrainingStartTime"] <= ended["TrainingEndTime"]
    assert ended["BillableTimeInSeconds"] == ended["TrainingTimeInSeconds"] >= 1
    assert ended["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://{BUCKET}/jobs/t-two/output/model.tar.gz"
    hosts = ("algo-1", "algo-2")
    assert account.archive("jobs/t-two/output/model.tar.gz") == {f"{host}.h5": f"weights of {host}" for host in hosts}
    assert account.archive("jobs/t-two/output/output.tar.gz") == {
        f"{host}.jsonl": f"events of {host}" for host in hosts
    }
    config, arguments, name, arn = json.loads(account.log("Training", "t-two")["algo-2"][-1])
    assert config["hyperparameters"] == {"epoch": "3"}
    assert set(config["inputdataconfig"]) == {"arrays", "code"}
    assert config["inputdataconfig"]["arrays"] == {
        "TrainingInputMode": "File",
        "S3DistributionType": "FullyReplicated",
        "RecordWrapperType": "None",
    }
    assert config["resourceconfig"]["hosts"] == list(hosts) and config["resourceconfig"]["current_host"] == "algo-2"
    assert (arguments, name, arn) == ([], "t-two", ended["TrainingJobArn"])
    tags = account.sagemaker.list_tags(ResourceArn=arn)["Tags"]
    assert tags == [{"Key": "project", "Value": "数"}]


def test_a_training_image_is_called_with_train_unless_the_request_says_otherwise(account: Account) -> None:
    code = "import sys; print(sys.argv[1:])"
    given = training("t-args")["AlgorithmSpecification"]
    account.train("t-args", code, AlgorithmSpecification={**given, "ContainerArguments": ["a b", "--c"]})
    account.ended("Training", "t-args")
    assert account.log("Training", "t-args")["algo-1"] == ["['a b', '--c']"]


def test_a_failure_carries_the_reason_and_exit_code_and_ends_the_other_host(account: Account) -> None:
    code = (
        "import pathlib, signal, socket, sys, time\n"
        "pathlib.Path('/opt/ml/output/data/events').write_text('kept')\n"
        "if socket.gethostname() == 'algo-2':\n"
        "    pathlib.Path('/opt/ml/output/failure').write_text('ClipError: bad ' + 'x' * 2000)\n"
        "    sys.exit(7)\n"
        "def end(*_):\n"
        "    print('told to end', flush=True)\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "time.sleep(600)"
    )
    account.train("t-fails", code, hosts=2)
    ended = account.ended("Training", "t-fails")
    assert ended["TrainingJobStatus"] == ended["SecondaryStatus"] == "Failed"
    assert ended["FailureReason"].startswith("AlgorithmError: ClipError: bad xxx")
    assert len(ended["FailureReason"]) <= 1024
    assert "ModelArtifacts" not in ended or not account.keys("jobs/t-fails/output/model")
    assert account.archive("jobs/t-fails/output/output.tar.gz") == {"events": "kept"}
    account.train("t-fails-short", "raise SystemExit(3)")
    assert account.ended("Training", "t-fails-short")["FailureReason"] == "AlgorithmError: , exit code: 3"


def test_a_failed_processing_job_has_an_exit_message_and_uploads_nothing_at_its_end(account: Account) -> None:
    code = (
        "import pathlib, sys\n"
        "pathlib.Path('/opt/ml/output/message').write_text('ManifestError: 数')\n"
        "pathlib.Path('/opt/ml/processing/output/half').write_text('')\n"
        "sys.exit(65)"
    )
    account.process("p-fails", code)
    ended = account.ended("Processing", "p-fails")
    assert ended["ProcessingJobStatus"] == "Failed" and ended["ExitMessage"] == "ManifestError: 数"
    assert ended["FailureReason"].startswith("AlgorithmError: ") and ended["FailureReason"].endswith("exit code: 65")
    assert account.keys("p-fails/out") == []


def test_a_missing_input_fails_the_job_with_a_reason(account: Account) -> None:
    missing = processing_input("v", f"s3://{BUCKET}/nothing-here")
    account.process("p-missing", "pass", inputs=(missing,))
    assert "No S3 objects found under S3 URL" in account.ended("Processing", "p-missing")["FailureReason"]


GRACEFUL = """
import pathlib, signal, subprocess, sys, time
hears = 'import signal, time; signal.signal(signal.SIGTERM, lambda *_: print("CHILD HEARD")); time.sleep(600)'
child = subprocess.Popen([sys.executable, '-c', hears])
def end(*_):
    pathlib.Path('/opt/ml/model/partial').write_text('kept')
    print('stopped nicely', flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print('ready', flush=True)
time.sleep(600)
"""


def test_stop_sends_sigterm_to_the_first_process_alone_and_keeps_what_it_has(account: Account) -> None:
    account.train("t-stop", GRACEFUL)
    account.log("Training", "t-stop", lambda lines: "ready" in lines.get("algo-1", []))
    pid = int((account.emulator.root / "jobs" / "t-stop" / "algo-1.pid").read_text())
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    assert len(family) == 2
    account.sagemaker.stop_training_job(TrainingJobName="t-stop")
    assert account.describe("Training", "t-stop")["TrainingJobStatus"] in ("Stopping", "Stopped")
    ended = account.ended("Training", "t-stop")
    assert ended["TrainingJobStatus"] == ended["SecondaryStatus"] == "Stopped"
    assert [entry["Status"] for entry in ended["SecondaryStatusTransitions"]][-3:] == [
        "Stopping",
        "Uploading",
        "Stopped",
    ]
    assert "FailureReason" not in ended
    assert account.archive("jobs/t-stop/output/model.tar.gz") == {"partial": "kept"}
    assert account.log("Training", "t-stop")["algo-1"] == ["ready", "stopped nicely"]
    assert not any(process.is_running() for process in family)
    assert not (account.emulator.root / "jobs" / "t-stop" / "algo-1.pid").exists()


def test_a_job_that_does_not_stop_is_killed_after_the_grace(account: Account) -> None:
    code = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)"
    )
    account.process("p-stubborn", code)
    account.log("Processing", "p-stubborn", lambda lines: "ready" in lines.get("algo-1", []))
    asked = time.monotonic()
    account.sagemaker.stop_processing_job(ProcessingJobName="p-stubborn")
    assert account.describe("Processing", "p-stubborn")["ProcessingJobStatus"] == "Stopping"
    assert account.ended("Processing", "p-stubborn")["ProcessingJobStatus"] == "Stopped"
    assert time.monotonic() - asked >= GRACE_S


def test_a_job_that_takes_too_long_is_stopped(account: Account) -> None:
    account.train("t-long", "import time; time.sleep(600)", StoppingCondition={"MaxRuntimeInSeconds": 1})
    ended = account.ended("Training", "t-long")
    assert (ended["TrainingJobStatus"], ended["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")


CHECKPOINT = """
import pathlib, time
folder = pathlib.Path('/opt/ml/checkpoints')
epoch = len(list(folder.glob('*.keras')))
print('first epoch', epoch, flush=True)
while epoch < {epochs}:
    (folder / f'{{epoch}}.keras').write_text(str(epoch))
    epoch += 1
    print('epoch', epoch, 'done', flush=True)
    time.sleep({pause})
pathlib.Path('/opt/ml/model/model').write_text(str(epoch))
"""


def test_checkpoints_are_in_s3_while_the_job_runs_and_come_back_in_the_next(account: Account) -> None:
    checkpoints = {"CheckpointConfig": {"S3Uri": f"s3://{BUCKET}/t-checkpoints/"}}
    account.train("t-checkpoint-1", CHECKPOINT.format(epochs=1, pause=600), **checkpoints)
    deadline = time.monotonic() + PATIENCE_S
    while account.keys("t-checkpoints/") != ["0.keras"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert account.describe("Training", "t-checkpoint-1")["TrainingJobStatus"] == "InProgress"
    account.sagemaker.stop_training_job(TrainingJobName="t-checkpoint-1")
    account.ended("Training", "t-checkpoint-1")
    account.train("t-checkpoint-2", CHECKPOINT.format(epochs=3, pause=0), **checkpoints)
    assert account.ended("Training", "t-checkpoint-2")["TrainingJobStatus"] == "Completed"
    assert account.log("Training", "t-checkpoint-2")["algo-1"][0] == "first epoch 1"
    assert account.keys("t-checkpoints/") == ["0.keras", "1.keras", "2.keras"]


def test_a_spot_interruption_starts_the_job_anew_from_its_checkpoints(account: Account) -> None:
    account.emulator.fault("interrupt", job="next", when_log_contains="epoch 1 done")
    account.train(
        "t-spot",
        CHECKPOINT.format(epochs=3, pause=0.2),
        EnableManagedSpotTraining=True,
        StoppingCondition={"MaxRuntimeInSeconds": 600, "MaxWaitTimeInSeconds": 700},
        CheckpointConfig={"S3Uri": f"s3://{BUCKET}/t-spot-checkpoints"},
    )
    ended = account.ended("Training", "t-spot")
    assert ended["TrainingJobStatus"] == "Completed", ended.get("FailureReason")
    statuses = [entry["Status"] for entry in ended["SecondaryStatusTransitions"]]
    assert statuses == [
        *("Starting", "Downloading", "Training", "Interrupted"),
        *("Starting", "Downloading", "Training", "Uploading", "Completed"),
    ]
    assert ended["BillableTimeInSeconds"] < ended["TrainingTimeInSeconds"]
    assert (account.emulator.root / "jobs" / "t-spot" / "algo-1.interrupted-1").is_dir()
    firsts = [line for line in account.log("Training", "t-spot")["algo-1"] if line.startswith("first")]
    assert firsts[0] == "first epoch 0" and len(firsts) == 2 and firsts[1] != "first epoch 0"
    streams = account.client("logs").describe_log_streams(
        logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix="t-spot/algo-1-"
    )
    assert len(streams["logStreams"]) == 2  # one of each start


def test_a_host_that_dies_fails_the_job(account: Account) -> None:
    account.emulator.fault("kill_host", job="t-dies", host="algo-2", when_log_contains="ready")
    code = "import time; print('ready', flush=True); time.sleep(600)"
    account.train("t-dies", code, hosts=2)
    assert account.ended("Training", "t-dies")["FailureReason"] == "AlgorithmError: , exit code: 137"
    assert set(account.log("Training", "t-dies")["algo-2"]) <= {"ready"}  # and no word of a shell's about it


def test_capacity_that_is_not_there_fails_one_job_only(account: Account) -> None:
    account.emulator.fault("capacity", times=1)
    for name in ("t-capacity-1", "t-capacity-2"):
        account.train(name, "pass")
        account.ended("Training", name)
    first = account.describe("Training", "t-capacity-1")
    assert first["FailureReason"].startswith("CapacityError: Unable to provision requested ML compute capacity")
    assert "TrainingStartTime" not in first and "BillableTimeInSeconds" not in first
    assert account.describe("Training", "t-capacity-2")["TrainingJobStatus"] == "Completed"


def test_every_line_of_every_host_is_in_the_log_once_and_in_order(account: Account) -> None:
    code = "import sys\nfor i in range(1500):\n    print(i, file=sys.stderr if i % 2 else sys.stdout, flush=True)\n"
    account.process("p-lines", code, hosts=2)
    account.ended("Processing", "p-lines")
    expected = [str(number) for number in range(1500)]
    assert account.log("Processing", "p-lines", lambda lines: len(lines) == 2) == {
        "algo-1": expected,
        "algo-2": expected,
    }


def test_slow_logs_come_after_the_end(account: Account) -> None:
    account.emulator.fault("slow_logs", seconds=1.5)
    account.process("p-slow", "print('late')")
    account.ended("Processing", "p-slow")
    assert account.log("Processing", "p-slow", lambda lines: True) == {"algo-1": []}
    assert account.log("Processing", "p-slow", lambda lines: bool(lines.get("algo-1")))["algo-1"] == ["late"]


def refusal(call: Callable[..., Any], **request: Any) -> tuple[str, str]:
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError) as raised:
        call(**request)
    error = raised.value.response["Error"]
    return error["Code"], error["Message"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"TrainingJobName": "has_underscore"}, "regular expression pattern"),
        ({"TrainingJobName": "x" * 64}, "length less than or equal to 63"),
        ({"ResourceConfig": {"InstanceType": "ml.m5.huge", "InstanceCount": 1, "VolumeSizeInGB": 1}}, "enum value set"),
        ({"ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 0, "VolumeSizeInGB": 1}}, "equal to 1"),
        ({"RoleArn": "arn:aws:iam::123456789012:role/nobody"}, "Could not assume role"),
        ({"HyperParameters": {"k": "v" * 2501}}, "length less than or equal to 2500"),
        ({"EnableManagedSpotTraining": True}, "MaxWaitTimeInSeconds"),
        ({"InputDataConfig": [{**channel("a", f"s3://{BUCKET}/a"), "InputMode": "Pipe"}]}, "File"),
        ({"Environment": {"1X": "v"}}, "regular expression pattern"),
    ],
)
def test_what_the_service_refuses_is_refused(account: Account, change: dict[str, Any], told: str) -> None:
    request = {**training("t-refused"), **change}
    code, message = refusal(_without_checks(account).create_training_job, **request)
    assert code == "ValidationException" and told in message


def _without_checks(account: Account) -> Any:
    """Return a client that leaves it to the service to find mistakes."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "sagemaker",
        region_name="us-east-1",
        endpoint_url=account.emulator.url,
        aws_access_key_id="x",
        aws_secret_access_key="y",
        config=Config(parameter_validation=False, proxies={}),
    )


def test_names_are_taken_once_in_a_region_and_unknown_ones_are_told(account: Account) -> None:
    account.train("t-once", "pass")
    code, _ = refusal(account.sagemaker.create_training_job, **training("t-once"))
    assert code == "ResourceInUse"
    elsewhere = account.client("sagemaker", "eu-west-1")
    assert refusal(elsewhere.describe_training_job, TrainingJobName="t-once")[0] == "ValidationException"
    assert refusal(account.sagemaker.describe_processing_job, ProcessingJobName="nobody") == (
        "ValidationException",
        "Could not find requested job with name: nobody",
    )
    account.ended("Training", "t-once")
    code, message = refusal(account.sagemaker.stop_training_job, TrainingJobName="t-once")
    assert (code, "status Completed" in message) == ("ValidationException", True)
    listed = account.sagemaker.list_training_jobs(NameContains="t-once")["TrainingJobSummaries"]
    assert [(entry["TrainingJobName"], entry["TrainingJobStatus"]) for entry in listed] == [("t-once", "Completed")]


def test_lists_of_jobs_are_filtered_and_come_in_pages(account: Account) -> None:
    for number in range(3):
        account.process(f"listed-{number}", "raise SystemExit(3)" if number == 1 else "pass")
        account.ended("Processing", f"listed-{number}")

    def names(**asked: Any) -> list[str]:
        page = account.sagemaker.list_processing_jobs(NameContains="listed-", **asked)
        found = [entry["ProcessingJobName"] for entry in page["ProcessingJobSummaries"]]
        return found + (names(**{**asked, "NextToken": page["NextToken"]}) if "NextToken" in page else [])

    assert names(MaxResults=1) == names(MaxResults=3) == names() == ["listed-2", "listed-1", "listed-0"]
    assert names(SortBy="Name", SortOrder="Ascending", MaxResults=2) == ["listed-0", "listed-1", "listed-2"]
    assert names(StatusEquals="Failed") == ["listed-1"]
    assert names(StatusEquals="InProgress") == []
    made, hour = account.describe("Processing", "listed-1")["CreationTime"], timedelta(hours=1)
    for what in ("CreationTime", "LastModifiedTime"):
        assert names(**{f"{what}After": made - hour, f"{what}Before": made + hour}) == names()
        assert names(**{f"{what}After": made + hour}) == names(**{f"{what}Before": made - hour}) == []
    (failed,) = account.sagemaker.list_processing_jobs(NameContains="listed-1")["ProcessingJobSummaries"]
    assert "exit code: 3" in failed["FailureReason"]
    assert refusal(names, NextToken="elsewhere")[0] == "ValidationException"


def test_events_of_several_streams_come_by_time_and_in_pages(account: Account) -> None:
    logs, group = account.client("logs"), "/videolift/filter"
    logs.create_log_group(logGroupName=group)
    now = int(time.time() * 1000)
    for stream in ("a", "b", "c"):
        logs.create_log_stream(logGroupName=group, logStreamName=stream)
        events = [{"timestamp": now + number, "message": f"{stream}{number}"} for number in range(3)]
        logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)

    def messages(**asked: Any) -> list[str]:
        page = logs.filter_log_events(logGroupName=group, **asked)
        found = [event["message"] for event in page["events"]]
        return found + (messages(**{**asked, "nextToken": page["nextToken"]}) if "nextToken" in page else [])

    assert messages(logStreamNames=["a", "b"]) == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert messages(logStreamNames=["b", "a"], limit=4) == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert messages(logStreamNames=["a", "b"], startTime=now + 2) == ["a2", "b2"]
    assert messages(logStreamNamePrefix="c", endTime=now) == ["c0"]
    many = [{"timestamp": now + 9, "message": "x" * 200_000} for _ in range(5)]
    logs.put_log_events(logGroupName=group, logStreamName="c", logEvents=many)
    logs.put_log_events(logGroupName=group, logStreamName="c", logEvents=many)
    page = logs.filter_log_events(logGroupName=group, logStreamNames=["c"], startTime=now + 9)
    assert (len(page["events"]), "nextToken" in page) == (5, True)
    assert len(messages(logStreamNames=["c"], startTime=now + 9)) == 10
    assert refusal(messages, logStreamNames=["a", "nobody"])[0] == "ResourceNotFoundException"
    assert refusal(messages, logStreamNames=[f"{number}" for number in range(101)])[0] == "InvalidParameterException"


def test_requests_are_throttled_fail_and_are_dropped_as_told(account: Account) -> None:
    from botocore.exceptions import ConnectionClosedError

    describe = account.sagemaker.describe_training_job
    account.emulator.fault("throttle", operation="DescribeTrainingJob", times=2)
    for _ in range(2):
        assert refusal(describe, TrainingJobName="t") == ("ThrottlingException", "Rate exceeded")
    assert refusal(describe, TrainingJobName="t")[0] == "ValidationException"
    account.emulator.fault("error", operation="PutObject", status=503, times=1)
    assert refusal(account.s3.put_object, Bucket=BUCKET, Key="k", Body=b"x" * 300_000)[0] == "ServiceUnavailable"
    account.emulator.fault("drop", operation="HeadObject", times=1)
    with pytest.raises(ConnectionClosedError):
        account.s3.head_object(Bucket=BUCKET, Key="k")
    account.emulator.fault("expired")
    assert refusal(describe, TrainingJobName="t")[0] == "ExpiredTokenException"
    assert refusal(account.s3.list_objects_v2, Bucket=BUCKET)[0] == "ExpiredToken"
    assert refusal(account.client("sts").get_caller_identity)[0] == "ExpiredToken"
    account.emulator.clear_faults()
    assert account.client("sts").get_caller_identity()["Account"] == "123456789012"
    with pytest.raises(EmulatorError, match="kind"):
        account.emulator.fault("sabotage")


def test_requests_are_written_down_with_the_rights_they_need(account: Account) -> None:
    before = len(account.emulator.calls())
    account.put("calls/a b")
    account.text("calls/a b")
    account.keys("calls/")
    account.s3.head_bucket(Bucket=BUCKET)
    upload = account.s3.create_multipart_upload(Bucket=BUCKET, Key="calls/big")["UploadId"]
    part = account.s3.upload_part(Bucket=BUCKET, Key="calls/big", UploadId=upload, PartNumber=1, Body=b"x")
    parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
    account.s3.complete_multipart_upload(
        Bucket=BUCKET, Key="calls/big", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    account.s3.copy_object(Bucket=BUCKET, Key="calls/copy", CopySource=f"{BUCKET}/calls/big")
    account.client("iam").get_role(RoleName="videolift-job")
    account.client("ecr").describe_repositories()
    tags = [{"Key": "a", "Value": "b"}]
    account.train("t-calls", "pass", Tags=tags)
    calls = account.emulator.calls()[before:]
    assert [(call["operation"], call["iam_actions"], call["status"]) for call in calls] == [
        ("PutObject", ["s3:PutObject"], 200),
        ("GetObject", ["s3:GetObject"], 200),
        ("ListObjectsV2", ["s3:ListBucket"], 200),
        ("HeadBucket", ["s3:ListBucket"], 200),
        ("CreateMultipartUpload", ["s3:PutObject"], 200),
        ("UploadPart", ["s3:PutObject"], 200),
        ("CompleteMultipartUpload", ["s3:PutObject"], 200),
        ("CopyObject", ["s3:PutObject", "s3:GetObject"], 200),
        ("GetRole", ["iam:GetRole"], 200),
        ("DescribeRepositories", ["ecr:DescribeRepositories"], 200),
        ("PutObject", ["s3:PutObject"], 200),
        ("CreateTrainingJob", ["sagemaker:CreateTrainingJob", "iam:PassRole", "sagemaker:AddTags"], 200),
    ]
    assert calls[0]["resource"] == f"{BUCKET}/calls/a b" and calls[-1]["resource"] == "t-calls"
    assert {call["access_key"] for call in calls} == {"emulator"}
    account.ended("Training", "t-calls")
    of_role = account.emulator.calls(of_role=True)
    assert {call["service"] for call in of_role} == {"s3"}
    assert f"{BUCKET}/jobs/t-calls/output/model.tar.gz" in {call["resource"] for call in of_role}


def test_checksums_of_objects_come_back(account: Account) -> None:
    account.s3.put_object(Bucket=BUCKET, Key="sum", Body=b"frames", ChecksumAlgorithm="SHA256")
    head = account.s3.head_object(Bucket=BUCKET, Key="sum", ChecksumMode="ENABLED")
    assert head["ChecksumSHA256"] == "WUz9JgfU8J4c5iQSA+QYys/tVFBjeSvF6revqtvwxOA="


def descendants_of_jobs(root: Path) -> list[psutil.Process]:
    pids = [int(file.read_text()) for file in root.glob("jobs/*/*.pid")]
    return [one for pid in pids for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=PATIENCE_S)[1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_emulator_leaves_no_process_however_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    skip_without(NamespaceHosts(tmp_path).problem())
    with running_emulator(tmp_path / "e", hosts="namespaces", grace_s=600) as emulator:
        account = Account(emulator)
        code = (
            "import signal, subprocess, time\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "subprocess.Popen(['sleep', '600'])\n"
            "print('ready', flush=True)\n"
            "time.sleep(600)"
        )
        account.train("t-left", code, hosts=2)
        account.log("Training", "t-left", lambda lines: all("ready" in lines.get(h, []) for h in ("algo-1", "algo-2")))
        processes = descendants_of_jobs(tmp_path / "e")
        assert len(processes) == 4
        assert emulator.process is not None
        emulator.process.send_signal(number)
        assert emulator.process.wait(60) == (0 if number is signal.SIGTERM else -signal.SIGKILL)
        assert gone(processes)


def test_an_emulator_ends_with_the_program_that_started_it(tmp_path: Path) -> None:
    skip_without(NamespaceHosts(tmp_path).problem())
    code = (
        "import os, pathlib, sys\n"
        "from launchers.emulator.client import Emulator\n"
        "emulator = Emulator(pathlib.Path(sys.argv[1]), hosts='namespaces').__enter__()\n"
        "print(emulator.process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "e")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    assert not psutil.pid_exists(pid) or gone([psutil.Process(pid)])


@pytest.fixture
def emulator_with_one_instance(tmp_path: Path) -> Iterator[Account]:
    skip_without(NamespaceHosts(tmp_path).problem())
    quotas = {"ml.m5.xlarge for training job usage": 1}
    with running_emulator(tmp_path / "e", hosts="namespaces", regions=("cn-north-1",), quotas=quotas) as emulator:
        yield Account(emulator)


def test_quotas_are_listed_and_hold(emulator_with_one_instance: Account) -> None:
    account = emulator_with_one_instance
    pages = account.client("service-quotas").get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
    quotas = {quota["QuotaName"]: quota for page in pages for quota in page["Quotas"]}
    own = quotas["ml.m5.xlarge for training job usage"]
    assert own["Value"] == 1 and quotas["ml.m5.xlarge for processing job usage"]["Value"] > 1
    asked = account.client("service-quotas").get_service_quota(ServiceCode="sagemaker", QuotaCode=own["QuotaCode"])
    assert asked["Quota"] == own
    code, message = refusal(account.sagemaker.create_training_job, **training("t-much", hosts=2))
    assert code == "ResourceLimitExceeded" and "'ml.m5.xlarge for training job usage' is 1 Instances" in message


def test_a_region_in_china_is_an_account_of_its_own(emulator_with_one_instance: Account) -> None:
    account = emulator_with_one_instance
    role = account.client("iam", "cn-north-1").get_role(RoleName="videolift-job")["Role"]["Arn"]
    bucket = "sagemaker-cn-north-1-123456789012"
    account.client("s3", "cn-north-1").put_object(Bucket=bucket, Key="code/stage.py", Body=b"print('hi')")
    request = training("t-china", RoleArn=role, OutputDataConfig={"S3OutputPath": f"s3://{bucket}/jobs"})
    request["InputDataConfig"] = [channel("code", f"s3://{bucket}/code")]
    sagemaker = account.client("sagemaker", "cn-north-1")
    arn = sagemaker.create_training_job(**request)["TrainingJobArn"]
    assert arn == "arn:aws-cn:sagemaker:cn-north-1:123456789012:training-job/t-china"
    deadline = time.monotonic() + PATIENCE_S
    while (answer := sagemaker.describe_training_job(TrainingJobName="t-china"))["TrainingJobStatus"] not in ENDED:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert answer["TrainingJobStatus"] == "Completed", answer
    streams = account.client("logs", "cn-north-1").describe_log_streams(logGroupName="/aws/sagemaker/TrainingJobs")
    assert [one["logStreamName"].startswith("t-china/algo-1-") for one in streams["logStreams"]] == [True]


def test_a_continuous_output_is_in_s3_while_the_job_runs(account: Account) -> None:
    code = (
        "import pathlib, time\n"
        "pathlib.Path('/opt/ml/processing/output/first').write_text('1')\n"
        "while not pathlib.Path('/opt/ml/processing/output/go').exists(): time.sleep(0.05)"
    )
    request = processing("p-continuous")["ProcessingOutputConfig"]["Outputs"][0]
    request["S3Output"]["S3UploadMode"] = "Continuous"
    account.process("p-continuous", code, ProcessingOutputConfig={"Outputs": [request]})
    deadline = time.monotonic() + PATIENCE_S
    while account.keys("p-continuous/out/") != ["first"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert account.describe("Processing", "p-continuous")["ProcessingJobStatus"] == "InProgress"
    (account.emulator.root / "jobs/p-continuous/algo-1/processing/output/go").write_text("2")
    assert account.ended("Processing", "p-continuous")["ProcessingJobStatus"] == "Completed"
    assert account.keys("p-continuous/out/") == ["first", "go"]


MODEL_TRAINER = """
import sys
from sagemaker.core.helper.session_helper import Session
from sagemaker.train.configs import Compute, SourceCode
from sagemaker.train.model_trainer import ModelTrainer
bucket, role, image, source = sys.argv[1:]
trainer = ModelTrainer(
    training_image=image,
    source_code=SourceCode(source_dir=source, entry_script='stage.py', requirements='requirements.txt'),
    compute=Compute(instance_type='ml.m5.xlarge', instance_count=2),
    role=role, base_job_name='sdk', hyperparameters={'epoch': 3},
    sagemaker_session=Session(default_bucket=bucket),  # or it asks the real STS, whatever AWS_ENDPOINT_URL says
)
trainer.train(wait=False)
print(trainer._latest_training_job.training_job_name)
"""


def test_the_sdks_own_scripts_run_unchanged(account: Account, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "stage.py").write_text(
        "import os, sys\nprint('RAN', os.environ['SM_CURRENT_HOST'], os.environ['SM_HOSTS'], *sys.argv[1:])\n"
        "sys.exit(9 if os.environ['SM_CURRENT_HOST'] == 'algo-2' else 0)"
    )
    (source / "requirements.txt").write_text("numpy>=2  # it is there\n")
    config = tmp_path / "sdk.yaml"
    config.write_text("SchemaVersion: '1.0'\nSageMaker: {PythonSDK: {Modules: {TelemetryOptOut: true}}}\n")
    sdk = {"SAGEMAKER_USER_CONFIG_OVERRIDE": str(config), "SAGEMAKER_VALIDATE_ROLE": "false"}
    done = subprocess.run(
        [sys.executable, "-c", MODEL_TRAINER, BUCKET, ROLE, IMAGE, str(source)],
        env={**os.environ, **account.emulator.environment(), **sdk},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    name = done.stdout.split()[-1]
    ended = account.ended("Training", name)
    log = account.log("Training", name)
    assert 'RAN algo-1 ["algo-1", "algo-2"] --epoch 3' in log["algo-1"]
    assert any(line.startswith("Requirement already satisfied: numpy") for line in log["algo-1"])
    assert ended["TrainingJobStatus"] == "Failed" and ended["FailureReason"].endswith("exit code: 9")


def test_a_requirement_that_is_not_here_fails_as_pip_does(account: Account) -> None:
    code = "import subprocess, sys; sys.exit(subprocess.call(['pip3', 'install', 'not-on-this-machine>=3']))"
    account.train("t-pip", code)
    assert account.ended("Training", "t-pip")["FailureReason"] == "AlgorithmError: , exit code: 1"
    assert "No matching distribution found" in account.log("Training", "t-pip")["algo-1"][-1]


def test_variables_can_be_evaluated_by_a_shell() -> None:
    command = f'eval "$({sys.executable} -m launchers.emulator --port 5001 --print-env)"; echo $AWS_ENDPOINT_URL'
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout == "http://127.0.0.1:5001\n"
