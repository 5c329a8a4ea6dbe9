from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config as ClientConfig
from rich.console import Console

from launchers.cache import Cache
from launchers.config import Backend, Config, Mode, PreprocessJob, TrainJob
from launchers.reachability import server_problem
from launchers.remote import preflight, quotas
from launchers.remote.aws import Aws
from launchers.remote.backend import RemoteBackend
from launchers.remote.preflight import Found, find_job_problems, find_problems, region_of_location, trusts_sagemaker
from tests.json_service import JsonService, Refused, json_service
from tests.moto_server import forget_everything, free_port, front_of, moto_server, use
from tests.remote import iam
from videolift.errors import ConfigError, VideoliftError

BACKEND = Backend(name="sagemaker-remote", region="us-east-1", role="Jobs")
BUCKET = f"sagemaker-us-east-1-{iam.ACCOUNT}"
REGISTRY = f"{iam.ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
DIGEST = "sha256:" + "0" * 64
PLENTY = {
    "ml.m5.xlarge for processing job usage": 4.0,
    "ml.m5.xlarge for training job usage": 4.0,
    "ml.m5.xlarge for spot training job usage": 4.0,
    quotas.LONGEST_TRAINING: 432000.0,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto_server(tmp_path_factory.mktemp("moto") / "log") as url:
        yield url


@pytest.fixture(autouse=True)
def moto(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """An account in which everything is ready."""
    forget_everything(server)
    use(server, monkeypatch.setenv)
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    make_bucket(BUCKET)
    iam.make_role("Jobs", "/service-role/")
    with service_quotas(PLENTY) as service:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SERVICE_QUOTAS", service.url)
        yield server


def make_bucket(name: str, region: str | None = None) -> None:
    s3 = boto3.client("s3", config=ClientConfig(s3={"addressing_style": "path"}))
    if region is None:
        s3.create_bucket(Bucket=name)
    else:
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": region})


@contextmanager
def service_quotas(values: Mapping[str, float], page: int = 2) -> Iterator[JsonService]:
    """Yield Service Quotas with these quotas among many others, a few a page."""
    others = {f"ml.m{number}.large for endpoint usage": 0.0 for number in range(5)}
    listed = [
        {"ServiceCode": "sagemaker", "QuotaName": name, "QuotaCode": f"L-{number}", "Value": value}
        for number, (name, value) in enumerate({**others, **values, "zzz": 0.0}.items())
    ]

    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        start = int(asked.get("NextToken", 0))
        more = {"NextToken": str(start + page)} if start + page < len(listed) else {}
        return {"Quotas": listed[start : start + page], **more}

    with json_service({"ListServiceQuotas": answer}) as service:
        yield service


def settings(**given: Any) -> Backend:
    return replace(BACKEND, **given)


def look(
    backend: Backend = BACKEND,
    images: Mapping[str, str] | None = None,
    machines: Sequence[quotas.Machines] | None = None,
    tracking_uri: str | None = None,
) -> Found:
    """Look at the way to AWS, and where it is free at what jobs need."""
    aws = Aws(backend)
    found = find_problems(aws, lambda: server_problem(tracking_uri, 5) if tracking_uri else None)
    try:
        assert aws.account
    except VideoliftError:  # the way is not free
        return found
    asked = quotas.machines_of(backend, {"preprocess": 1, "train": 1}) if machines is None else machines
    found.add(find_job_problems(aws, asked, images or {}))
    return found


def keys(found: Found) -> list[str]:
    return [problem.partition(":")[0] for problem in found.problems]


def test_where_everything_is_ready_nothing_is_found() -> None:
    assert look() == Found()


def test_all_that_is_wrong_is_told_at_once() -> None:
    backend = settings(
        bucket="not-there",
        role="NotThere",
        subnets=["subnet-0a1b2c3d"],
        preprocess=PreprocessJob(instance_type="ml.m5.xlrage"),
        train=TrainJob(instance_count=9, spot=True, checkpoints=False),
    )
    found = look(
        backend,
        images={"preprocess": f"{REGISTRY}/videolift:1", "train": "python:3.11"},
        tracking_uri=f"http://127.0.0.1:{free_port()}",
    )
    assert sorted(keys(found)) == [
        "backend.bucket",
        "backend.preprocess.image",
        "backend.preprocess.instance_type",
        "backend.role",
        "backend.subnets",
        "backend.train.image",
        "backend.train.instance_count",
        "backend.train.spot",
        "tracking.uri",
    ]


def test_nothing_is_changed(moto: str) -> None:
    with front_of(moto) as front, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", front.url)
        look(settings(bucket="not-there"), images={"train": f"{REGISTRY}/videolift:1"})
    assert {(request.method, request.path) for request in front.requests} == {("HEAD", "/not-there"), ("POST", "/")}
    assert [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]] == [BUCKET]
    assert boto3.client("ecr").describe_repositories()["repositories"] == []


# ---- credentials and region


def test_without_credentials_the_rest_is_checked_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    found = look(settings(prefix="/"), tracking_uri=f"http://127.0.0.1:{free_port()}")
    assert found.problems[0].startswith("there are no AWS credentials; say aws configure")
    assert keys(found)[1:] == ["backend.prefix", "tracking.uri"]


def test_without_region_and_credentials_both_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    found = look(settings(region=None))
    assert [problem[:30] for problem in found.problems] == [
        "backend.region: there is none; say"[:30],
        "there are no AWS credentials; say"[:30],
    ]


def test_without_region_but_with_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert keys(look(settings(region=None))) == ["backend.region"]


def test_a_region_of_the_aws_configuration_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-eat-1")
    found = look(settings(region=None))
    assert len(found.problems) == 1
    assert found.problems[0].endswith("did you mean us-east-1?")


def test_a_wrong_region_is_told_once() -> None:
    assert keys(look(settings(region="us-eat-1"))) == ["backend.region"]


def test_a_profile_that_does_not_exist() -> None:
    assert keys(look(settings(profile="nobody"))) == ["backend.profile"]


def test_credentials_that_aws_does_not_know(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with iam.enforced(moto), front_of(moto) as front:
        monkeypatch.setenv("AWS_ENDPOINT_URL", front.url)
        found = find_problems(Aws(BACKEND))
    assert len(found.problems) == 1
    assert "the AWS credentials are not valid" in found.problems[0]
    assert len(front.requests) == 1, "nothing else is asked then"


def test_aws_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launchers.remote.aws.ATTEMPTS", 1)
    nobody = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", nobody)
    found = look(settings(prefix="/"))
    assert nobody in found.problems[0]
    assert keys(found)[1:] == ["backend.prefix"]


# ---- bucket


def test_a_bucket_that_does_not_exist_comes_with_the_command_that_makes_it() -> None:
    found = look(settings(bucket="not-there"))
    assert len(found.problems) == 1
    assert "aws s3 mb s3://not-there --region us-east-1" in found.problems[0]


def test_the_default_bucket_is_that_of_the_sdk() -> None:
    boto3.client("s3").delete_bucket(Bucket=BUCKET)
    found = look()
    assert len(found.problems) == 1
    assert f"s3://{BUCKET} " in found.problems[0]


def test_a_bucket_of_another_region() -> None:
    make_bucket("far-away", "eu-west-1")
    found = look(settings(bucket="far-away"))
    assert len(found.problems) == 1
    assert "far-away is in eu-west-1" in found.problems[0]
    assert "backend.region=eu-west-1" in found.problems[0]


def test_a_bucket_that_one_may_not_look_into(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    iam.become_user(monkeypatch.setenv, may=("iam:GetRole",))
    with iam.enforced(moto):
        found = look()
    assert keys(found) == ["backend.bucket"]
    assert f"not one of account {iam.ACCOUNT}" in found.problems[0]


def test_the_owner_of_the_bucket_is_asked_for() -> None:
    # moto does not look at it: S3 answers 403 where it is not so.
    aws = Aws(BACKEND)
    expected: list[Any] = []
    aws.client("s3").meta.events.register(
        "before-send.s3.HeadBucket",
        lambda request, **_: expected.append(request.headers.get("x-amz-expected-bucket-owner")),
    )
    find_problems(aws)
    assert [value.decode() if isinstance(value, bytes) else value for value in expected] == [iam.ACCOUNT]


def test_where_s3_does_not_tell_the_region_at_once_it_is_asked_for() -> None:
    make_bucket("far-away", "eu-west-1")
    for bucket, problems in ((BUCKET, []), ("far-away", ["backend.bucket"])):
        aws = Aws(settings(bucket=bucket))
        aws.client("s3").meta.events.register(
            "after-call.s3.HeadBucket", lambda parsed, **_: parsed.pop("BucketRegion", None)
        )
        assert keys(find_problems(aws)) == problems


@pytest.mark.parametrize(
    ("constraint", "region"),
    [(None, "us-east-1"), ("", "us-east-1"), ("EU", "eu-west-1"), ("cn-north-1", "cn-north-1")],
)
def test_what_s3_calls_a_location(constraint: str | None, region: str) -> None:
    assert region_of_location(constraint) == region


# ---- role


def test_a_role_that_sagemaker_may_not_use() -> None:
    trust = json.loads(json.dumps(iam.OF_SAGEMAKER).replace("sagemaker", "ec2"))
    iam.make_role("OfMachines", trust=trust)
    found = look(settings(role="OfMachines"))
    assert len(found.problems) == 1
    assert "does not let sagemaker.amazonaws.com assume it" in found.problems[0]


def test_a_role_without_its_path() -> None:
    found = look(settings(role=f"arn:aws:iam::{iam.ACCOUNT}:role/Jobs"))
    assert len(found.problems) == 1
    assert f"did you mean arn:aws:iam::{iam.ACCOUNT}:role/service-role/Jobs?" in found.problems[0]


def test_a_role_of_another_account() -> None:
    found = look(settings(role="arn:aws:iam::999999999999:role/Jobs"))
    assert len(found.problems) == 1
    assert "belongs to account 999999999999" in found.problems[0]


def test_a_role_by_arn_that_does_not_exist() -> None:
    assert keys(look(settings(role=f"arn:aws:iam::{iam.ACCOUNT}:role/NotThere"))) == ["backend.role"]


def test_no_role_at_all() -> None:
    found = look(settings(role=None))
    assert len(found.problems) == 1
    assert "say which role the jobs run as" in found.problems[0]


def test_a_role_that_one_may_not_look_at_is_a_note(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    iam.become_user(monkeypatch.setenv, may=("s3:*",))
    role = f"arn:aws:iam::{iam.ACCOUNT}:role/service-role/Jobs"
    with iam.enforced(moto):
        found = look(settings(role=role))
    assert found.problems == []
    assert len(found.notes) == 1
    assert found.notes[0].startswith(f"backend.role: whether SageMaker may use {role} is not known")


def statement(**given: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": preflight.SERVICE}, **given}


@pytest.mark.parametrize(
    ("trusted", "written"),
    [
        (True, statement()),
        (True, [statement(Principal={"AWS": "*"}), statement()]),
        (True, statement(Principal={"Service": ["ec2.amazonaws.com", preflight.SERVICE]}, Action=["sts:AssumeRole"])),
        (True, statement(Action="sts:*")),
        (True, statement(Principal="*")),
        (False, statement(Effect="Deny")),
        (False, statement(Principal={"AWS": f"arn:aws:iam::{iam.ACCOUNT}:root"})),
        (False, statement(Action="sts:TagSession")),
        (False, []),
    ],
)
def test_trust_policies(trusted: bool, written: Any) -> None:
    assert trusts_sagemaker({"Version": "2012-10-17", "Statement": written}) is trusted


# ---- images


def push(repository: str, tag: str) -> None:
    ecr = boto3.client("ecr")
    ecr.create_repository(repositoryName=repository)
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 1, "digest": DIGEST},
        "layers": [],
    }
    ecr.put_image(repositoryName=repository, imageTag=tag, imageManifest=json.dumps(manifest))


def test_an_image_that_is_there() -> None:
    push("videolift/preprocess", "1")
    assert look(images={"preprocess": f"{REGISTRY}/videolift/preprocess:1"}) == Found()


@pytest.mark.parametrize("reference", ["videolift/preprocess:2", "other:1", f"videolift/preprocess@{DIGEST}"])
def test_an_image_that_is_not_there_has_to_be_pushed(reference: str) -> None:
    push("videolift/preprocess", "1")
    found = look(images={"preprocess": f"{REGISTRY}/{reference}"})
    assert len(found.problems) == 1
    assert f"backend.preprocess.image: there is no {REGISTRY}/{reference}; say python run.py" in found.problems[0]
    assert "action=push, or backend.preprocess.image=URI" in found.problems[0]


def test_an_image_of_another_region() -> None:
    found = look(images={"train": f"{iam.ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com/videolift:1"})
    assert keys(found) == ["backend.train.image"]
    assert "is in eu-west-1" in found.problems[0]


def test_images_of_others_are_theirs() -> None:
    image = "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:2.19.0-cpu-py312-ubuntu22.04-sagemaker"
    assert look(images={"train": image}) == Found()


def test_an_image_that_one_may_not_look_for_is_a_note(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    iam.become_user(monkeypatch.setenv, may=("s3:*", "iam:GetRole"))
    with iam.enforced(moto):
        found = look(images={"train": f"{REGISTRY}/videolift:1"})
    assert found.problems == []
    assert len(found.notes) == 1
    assert "ecr:DescribeImages is not allowed" in found.notes[0]


# ---- quotas


def with_quotas(values: Mapping[str, float], backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Found:
    with service_quotas(values) as service:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SERVICE_QUOTAS", service.url)
        return look(backend)


def test_a_quota_that_is_too_small_says_where_to_ask_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = settings(train=TrainJob(mode=Mode.byos, instance_type="ml.g5.xlarge", instance_count=2))
    found = with_quotas({**PLENTY, "ml.g5.xlarge for training job usage": 1.0}, backend, monkeypatch)
    assert len(found.problems) == 1
    assert "backend.train.instance_count: 2 asked for" in found.problems[0]
    assert "'ml.g5.xlarge for training job usage' of this account is 1 in us-east-1" in found.problems[0]
    link = "https://us-east-1.console.aws.amazon.com/servicequotas/home/services/sagemaker/quotas/L-9?region=us-east-1"
    assert link in found.problems[0]


def test_spare_capacity_has_a_quota_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {**PLENTY, "ml.m5.xlarge for spot training job usage": 0.0}
    assert with_quotas(values, settings(), monkeypatch) == Found()
    assert keys(with_quotas(values, settings(train=TrainJob(spot=True)), monkeypatch)) == [
        "backend.train.instance_count"
    ]


def test_processing_has_a_quota_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_quotas({**PLENTY, "ml.m5.xlarge for processing job usage": 0.0}, settings(), monkeypatch)
    assert keys(found) == ["backend.preprocess.instance_count"]


def test_a_training_that_may_take_longer_than_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_quotas(PLENTY, settings(train=TrainJob(max_run_s=432001)), monkeypatch)
    assert keys(found) == ["backend.train.max_run_s"]


AWS_IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:2.21.0-cpu-py312"


def of_a_sweep(tmp_path: Path, train: TrainJob) -> RemoteBackend:
    jobs = {"preprocess": PreprocessJob(image=AWS_IMAGE), "train": replace(train, image=AWS_IMAGE)}
    return RemoteBackend(Config(backend=settings(**jobs)), Cache(tmp_path))


def ids(trainings: int) -> dict[str, list[str]]:
    return {"preprocess": ["preprocess-1"], "train": [f"train-{number}" for number in range(trainings)]}


def test_a_sweep_needs_quotas_for_what_runs_at_once(tmp_path: Path) -> None:
    """Of the four instances that PLENTY allows."""
    console = Console(file=StringIO())
    of_a_sweep(tmp_path, TrainJob()).make_ready(ids(9), console, at_once=4)
    of_a_sweep(tmp_path, TrainJob(instance_count=2)).make_ready(ids(2), console, at_once=9)
    with pytest.raises(ConfigError) as refused:
        of_a_sweep(tmp_path, TrainJob(instance_count=2)).make_ready(ids(9), console, at_once=5)
    (problem,) = str(refused.value).splitlines()
    assert problem.startswith("sweep.parallel: 5 training jobs of 2 instances each at a time, and the quota")
    assert "is 4 in us-east-1; say sweep.parallel=2, ask for more at https://" in problem


def test_instances_that_will_not_be_kept_warm_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {**PLENTY, "ml.m5.xlarge for training warm pool usage": 0.0}
    found = with_quotas(values, settings(train=TrainJob(keep_alive_s=600)), monkeypatch)
    assert found.problems == []
    assert len(found.notes) == 1
    assert "backend.train.keep_alive_s: has no effect" in found.notes[0]


def test_a_quota_that_is_not_listed_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_quotas({}, settings(), monkeypatch) == Found()


def test_no_more_pages_are_read_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    with service_quotas(PLENTY, page=1) as service:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SERVICE_QUOTAS", service.url)
        look()
    # Five others, then processing, training, spot, longest: and not the one that follows.
    assert len(service.asked) == 9


def test_quotas_that_one_may_not_read_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(asked: dict[str, Any]) -> dict[str, Any]:
        raise Refused("AccessDeniedException", "not authorized")

    with json_service({"ListServiceQuotas": denied}) as service:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SERVICE_QUOTAS", service.url)
        found = look()
    assert found.problems == []
    assert len(found.notes) == 1
    assert "servicequotas:ListServiceQuotas is not allowed" in found.notes[0]


def test_a_service_quotas_that_is_not_there_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_SERVICE_QUOTAS")  # moto answers 500
    found = look()
    assert found.problems == []
    assert len(found.notes) == 1
    assert found.notes[0].startswith("quotas: whether they suffice is not known")


# ---- tracking


def test_a_tracking_server_that_answers(moto: str) -> None:
    assert look(tracking_uri=moto) == Found()


def test_a_tracking_server_that_does_not() -> None:
    found = look(tracking_uri=f"http://me:s3cret@127.0.0.1:{free_port()}")
    assert keys(found) == ["tracking.uri"]
    assert "s3cret" not in found.problems[0]


@pytest.mark.parametrize(
    "uri", [None, "sqlite:////nowhere/mlflow.db", f"arn:aws:sagemaker:us-east-1:{iam.ACCOUNT}:mlflow-app/x"]
)
def test_what_is_no_server_is_not_asked(uri: str | None) -> None:
    assert look(tracking_uri=uri) == Found()
