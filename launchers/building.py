"""Builds the images that stages run in, sends them to registries, and fetches those that users name."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import tarfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from launchers import docker
from launchers.config import Backend, Mode
from launchers.docker import DockerError
from launchers.image import requirement_file
from launchers.recipe import Recipe
from launchers.redaction import redacted_text
from launchers.repository import ROOT
from videolift.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

RECIPE_LABEL = "videolift.recipe"
LAST_LINES = 15  # of a failed build, shown
KEPT_LINES = 200  # of a failed build, searched for its reason
END_GRACE_S = 10.0  # for `docker` to tell the engine that the build is not wanted any more
# What the engine stores while it builds, measured: the wheels, the libraries, and a copy of these.
NEEDED_BYTES = {"preprocess": 1_500_000_000, "train": 9_000_000_000, "predict": 10_000_000_000}


def recipe_of(settings: Backend, purpose: str) -> Recipe:
    """Return what the image of a purpose is made of, as the settings want it."""
    resources = settings.resources(purpose)
    wheels = settings.build.wheels
    return Recipe(
        purpose=purpose,
        base_image=resources.base_image,
        own_source=resources.mode is Mode.byoc,
        pip_index_url=settings.build.pip_index_url,
        pip_trusted_host=settings.build.pip_trusted_host,
        wheels=Path(wheels).expanduser().resolve() if wheels else None,
    )


def before_building(recipe: Recipe) -> str | None:
    """Return in one sentence what keeps the image from being built and what to do, None where nothing does."""
    if problem := index_problem(recipe.pip_index_url):
        return problem
    if recipe.wheels is not None and not any(recipe.wheels.expanduser().glob("*.whl")):
        return f"backend.build.wheels={recipe.wheels}: there are no wheels; {_how_to_fill(recipe)}"
    free, needed = docker.free_bytes(), NEEDED_BYTES[recipe.purpose]
    if free is not None and free < needed:
        return (
            f"{recipe.tag}: Docker's disk has {free / 1e9:.1f} GB left, building needs {needed / 1e9:.1f} GB; "
            "`docker system prune` removes what no container uses"
        )
    return None


def index_problem(url: str | None) -> str | None:
    """Return why a package index cannot be used for building, None where it can."""
    if url is None or redacted_text(url) == url:
        return None
    return (
        "backend.build.pip_index_url: has a user, password or token in it, which would stay readable in the image's "
        "history; name a mirror that needs none, or download the wheels and say backend.build.wheels=FOLDER"
    )


def build(recipe: Recipe, console: Console) -> None:
    """Build the image, which is :attr:`Recipe.tag` afterwards.

    Raises:
        ConfigError: if an address with a password is to be built with.
        DockerError: if it could not be built, with what the build said last and what to do.
    """
    if problem := index_problem(recipe.pip_index_url):
        raise ConfigError(problem)
    with _shown(console, f"building {recipe.tag}") as show:
        ended = _run(
            build_command(recipe),
            lambda line: show(step_of(line), detail_of(line)),
            lambda pipe: write_context(recipe, pipe),
        )
        if ended.code:
            raise DockerError(f"{recipe.tag}: was not built: {build_remedy(recipe, ended.text)}\n{ended.last_lines}")


def build_command(recipe: Recipe) -> list[str]:
    """Return the command that builds the image from a context on its standard input."""
    dockerfile = recipe.dockerfile.relative_to(ROOT).as_posix()
    arguments = {"BASE_IMAGE": recipe.base_image}
    if recipe.pip_index_url:
        arguments["PIP_INDEX_URL"] = recipe.pip_index_url
    if recipe.pip_trusted_host:
        arguments["PIP_TRUSTED_HOST"] = recipe.pip_trusted_host
    return [
        *("docker", "build", "--platform", docker.PLATFORM, "--file", dockerfile, "--tag", recipe.tag),
        *("--target", recipe.target, "--label", f"{RECIPE_LABEL}={recipe.digest}", "--force-rm"),
        *(["--network", "none"] if recipe.wheel_files else []),
        *(part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")),
        "-",
    ]


def write_context(recipe: Recipe, stream: IO[bytes]) -> None:
    """Write a tar of the files that the image is made of, the same bytes for the same files."""
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name, path in sorted(recipe.files.items()):
            read = recipe.contents.get(name)
            with io.BytesIO(read) if read is not None else path.open("rb") as content:
                entry = tarfile.TarInfo(name)
                entry.size = len(read) if read is not None else path.stat().st_size
                archive.addfile(entry, content)


BUILDKIT = r"(?:#\d+ [\d.]+ )?"  # before what a command prints
STEPS = (  # those that take time
    re.compile(r"Step (?P<step>\d+/\d+) : (?P<text>(?:FROM|COPY|RUN) .+)"),  # of the classic builder
    re.compile(r"#\d+ \[(?:[\w-]+ )?(?P<step>\d+/\d+)\] (?P<text>.+)"),  # of BuildKit
)
OUR_LINE = re.compile(BUILDKIT + r"videolift: (?P<text>.+)")  # install.py's
PIP_LINE = re.compile(BUILDKIT + r"(?P<text>(?:Collecting|Downloading|Processing|Installing) .+)")


def step_of(line: str) -> str | None:
    """Return what a line of a build's output says of how far it is, None where it says nothing of it."""
    if said := OUR_LINE.match(line):
        return said["text"]
    step = next((found for form in STEPS if (found := form.match(line))), None)
    return f"step {step['step']}: {step['text']}" if step else None


def detail_of(line: str) -> str | None:
    """Return what a line of a build's output says of the library that is being installed, None where nothing."""
    said = PIP_LINE.match(line)
    return said["text"] if said else None


def build_remedy(recipe: Recipe, output: str) -> str:
    """Return why a build failed and what to do about it, from what it printed."""
    base = f"backend.{recipe.purpose}.base_image"
    reasons = {
        r"no space left on device": "Docker's disk is full; `docker system prune` removes what no container uses",
        r"buildx component is missing": "DOCKER_BUILDKIT is set, but Docker's buildx is not installed; unset it",
        r"the locked libraries are for|no module named pip|\"python3\": executable file not found": (
            f"{recipe.base_image} does not have the Python that the libraries need; name an image with Python 3.11 or "
            f"3.12 and pip: {base}=IMAGE"
        ),
        r"do not match the hashes": (
            "a library is not the file that the lock file names; use another index, or wheels from a trusted one: "
            + _how_to_fill(recipe)
        ),
        r"no wheel of the locked version": f"wheels are missing; {_how_to_fill(recipe)}",
        r"no matching distribution|retrying \(retry|network bridge not found": (
            f"wheels do not fit {recipe.base_image}; {_how_to_fill(recipe)}"
            if recipe.wheel_files
            else "the package index cannot be reached or lacks a library; say backend.build.pip_index_url=MIRROR, or "
            f"backend.build.wheels=FOLDER: {_how_to_fill(recipe)}"
        ),
        **{
            pattern: f"the base image {recipe.base_image} cannot be fetched ({reason}); name one that is here "
            f"(docker images) or a mirror's: {base}=IMAGE"
            for pattern, reason in UNREACHABLE.items()
        },
    }
    return _reason(reasons, output, "the last lines of what Docker says")


NO_CONNECTION = (
    r"no such host|dial tcp|i/o timeout|request canceled|tls handshake|failed to do request|server misbehaving"
)
UNREACHABLE = {
    r"does not match the specified platform|no match(ing manifest)? for": f"it is not for {docker.PLATFORM}",
    r"toomanyrequests": "its registry allows no more for now",
    r"manifest unknown|manifest for \S+ not found|: not found": "its registry has no such image",
    r"access denied|denied:|unauthorized|no basic auth": "there is none, or its registry wants you to log in",
    NO_CONNECTION: "its registry cannot be reached",
}


def pull(reference: str, console: Console, environment: Mapping[str, str] | None = None) -> None:
    """Fetch an image from its registry.

    Args:
        environment: of ``docker``, where it is not this process's.

    Raises:
        DockerError: if it could not be fetched, with what to do.
    """
    layers = Layers()
    with _shown(console, f"fetching {reference}") as show:
        command = ["docker", "pull", "--platform", docker.PLATFORM, reference]
        ended = _run(command, lambda line: show(layers.after(line)), environment=environment)
        if ended.code:
            raise DockerError(f"{reference}: was not fetched: {pull_remedy(reference, ended.text)}\n{ended.last_lines}")


class Layers:
    """Counts layers in what ``docker pull`` prints where it has no terminal."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._here: set[str] = set()

    def after(self, line: str) -> str | None:
        """Return how many layers are here after another line, None where that is no news."""
        layer, _, state = line.partition(": ")
        if state in ("Pulling fs layer", "Already exists"):
            self._known.add(layer)
        if state in ("Pull complete", "Already exists"):
            self._here.add(layer)
        return f"{len(self._here)} of {len(self._known)} layers" if state == "Pull complete" else None


ECR = re.compile(r"(?P<registry>\d{12}\.dkr\.ecr\.(?P<region>[\w-]+)\.amazonaws\.com(?:\.cn)?)/")


def pull_remedy(reference: str, output: str) -> str:
    """Return why an image could not be fetched and what to do about it, from what ``docker pull`` printed."""
    registry = reference.partition("/")[0] if re.match(r"[^/]*[.:][^/]*/|localhost/", reference) else ""
    login = f"docker login {registry}".strip()
    if ecr := ECR.match(reference):
        password = f"aws ecr get-login-password --region {ecr['region']}"
        login = f"{password} | docker login --username AWS --password-stdin {ecr['registry']}"
    remedies = (
        f"use an image for {docker.PLATFORM}",
        "wait, or log in: " + login,
        "check its name and tag",
        f"check its name, or log in: {login}",
        "check the network, or fetch it elsewhere and bring it with `docker save` and `docker load`",
    )
    reasons = zip(UNREACHABLE.items(), remedies, strict=True)
    return _reason(
        {r"no space left on device": "Docker's disk is full; `docker system prune` removes what no container uses"}
        | {pattern: f"{reason}; {remedy}" for (pattern, reason), remedy in reasons},
        output,
        "the last lines of what Docker says",
    )


@dataclass(frozen=True)
class Sent:
    """What an image's registry was sent."""

    digest: str  # of the manifest
    layers: int
    new_layers: int  # the registry had the others


def send(reference: str, console: Console, environment: Mapping[str, str] | None = None) -> Sent:
    """Send an image to the registry that it is named for; what the registry has is not sent.

    Args:
        environment: of ``docker``, where it is not this process's.

    Raises:
        DockerError: if it could not be sent, with the last lines of what Docker said.
    """
    layers = SentLayers()
    with _shown(console, f"sending {reference}") as show:
        ended = _run(["docker", "push", reference], lambda line: show(layers.after(line)), environment=environment)
        if ended.code:
            raise DockerError(f"{reference}: was not sent: {push_remedy(reference, ended.text)}\n{ended.last_lines}")
        digest = DIGEST.search(ended.text)
        if digest is None:
            raise DockerError(f"{reference}: Docker does not say what it sent\n{ended.last_lines}")
        return Sent(digest["digest"], layers.known, layers.new)


DIGEST = re.compile(r"digest: (?P<digest>sha256:[0-9a-f]{64})\b")


class SentLayers:
    """Counts layers in what ``docker push`` prints where it has no terminal."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}  # by layer, the last that was said of it

    @property
    def known(self) -> int:
        return len(self._states)

    @property
    def new(self) -> int:
        """How many were sent."""
        return sum(state == "Pushed" for state in self._states.values())

    def after(self, line: str) -> str | None:
        """Return how many layers are there after another line, None where that is no news."""
        layer, _, state = line.partition(": ")
        if not re.fullmatch(r"[0-9a-f]{12}", layer) or DIGEST.match(state):  # a tag may look like a layer
            return None
        before = self._states.get(layer)
        self._states[layer] = state
        if state == before or not _is_there(state):
            return None
        there = sum(map(_is_there, self._states.values()))
        return f"{there} of {self.known} layers"


def _is_there(state: str) -> bool:
    return state in ("Pushed", "Layer already exists") or state.startswith("Mounted from")


def push_remedy(reference: str, output: str) -> str:
    """Return why an image could not be sent and what to do about it, from what ``docker push`` printed."""
    registry = reference.partition("/")[0]
    if denied := NOT_AUTHORIZED.search(output):
        return f"{denied['action']} is not allowed; docs/iam/person.json is the policy that a person needs"
    return _reason(
        {
            IMMUTABLE: "its registry has another image of that name already, and names there are not to be given anew",
            r"authorization token has expired": "the login has expired while it was sent; say the same again",
            r"no basic auth credentials|denied|unauthorized|403 forbidden": f"{registry} does not let you in",
            r"name unknown|repository with name": "its repository has been deleted in the meantime; say the same again",
            r"no space left on device": "Docker's disk is full; `docker system prune` removes what no container uses",
            r"toomanyrequests|limit ?exceeded": f"{registry} takes no more for now; wait, or see the account's quotas",
            NO_CONNECTION: f"{registry} cannot be reached; check the network and Docker's proxy",
        },
        output,
        "the last lines of what Docker says",
    )


# What ECR says for ImageTagAlreadyExistsException and AccessDeniedException; docker shows it as it is.
IMMUTABLE = r"tag is immutable|cannot be overwritten"
NOT_AUTHORIZED = re.compile(r"not authorized to perform: (?P<action>ecr:\w+)")


# With attestations an image would be an index of images, which SageMaker is reported to refuse (see registry.OCI).
BUILDER = {"BUILDKIT_PROGRESS": "plain", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
COLOUR = re.compile(r"\x1b\[[\d;]*m")  # the classic builder paints what a command prints to stderr


@dataclass(frozen=True)
class _Ended:
    code: int
    text: str  # the end of its output

    @property
    def last_lines(self) -> str:
        return "\n".join(f"  {line}" for line in self.text.splitlines()[-LAST_LINES:])


def _run(
    command: list[str],
    told: Callable[[str], None],
    feed: Callable[[IO[bytes]], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> _Ended:
    """Run ``docker``, hand on what it prints, line by line; nothing of it is left when this is interrupted."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**(os.environ if environment is None else environment), **BUILDER},
            start_new_session=True,  # a Ctrl-C is for us to handle
        )
    except FileNotFoundError as error:
        raise DockerError(docker.NOT_INSTALLED) from error
    assert process.stdout is not None
    feeder = _Feeder(process.stdin, feed)
    kept: deque[str] = deque(maxlen=KEPT_LINES)
    try:
        feeder.start()
        with io.TextIOWrapper(process.stdout, encoding="utf-8", errors="replace") as output:
            for raw in output:
                line = redacted_text(COLOUR.sub("", raw).rstrip())
                if line:
                    kept.append(line)
                    told(line)
        code = process.wait()
    finally:
        _end(process)
        if feeder.ident is not None:  # it was started
            feeder.join()
    if feeder.error is not None:
        raise feeder.error
    return _Ended(code, "\n".join(kept))


class _Feeder(threading.Thread):
    """Writes a program's standard input while somebody else reads what it prints."""

    def __init__(self, pipe: IO[bytes] | None, feed: Callable[[IO[bytes]], None] | None) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self._feed = feed
        self.error: OSError | None = None

    def run(self) -> None:
        if self._pipe is None or self._feed is None:
            return
        try:
            with self._pipe:
                self._feed(self._pipe)
        except BrokenPipeError:
            pass  # the program ended early, and says why
        except OSError as error:
            self.error = error


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)  # with its plugins, which buildx is
        try:
            process.wait(END_GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class _Show(Protocol):
    def __call__(self, news: str | None, detail: str | None = None) -> None:
        """Show how far it is; a detail only where it does not stay."""


@contextmanager
def _shown(console: Console, what: str) -> Iterator[_Show]:
    """Show what is being done: one line that moves on a terminal, otherwise a line whenever there is news."""
    from rich.text import Text

    started = time.monotonic()
    if console.is_terminal:
        with console.status(Text(what)) as status:

            def show(news: str | None, detail: str | None = None) -> None:
                if text := news or detail:
                    status.update(Text(f"{what}: {text}"[: console.width - 4]))

            yield show
    else:
        _say(console, what)
        said: set[str] = set()

        def tell(news: str | None, detail: str | None = None) -> None:
            if news and news not in said:  # BuildKit repeats itself
                said.add(news)
                _say(console, f"  {news}")

        yield tell
    _say(console, f"{what}: {time.monotonic() - started:.0f} s")


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _reason(reasons: dict[str, str], output: str, otherwise: str) -> str:
    found = (reason for pattern, reason in reasons.items() if re.search(pattern, output, re.IGNORECASE))
    return next(found, otherwise)


def _how_to_fill(recipe: Recipe) -> str:
    folder = recipe.wheels or "FOLDER"
    requirements = requirement_file(recipe.purpose).relative_to(ROOT)
    return (
        f"fill it on Linux with python3.11 -m pip download --no-deps --dest {folder} --requirement {requirements} "
        "(launchers/images/wheels/README.md has it for other machines)"
    )
