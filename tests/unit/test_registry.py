"""Images in ECR without an engine: names, questions, what is refused, and how a program `docker` is called."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launchers import docker
from launchers.config import Backend, PreprocessJob, TrainJob
from launchers.docker import DockerError
from launchers.recipe import Recipe
from launchers.remote import registry
from launchers.remote.aws import Aws
from launchers.remote.registry import Pushed, exists, image_uri, push, push_images
from videolift.errors import ConfigError

ACCOUNT = "123456789012"  # moto's
HOST = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
AWS_HOST = "763104351884.dkr.ecr.us-west-2.amazonaws.com"
AWS_BASE = f"{AWS_HOST}/tensorflow-training:2.21.0-cpu-py312"
PASSWORD = f"{ACCOUNT}-auth-token"  # what moto gives away
BASE = "debian:none"
MANIFEST = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "layers": []}


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def aws(moto: str, monkeypatch: pytest.MonkeyPatch) -> Aws:
    import urllib.request

    urllib.request.urlopen(urllib.request.Request(f"{moto}/moto-api/reset", method="POST"), timeout=10).close()
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "DOCKER_CONFIG", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return Aws(Backend(name="sagemaker-remote", region="us-east-1"))


def put(aws: Aws, recipe: Recipe, **manifest: Any) -> str:
    """Put an image of next to nothing into ECR and return its digest."""
    repository, _, tag = recipe.tag.partition(":")
    client = aws.client("ecr")
    if not any(one["repositoryName"] == repository for one in client.describe_repositories()["repositories"]):
        client.create_repository(repositoryName=repository)
    text = json.dumps({**MANIFEST, **manifest})
    answer = client.put_image(repositoryName=repository, imageTag=tag, imageManifest=text)
    return str(answer["image"]["imageId"]["imageDigest"])


# A program that says what an engine would, and writes down how it was called, also what its own folder holds.
PROGRAM = """#!{python}
import json, os, pathlib, sys, time
folder, config = pathlib.Path({folder!r}), os.environ.get("DOCKER_CONFIG")
entry = {{"arguments": sys.argv[1:], "host": os.environ.get("DOCKER_HOST"), "config": config}}
if config:
    entry["mode"] = oct(os.stat(config).st_mode & 0o777)
if sys.argv[1] == "login":
    entry["input"] = sys.stdin.read()
with (folder / "called").open("a") as file:
    print(json.dumps(entry), file=file)
if sys.argv[1] == "build":
    sys.stdin.buffer.read()
if sys.argv[1] == "info":
    print(json.dumps({{"OSType": "linux", "DockerRootDir": str(folder / "nowhere")}}))
if sys.argv[1:3] == ["image", "inspect"]:
    sys.exit(0 if sys.argv[-1] in {here!r} else "Error: No such image: x")
if sys.argv[1] == "push":
    {push}
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the program and what it writes down, and one for temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/that.sock")
    monkeypatch.setenv("DOCKER_CONTEXT", "another")
    docker.engine_info.cache_clear()
    program(tmp_path, "print('1.0: digest: sha256:' + 64 * '0' + ' size: 1')")
    yield tmp_path
    docker.engine_info.cache_clear()
    assert list((tmp_path / "temporary").iterdir()) == []  # whatever happened


def program(folder: Path, push: str, *here: str) -> None:
    """Write the program: what it does when it is to send an image, and which images are here."""
    text = PROGRAM.format(python=sys.executable, folder=str(folder), push=push, here=here)
    (folder / "docker").write_text(text)
    (folder / "docker").chmod(0o755)


def calls(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "called").read_text().splitlines()]


def recipe(base: str = BASE) -> Recipe:
    return Recipe("preprocess", base, own_source=True)


def quiet() -> Console:
    return Console(file=io.StringIO())


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us-east-1", HOST),
        ("cn-north-1", f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn"),
        ("us-gov-west-1", f"{ACCOUNT}.dkr.ecr.us-gov-west-1.amazonaws.com"),
    ],
)
def test_an_image_has_a_name_in_ecr_before_it_is_there(region: str, host: str) -> None:
    assert image_uri(recipe(), ACCOUNT, region) == f"{host}/{recipe().tag}"


def test_whether_an_image_is_there(aws: Aws) -> None:
    uri = image_uri(recipe(), ACCOUNT, "us-east-1")
    assert exists(aws, uri) is False  # there is no repository
    digest = put(aws, recipe())
    repository = uri.partition(":")[0]
    assert exists(aws, uri) is True
    assert exists(aws, f"{repository}:other") is False
    assert exists(aws, f"{repository}@{digest}") is True
    assert exists(aws, uri.replace("us-east-1", "eu-west-1")) is False
    assert exists(aws, AWS_BASE) is None
    assert exists(aws, "python:3.11-slim") is None


def test_nothing_is_needed_of_docker_where_the_image_is_there(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = put(aws, recipe())
    monkeypatch.setenv("PATH", "")
    assert push(aws, [recipe()], quiet()) == [Pushed(f"{HOST}/{recipe().tag}", digest, None)]


def test_without_docker_there_are_other_ways(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    docker.engine_info.cache_clear()
    with pytest.raises(ConfigError) as caught:
        push_images(aws, Backend(), ["preprocess", "train"], quiet())
    told = str(caught.value)
    assert told.startswith("Docker is not installed")
    assert "say action=push where there is one" in told
    assert "backend.preprocess.image=URI backend.train.image=URI" in told
    assert aws.client("ecr").describe_repositories()["repositories"] == []  # nothing was begun


def test_images_of_others_are_not_pushed(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    settings = Backend(preprocess=PreprocessJob(image="mine:1"), train=TrainJob(image=AWS_BASE))
    shown = io.StringIO()
    assert push_images(aws, settings, ["preprocess", "train"], Console(file=shown, width=200)) == []
    assert shown.getvalue().splitlines() == [
        "backend.preprocess: nothing to push; its image is mine:1",
        f"backend.train: nothing to push; its image is {AWS_BASE}",
    ]


def test_docker_is_logged_in_where_images_go_to_and_where_their_bases_come_from(aws: Aws, engine: Path) -> None:
    with pytest.raises(DockerError, match="ECR does not have it"):  # it was never sent
        push(aws, [recipe(AWS_BASE)], quiet())
    made = {call["arguments"][0]: call for call in calls(engine)}
    logins = [call for call in calls(engine) if call["arguments"][0] == "login"]
    assert [call["arguments"][1:] for call in logins] == [
        ["--username", "AWS", "--password-stdin", host] for host in (HOST, AWS_HOST)
    ]
    assert [call["input"] for call in logins] == [PASSWORD, PASSWORD]
    assert made["pull"]["arguments"][-1] == AWS_BASE
    private = {made[name]["config"] for name in ("login", "pull", "push")}
    assert len(private) == 1 and None not in private
    assert {made[name]["mode"] for name in ("login", "pull", "push")} == {"0o700"}
    assert {made[name]["host"] for name in ("login", "pull", "push")} == {"unix:///run/that.sock"}
    assert made["build"]["config"] is None  # with the user's own logins, proxies and plugins
    order = [call["arguments"][0] for call in calls(engine)]
    assert order.index("login") < order.index("pull") < order.index("build") < order.index("tag") < order.index("push")


def test_what_is_here_is_not_fetched_or_built(aws: Aws, engine: Path) -> None:
    program(engine, "sys.exit('no')", AWS_BASE)
    with pytest.raises(DockerError):
        push(aws, [recipe(AWS_BASE)], quiet())
    program(engine, "sys.exit('no')", recipe(AWS_BASE).tag)
    with pytest.raises(DockerError):
        push(aws, [recipe(AWS_BASE)], quiet())
    done = [call["arguments"][0] for call in calls(engine) if call["arguments"][0] not in ("info", "image")]
    assert done == ["login", "build", "tag", "push", "login", "tag", "push"]


def test_the_token_is_in_no_argument(aws: Aws, engine: Path) -> None:
    with pytest.raises(DockerError):
        push(aws, [recipe()], quiet())
    token = base64.b64encode(f"AWS:{PASSWORD}".encode()).decode()
    arguments = [text for call in calls(engine) for text in call["arguments"]]
    assert [text for text in arguments if PASSWORD in text or token in text] == []
    assert PASSWORD not in repr(registry._login(aws, "us-east-1"))


def test_a_base_image_of_another_partition_is_refused(aws: Aws, engine: Path) -> None:
    base = "727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn/tensorflow-training:2.21.0-cpu-py312"
    with pytest.raises(ConfigError, match="not valid in cn-north-1; name an image of your region"):
        push(aws, [recipe(base)], quiet())


def test_all_that_keeps_images_from_being_built_is_told_at_once(aws: Aws, engine: Path, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    recipes = [Recipe(name, BASE, own_source=True, wheels=tmp_path / "wheels") for name in ("preprocess", "train")]
    with pytest.raises(ConfigError) as caught:
        push(aws, recipes, quiet())
    assert len(str(caught.value).splitlines()) == 2
    assert aws.client("ecr").describe_repositories()["repositories"] == []


PUT = """
    import boto3
    boto3.client("ecr", region_name="us-east-1").put_image(
        repositoryName="videolift-preprocess", imageTag={tag!r}, imageManifest={manifest!r})
    """


def test_who_was_faster_has_pushed_the_same(aws: Aws, engine: Path) -> None:
    tag, text = recipe().tag.partition(":")[2], json.dumps(MANIFEST)
    refusal = (
        f"tag invalid: The image tag '{tag}' already exists and cannot be overwritten because the tag is immutable."
    )
    program(engine, PUT.format(tag=tag, manifest=text) + f"sys.exit({refusal!r})")
    (one,) = push(aws, [recipe()], quiet())
    assert one.sent is None and re.fullmatch(r"sha256:[0-9a-f]{64}", one.digest)


def test_an_image_that_is_not_what_was_sent_is_no_success(aws: Aws, engine: Path) -> None:
    text = PUT.format(tag=recipe().tag.partition(":")[2], manifest=json.dumps(MANIFEST))
    program(engine, text + "print('1.0: digest: sha256:' + 64 * '0' + ' size: 1')")
    with pytest.raises(DockerError, match=f"Docker sent sha256:{64 * '0'}, but ECR has sha256:(?!0000)"):
        push(aws, [recipe()], quiet())


def test_an_image_that_sagemaker_may_refuse_is_told(aws: Aws, engine: Path) -> None:
    # The digest is found out from an image like it.
    manifest = {**MANIFEST, "mediaType": "application/vnd.oci.image.manifest.v1+json"}
    digest = put(aws, recipe("another:1"), **manifest)
    text = PUT.format(tag=recipe().tag.partition(":")[2], manifest=json.dumps(manifest))
    program(engine, text + f"print('1.0: digest: {digest} size: 1')")
    shown = io.StringIO()
    (one,) = push(aws, [recipe()], Console(file=shown))
    assert one.digest == digest
    assert f"note: {one.uri} is in OCI's format" in shown.getvalue()


def test_nothing_is_left_where_it_is_interrupted(aws: Aws, engine: Path) -> None:
    program(engine, "(folder / 'pushing').touch(); time.sleep(60)")

    def interrupt() -> None:
        while not (engine / "pushing").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        push(aws, [recipe()], quiet())
