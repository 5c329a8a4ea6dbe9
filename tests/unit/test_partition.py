import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import pytest
from botocore.loaders import create_loader

from launchers.remote import partition
from launchers.remote.partition import EcrImage, ecr_image, partition_of
from videolift.workspace import Kind

ACCOUNT = "123456789012"
PARTITIONS = create_loader().load_data("endpoints")["partitions"]
WITH_CONSOLE = ("us-east-1", "ap-southeast-2", "cn-north-1", "cn-northwest-1", "us-gov-west-1")


@pytest.mark.parametrize(
    ("region", "name", "suffix"),
    [(region, found["partition"], found["dnsSuffix"]) for found in PARTITIONS for region in found["regions"]],
)
def test_every_region_that_botocore_knows_has_its_partition(region: str, name: str, suffix: str) -> None:
    found = partition_of(region)
    assert (found.name, found.dns_suffix) == (name, suffix)
    assert partition.region_problem(region) is None


def test_names_of_the_standard_partition() -> None:
    assert partition.registry("eu-west-1", ACCOUNT) == "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
    assert partition.default_bucket("eu-west-1", ACCOUNT) == "sagemaker-eu-west-1-123456789012"
    assert partition.role_arn("eu-west-1", ACCOUNT, "service-role/R") == f"arn:aws:iam::{ACCOUNT}:role/service-role/R"


def test_names_in_china() -> None:
    assert partition.registry("cn-northwest-1", ACCOUNT) == "123456789012.dkr.ecr.cn-northwest-1.amazonaws.com.cn"
    assert partition.role_arn("cn-north-1", ACCOUNT, "R") == f"arn:aws-cn:iam::{ACCOUNT}:role/R"


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("us-eat-1", "us-east-1"),
        ("us_east_1", "us-east-1"),
        ("US-EAST-1", "us-east-1"),
        ("cn-northwest1", "cn-northwest-1"),
        ("eu-west-1a", "eu-west-1"),
        (" eu-central-1", "eu-central-1"),
    ],
)
def test_a_misspelled_region_is_refused_with_the_one_that_was_meant(asked: str, meant: str) -> None:
    problem = partition.region_problem(asked)
    assert problem is not None
    assert problem.endswith(f"did you mean {meant}?")


@pytest.mark.parametrize("asked", ["", "Frankfurt", "arn:aws:iam::1:role/x", "北京"])
def test_nonsense_is_refused_with_an_example(asked: str) -> None:
    problem = partition.region_problem(asked)
    assert problem is not None
    assert "no region's name" in problem


def test_a_region_of_the_right_shape_may_be_newer_than_boto3() -> None:
    problem = partition.region_problem("eu-west-9")
    assert problem is not None
    assert "newer than the installed boto3" in problem


@pytest.mark.parametrize("region", WITH_CONSOLE)
@pytest.mark.parametrize("kind", list(Kind))
def test_every_link_to_a_console_is_an_address_that_survives_a_browser(region: str, kind: Kind) -> None:
    links = (
        partition.job_link(region, kind, "my-job"),
        partition.logs_link(region, kind, "my-job"),
        partition.s3_link(region, "b", "videolift/数据 (1)"),
        partition.quota_link(region, "L-1"),
    )
    for link in links:
        assert link is not None
        assert urlsplit(link).scheme == "https"
        assert re.fullmatch(r"[!-~]+", link), "nothing that a terminal or a chat would cut"
        assert f"region={region}" in link


def test_hosts_of_the_consoles() -> None:
    hosts = {region: urlsplit(partition.job_link(region, Kind.training, "j") or "").hostname for region in WITH_CONSOLE}
    assert hosts == {
        "us-east-1": "us-east-1.console.aws.amazon.com",
        "ap-southeast-2": "ap-southeast-2.console.aws.amazon.com",
        "cn-north-1": "console.amazonaws.cn",
        "cn-northwest-1": "console.amazonaws.cn",
        "us-gov-west-1": "console.amazonaws-us-gov.com",
    }


def test_pages_of_jobs() -> None:
    training = partition.job_link("us-east-1", Kind.training, "my-job")
    assert training == "https://us-east-1.console.aws.amazon.com/sagemaker/home?region=us-east-1#/jobs/my-job"
    processing = partition.job_link("cn-north-1", Kind.processing, "my-job")
    assert processing == "https://console.amazonaws.cn/sagemaker/home?region=cn-north-1#/processing-jobs/my-job"


@pytest.mark.parametrize("kind", list(Kind))
def test_the_link_to_the_logs_is_encoded_as_cloudwatch_does(kind: Kind) -> None:
    link = partition.logs_link("us-east-1", kind, "my-job")
    assert link is not None
    fragment = urlsplit(link).fragment
    assert "$252Faws$252Fsagemaker$252F" in fragment
    # What the console does with it: $ is %, then the path and the question are taken apart, then decoded once more.
    path, _, question = unquote(fragment.replace("$", "%")).partition("?")
    assert unquote(PurePosixPath(path).name) == partition.LOG_GROUPS[kind]
    assert question == "logStreamNameFilter=my-job"


def test_a_prefix_in_s3_is_one_parameter() -> None:
    link = partition.s3_link("us-east-1", "b", "/team & co/a b/")
    assert link is not None
    assert dict(pair.split("=", 1) for pair in urlsplit(link).query.split("&")) == {
        "region": "us-east-1",
        "prefix": "team%20%26%20co%2Fa%20b%2F",
    }
    assert (
        partition.s3_link("us-east-1", "b") == "https://us-east-1.console.aws.amazon.com/s3/buckets/b?region=us-east-1"
    )


def test_where_there_is_no_public_console_there_is_no_link() -> None:
    assert partition.job_link("us-iso-east-1", Kind.training, "j") is None
    assert partition.logs_link("us-iso-east-1", Kind.training, "j") is None
    assert partition.s3_link("us-iso-east-1", "b") is None
    assert partition.quota_link("us-iso-east-1") is None


DIGEST = "sha256:" + "a1" * 32


@pytest.mark.parametrize(
    ("uri", "image"),
    [
        (f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/r", EcrImage(ACCOUNT, "us-east-1", "r", "latest", None)),
        (f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/a/b_c:1.2", EcrImage(ACCOUNT, "us-east-1", "a/b_c", "1.2", None)),
        (f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn/r:v1", EcrImage(ACCOUNT, "cn-north-1", "r", "v1", None)),
        (
            f"{ACCOUNT}.dkr.ecr-fips.us-gov-west-1.amazonaws.com/r:v1",
            EcrImage(ACCOUNT, "us-gov-west-1", "r", "v1", None),
        ),
        (f"{ACCOUNT}.dkr-ecr.us-east-1.on.aws/r:v1", EcrImage(ACCOUNT, "us-east-1", "r", "v1", None)),
        (f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/r@{DIGEST}", EcrImage(ACCOUNT, "us-east-1", "r", None, DIGEST)),
    ],
)
def test_images_in_ecr_are_taken_apart(uri: str, image: EcrImage) -> None:
    assert ecr_image(uri) == image


@pytest.mark.parametrize(
    "uri",
    [
        "python:3.11-slim",
        "docker.io/library/python:3.11",
        "public.ecr.aws/docker/library/python:3.11",
        f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com.evil.example/r:v1",
        f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/",
        "12345.dkr.ecr.us-east-1.amazonaws.com/r:v1",
    ],
)
def test_what_lies_elsewhere_is_no_image_in_ecr(uri: str) -> None:
    assert ecr_image(uri) is None


def test_an_own_registry_is_recognised_as_one() -> None:
    for region in partition.known_regions():
        assert ecr_image(f"{partition.registry(region, ACCOUNT)}/r:v1") == EcrImage(ACCOUNT, region, "r", "v1", None)
