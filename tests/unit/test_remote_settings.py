from dataclasses import replace
from typing import Any

import pytest
from botocore.loaders import create_loader

from launchers.config import Backend, Mode, PreprocessJob, TrainJob, Where
from launchers.remote import settings
from launchers.remote.settings import setting_problems
from videolift.workspace import Kind

SHAPES = create_loader().load_service_model("sagemaker", "service-2")["shapes"]
ROLE = "arn:aws:iam::123456789012:role/service-role/Jobs"
PLAIN = Backend(name="sagemaker-remote")


def problems(**given: Any) -> list[str]:
    return list(setting_problems(replace(PLAIN, **given)))


def of_training(**given: Any) -> list[str]:
    return problems(train=replace(TrainJob(), **given))


def test_the_defaults_are_right() -> None:
    assert problems() == []


def test_everything_that_may_be_set_may_be_set() -> None:
    assert (
        problems(
            region="eu-central-1",
            role=ROLE,
            bucket="my.team-bucket",
            prefix="team/项目 1",
            kms_key="alias/videolift",
            subnets=["subnet-0a1b2c3d", "subnet-0123456789abcdef0"],
            security_groups=["sg-0a1b2c3d"],
            environment={"OMP_NUM_THREADS": "4"},
            job_tags={"cost center": "研究/42"},
            max_cost=10.0,
            price_per_hour=0.5,
            train=TrainJob(mode=Mode.byos, instance_type="ml.g5.xlarge", spot=True, max_run_s=3600, max_wait_s=7200),
        )
        == []
    )


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("backend.region", {"region": "us-eat-1"}),
        ("backend.role", {"role": "arn:aws:iam::123:role/x"}),
        ("backend.role", {"role": "my role"}),
        ("backend.role", {"role": ""}),
        ("backend.role", {"role": "arn:aws:iam::123456789012:user/me"}),
        ("backend.role", {"role": ROLE, "region": "cn-north-1"}),
        ("backend.kms_key", {"kms_key": "my key"}),
        ("backend.kms_key", {"kms_key": "arn:aws:kms:eu-west-1:123456789012:alias/k", "region": "cn-north-1"}),
        ("backend.bucket", {"bucket": "s3://bucket"}),
        ("backend.bucket", {"bucket": "bucket/prefix"}),
        ("backend.bucket", {"bucket": "Bucket"}),
        ("backend.bucket", {"bucket": "ab"}),
        ("backend.bucket", {"bucket": "a" * 64}),
        ("backend.bucket", {"bucket": "a..b"}),
        ("backend.bucket", {"bucket": "192.168.5.4"}),
        ("backend.bucket", {"bucket": "xn--bucket"}),
        ("backend.bucket", {"bucket": "bucket-s3alias"}),
        ("backend.prefix", {"prefix": ""}),
        ("backend.prefix", {"prefix": "/a"}),
        ("backend.prefix", {"prefix": "a/"}),
        ("backend.prefix", {"prefix": "a//b"}),
        ("backend.prefix", {"prefix": "a/../b"}),
        ("backend.prefix", {"prefix": "数" * 171}),
        ("backend.prefix", {"prefix": "a\nb"}),
        ("backend.subnets", {"subnets": ["subnet-0a1b2c3d"]}),
        ("backend.security_groups", {"security_groups": ["sg-0a1b2c3d"]}),
        ("backend.subnets", {"subnets": ["my-subnet"], "security_groups": ["sg-0a1b2c3d"]}),
        ("backend.security_groups", {"subnets": ["subnet-0a1b2c3d"], "security_groups": ["sg-0a1b2c3d"] * 6}),
        ("backend.environment", {"environment": {"A-B": ""}}),
        ("backend.environment", {"environment": {"A": "x" * 257}}),
        ("backend.environment", {"environment": {f"A{i}": "" for i in range(101)}}),
        ("backend.environment", {"environment": {"AWS_SECRET_ACCESS_KEY": "s3cret"}}),
        ("backend.job_tags", {"job_tags": {"aws:mine": ""}}),
        ("backend.job_tags", {"job_tags": {"": "x"}}),
        ("backend.job_tags", {"job_tags": {"a" * 129: "x"}}),
        ("backend.job_tags", {"job_tags": {"a": "x" * 257}}),
        ("backend.job_tags", {"job_tags": {"a": "x;y"}}),
        ("backend.job_tags", {"job_tags": {f"a{i}": "" for i in range(51)}}),
        ("backend.poll_s", {"poll_s": 0}),
        ("backend.poll_s", {"poll_s": float("nan")}),
        ("backend.max_cost", {"max_cost": 0}),
        ("backend.price_per_hour", {"price_per_hour": -1}),
        ("backend.price_per_hour", {"price_per_hour": float("inf")}),
        ("backend.preprocess.instance_type", {"preprocess": PreprocessJob(instance_type="m5.xlarge")}),
        ("backend.preprocess.instance_count", {"preprocess": PreprocessJob(instance_count=101)}),
        ("backend.preprocess.volume_gb", {"preprocess": PreprocessJob(volume_gb=0)}),
        ("backend.preprocess.volume_gb", {"preprocess": PreprocessJob(volume_gb=16385)}),
        ("backend.preprocess.max_run_s", {"preprocess": PreprocessJob(max_run_s=777601)}),
        ("backend.train.instance_type", {"train": TrainJob(instance_type="ml.m5.xxlarge")}),
        ("backend.train.max_run_s", {"train": TrainJob(max_run_s=0)}),
        ("backend.train.max_run_s", {"train": TrainJob(max_run_s=28 * 86400 + 1)}),
        ("backend.train.max_wait_s", {"train": TrainJob(max_wait_s=100000)}),
        ("backend.train.max_wait_s", {"train": TrainJob(spot=True, max_run_s=3600, max_wait_s=3599)}),
        ("backend.train.spot", {"train": TrainJob(spot=True, checkpoints=False)}),
        ("backend.train.keep_alive_s", {"train": TrainJob(keep_alive_s=3601)}),
        ("backend.train.keep_alive_s", {"train": TrainJob(keep_alive_s=60, spot=True)}),
    ],
)
def test_one_mistake_is_named_once_by_its_key(key: str, given: dict[str, Any]) -> None:
    found = problems(**given)
    assert [problem.partition(": ")[0] for problem in found] == [key], found


def test_secrets_are_not_repeated() -> None:
    assert "s3cret" not in str(problems(environment={"AWS_SECRET_ACCESS_KEY": "s3cret", "a b": "s3cret"}))


def test_all_mistakes_are_told_at_once() -> None:
    found = problems(bucket="B", prefix="/", poll_s=-1, train=TrainJob(volume_gb=0, spot=True, checkpoints=False))
    assert len(found) == 5


def test_a_stage_that_runs_here_has_no_job_to_set() -> None:
    here = PreprocessJob(where=Where.local)
    assert problems(preprocess=here, environment={"A": "x" * 512}) == [], "processing would take 256"
    unused = PreprocessJob(instance_type="laptop", volume_gb=0, where=Where.local)
    wrong = problems(preprocess=unused)
    assert [line.partition(":")[0] for line in wrong] == [
        "backend.preprocess.instance_type",
        "backend.preprocess.volume_gb",
    ]


def test_settings_of_the_other_image_are_told() -> None:
    (version,) = problems(train=TrainJob(mode=Mode.byoc, framework_version="2.19.0"))
    assert "framework_version: is of AWS's image" in version
    (base,) = problems(train=TrainJob(mode=Mode.byos, base_image="mine:1"))
    assert "base_image: is of our image" in base


def test_our_image_without_cuda_is_not_for_gpus() -> None:
    (wrong,) = problems(train=TrainJob(mode=Mode.byoc, instance_type="ml.g5.xlarge"))
    assert "brings no CUDA" in wrong
    assert problems(train=TrainJob(mode=Mode.byoc, instance_type="ml.g5.xlarge", base_image="mine:gpu")) == []


@pytest.mark.parametrize(
    ("name", "value"), [("MY_TOKEN", "x"), ("DB_PASSWORD", "x"), ("PIP_INDEX_URL", "https://aws:secret@host/simple")]
)
def test_what_looks_like_a_secret_is_refused(name: str, value: str) -> None:
    (wrong,) = problems(environment={name: value})
    assert f"{name} looks like a secret" in wrong
    assert "secret@" not in wrong


@pytest.mark.parametrize("role", ["Jobs", "service-role/Jobs", "/a/b/Jobs", ROLE, ROLE.replace("aws:", "aws-cn:")])
def test_roles_by_name_path_and_arn(role: str) -> None:
    assert problems(role=role) == []


@pytest.mark.parametrize(
    "key",
    [
        "1234abcd-12ab-34cd-56ef-1234567890ab",
        "mrk-1234abcd12ab34cd56ef1234567890ab",
        "alias/a/b",
        "arn:aws-cn:kms:cn-north-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    ],
)
def test_keys_by_id_alias_and_arn(key: str) -> None:
    assert problems(kms_key=key) == []


def test_bounds_are_those_of_the_api() -> None:
    assert settings.MAX_RUN_S[Kind.processing] == SHAPES["ProcessingMaxRuntimeInSeconds"]["max"]
    assert settings.MAX_INSTANCES[Kind.processing] == SHAPES["ProcessingInstanceCount"]["max"]
    assert SHAPES["ProcessingVolumeSizeInGB"]["max"] == settings.MAX_VOLUME_GB
    assert SHAPES["TagList"]["max"] == settings.MAX_TAGS
    assert SHAPES["Subnets"]["max"] == settings.MAX_SUBNETS
    assert SHAPES["VpcSecurityGroupIds"]["max"] == settings.MAX_SECURITY_GROUPS
    assert (
        settings.MAX_VARIABLES == SHAPES["ProcessingEnvironmentMap"]["max"] == SHAPES["TrainingEnvironmentMap"]["max"]
    )
    assert settings.VARIABLE.pattern == SHAPES["ProcessingEnvironmentKey"]["pattern"]
    assert SHAPES["ProcessingEnvironmentValue"]["max"] == SHAPES["ProcessingEnvironmentKey"]["max"] == 256
    assert SHAPES["TrainingEnvironmentValue"]["max"] == SHAPES["TrainingEnvironmentKey"]["max"] == 512
    assert SHAPES["KeepAlivePeriodInSeconds"]["max"] >= settings.MAX_KEEP_ALIVE_S


def test_the_latest_a_training_may_take_passes() -> None:
    assert of_training(max_run_s=28 * 86400) == []
    assert of_training(keep_alive_s=3600) == []
    assert of_training(spot=True, max_run_s=60, max_wait_s=60) == []
