"""``action=plan``: without credentials it reaches for nothing and says what can be known; with them, all there is."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launchers.config import STAGES
from launchers.emulator.client import Emulator
from launchers.emulator.validation import validate
from launchers.remote import partition
from tests import runs
from tests.guarded import Guard
from tests.remote_side import forget_aws

UNKNOWN = "<unresolved>"
ACCOUNT = "123456789012"
REGIONS = ("us-east-1", "cn-northwest-1", "us-gov-west-1")


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a machine that has never heard of AWS."""
    forget_aws(monkeypatch)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):  # found below HOME then, where there are none
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def requests_in(text: str) -> dict[str, dict[str, Any]]:
    """Return the requests that a plan shows, by operation."""
    decoder = json.JSONDecoder()
    return {
        found[1]: decoder.raw_decode(text[found.end() :])[0]
        for found in re.finditer(r"^(Create\w+Job)\n(?=\{)", text, re.MULTILINE)
    }


@pytest.mark.parametrize("region", REGIONS)
def test_without_credentials_and_without_a_network(bare: Path, videos: Path, region: str) -> None:
    guard = Guard(bare / "refused", loopback=False)
    # The metadata service of EC2 is the last that credentials are looked for at: nothing forbids it here.
    settings = ("backend=remote", f"backend.region={region}", "model.epoch=10", "action=plan", "data=folder")
    text = runs.run(*settings, f"data.root={videos}", cwd=bare, code=0, **guard.variables).out
    assert guard.refused == []
    here = partition.partition_of(region)
    found = requests_in(text)
    assert list(found) == ["CreateProcessingJob", "CreateTrainingJob"]
    assert set(re.findall(r"\barn:([\w-]+):", text)) <= {here.name}
    assert set(re.findall(r"amazonaws\.com(?:\.cn)?/", text)) == {f"{here.dns_suffix}/"}
    assert set(re.findall(r"s3://([^/\"\s]+)", text)) == {f"sagemaker-{region}-{UNKNOWN}"}
    preprocess, train = found.values()
    assert preprocess["RoleArn"] == train["RoleArn"] == UNKNOWN
    assert preprocess["AppSpecification"]["ImageUri"].startswith(f"{UNKNOWN}.dkr.ecr.{region}.{here.dns_suffix}/")
    assert re.match(r"\d{12}\.dkr", train["AlgorithmSpecification"]["TrainingImage"])  # AWS's own account is known
    assert train["HyperParameters"]["model_epoch"] == "10"
    assert text.count("would run, unless it is finished in S3") == len(STAGES)
    assert "note: what is finished in S3 is not known: there are no AWS credentials" in text
    assert text.count(" at most ") >= 5  # bytes of videos, plans, source and script, and cost
    assert re.search(r"^videos +at most [\d.]+ MB +s3://", text, re.MULTILINE)
    assert re.search(r"^processing +1 x ml\.m5\.xlarge +24 ", text, re.MULTILINE)
    assert re.search(r"^training +1 x ml\.m5\.xlarge +24 ", text, re.MULTILINE)
    assert not (bare / "home" / ".config").exists() and not list((bare / "outputs").glob("runs/*"))


def test_a_name_of_a_role_is_a_role_of_the_unknown_account(bare: Path, videos: Path) -> None:
    settings = ("backend=remote", "backend.region=cn-north-1", "backend.role=our/jobs", "action=plan")
    text = runs.run(*settings, "stages=[preprocess]", "data=folder", f"data.root={videos}", cwd=bare).out
    (request,) = requests_in(text).values()
    assert request["RoleArn"] == f"arn:aws-cn:iam::{UNKNOWN}:role/our/jobs"


def test_a_price_makes_a_cost(bare: Path, videos: Path) -> None:
    settings = ("backend=remote", "backend.region=us-east-1", "backend.price_per_hour=0.25", "action=plan")
    hours = ("backend.preprocess.max_run_s=7200", "stages=[preprocess]")
    text = runs.run(*settings, *hours, "data=folder", f"data.root={videos}", cwd=bare).out
    assert "at most 0.50 USD" in text


@dataclass(frozen=True)
class Planned:
    """A plan that was made with credentials, when nothing had ever been sent."""

    cwd: Path
    text: str
    asked: set[str]  # operations


@pytest.fixture(scope="module")
def planned(emulator: Emulator, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Planned:
    cwd, before = tmp_path_factory.mktemp("planned"), len(emulator.calls())
    text = plan(cwd, videos)
    return Planned(cwd, text, {call["operation"] for call in emulator.calls()[before:]})


def plan(cwd: Path, videos: Path, *more: str) -> str:
    settings = ("backend=remote", "backend.role=videolift-job", "backend.prefix=${oc.env:TEST_FOLDER}", "action=plan")
    sizes = ("preprocess.depth=4", "preprocess.height=16", "preprocess.width=16", "data.val_share=0.3")
    return runs.run(*settings, *sizes, "data=folder", f"data.root={videos}", *more, cwd=cwd).out


def test_with_credentials_nothing_is_left_open(planned: Planned) -> None:
    text = planned.text
    assert UNKNOWN not in text and "at most " not in text.partition("\ncost\n")[0]
    for operation, request in requests_in(text).items():
        validate(operation, request)
        assert request["RoleArn"] == f"arn:aws:iam::{ACCOUNT}:role/videolift-job"
    assert set(re.findall(r"s3://([^/\"\s]+)", text)) == {f"sagemaker-us-east-1-{ACCOUNT}"}


def test_a_plan_changes_nothing_in_the_account(planned: Planned) -> None:
    assert planned.asked == {"GetCallerIdentity", "GetRole", "GetObject", "ListObjectsV2"}


def test_what_is_in_s3_is_not_sent_and_not_computed_again(planned: Planned, videos: Path, quick: list[str]) -> None:
    sizes = r"^videos +([\d.]+ [kM]B) of ([\d.]+ [kM]B) "
    (first,) = re.findall(sizes, planned.text, re.MULTILINE)
    assert first[0] == first[1]
    runs.run(*quick, "stages=[preprocess]", cwd=planned.cwd)
    elsewhere = plan(planned.cwd, videos, "outputs=other", "preprocess.depth=5")  # as on another machine
    assert re.findall(sizes, elsewhere, re.MULTILINE) == [("0.0 kB", first[1])]
    same = plan(planned.cwd, videos, "outputs=other")
    assert re.search(r"^preprocess .*cached \(computed by ", same, re.MULTILINE)
    assert list(requests_in(same)) == ["CreateTrainingJob"]


def test_credentials_that_have_expired_are_as_good_as_none(emulator: Emulator, videos: Path, tmp_path: Path) -> None:
    emulator.fault("expired")
    try:
        text = plan(tmp_path, videos)
    finally:
        emulator.clear_faults()
    assert f"sagemaker-us-east-1-{UNKNOWN}" in text and len(requests_in(text)) == 2
