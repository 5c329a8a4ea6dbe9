from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from launchers.config import Backend
from launchers.remote.aws import Aws, CredentialsError
from launchers.remote.identity import assumed_role, find_role, notebook_metadata
from tests.json_service import Refused, json_service
from tests.moto_server import forget_everything, moto_server, use
from tests.remote import iam
from videolift.errors import ConfigError

BACKEND = Backend(name="sagemaker-remote", region="us-east-1")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto_server(tmp_path_factory.mktemp("moto") / "log") as url:
        yield url


@pytest.fixture(autouse=True)
def moto(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    forget_everything(server)
    use(server, monkeypatch.setenv)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    return server


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    return tmp_path / "no" / "metadata.json"


def aws(**given: Any) -> Aws:
    return Aws(replace(BACKEND, **given))


def notebook(folder: Path, **known: str) -> Path:
    file = folder / "resource-metadata.json"
    file.write_text(json.dumps(known))
    return file


def test_an_arn_is_taken_as_it_is(nowhere: Path) -> None:
    arn = f"arn:aws-cn:iam::{iam.ACCOUNT}:role/service-role/Jobs"
    assert find_role(aws(role=arn), nowhere) == arn


@pytest.mark.parametrize("named", ["Jobs", "team/a/Jobs", "/team/a/Jobs"])
def test_a_name_becomes_the_arn_with_its_path(named: str, nowhere: Path) -> None:
    arn = iam.make_role("Jobs", "/team/a/")
    assert arn.endswith("role/team/a/Jobs")
    assert find_role(aws(role=named), nowhere) == arn


def test_a_name_that_does_not_exist_is_refused(nowhere: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no role Jobs in account 123456789012; docs/remote\.md"):
        find_role(aws(role="Jobs"), nowhere)


def test_who_may_not_look_a_name_up_is_asked_for_the_arn(
    moto: str, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iam.make_role("Jobs")
    iam.become_user(monkeypatch.setenv, may=("s3:*",))
    with iam.enforced(moto), pytest.raises(ConfigError, match=f"role=arn:aws:iam::{iam.ACCOUNT}:role/Jobs"):
        find_role(aws(role="Jobs"), nowhere)


def test_on_a_laptop_nothing_is_guessed(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    iam.become_role(monkeypatch.setenv, iam.make_role("AmazonSageMaker-ExecutionRole-1"))
    with pytest.raises(ConfigError, match="say which role"):
        find_role(aws(), nowhere)


def test_studio_tells_its_role(tmp_path: Path) -> None:
    arn = f"arn:aws:iam::{iam.ACCOUNT}:role/service-role/Studio"
    assert find_role(aws(), notebook(tmp_path, DomainId="d-1", ExecutionRoleArn=arn)) == arn


def test_a_notebook_instance_is_looked_up(tmp_path: Path) -> None:
    arn = iam.make_role("Notebook")
    boto3.client("sagemaker").create_notebook_instance(
        NotebookInstanceName="mine", InstanceType="ml.t2.medium", RoleArn=arn
    )
    assert find_role(aws(), notebook(tmp_path, ResourceName="mine")) == arn


@pytest.mark.parametrize(
    ("known", "role"),
    [
        ({"UserProfileName": "with"}, "OfUser"),
        ({"UserProfileName": "without"}, "OfDomain"),
        ({"SpaceName": "shared"}, "OfSpaces"),
    ],
)
def test_older_studios_are_looked_up(
    known: dict[str, str], role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {
        "DescribeUserProfile": lambda asked: {
            "UserSettings": {"ExecutionRole": "OfUser"} if asked["UserProfileName"] == "with" else {}
        },
        "DescribeDomain": lambda asked: {
            "DefaultUserSettings": {"ExecutionRole": "OfDomain"},
            "DefaultSpaceSettings": {"ExecutionRole": "OfSpaces"},
        },
    }
    with json_service(answers) as service:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", service.url)
        assert find_role(aws(), notebook(tmp_path, DomainId="d-1", **known)) == role


def test_a_notebook_that_may_not_look_itself_up_asks_who_it_is(
    moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = iam.make_role("Notebook", "/service-role/", may=("iam:GetRole",))
    iam.become_role(monkeypatch.setenv, arn)
    with iam.enforced(moto):
        assert find_role(aws(), notebook(tmp_path, ResourceName="mine")) == arn


@pytest.mark.parametrize(
    ("name", "path"), [("AmazonSageMaker-ExecutionRole-20260101T000000", "service-role/"), ("Own", "")]
)
def test_without_any_permission_the_path_is_the_consoles(
    name: str, path: str, moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iam.become_role(monkeypatch.setenv, iam.make_role(name, may=("s3:*",)))
    with iam.enforced(moto):
        assert find_role(aws(), notebook(tmp_path)) == f"arn:aws:iam::{iam.ACCOUNT}:role/{path}{name}"


def test_a_notebook_with_a_users_keys_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    iam.become_user(monkeypatch.setenv, may=("*",))
    with pytest.raises(ConfigError, match=r"user/person is no role"):
        find_role(aws(), notebook(tmp_path))


def test_expired_credentials_are_not_taken_for_a_missing_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def expired(asked: dict[str, Any]) -> dict[str, Any]:
        raise Refused("ExpiredTokenException", "The security token included in the request is expired")

    with json_service({"DescribeNotebookInstance": expired}) as service:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", service.url)
        with pytest.raises(CredentialsError, match="have expired"):
            find_role(aws(), notebook(tmp_path, ResourceName="mine"))


def test_metadata(tmp_path: Path, nowhere: Path) -> None:
    assert notebook_metadata(nowhere) is None
    assert notebook_metadata(notebook(tmp_path, ResourceName="mine")) == {"ResourceName": "mine"}
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ConfigError, match=r"broken\.json"):
        notebook_metadata(broken)


def test_an_assumed_role_in_the_arn_of_a_session() -> None:
    session = "arn:aws-cn:sts::123456789012:assumed-role/My.Role-1/i-0abc@x"
    assert assumed_role(session) == ("aws-cn", "123456789012", "My.Role-1")
    assert assumed_role("arn:aws:iam::123456789012:user/me") is None
    assert assumed_role("arn:aws:sts::123456789012:federated-user/me") is None
