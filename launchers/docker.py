"""Docker's command line, as far as stages need it: one place that starts ``docker`` and reads what it says.

The command line is used rather than the API library: it knows contexts, credentials and platforms as the user set them
up, and is what a person would type to see the same.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from videolift.errors import StageError

ANSWER_TIMEOUT_S = 60.0  # for what an engine does at once; a busy machine needs a while even for that
PLATFORM = "linux/amd64"  # what SageMaker's instances and TensorFlow's images are
LOOPBACK = ("localhost", "127.0.0.1", "::1")
NOT_INSTALLED = "Docker is not installed: there is no program `docker`; install Docker Engine or Docker Desktop"
GONE = re.compile(r"no such (container|network|image|object)|network \S+ not found", re.IGNORECASE)


class DockerError(StageError):
    """Docker could not do what it was asked."""

    @property
    def gone(self) -> bool:
        """Whether the container, network or image is not there (any more)."""
        return GONE.search(str(self)) is not None


def call(*arguments: str, timeout_s: float | None = ANSWER_TIMEOUT_S) -> str:
    """Run ``docker`` and return what it printed.

    Raises:
        DockerError: if it failed, with its own words.
    """
    command = ["docker", *arguments]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise DockerError(NOT_INSTALLED) from error
    except subprocess.TimeoutExpired as error:
        raise DockerError(f"docker {arguments[0]}: no answer in {timeout_s:.0f} seconds; restart Docker") from error
    if done.returncode:
        raise DockerError(f"docker {' '.join(arguments[:2])}: {_last_words(done.stderr)}")
    return done.stdout


def engine_problem() -> str | None:
    """Return in one sentence why containers cannot be run here and what to do, None where they can."""
    if shutil.which("docker") is None:
        return NOT_INSTALLED
    try:
        host = endpoint()
        address = urlsplit(host)
        if address.scheme in ("tcp", "ssh", "http", "https") and address.hostname not in LOOPBACK:
            return (
                f"Docker's engine is on another machine ({address.scheme}://{address.hostname}), which cannot see the "
                "videos here; say `docker context use default`, or unset DOCKER_HOST"
            )
        info = engine_info()
    except DockerError as error:
        return _engine_remedy(str(error))
    if info.get("OSType") != "linux":
        return f"Docker runs {info.get('OSType')} containers; switch it to Linux containers"
    return None


def _engine_remedy(told: str) -> str:
    lower = told.lower()
    if "permission denied" in lower:
        return "no permission to use Docker; add yourself to its group (sudo usermod -aG docker $USER) and log in again"
    if "cannot connect" in lower or "is the docker daemon running" in lower or "no such file" in lower:
        return f"Docker is not running; start Docker Desktop, or say sudo systemctl start docker ({told})"
    return f"Docker does not answer: {told}"


def endpoint() -> str:
    """Return the address of the engine that the command line talks to."""
    from_environment = os.environ.get("DOCKER_HOST")
    return from_environment or call("context", "inspect", "--format", "{{.Endpoints.docker.Host}}").strip()


@cache
def engine_info() -> dict[str, Any]:
    """Return ``docker info``: OSType, DockerRootDir, SecurityOptions, ..."""
    info: dict[str, Any] = json.loads(call("info", "--format", "{{json .}}"))
    errors = info.get("ServerErrors")
    if errors:  # some versions report a dead engine this way, and leave with 0
        raise DockerError(f"docker info: {_last_words(str(errors[0]))}")
    return info


def free_bytes() -> int | None:
    """Return how much the engine can still store, None where its disk is not one of this machine's."""
    root = Path(str(engine_info().get("DockerRootDir")))
    try:
        return shutil.disk_usage(root).free
    except OSError:  # inside Docker Desktop's virtual machine, or not ours to look at
        return None


def image_id(reference: str) -> str | None:
    """Return the id of an image that is here, None where it is not."""
    try:
        return call("image", "inspect", "--format", "{{.Id}}", reference).strip()
    except DockerError as error:
        if error.gone:
            return None
        raise


def details(kind: str, name: str) -> dict[str, Any]:
    """Return what the engine knows of a container or network."""
    found: list[dict[str, Any]] = json.loads(call(kind, "inspect", name))
    return found[0]


def mount(source: Path, target: str, *, writable: bool = False) -> list[str]:
    """Return the options that show a folder of this machine inside a container.

    ``--volume`` would cut at a colon. ``--mount`` takes one line of CSV, in which quoted fields hold anything but a
    line break.
    """
    fields = ["type=bind", f"source={source}", f"target={target}", *([] if writable else ["readonly"])]
    return ["--mount", ",".join('"' + field.replace('"', '""') + '"' for field in fields)]


def labelled(kind: str, label: str) -> list[str]:
    """Return the ids of all containers or networks (``kind``) with a label."""
    everything = ["--all"] if kind == "container" else []
    return call(kind, "ls", *everything, "--quiet", "--no-trunc", "--filter", f"label={label}").split()


def remove(kind: str, ids: Sequence[str]) -> None:
    """Remove containers, running or not, or networks; those that are gone already are no error."""
    force = ["--force", "--volumes"] if kind == "container" else []
    for one in ids:
        try:
            call(kind, "rm", *force, one)
        except DockerError as error:
            if not error.gone and "already in progress" not in str(error):
                raise


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # The last line of an error is often "See 'docker run --help'."
    told = [line for line in lines if not line.startswith(("See '", "Run '"))]
    return told[-1].removeprefix("docker: ") if told else "no reason given"
