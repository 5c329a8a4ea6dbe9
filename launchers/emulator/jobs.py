"""What both kinds of job share: a name, a state that describe shows, folders of hosts, a thread that lives its life."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from launchers.base import host_names
from launchers.emulator.answers import ServiceError
from launchers.emulator.channels import Channel, download
from launchers.emulator.emulated import Emulated
from launchers.emulator.hosts import HostPlan
from launchers.emulator.logs import ACCOUNT, LogStream
from launchers.emulator.round import Outcome, Round
from launchers.emulator.store import MissingObjects, UploadFailed, changed, join, role_config

REASON_LIMIT = 1024  # characters of FailureReason and ExitMessage
SYNC_S = 1.0  # between two uploads of what a running job has written
INPROGRESS, STOPPING = "InProgress", "Stopping"
ENDED = ("Completed", "Failed", "Stopped")


class JobFailed(Exception):
    """The job fails; the text is its FailureReason."""


class Job(ABC):
    """One job."""

    kind: str  # training | processing
    log_group: str

    def __init__(self, world: Emulated, region: str, request: dict[str, Any]) -> None:
        self.world, self.region, self.request = world, region, request
        self.name: str = request[f"{self.kind.capitalize()}JobName"]
        self.arn = f"arn:{partition_of(region)}:sagemaker:{region}:{ACCOUNT}:{self.kind}-job/{self.name}"
        self.created = time.time()
        self.modified = self.created
        self.status = INPROGRESS
        self.failure_reason: str | None = None
        self.tags: list[dict[str, str]] = list(request.get("Tags") or [])
        self.folder = world.root / "jobs" / self.name
        self._born = time.monotonic()
        self._stop = threading.Event()
        self._lock = threading.RLock()
        self.thread = threading.Thread(target=self._live_and_end, daemon=True, name=self.name)

    @property
    @abstractmethod
    def host_count(self) -> int: ...

    @property
    @abstractmethod
    def channels(self) -> list[Channel]: ...

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what the service's Describe call answers."""

    @abstractmethod
    def _live(self) -> None:
        """Run from the start to the final status."""

    @abstractmethod
    def _begin_stopping(self) -> None:
        """Note that the job was asked to stop."""

    @abstractmethod
    def _finish(self, status: str, reason: str | None = None) -> None: ...

    @abstractmethod
    def _config_files(self, host: str) -> dict[str, Any]:
        """Return the contents of configuration files by their path below /opt/ml."""

    @abstractmethod
    def _container(self) -> tuple[str, list[str] | None, list[str]]:
        """Return image, entrypoint (None: the image's own) and arguments."""

    @abstractmethod
    def _environment(self) -> dict[str, str]: ...

    @property
    def hosts(self) -> tuple[str, ...]:
        return host_names(self.host_count)

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    def start(self) -> None:
        if self.folder.exists():  # of an earlier emulator in the same folder
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        self.thread.start()

    def stop(self) -> None:
        """Do what Stop calls do: a job that has ended is refused, one that is stopping is left alone."""
        with self._lock:
            if self.has_ended:
                raise ServiceError(
                    "ValidationException",
                    f"The request was rejected because the {self.kind} job is in status {self.status}.",
                )
            if self.status != STOPPING:
                self.status = STOPPING
                self._begin_stopping()
        self._stop.set()

    def _touch(self) -> None:
        self.modified = time.time()

    def _live_and_end(self) -> None:
        try:
            self._live()
        except JobFailed as failed:
            self._finish("Failed", str(failed))
        except MissingObjects as missing:
            self._finish("Failed", f"ClientError: Data download failed:{missing}")
        except UploadFailed as error:
            self._finish("Failed", f"ClientError: Artifact upload failed:{error}")
        except Exception as error:
            if not self.world.closing.is_set():
                traceback.print_exc(file=sys.stderr)
            self._finish("Failed", f"InternalServerError: {type(error).__name__}: {error}")

    def _wait(self, seconds: float) -> bool:
        """Let time pass, and return whether the job was asked to stop."""
        return self._stop.wait(seconds)

    def _capacity(self) -> None:
        from launchers.emulator.faults import CAPACITY_REASON

        if self.world.faults.take_for_job(("capacity",), self.name, self._born, float("inf")):
            raise JobFailed(CAPACITY_REASON)

    def _lay_out(self) -> None:
        """Give every host its folder, its share of the inputs and its configuration."""
        store = self.world.store(self.region)
        for index, host in enumerate(self.hosts):
            folder = self.folder / host
            folder.mkdir()
            download(self.channels, store, folder, index, self.host_count)
            for name, content in self._config_files(host).items():
                file = folder / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(content), encoding="utf-8")

    def _run_hosts(self, limit_s: float, *, interruptible: bool = False) -> Outcome:
        image, entrypoint, arguments = self._container()
        if problem := self.world.hosts.image_problem(image):
            raise JobFailed(f"ClientError: {problem}")
        network, addresses = self.world.hosts.open_network(self.name, self.hosts)
        try:
            plans = [
                HostPlan(
                    job=self.name,
                    name=host,
                    hosts=self.hosts,
                    folder=self.folder / host,
                    image=image,
                    entrypoint=entrypoint,
                    arguments=arguments,
                    environment={
                        **(self.request.get("Environment") or {}),
                        **self._environment(),
                        "AWS_REGION": self.region,
                    },
                    network=network,
                    addresses=addresses,
                    aws_config=role_config(self.world.endpoint, self.region),
                )
                for host in self.hosts
            ]
            return Round(
                self.world,
                plans,
                self._open_streams(),
                created=self._born,
                stop=self._stop,
                interruptible=interruptible,
            ).run(limit_s)
        finally:
            self.world.hosts.close_network(network)

    def _open_streams(self) -> dict[str, LogStream]:
        logs = self.world.logs
        logs.delay_s = self.world.faults.log_delay_s()
        return {host: logs.open(self.region, self.log_group, f"{self.name}/{host}") for host in self.hosts}

    def _texts(self, name: str, hosts: tuple[str, ...]) -> list[bytes]:
        """Return what hosts have written to a file below /opt/ml, empty ones left out."""
        files = [self.folder / host / name for host in hosts]
        return [content for file in files if file.is_file() and (content := file.read_bytes())]


class FolderSync(threading.Thread):
    """Uploads what changes in folders of a running job, every second."""

    def __init__(self, job: Job, places: Mapping[Path, str], kms_key: str | None = None) -> None:
        super().__init__(daemon=True, name=f"{job.name}-sync")
        self._store = job.world.store(job.region)
        self._places, self._kms_key = places, kms_key
        self._known: dict[Path, tuple[int, int]] = {}
        self._ended = threading.Event()

    def know(self) -> None:
        """Take what is there now for uploaded already."""
        for folder in self._places:
            self._known |= changed(folder, {})

    def run(self) -> None:
        while not self._ended.wait(SYNC_S):
            with suppress(UploadFailed):  # the last upload, at the end of the job, says so
                self._sync()

    def finish(self) -> None:
        """Upload what is left and end."""
        self._ended.set()
        self.join()
        self._sync()

    def _sync(self) -> None:
        for folder, address in self._places.items():
            for file, state in changed(folder, self._known).items():
                try:
                    self._store.upload(file, join(address, file.relative_to(folder).as_posix()), self._kms_key)
                except FileNotFoundError:  # renamed or removed since
                    continue
                self._known[file] = state


def partition_of(region: str) -> str:
    return "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"
