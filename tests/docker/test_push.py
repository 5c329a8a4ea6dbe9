"""Images on their way to ECR: a real engine, a real registry that wants a password, and ECR's API on loopback."""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from launchers.building import recipe_of
from launchers.config import Backend, Build, Mode, PreprocessJob
from launchers.docker import DockerError
from launchers.recipe import Recipe
from launchers.remote.aws import Aws, AwsError
from launchers.remote.registry import Pushed, logged_in, push, push_images
from tests.containers import Containers, docker, skip_without
from tests.ecr_front import PASSWORD, TOKEN, EcrFront, ecr, missing_for_registry
from tests.engine import BASE_IMAGE
from videolift.provenance import FOLDER

REPOSITORY = "videolift-preprocess"


@pytest.fixture
def front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EcrFront]:
    """ECR of account 123456789012, and an environment that leads to it and to nothing else."""
    skip_without(missing_for_registry())
    for name in ("registry", "home", "temporary"):
        (tmp_path / name).mkdir()
    with ecr(tmp_path / "registry") as running:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "DOCKER_CONFIG"):
            monkeypatch.delenv(name, raising=False)
        yield running
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.fixture
def settings(containers: Containers) -> Iterator[Backend]:
    (wheels,) = (s.partition("=")[2] for s in containers.settings if s.startswith("backend.build.wheels="))
    yield Backend(
        name="sagemaker-remote",
        region="us-east-1",
        build=Build(wheels=wheels),
        preprocess=PreprocessJob(base_image=BASE_IMAGE),
        job_tags={"team": "vision"},
    )
    names = docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    for name in (name for name in names if name.startswith("127.0.0.1:")):
        docker("image", "rm", name)


@pytest.fixture
def tiny(settings: Backend, tmp_path: Path) -> Iterator[Recipe]:
    """A recipe whose image is made already, of next to nothing."""
    settings.preprocess.base_image = "videolift-test-base:tiny"
    recipe = recipe_of(settings, "preprocess")
    make_tiny(recipe, tmp_path / "tiny", "first")
    yield recipe
    docker("image", "rm", "--force", recipe.tag)


def make_tiny(recipe: Recipe, folder: Path, content: str) -> None:
    """Make an image of two layers, of which the first is always the same."""
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text('FROM scratch\nCOPY same /\nCOPY other /\nCMD ["none"]\n')
    (folder / "same").write_text("same")
    (folder / "other").write_text(content)
    docker("build", "--tag", recipe.tag, str(folder))


def pushed(settings: Backend, recipe: Recipe) -> tuple[Pushed, str]:
    """Push, and return what was shown as well."""
    shown = io.StringIO()
    (one,) = push(Aws(settings), [recipe], Console(file=shown))
    return one, shown.getvalue()


def image_id(name: str) -> str:
    return docker("image", "inspect", "--format", "{{.Id}}", name)


def test_an_image_is_built_and_sent_and_runs_from_there(front: EcrFront, settings: Backend) -> None:
    recipe, aws = recipe_of(settings, "preprocess"), Aws(settings)
    first, shown = pushed(settings, recipe)
    assert first.uri == f"{front.images.host}/{recipe.tag}"
    assert first.sent is not None and first.sent.digest == first.digest
    assert 0 < first.sent.new_layers == first.sent.layers
    assert "made repository videolift-preprocess in ECR" in shown
    assert f"sent {first.uri}: {first.sent.layers} of {first.sent.layers} layers were new" in shown
    assert "OCI" not in shown  # whatever Docker sent, SageMaker takes it
    ours = image_id(recipe.tag)
    docker("image", "rm", first.uri)
    with logged_in(aws, [recipe]) as environment:
        subprocess.run(["docker", "pull", first.uri], env=environment, capture_output=True, check=True)
    assert image_id(first.uri) == ours
    run = ["docker", "run", "--rm", "--network", "none", first.uri]
    ended = subprocess.run(run, capture_output=True, text=True, check=False)
    assert ended.stderr.startswith("VideoliftError: /opt/ml: no job here")


def test_what_is_there_is_not_sent_again(front: EcrFront, settings: Backend, tiny: Recipe) -> None:
    first, _ = pushed(settings, tiny)
    sent, called = front.images.requests("PUT", "POST", "PATCH"), len(front.called)
    assert sent != []
    again, shown = pushed(settings, tiny)
    assert again == Pushed(first.uri, first.digest, None)
    assert f"{first.uri} is there already" in shown
    assert front.images.requests("PUT", "POST", "PATCH") == sent
    assert front.called[called:] == ["DescribeRepositories", "DescribeImages"]  # not even a token was asked for


def test_a_repository_is_made_with_fixed_tags_and_scanning(front: EcrFront, settings: Backend, tiny: Recipe) -> None:
    pushed(settings, tiny)
    client = Aws(settings).client("ecr")
    (made,) = client.describe_repositories(repositoryNames=[REPOSITORY])["repositories"]
    assert made["imageTagMutability"] == "IMMUTABLE"
    assert made["imageScanningConfiguration"] == {"scanOnPush": True}
    tags = client.list_tags_for_resource(resourceArn=made["repositoryArn"])["tags"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"created-by": "videolift", "team": "vision"}


def test_a_repository_of_the_users_own_stays_as_it_is(front: EcrFront, settings: Backend, tiny: Recipe) -> None:
    client = Aws(settings).client("ecr")
    client.create_repository(repositoryName=REPOSITORY, imageTagMutability="MUTABLE")
    pushed(settings, tiny)
    (found,) = client.describe_repositories(repositoryNames=[REPOSITORY])["repositories"]
    assert found["imageTagMutability"] == "MUTABLE"


def test_only_the_layers_that_are_new_are_sent(
    front: EcrFront, settings: Backend, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = pushed(settings, tiny)
    before = set(front.images.requests("PUT"))
    # Another version of our source is another tag.
    shutil.copytree(FOLDER, tmp_path / "videolift")
    (tmp_path / "videolift" / "video.py").write_text("# changed\n")
    monkeypatch.setattr("launchers.recipe.FOLDER", tmp_path / "videolift")
    changed = recipe_of(settings, "preprocess")
    make_tiny(changed, tmp_path / "tiny", "second")
    try:
        second, shown = pushed(settings, changed)
    finally:
        docker("image", "rm", "--force", changed.tag)
    assert second.uri != first.uri
    assert second.sent is not None and (second.sent.new_layers, second.sent.layers) == (1, 2)
    assert "1 of 2 layers were new" in shown
    blobs = [request for request in set(front.images.requests("PUT")) - before if "/blobs/" in request]
    assert len(blobs) == 2  # a layer, and the image's configuration


RECORDING = """#!/bin/sh
{{ printf '%s\\n' "$*"; env; }} >> {log}
exec {program} "$@"
"""
KEYRING = """#!/bin/sh
{{ echo keyring; cat; }} >> {log}
exit 1
"""


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of all arguments and environments of docker, and of what a keyring is told that docker could find."""
    log, folder, program = tmp_path / "called", tmp_path / "bin", shutil.which("docker")
    folder.mkdir()
    (folder / "docker").write_text(RECORDING.format(log=log, program=program))
    for name in ("docker-credential-secretservice", "docker-credential-pass", "pass"):
        (folder / name).write_text(KEYRING.format(log=log))
    for file in folder.iterdir():
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return log


def test_the_token_stays_nowhere(
    front: EcrFront, settings: Backend, tiny: Recipe, called: Path, tmp_path: Path
) -> None:
    own = tmp_path / "home" / ".docker" / "config.json"
    own.parent.mkdir()
    own.write_text('{"credsStore": "secretservice"}')
    _, shown = pushed(settings, tiny)
    assert own.read_text() == '{"credsStore": "secretservice"}'
    assert list(own.parent.iterdir()) == [own]
    told = called.read_text(errors="replace")
    assert f"login --username AWS --password-stdin {front.images.host}\n" in told
    assert "keyring" not in told
    assert [text for text in (told, shown) if PASSWORD in text or TOKEN in text] == []


def test_the_keyring_of_that_test_would_be_found(
    front: EcrFront, called: Path, containers: Containers, tmp_path: Path
) -> None:
    login = ["docker", "login", "--username", "AWS", "--password-stdin", front.images.host]
    subprocess.run(login, input=PASSWORD, text=True, capture_output=True, check=False)
    assert "keyring" in called.read_text(errors="replace")


def test_a_login_that_is_refused_is_told_without_the_token(front: EcrFront, settings: Backend, tiny: Recipe) -> None:
    front.token = base64.b64encode(b"AWS:wrong-token").decode()
    with pytest.raises(DockerError) as caught:
        pushed(settings, tiny)
    assert f"{front.images.host}: docker login with the token that ECR gave was refused" in str(caught.value)
    assert "401" in str(caught.value)
    everything = "".join(traceback.format_exception(caught.value))
    assert "wrong-token" not in everything and front.token not in everything


@pytest.mark.parametrize("operation", ["DescribeRepositories", "CreateRepository", "GetAuthorizationToken"])
def test_what_is_not_allowed_is_named(front: EcrFront, settings: Backend, tiny: Recipe, operation: str) -> None:
    front.denied.add(operation)
    with pytest.raises(AwsError, match=rf"ecr:{operation} is not allowed .*docs/iam/person\.json"):
        pushed(settings, tiny)
    assert front.images.requests("PUT", "POST") == []


def test_what_is_pushed_follows_from_the_settings(front: EcrFront, settings: Backend, tiny: Recipe) -> None:
    shown = io.StringIO()
    settings.train.mode = Mode.byos
    uris = push_images(Aws(settings), settings, ["preprocess", "train", "train"], Console(file=shown))
    assert uris == [f"{front.images.host}/{tiny.tag}"]
    assert shown.getvalue().count("backend.train: nothing to push; its image is AWS's own") == 1
