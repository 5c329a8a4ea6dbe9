"""What AWS refuses for a moment, over HTTP: no job is abandoned for it, none paid twice, nothing counts as absent."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions
from rich.console import Console

from launchers.base import LostTouch, Stage
from launchers.cache import HANDLE, Cache, StageFolder
from launchers.config import Action, Backend, Config, PreprocessJob, TrainJob
from launchers.planning import PlannedStage, finished_stages, unknown_stages
from launchers.remote import backend as remote
from launchers.remote import state
from launchers.remote.aws import Aws, AwsError, explained, is_transient
from launchers.remote.backend import CREATE_AGAIN_S, RemoteBackend
from launchers.remote.job import Handle, RemoteJob
from launchers.remote.orders import Order
from launchers.remote.s3 import Location, head
from launchers.remote.watch import Watch
from tests.json_service import POLL_S, Dropped, JsonService, Refused, json_service
from tests.remote_side import forget_aws
from videolift.plan import Plan
from videolift.workspace import Kind

ACCOUNT = "123456789012"
STAGE = "train-0123456789ab"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:2.21.0-cpu-py312"
CONSOLE = Console(file=StringIO())
DROPPED = (0, "")  # the connection, without an answer

FOR_A_MOMENT = [
    (500, "InternalFailure"),
    (500, "InternalServerException"),
    (400, "InternalServerException"),
    (400, "InternalFailure"),
    (503, "ServiceUnavailable"),
    (503, "ServiceUnavailableException"),
    (400, "ServiceUnavailableException"),
    (500, "UnheardOf"),
    (500, ""),
    (502, ""),
    (503, ""),
    (504, ""),
    (520, ""),
    (408, ""),
    (429, ""),
    (429, "UnheardOf"),
    (400, "RequestTimeout"),
    (400, "RequestTimeoutException"),
    (400, "Throttling"),
    (400, "ThrottlingException"),
    (400, "ThrottledException"),
    (400, "RequestThrottled"),
    (400, "RequestThrottledException"),
    (400, "TooManyRequestsException"),
    (400, "RequestLimitExceeded"),
    (400, "LimitExceededException"),
    (503, "SlowDown"),
    DROPPED,
]
FOR_GOOD = [
    (400, "AccessDeniedException"),
    (403, ""),
    (400, "ExpiredTokenException"),
    (400, "UnrecognizedClientException"),
    (400, "ResourceLimitExceeded"),
    (400, "ValidationException"),
    (501, "NotImplemented"),
    (404, ""),
]


@pytest.fixture(autouse=True)
def person(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody with credentials, who does not wait."""
    forget_aws(monkeypatch)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "mine")
    monkeypatch.setattr(Aws, "account", ACCOUNT)
    monkeypatch.setattr("launchers.remote.aws.ATTEMPTS", 1)
    monkeypatch.setattr("launchers.remote.job.pause", lambda _: None)
    monkeypatch.setattr("launchers.remote.watch.TURN_S", 0.001)
    monkeypatch.setattr("launchers.remote.watch.LONGEST_BACK_OFF_S", 0.01)
    monkeypatch.setattr(remote, "pause", lambda _: None)


class Service:
    """SageMaker with training jobs, which answers as it is told before it answers again."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}  # name -> status
        self.troubles: dict[str, list[tuple[int, str]]] = {}  # by operation, one a request
        self.lost = False  # what a troubled creation asks for is done all the same

    def answers(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        known = {
            "ListTrainingJobs": lambda _: {"TrainingJobSummaries": []},
            "DescribeTrainingJob": self._describe,
            "CreateTrainingJob": self._create,
            "StopTrainingJob": lambda _: {},
        }
        return {operation: self._troubled(operation, answer) for operation, answer in known.items()}

    def _troubled(self, operation: str, answer: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        def troubled(asked: dict[str, Any]) -> dict[str, Any]:
            troubles = self.troubles.get(operation)
            if not troubles:
                return answer(asked)
            status, code = troubles.pop(0)
            if operation == "CreateTrainingJob" and self.lost:
                self._create(asked)
            if (status, code) == DROPPED:
                raise Dropped
            raise Refused(code, "not now", status)

        return troubled

    def _create(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["TrainingJobName"]
        if name in self.jobs:
            raise Refused("ResourceInUse", "Training job names must be unique.")
        self.jobs[name] = "InProgress"
        return {"TrainingJobArn": _arn(name)}

    def _describe(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["TrainingJobName"]
        if name not in self.jobs:
            raise Refused("ValidationException", "Requested resource not found.")
        return {
            "TrainingJobName": name,
            "TrainingJobArn": _arn(name),
            "TrainingJobStatus": self.jobs[name],
            "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.xlarge"},
            "OutputDataConfig": {"S3OutputPath": "s3://bucket/jobs"},
        }


def _arn(name: str) -> str:
    return f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:training-job/{name}"


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def sagemaker(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[JsonService]:
    with json_service(service.answers()) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


def backend(folder: Path, action: Action = Action.run) -> RemoteBackend:
    jobs = {"preprocess": PreprocessJob(image=IMAGE), "train": TrainJob(image=IMAGE)}
    role = f"arn:aws:iam::{ACCOUNT}:role/jobs"
    given = Backend(name="sagemaker-remote", region="us-east-1", bucket="bucket", role=role, poll_s=0.001, **jobs)
    return RemoteBackend(Config(backend=given, action=action), Cache(folder))


def stage_in(folder: Path) -> Stage:
    return Stage(
        Plan("train", STAGE), Kind.training, StageFolder(Cache(folder).partial(STAGE), Kind.training), ("algo-1",)
    )


# Following


def followed(folder: Path) -> list[str]:
    """Follow a job to its end and return what is said of it."""
    aws = Aws(Backend(region="us-east-1", poll_s=0.001))
    handle = Handle("job", Kind.training, "us-east-1", ACCOUNT, {"train": STAGE})
    job = RemoteJob(aws, Watch(aws), handle, [stage_in(folder)])
    return [line for _, line in job.follow()]


@pytest.mark.usefixtures("sagemaker")
@pytest.mark.parametrize("operation", ["ListTrainingJobs", "DescribeTrainingJob"])
def test_a_job_is_followed_through_outages(tmp_path: Path, service: Service, operation: str) -> None:
    service.jobs["job"] = "Failed"
    service.troubles[operation] = FOR_A_MOMENT.copy()
    lines = followed(tmp_path)
    assert sum("the job goes on, trying again in" in line for line in lines) == len(FOR_A_MOMENT)


@pytest.mark.usefixtures("sagemaker")
@pytest.mark.parametrize("trouble", FOR_GOOD, ids=str)
def test_what_asking_again_does_not_change_ends_the_following_and_says_why(
    tmp_path: Path, service: Service, trouble: tuple[int, str]
) -> None:
    service.jobs["job"] = "InProgress"
    service.troubles["DescribeTrainingJob"] = [trouble]
    with pytest.raises(LostTouch, match=r"job: .*; the job goes on") as lost:
        followed(tmp_path)
    assert "knows no such job" not in str(lost.value), "it was not said to be absent"


def test_credentials_that_are_renewed_may_expire_for_a_moment(
    tmp_path: Path, service: Service, sagemaker: JsonService, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"AccessKeyId": "key", "SecretAccessKey": "secret", "SessionToken": "token"}
    (tmp_path / "keys").write_text(json.dumps({"Version": 1, **keys, "Expiration": "2099-01-01T00:00:00Z"}))
    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path / 'keys'}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    service.jobs["job"] = "Failed"
    service.troubles["ListTrainingJobs"] = [(400, "ExpiredTokenException")] * 2
    assert any("have expired; they are being renewed" in line for line in followed(tmp_path))


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (exceptions.ConnectTimeoutError(endpoint_url="http://169.254.169.254"), True),
        (exceptions.ReadTimeoutError(endpoint_url="http://169.254.169.254"), True),
        (exceptions.MetadataRetrievalError(error_msg="timed out"), True),
        (exceptions.CredentialRetrievalError(provider="iam-role", error_msg="timed out"), True),
        (exceptions.ConnectionClosedError(endpoint_url="https://s3"), True),
        (exceptions.UnauthorizedSSOTokenError(), False),
        (exceptions.TokenRetrievalError(provider="sso", error_msg="gone"), False),
        (exceptions.NoCredentialsError(), False),
        (exceptions.ParamValidationError(report="wrong"), False),
    ],
)
def test_what_never_reached_the_service(raised: Exception, expected: bool) -> None:
    with pytest.raises(AwsError) as caught, explained("sts:GetCallerIdentity"):
        raise raised
    assert is_transient(caught.value) is expected


def test_a_busy_metadata_service_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance whose service fails once is not one without credentials."""
    keys = {"AccessKeyId": "key", "SecretAccessKey": "secret", "Token": "token", "Code": "Success"}
    document = json.dumps({**keys, "Expiration": "2099-01-01T00:00:00Z"})
    failures = [500]

    def answer(method: str, path: str) -> tuple[int, str]:
        if method == "GET" and failures:
            return failures.pop(), ""
        return 200, "token" if method == "PUT" else "role" if path.endswith("/security-credentials/") else document

    with answering(answer) as url:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        assert Aws(Backend(region="us-east-1")).has_credentials()
    assert not failures


# Stopping, and bringing results back


@pytest.mark.usefixtures("sagemaker")
@pytest.mark.parametrize(("status", "is_over"), [("InProgress", False), ("Stopping", True), ("Completed", True)])
def test_a_refusal_to_stop_means_that_it_has_ended_only_where_it_has(
    service: Service, status: str, is_over: bool
) -> None:
    client = Aws(Backend(region="us-east-1")).client("sagemaker")
    service.jobs["job"], service.troubles["StopTrainingJob"] = status, [(400, "ValidationException")]
    if is_over:
        state.stop(client, Kind.training, "job")
    else:
        with pytest.raises(AwsError, match="not now"):
            state.stop(client, Kind.training, "job")


@pytest.mark.usefixtures("sagemaker")
def test_results_of_a_finished_job_are_waited_for(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 is out when the job ends: three answers that it is busy, and then that it may not be asked."""
    service.jobs["job"] = "Completed"
    answers = [(403, "AccessDenied"), (500, "InternalError"), (503, ""), (503, "SlowDown")]

    def answer(_method: str, _path: str) -> tuple[int, str]:
        status, code = answers.pop()
        return status, f"<Error><Code>{code}</Code></Error>" if code else ""

    with answering(answer) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        with pytest.raises(LostTouch, match=r"results cannot be fetched: .*is not allowed"):
            followed(tmp_path)
    assert not answers


# Quotas


@pytest.mark.parametrize("code", ["ResourceLimitExceeded", "LimitExceededException"])
def test_a_quota_is_told_as_one(code: str) -> None:
    error = exceptions.ClientError({"Error": {"Code": code, "Message": "0 left"}}, "CreateTrainingJob")
    told = rf"job: sagemaker:CreateTrainingJob: 0 left \({code}\)\. .*quota"
    with pytest.raises(AwsError, match=told) as caught, explained("sagemaker:CreateTrainingJob", "job"):
        raise error
    assert not is_transient(caught.value)


# Creating


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sagemaker: JsonService) -> Callable[[], RemoteJob]:
    request = {
        "TrainingJobName": "job",
        "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/jobs",
        "OutputDataConfig": {"S3OutputPath": "s3://bucket/jobs"},
        "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.xlarge", "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"},
    }
    monkeypatch.setattr(RemoteBackend, "_order", lambda self, stages, name, site: Order(Kind.training, "job", request))
    return lambda: backend(tmp_path).submit([stage_in(tmp_path)], CONSOLE)  # type: ignore[return-value]


def operations(running: JsonService) -> list[str]:
    return [operation.removesuffix("TrainingJob") for operation, _ in running.asked]


UNCLEAR = [
    (503, ""),
    (504, ""),
    (500, "InternalFailure"),
    (400, "RequestTimeout"),
    (400, "ThrottlingException"),
    DROPPED,
]


@pytest.mark.parametrize("trouble", UNCLEAR, ids=str)
def test_a_job_whose_creation_was_not_confirmed_is_found_by_its_name(
    submitted: Callable[[], RemoteJob], service: Service, sagemaker: JsonService, trouble: tuple[int, str]
) -> None:
    service.lost, service.troubles["CreateTrainingJob"] = True, [trouble]
    submitted()
    assert operations(sagemaker) == ["Create", "Describe"]


@pytest.mark.parametrize("trouble", UNCLEAR, ids=str)
def test_a_job_that_was_not_made_is_asked_for_again(
    submitted: Callable[[], RemoteJob], service: Service, sagemaker: JsonService, trouble: tuple[int, str]
) -> None:
    service.troubles["CreateTrainingJob"] = [trouble]
    submitted()
    assert operations(sagemaker) == ["Create", "Describe", "Create"]


def test_a_job_is_looked_for_as_long_as_nobody_answers(
    submitted: Callable[[], RemoteJob], service: Service, sagemaker: JsonService
) -> None:
    service.lost, service.troubles["CreateTrainingJob"] = True, [(503, "")]
    service.troubles["DescribeTrainingJob"] = [(503, "")] * 20
    submitted()
    assert operations(sagemaker) == ["Create", *["Describe"] * 21]


def test_a_name_that_is_taken_is_that_of_an_earlier_request(
    submitted: Callable[[], RemoteJob], service: Service, sagemaker: JsonService
) -> None:
    service.jobs["job"] = "InProgress"
    submitted()
    assert operations(sagemaker) == ["Create", "Describe"]


def test_a_quota_is_asked_for_once(
    submitted: Callable[[], RemoteJob], service: Service, sagemaker: JsonService, tmp_path: Path
) -> None:
    service.troubles["CreateTrainingJob"] = [(400, "ResourceLimitExceeded")]
    with pytest.raises(AwsError, match="quota of the account"):
        submitted()
    assert operations(sagemaker) == ["Create"]
    assert not list(tmp_path.rglob(HANDLE))


def test_a_quota_after_an_unclear_answer_ends_the_requests(
    submitted: Callable[[], RemoteJob], service: Service, sagemaker: JsonService
) -> None:
    service.troubles["CreateTrainingJob"] = [(503, ""), *[(400, "ResourceLimitExceeded")] * 4]
    with pytest.raises(AwsError, match="quota of the account"):
        submitted()
    assert operations(sagemaker) == ["Create", "Describe", "Create", "Describe"]


def test_a_quota_that_our_own_earlier_request_has_used_up(
    submitted: Callable[[], RemoteJob], service: Service, sagemaker: JsonService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job appears only after it was asked for again."""
    service.troubles["CreateTrainingJob"] = [(503, ""), (400, "ResourceLimitExceeded")]
    service.lost = True
    service.troubles["DescribeTrainingJob"] = []
    describe = service._describe
    hidden = [True]

    def late(asked: dict[str, Any]) -> dict[str, Any]:
        if hidden:
            hidden.pop()
            raise Refused("ValidationException", "Requested resource not found.")
        return describe(asked)

    monkeypatch.setattr(service, "_describe", late)
    monkeypatch.setattr(service, "_create", lambda asked: service.jobs.setdefault("job", "InProgress"))
    submitted()
    assert service.jobs == {"job": "InProgress"}


def test_a_job_that_cannot_be_made_leaves_no_handle(
    submitted: Callable[[], RemoteJob], service: Service, sagemaker: JsonService, tmp_path: Path
) -> None:
    service.troubles["CreateTrainingJob"] = [(503, "")] * 99
    with pytest.raises(AwsError, match="503"):
        submitted()
    assert operations(sagemaker) == ["Create", "Describe"] * len(CREATE_AGAIN_S)
    assert not list(tmp_path.rglob(HANDLE))


def test_a_job_of_which_nothing_can_be_told_keeps_its_handle(
    submitted: Callable[[], RemoteJob], service: Service, tmp_path: Path
) -> None:
    service.lost, service.troubles["CreateTrainingJob"] = True, [(503, "")]
    service.troubles["DescribeTrainingJob"] = [(400, "ExpiredTokenException")]
    with pytest.raises(LostTouch, match=r"whether job job was started is not known: .*expired"):
        submitted()
    assert list(tmp_path.rglob(HANDLE))


# Absent, or not known


@pytest.mark.usefixtures("sagemaker")
def test_only_a_job_that_is_said_not_to_be_there_is_absent(service: Service) -> None:
    client = Aws(Backend(region="us-east-1")).client("sagemaker")
    assert state.describe(client, Kind.training, "job") is None
    service.troubles["DescribeTrainingJob"] = [(400, "ValidationException")]
    with pytest.raises(AwsError, match="not now"):
        state.describe(client, Kind.training, "job")


@contextmanager
def answering(answer: Callable[[str, str], tuple[int, str]]) -> Iterator[str]:
    """Yield the address of a server that answers (status, body) to a method and a path; status 0: not at all."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            status, text = answer(self.command, self.path)
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text.encode())

        do_HEAD = do_PUT = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(POLL_S,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def s3_that_answers(monkeypatch: pytest.MonkeyPatch, status: int, code: str) -> Iterator[None]:
    text = f"<Error><Code>{code}</Code><Message>told</Message></Error>" if code else ""
    with answering(lambda *_: (status, text)) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield


PLANNED = {"train": PlannedStage("train", STAGE, Plan("train", STAGE), ("algo-1",))}
NOT_ABSENT = [
    (503, "SlowDown"),
    (503, ""),
    (500, "InternalError"),
    (403, "AccessDenied"),
    (400, "ExpiredToken"),
    (403, "InvalidAccessKeyId"),
    (404, "NoSuchBucket"),
    (404, ""),
    (0, ""),
]


@pytest.mark.parametrize(("status", "code"), NOT_ABSENT)
def test_a_training_is_not_computed_again_because_s3_does_not_say_that_it_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    with s3_that_answers(monkeypatch, status, code):
        with pytest.raises(AwsError, match=rf"whether {STAGE} is finished in S3 is not known"):
            finished_stages(PLANNED, Cache(tmp_path), backend(tmp_path))
        plan = backend(tmp_path, Action.plan)
        assert finished_stages(PLANNED, Cache(tmp_path), plan) == {}
        assert list(unknown_stages(PLANNED, Cache(tmp_path), plan)) == ["train"]


@pytest.mark.parametrize("action", [Action.run, Action.plan])
def test_only_a_missing_key_is_a_stage_that_nobody_has_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: Action
) -> None:
    with s3_that_answers(monkeypatch, 404, "NoSuchKey"):
        asked = backend(tmp_path, action)
        assert finished_stages(PLANNED, Cache(tmp_path), asked) == unknown_stages(PLANNED, Cache(tmp_path), asked) == {}


def test_an_account_that_is_not_known_is_no_account_without_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_: Aws) -> str:
        raise AwsError("sts cannot be reached", transient=True)

    monkeypatch.setattr(Aws, "account", property(lost))
    with pytest.raises(AwsError, match="sts cannot be reached"):
        backend(tmp_path).origin(STAGE)
    assert backend(tmp_path, Action.plan).unknown_origin(STAGE) == "sts cannot be reached"


def test_an_object_that_may_not_be_asked_for_is_not_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 answers HEAD without a body, and Forbidden to whoever may not list the bucket."""
    place = Location("bucket", "key")
    with s3_that_answers(monkeypatch, 404, ""):
        assert head(Aws(Backend(region="us-east-1")).client("s3"), place) is None
    not_allowed = pytest.raises(AwsError, match=r"s3:GetObject is not allowed .*without s3:ListBucket")
    with s3_that_answers(monkeypatch, 403, ""), not_allowed:
        head(Aws(Backend(region="us-east-1")).client("s3"), place)
