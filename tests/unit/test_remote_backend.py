"""What a backend makes of jobs that were left: which of them go on, and what has to be checked and started anew."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launchers.base import LostTouch, Stage
from launchers.cache import HANDLE, Cache, StageFolder
from launchers.config import Action, Backend, Config, PreprocessJob, TrainJob
from launchers.remote import backend as remote
from launchers.remote.aws import Aws, AwsError
from launchers.remote.backend import RemoteBackend
from launchers.remote.job import Handle, RemoteJob
from launchers.remote.orders import Order
from launchers.remote.preflight import Found
from tests.json_service import JsonService, Refused, json_service
from videolift.plan import Plan
from videolift.workspace import Kind

ACCOUNT = "123456789012"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:2.21.0-cpu-py312"
CONSOLE = Console(file=StringIO())


class Service:
    """SageMaker as far as it knows training jobs."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}  # name -> status
        self.refuses: list[str] = []  # codes, one a request, before it answers again

    def describe(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = self._known(asked)
        return {
            "TrainingJobName": name,
            "TrainingJobArn": f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:training-job/{name}",
            "TrainingJobStatus": self.jobs[name],
            "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.xlarge"},
            "OutputDataConfig": {"S3OutputPath": "s3://bucket/jobs"},
        }

    def stop(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.jobs[self._known(asked)] = "Stopping"
        return {}

    def _known(self, asked: dict[str, Any]) -> str:
        name = str(asked["TrainingJobName"])
        if self.refuses:
            raise Refused(self.refuses.pop(0), "not now")
        if name not in self.jobs:
            raise Refused("ValidationException", "Requested resource not found.")
        return name


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture(autouse=True)
def aws(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[JsonService]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "mine")
    monkeypatch.setattr(Aws, "account", ACCOUNT)
    monkeypatch.setattr("launchers.remote.aws.ATTEMPTS", 1)
    monkeypatch.setattr("launchers.remote.job.pause", lambda _: None)
    monkeypatch.setattr(remote, "pause", lambda _: None)
    answers = {"DescribeTrainingJob": service.describe, "StopTrainingJob": service.stop}
    with json_service(answers) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


def backend(folder: Path, action: Action = Action.run, **settings: Any) -> RemoteBackend:
    jobs = {"preprocess": PreprocessJob(image=IMAGE), "train": TrainJob(image=IMAGE, max_run_s=3600)}
    role = f"arn:aws:iam::{ACCOUNT}:role/jobs"
    given = Backend(name="sagemaker-remote", region="us-east-1", role=role, price_per_hour=1.0, **jobs, **settings)
    return RemoteBackend(Config(backend=given, action=action), Cache(folder))


def left(folder: Path, number: int = 0) -> Stage:
    """Return a stage that was left to a job."""
    plan = Plan("train", f"train-{number}")
    stage = Stage(plan, Kind.training, StageFolder(Cache(folder).partial(plan.id), Kind.training), ("algo-1",))
    Handle(f"job-{number}", Kind.training, "us-east-1", ACCOUNT, {"train": plan.id}).save([stage.folder])
    return stage


def has_handle(stage: Stage) -> bool:
    return (stage.folder.path / HANDLE).exists()


STATUSES = ("InProgress", "Completed", "Stopping", "Stopped", "Failed", None)  # None: it never was


def test_what_will_be_started_anew_is_checked_anew(
    tmp_path: Path, service: Service, aws: JsonService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.jobs = {f"job-{number}": status for number, status in enumerate(STATUSES) if status}
    stages = {"train": [left(tmp_path, number).plan.id for number in range(len(STATUSES))]}
    checked: list[tuple[int, dict[str, str]]] = []

    def check(_: Aws, machines: Any, images: dict[str, str]) -> Found:
        checked.append((len(machines), images))
        return Found()

    monkeypatch.setattr(remote, "find_job_problems", check)
    mine = backend(tmp_path)
    cost = mine.cost(stages)
    assert cost is not None
    assert cost.rows[1][0] == "4 x training"
    mine.make_ready(stages, CONSOLE, at_once=4)
    assert checked == [(1, {"train": IMAGE})]
    assert len(aws.asked) == len(STATUSES), "each job is asked for once"
    assert mine.cost({"train": stages["train"][:2]}) is None


def test_without_an_answer_a_plan_counts_what_may_have_to_be_computed(tmp_path: Path, service: Service) -> None:
    service.jobs["job-0"] = "InProgress"
    stage, mine = left(tmp_path), backend(tmp_path, Action.plan)
    service.refuses = ["ExpiredTokenException"]
    assert mine.cost({"train": [stage.plan.id]}) is not None
    assert mine.cost({"train": [stage.plan.id]}) is None


def test_without_an_answer_a_run_does_not_say_what_it_costs(tmp_path: Path, service: Service) -> None:
    service.jobs["job-0"] = "InProgress"
    stage, mine = left(tmp_path), backend(tmp_path)
    service.refuses = ["ExpiredTokenException"]
    with pytest.raises(AwsError, match="have expired"):
        mine.cost({"train": [stage.plan.id]})


@pytest.mark.parametrize("code", ["ThrottlingException", "ExpiredTokenException", "AccessDeniedException"])
def test_a_job_that_cannot_be_asked_for_goes_on(tmp_path: Path, service: Service, code: str) -> None:
    service.jobs["job-0"] = "InProgress"
    stage, mine = left(tmp_path), backend(tmp_path)
    service.refuses = [code]
    with pytest.raises(LostTouch, match="whether job job-0 goes on is not known"):
        mine.submit([stage], CONSOLE)
    assert has_handle(stage)
    assert mine.submit([stage], CONSOLE).stages == [stage]


@pytest.fixture
def ordered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RemoteBackend, "_order", lambda self, stages, name, site: Order(Kind.training, "job-0", {}))


REQUEST = {
    "TrainingJobName": "job-0",
    "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"},
    "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/jobs",
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/jobs"},
    "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
    "StoppingCondition": {"MaxRuntimeInSeconds": 60},
}


def test_the_handle_of_a_job_is_stored_before_the_job_is_created(
    tmp_path: Path, aws: JsonService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher that is killed while the service creates the job finds the job again."""
    stage = left(tmp_path)
    (stage.folder.path / HANDLE).unlink()
    stored: list[bool] = []

    def create(_: dict[str, Any]) -> dict[str, Any]:
        stored.append(has_handle(stage))
        return {"TrainingJobArn": f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:training-job/job-0"}

    aws.answers["CreateTrainingJob"] = create
    monkeypatch.setattr(RemoteBackend, "_order", lambda self, *_: Order(Kind.training, "job-0", REQUEST))
    assert backend(tmp_path).submit([stage], CONSOLE).stages == [stage]
    assert stored == [True]


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("ordered")
def test_an_interruption_before_a_job_is_made_leaves_no_handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = left(tmp_path)
    monkeypatch.setattr(RemoteBackend, "_create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backend(tmp_path).submit([stage], CONSOLE)
    assert not has_handle(stage)


@pytest.mark.usefixtures("ordered")
def test_a_job_that_is_made_just_after_an_interruption_is_not_forgotten(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = left(tmp_path)
    monkeypatch.setattr(RemoteBackend, "_create", interrupted)
    monkeypatch.setattr(remote, "pause", lambda _: service.jobs.update({"job-0": "InProgress"}))
    with pytest.raises(LostTouch, match="it goes on"):
        backend(tmp_path).submit([stage], CONSOLE)
    assert has_handle(stage)


def job_of(folder: Path) -> RemoteJob:
    found = backend(folder).submit([left(folder)], CONSOLE)
    assert isinstance(found, RemoteJob)
    return found


def test_stopping_a_job_is_tried_again(tmp_path: Path, service: Service) -> None:
    service.jobs["job-0"] = "InProgress"
    job = job_of(tmp_path)
    service.refuses = ["ThrottlingException", "InternalFailure"]
    job.close()
    assert service.jobs["job-0"] == "Stopping"


@pytest.mark.parametrize("refusals", [["ThrottlingException"] * 9, ["AccessDeniedException"]])
def test_a_job_that_cannot_be_stopped_is_told(tmp_path: Path, service: Service, refusals: list[str]) -> None:
    service.jobs["job-0"] = "InProgress"
    job = job_of(tmp_path)
    service.refuses = refusals
    with pytest.raises(LostTouch, match=r"job-0 could not be stopped(.|\n)*aws sagemaker stop-training-job"):
        job.close()
    assert service.jobs["job-0"] == "InProgress"
