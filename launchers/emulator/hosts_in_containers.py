"""Hosts as Docker containers, from images that are on this machine: nothing is ever pulled.

Containers reach each other and nothing else. Sources: AWS, "How Amazon SageMaker AI Runs Your Training Image" (``docker
run image train``), "How Amazon SageMaker Processing Runs Your Processing Container"; docker-create(1).
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import IO

from launchers import docker
from launchers.building import recipe_of
from launchers.config import Backend
from launchers.container_job import own
from launchers.docker import DockerError
from launchers.emulator.hosts import Host, HostPlan
from launchers.repository import ROOT

LABEL = "videolift.emulator"  # of containers and networks; its value names the emulator
OURS = re.compile(r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?/(?:\S+/)?(videolift-[a-z-]+:[\w.-]+)")
TENSORFLOW = re.compile(r"(?:^|/)tensorflow-training[:@]")
STAND_IN = "videolift-train-libraries"  # for AWS's TensorFlow image: libraries, and none of our source
START_S = 60.0


class ContainerHosts:
    """Starts hosts as containers."""

    name = "containers"
    interface = "eth0"

    def __init__(self, images: Mapping[str, str]) -> None:
        self._images = images
        self._label = f"{LABEL}={secrets.token_hex(6)}"
        self._guard: subprocess.Popen[bytes] | None = None

    def problem(self) -> str | None:
        return docker.engine_problem()

    def image_problem(self, image: str) -> str | None:
        local = self._local(image)
        if local is not None and docker.image_id(local) is not None:
            return None
        wanted = f" (local image {local})" if local and local != image else ""
        return (
            f"Cannot pull algorithm container {image}{wanted}: it is not on this machine; build it (python run.py "
            "action=build backend=sagemaker-local), or name one by --image PATTERN=LOCAL"
        )

    def has_images(self) -> bool:
        """Tell whether the images are here that a run without further settings needs."""
        ours = recipe_of(Backend(), "preprocess").tag
        return bool(self._images) or (docker.image_id(ours) is not None and bool(_tags(STAND_IN)))

    def _local(self, image: str) -> str | None:
        """Return the local image that stands for an image URI."""
        for pattern, local in self._images.items():
            if fnmatchcase(image, pattern):
                return local
        if found := OURS.fullmatch(image):
            return found[1]
        if TENSORFLOW.search(image):
            return next(iter(_tags(STAND_IN)), None)  # the newest
        return image

    def open_network(self, job: str, hosts: Sequence[str]) -> tuple[str, Mapping[str, str]]:
        self._watch()
        if len(hosts) == 1:
            return "none", {}
        network = f"emulator-{job}-{secrets.token_hex(3)}"
        docker.call("network", "create", "--internal", "--label", self._label, network)
        return network, {}

    def close_network(self, network: str) -> None:
        if network != "none":
            docker.remove("network", [network])

    def _watch(self) -> None:
        """Start the process that removes our containers should this one be killed: its stdin ends then."""
        if self._guard is None:
            self._guard = subprocess.Popen(
                [sys.executable, "-m", "launchers.emulator.guard", self._label],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                start_new_session=True,
            )

    def start(self, plan: HostPlan) -> Host:
        local = self._local(plan.image)
        assert local is not None  # image_problem was asked
        return ContainerHost(plan, local, self._label)


class ContainerHost:
    """A container and the `docker start` that is attached to it."""

    def __init__(self, plan: HostPlan, image: str, label: str) -> None:
        self._plan, self._image = plan, image
        self._name = f"emulator-{plan.job}-{plan.name}-{secrets.token_hex(3)}"
        docker.call(*create_arguments(plan, image, self._name, label))  # what Docker warns of is not the job's output
        self._process = subprocess.Popen(
            ["docker", "start", "--attach", self._name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.output: IO[bytes] = self._process.stdout
        self._pid = self._find_pid()

    def _find_pid(self) -> int | None:
        deadline = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            with suppress(DockerError):  # not there yet
                pid = int(docker.details("container", self._name)["State"]["Pid"])
                if pid:
                    return pid
            time.sleep(0.02)
        return None

    @property
    def pid(self) -> int | None:
        return self._pid if self.poll() is None else None

    def send(self, number: signal.Signals) -> None:
        with suppress(DockerError):  # it has ended
            docker.call("container", "kill", "--signal", number.name, self._name)

    def poll(self) -> int | None:
        return self._process.poll()

    def close(self) -> None:
        if self.poll() is None:
            self.send(signal.SIGKILL)
        self._process.wait()
        self.output.close()
        docker.remove("container", [self._name])
        own(self._plan.folder, self._image, os.getuid(), os.getgid())


def create_arguments(plan: HostPlan, image: str, name: str, label: str) -> list[str]:
    """Return what makes Docker create one host's container."""
    entrypoint, *first = plan.entrypoint or [""]
    return [
        *("create", "--name", name, "--label", label, "--platform", docker.PLATFORM, "--pull", "never"),
        *("--network", plan.network, "--hostname", plan.name, "--user", "0", "--security-opt", "label=disable"),
        *(() if plan.network == "none" else ("--network-alias", plan.name)),
        *(word for key, value in plan.environment.items() for word in ("--env", f"{key}={value}")),
        *docker.mount(plan.folder, "/opt/ml", writable=True),
        *(("--entrypoint", entrypoint) if entrypoint else ()),
        image,
        *first,
        *plan.arguments,
    ]


def _tags(repository: str) -> list[str]:
    """Return the local images of a repository, the newest first."""
    found = docker.call("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", f"reference={repository}")
    return [line for line in found.split() if not line.endswith(":<none>")]
