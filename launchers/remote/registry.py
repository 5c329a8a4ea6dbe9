"""Images in the account's registry, Amazon ECR: what they are called there, whether they are there, pushing them."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from launchers import docker
from launchers.building import IMMUTABLE, Sent, before_building, build, pull, recipe_of, send
from launchers.config import Backend
from launchers.docker import DockerError
from launchers.recipe import Recipe
from launchers.remote import partition
from launchers.remote.aws import Aws, AwsError, explained
from videolift.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

LOGIN_TIMEOUT_S = 120.0
NO_REPOSITORY, NO_IMAGE = "RepositoryNotFoundException", "ImageNotFoundException"
REPOSITORY_EXISTS = "RepositoryAlreadyExistsException"
TAG = {"Key": "created-by", "Value": "videolift"}
# SageMaker is reported to refuse them ("Unsupported manifest media type", for models at least); Docker sends them where
# it keeps its images in containerd's store.
OCI = "application/vnd.oci."


@dataclass(frozen=True)
class Pushed:
    """An image that is in ECR."""

    uri: str
    digest: str  # of its manifest
    sent: Sent | None  # None: it was there already


def image_uri(recipe: Recipe, account: str, region: str) -> str:
    """Return what the image of a recipe is called in the account's ECR, whether it is there or not."""
    return f"{partition.registry(region, account)}/{recipe.tag}"


def exists(aws: Aws, uri: str) -> bool | None:
    """Tell whether an image is in the account's ECR, None where it is not of this account's.

    Raises:
        AwsError: if ECR does not say.
    """
    image = partition.ecr_image(uri)
    if image is None or image.account != aws.account:
        return None
    named = {"imageDigest": image.digest} if image.digest else {"imageTag": str(image.tag)}
    return _described(_ecr(aws, image.region), image.repository, named) is not None


def push_images(aws: Aws, settings: Backend, purposes: Sequence[str], console: Console) -> list[str]:
    """Send the images that the settings have us build, and return what they are called in ECR.

    Args:
        purposes: those of :data:`launchers.image.PURPOSES`; one whose image is brought (``image``), or is AWS's own
            (train with ``mode=byos``), has nothing to send.
    """
    asked = list(dict.fromkeys(purposes))
    wanted = [purpose for purpose in asked if _is_ours(settings, purpose)]
    for purpose in (purpose for purpose in asked if purpose not in wanted):
        _say(console, f"backend.{purpose}: nothing to push; its image is {_theirs(settings, purpose)}")
    return [pushed.uri for pushed in push(aws, [recipe_of(settings, purpose) for purpose in wanted], console)]


def push(aws: Aws, recipes: Sequence[Recipe], console: Console) -> list[Pushed]:
    """See to it that images are in the account's ECR: build and send those that are not, and nothing else.

    Repositories are made where they are missing; their tags always mean the same image, and what is sent is scanned.

    Raises:
        ConfigError: if Docker or a setting keeps images from being built, all reasons at once.
        DockerError: if an image could not be built or sent.
        AwsError: if ECR refuses something.
    """
    targets = [_target(aws, recipe) for recipe in recipes]
    missing = [target.recipe for target in targets if target.digest is None]
    _refuse_problems(aws, missing)
    targets = [target if target.uri else _with_repository(aws, target, console) for target in targets]
    if not missing:
        return [_there(target, console) for target in targets]
    with logged_in(aws, missing) as environment:
        return [
            _sent(aws, target, environment, console) if target.digest is None else _there(target, console)
            for target in targets
        ]


@contextmanager
def logged_in(aws: Aws, recipes: Sequence[Recipe]) -> Iterator[dict[str, str]]:
    """Log Docker in to the account's ECR, and to others that base images have to be fetched from.

    Yields:
        The environment in which ``docker`` is logged in: with a folder of configuration of its own that is gone
        afterwards. ``docker login`` would leave the token in the user's, in clear or in the system's keyring.

    Raises:
        DockerError: if a registry refuses the login.
        AwsError: if there is no token to be had.
    """
    own = _login(aws, aws.region)
    others = sorted({found for recipe in recipes if (found := _registry_of_base(aws, recipe))})
    logins = [own, *(replace(_login(aws, region), host=host) for region, host in others)]
    with tempfile.TemporaryDirectory(prefix="videolift-docker-") as folder:  # nobody else can look into it
        environment = _environment(Path(folder))
        # Where a configuration names no login at all, Docker looks for a keyring to use.
        (Path(folder) / "config.json").write_text(json.dumps({"auths": {login.host: {} for login in logins}}))
        for login in logins:
            _docker_login(login, environment)
        yield environment


@dataclass(frozen=True)
class _Login:
    host: str
    user: str
    password: str = field(repr=False)


def _login(aws: Aws, region: str) -> _Login:
    """Return how to log in to the registries of a region: one token is for all that its holder may use."""
    with explained("ecr:GetAuthorizationToken", f"ECR in {region}"):
        (data,) = _ecr(aws, region).get_authorization_token()["authorizationData"]
    user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
    return _Login(urlsplit(data["proxyEndpoint"]).netloc, user, password)


def _docker_login(login: _Login, environment: Mapping[str, str]) -> None:
    command = ["docker", "login", "--username", login.user, "--password-stdin", login.host]
    try:
        done = subprocess.run(
            command,
            input=login.password,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LOGIN_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        # From None: what it is chained to has what was written to the program.
        raise DockerError(
            f"{login.host}: no answer to docker login in {LOGIN_TIMEOUT_S:.0f} seconds; check the network"
        ) from None
    if done.returncode:
        told = done.stderr.strip().splitlines()
        reason = told[-1] if told else "no reason given"
        raise DockerError(f"{login.host}: docker login with the token that ECR gave was refused: {reason}")


def _environment(folder: Path) -> dict[str, str]:
    """Return this process's environment with another folder of Docker's configuration and the same engine."""
    inherited = {
        name: value for name, value in os.environ.items() if name != "DOCKER_CONTEXT"
    }  # contexts are elsewhere
    return {**inherited, "DOCKER_CONFIG": str(folder), "DOCKER_HOST": docker.endpoint()}


@dataclass(frozen=True)
class _Target:
    """Where the image of a recipe belongs."""

    recipe: Recipe
    repository_uri: str | None  # None: the repository is still to be made
    digest: str | None  # None: the image is not there

    @property
    def repository(self) -> str:
        return self.recipe.tag.partition(":")[0]

    @property
    def named(self) -> dict[str, str]:
        return {"imageTag": self.recipe.tag.partition(":")[2]}

    @property
    def uri(self) -> str | None:
        return f"{self.repository_uri}:{self.named['imageTag']}" if self.repository_uri else None


def _target(aws: Aws, recipe: Recipe) -> _Target:
    target = _Target(recipe, None, None)
    uri = _repository_uri(aws, target.repository)
    if uri is None:
        return target
    found = _described(aws.client("ecr"), target.repository, target.named)
    return _Target(recipe, uri, str(found["imageDigest"]) if found else None)


def _repository_uri(aws: Aws, name: str) -> str | None:
    try:
        with explained("ecr:DescribeRepositories", name):
            (found,) = aws.client("ecr").describe_repositories(repositoryNames=[name])["repositories"]
    except AwsError as error:
        if error.code == NO_REPOSITORY:
            return None
        raise
    return str(found["repositoryUri"])


def _with_repository(aws: Aws, target: _Target, console: Console) -> _Target:
    name = target.repository
    tags = [TAG, *({"Key": key, "Value": value} for key, value in aws.settings.job_tags.items() if key != TAG["Key"])]
    try:
        with explained("ecr:CreateRepository", name):
            made = aws.client("ecr").create_repository(
                repositoryName=name,
                imageTagMutability="IMMUTABLE",
                imageScanningConfiguration={"scanOnPush": True},
                tags=tags,
            )
    except AwsError as error:
        if error.code != REPOSITORY_EXISTS:
            raise
        return _target(aws, target.recipe)  # somebody else was faster, maybe with the image too
    _say(console, f"made repository {name} in ECR")
    return replace(target, repository_uri=str(made["repository"]["repositoryUri"]))


def _described(ecr: Any, repository: str, named: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what ECR knows of an image, None where it is not there."""
    try:
        with explained("ecr:DescribeImages", repository):
            (found,) = ecr.describe_images(repositoryName=repository, imageIds=[named])["imageDetails"]
    except AwsError as error:
        if error.code in (NO_REPOSITORY, NO_IMAGE):
            return None
        raise
    return dict(found)


def _there(target: _Target, console: Console) -> Pushed:
    _say(console, f"{target.uri} is there already")
    return Pushed(str(target.uri), str(target.digest), None)


def _sent(aws: Aws, target: _Target, environment: Mapping[str, str], console: Console) -> Pushed:
    recipe, uri = target.recipe, str(target.uri)
    _build_if_missing(recipe, environment, console)
    docker.call("tag", recipe.tag, uri)
    try:
        sent = send(uri, console, environment)
    except DockerError as error:
        if re.search(IMMUTABLE, str(error)):
            now = _target(aws, recipe)
            if now.digest is not None:  # somebody else was faster; the name stands for what it is made of
                return _there(now, console)
        raise
    found = _described(aws.client("ecr"), target.repository, target.named)
    if found is None or found["imageDigest"] != sent.digest:
        has = f"has {found['imageDigest']}" if found else "does not have it"
        raise DockerError(f"{uri}: Docker sent {sent.digest}, but ECR {has}; say the same again")
    _say(console, f"sent {uri}: {sent.new_layers} of {sent.layers} layers were new")
    if str(found.get("imageManifestMediaType", "")).startswith(OCI):
        _say(
            console,
            f"note: {uri} is in OCI's format; if SageMaker refuses it (unsupported manifest media type), switch "
            "Docker's containerd image store off, delete the image in ECR and push again",
        )
    return Pushed(uri, sent.digest, sent)


def _build_if_missing(recipe: Recipe, environment: Mapping[str, str], console: Console) -> None:
    if docker.image_id(recipe.tag) is not None:
        return
    if partition.ecr_image(recipe.base_image) is not None and _is_base_missing(recipe):
        pull(recipe.base_image, console, environment)
    build(recipe, console)  # with the user's own configuration: logins, proxies and plugins are in there


def _refuse_problems(aws: Aws, recipes: Sequence[Recipe]) -> None:
    if not recipes:
        return
    if problem := _engine_problem():
        purposes = " ".join(f"backend.{recipe.purpose}.image=URI" for recipe in recipes)
        raise ConfigError(
            f"{problem}\n  without Docker: say action=push where there is one, with the same version of videolift, or "
            f"name an image that is in ECR: {purposes}"
        )
    to_build = [recipe for recipe in recipes if docker.image_id(recipe.tag) is None]
    problems = [problem for recipe in to_build if (problem := before_building(recipe) or _base_problem(aws, recipe))]
    if problems:
        raise ConfigError("\n".join(problems))


def _engine_problem() -> str | None:
    """Return why images cannot be built, None where they can: an engine on another machine will do for that."""
    try:
        linux = docker.engine_info().get("OSType") == "linux"
    except DockerError as error:
        return docker.engine_problem() or str(error)
    return None if linux else docker.engine_problem()


def _base_problem(aws: Aws, recipe: Recipe) -> str | None:
    base = partition.ecr_image(recipe.base_image)
    if base is None or partition.partition_of(base.region) == partition.partition_of(aws.region):
        return None
    return (
        f"backend.{recipe.purpose}.base_image={recipe.base_image}: credentials of {aws.region} are not valid in "
        f"{base.region}; name an image of your region"
    )


def _registry_of_base(aws: Aws, recipe: Recipe) -> tuple[str, str] | None:
    """Return region and host of another ECR that the base image has to be fetched from, None where there is none."""
    base = partition.ecr_image(recipe.base_image)
    if base is None or (base.account, base.region) == (aws.account, aws.region) or not _is_base_missing(recipe):
        return None
    return base.region, recipe.base_image.partition("/")[0]


def _is_base_missing(recipe: Recipe) -> bool:
    """Tell whether the base image is needed and not here."""
    return docker.image_id(recipe.tag) is None and docker.image_id(recipe.base_image) is None


def _ecr(aws: Aws, region: str) -> Any:
    return aws.client("ecr") if region == aws.region else aws.session.client("ecr", region_name=region)


def _is_ours(settings: Backend, purpose: str) -> bool:
    return settings.resources(purpose).image is None and not (purpose == "train" and settings.train.in_image_of_aws)


def _theirs(settings: Backend, purpose: str) -> str:
    return settings.resources(purpose).image or "AWS's own, which brings the libraries (mode=byos)"


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
