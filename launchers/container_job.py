"""One stage in Docker containers: how each host is started, followed, stopped and cleaned up after."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launchers import docker
from launchers.attached import AttachedJob, attach
from launchers.base import HostEnd, Stage
from launchers.docker import DockerError
from launchers.local import read_failure
from launchers.locking import take_lock
from launchers.repository import SOURCE
from videolift.entry import STOPPED_EXIT_CODE
from videolift.errors import StorageError
from videolift.workspace import CONTAINER_ROOT, Kind, Workspace

# Labels of our containers and networks. The lock is the file that their launcher holds while it lives.
LOCK_LABEL = "videolift.lock"
FOLDER_LABEL = "videolift.folder"  # of the hosts' files
USER_LABEL = "videolift.user"  # whose they are

CODE_CHANNEL = "code"  # of our source, where the image does not bring it; the SageMaker SDK's name for it
KILL_INTERVAL_S = 0.5
OWN_TIMEOUT_S = 600.0
# Python, which every image for stages has; links are not followed.
OWN = """
import os, sys
folder, user, group = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for parent, folders, files in os.walk(folder):
    for name in (".", *folders, *files):
        os.lchown(os.path.join(parent, name), user, group)
"""
SIGNAL_EXIT_CODES = range(129, 160)  # a shell's and Docker's code of a process that a signal ended: 128 + its number
OUT_OF_MEMORY = (
    "memory ran out: {limit}; give it more, or lower preprocess.workers, model.batch or the size of the clips"
)


@dataclass(frozen=True)
class Setup:
    """What the containers of one stage have in common."""

    stage_id: str
    kind: Kind
    image: str
    ships_source: bool  # mount our source and run it from there
    spaces: Mapping[str, Workspace]  # by host
    lock: Path
    memory: str | None = None
    cpus: float | None = None
    gpus: str | None = None
    isolated: bool = True
    memory_setting: str = "backend.train.memory"
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)  # given through stdin, which nothing shows

    @property
    def folder(self) -> Path:
        """Folder of all that the containers write."""
        return next(iter(self.spaces.values())).root.parent

    def labels(self) -> list[str]:
        values = {LOCK_LABEL: self.lock, FOLDER_LABEL: self.folder, USER_LABEL: os.getuid()}
        return [word for key, value in values.items() for word in ("--label", f"{key}={value}")]

    @property
    def needs_network(self) -> bool:
        """Whether the hosts must reach each other."""
        return self.kind is Kind.training and len(self.spaces) > 1


def run_arguments(setup: Setup, host: str, name: str, network: str | None) -> list[str]:
    """Return the command that starts one host's container and follows it.

    Args:
        name: of the container.
        network: that the hosts share.
    """
    space = setup.spaces[host]
    # Without a network of their own, containers that may reach others get Docker's default one.
    net = network or ("none" if setup.isolated else "bridge")
    return [
        *("docker", "run", "--interactive", "--name", name, *setup.labels()),
        *("--platform", docker.PLATFORM, "--pull", "never", "--network", net, "--hostname", host),
        *(("--network-alias", host) if network else ()),
        *("--user", "0"),  # as the service expects of an image
        *("--security-opt", "label=disable"),  # SELinux would hide the folders below
        *(("--memory", setup.memory, "--memory-swap", setup.memory) if setup.memory else ()),
        *(("--cpus", f"{setup.cpus:g}") if setup.cpus else ()),
        *(("--gpus", setup.gpus) if setup.gpus else ()),
        *("--env", "PYTHONUNBUFFERED=1"),
        *(word for name, value in setup.variables.items() for word in ("--env", f"{name}={value}")),
        *docker.mount(space.root, str(CONTAINER_ROOT), writable=True),
        *(word for channel, folder in _inputs(setup, space).items() for word in docker.mount(folder, channel)),
        *_program(setup),
    ]


def _inputs(setup: Setup, space: Workspace) -> dict[str, Path]:
    """Return the folders that are mounted for a container to read, by where it sees them."""
    channels = {name: folder for name, folder in space.channels.items() if folder != space.inputs / name}
    if setup.ships_source:
        channels[CODE_CHANNEL] = SOURCE
    return {space.mount_point(name): folder.resolve() for name, folder in channels.items()}


def _program(setup: Setup) -> list[str]:
    """Return the image and what it is to run: as SageMaker would, and with an eye on us."""
    words = [*(("train",) if setup.kind is Kind.training else ()), "--until-stdin-closes"]
    words += ["--secrets-from-stdin"] if setup.secrets else []
    if not setup.ships_source:
        return [setup.image, *words]
    script = f"{next(iter(setup.spaces.values())).mount_point(CODE_CHANNEL)}/stage.py"
    return ["--entrypoint", "python3", setup.image, script, *words]


class ContainerJob(AttachedJob):
    """The containers of one stage."""

    def __init__(self, stage: Stage, setup: Setup) -> None:
        super().__init__(stage)
        self._setup = setup
        token = secrets.token_hex(3)  # the same stage may be computed for two outputs folders at once
        self._names = {host: f"videolift-{setup.stage_id}-{token}-{host}" for host in setup.spaces}
        self._network = f"videolift-{setup.stage_id}-{token}" if setup.needs_network else None

    @classmethod
    def start(cls, stage: Stage, setup: Setup) -> ContainerJob:
        """Start a container a host; where that is interrupted, none is left."""
        job = cls(stage, setup)
        try:
            job._create_network()
            for host, name in job._names.items():
                command = run_arguments(setup, host, name, job._network)
                job.add(host, attach(command, os.environ, lifeline=True, secrets=setup.secrets))
        except BaseException:
            job.close()
            raise
        return job

    def _create_network(self) -> None:
        if self._network:
            internal = ["--internal"] if self._setup.isolated else []
            docker.call("network", "create", *internal, *self._setup.labels(), self._network)

    def _stop(self, grace_s: float) -> None:
        deadline = time.monotonic() + grace_s
        for process in self.processes.values():
            _end_stdin(process)  # reaches a container that is only being created, which no signal does
        self._each_running("kill", "--signal", "TERM")
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        while self._each_running("kill"):
            time.sleep(KILL_INTERVAL_S)

    def _each_running(self, *command: str) -> bool:
        """Run a command of Docker on every container that has not ended, and return whether there are any."""
        running = [self._names[host] for host, process in self.processes.items() if process.poll() is None]
        for name in running:
            with contextlib.suppress(DockerError):  # not there yet, or no more
                docker.call("container", *command, name)
        return bool(running)

    def _end(self, host: str) -> HostEnd:
        code = self.processes[host].wait()
        failure = read_failure(self._setup.spaces[host])
        if code in SIGNAL_EXIT_CODES and code != STOPPED_EXIT_CODE:
            code = 128 - code
        return HostEnd(host, code, failure, self._remark(host) if code else "")

    def _remark(self, host: str) -> str:
        """Return what the engine knows of a failed container."""
        try:
            state = docker.details("container", self._names[host])["State"]
        except DockerError as error:
            if error.gone:  # it was never created: what Docker printed says why
                return ""
            raise
        if state.get("OOMKilled"):
            setup = self._setup
            limit = f"the limit is {setup.memory_setting}={setup.memory}" if setup.memory else "all that Docker may use"
            return OUT_OF_MEMORY.format(limit=limit)
        return str(state.get("Error") or "")

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                self._each_running("kill")
                process.kill()
            process.wait()
            _end_stdin(process)
        # Before the containers are removed: their labels are how the next start would know of these files.
        own(self._setup.folder, self._setup.image, os.getuid(), os.getgid())
        self.put_away()
        docker.remove("container", list(self._names.values()))
        if self._network:
            docker.remove("network", [self._network])


def _end_stdin(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):  # it has ended
            process.stdin.close()


def own(folder: Path, image: str, user: int, group: int) -> None:
    """Give a user what root wrote in a container."""
    if user == 0 or not folder.is_dir() or not _has_files_of_others(folder, user):
        return
    target = "/videolift"
    docker.call(
        *("run", "--rm", "--network", "none", "--platform", docker.PLATFORM, "--pull", "never", "--user", "0"),
        *("--security-opt", "label=disable", *docker.mount(folder, target, writable=True), "--entrypoint", "python3"),
        *(image, "-c", OWN, target, str(user), str(group)),
        timeout_s=OWN_TIMEOUT_S,
    )


def _has_files_of_others(folder: Path, user: int) -> bool:
    return any(
        path.lstat().st_uid != user
        for parent, folders, files in os.walk(folder)
        for path in (Path(parent), *(Path(parent, name) for name in (*folders, *files)))
    )


def remove_orphans(grace_s: float) -> list[str]:
    """Stop and remove what launchers of this user that died have left; return the names of the containers.

    A launcher that lives holds the lock that its containers name.
    """
    removed = []
    with contextlib.ExitStack() as held:
        dead: dict[str, bool] = {}
        for kind, one in _labelled(f"{USER_LABEL}={os.getuid()}"):
            with _gone_is_fine():
                lock = str(_labels(kind, docker.details(kind, one)).get(LOCK_LABEL))
                if lock not in dead:
                    dead[lock] = _take(Path(lock), held)
                if dead[lock]:
                    removed += _remove(kind, one, grace_s)
    return removed


def remove_left(lock: Path, grace_s: float) -> None:
    """Stop and remove what the earlier holder of a lock has left; for who holds it now."""
    for kind, one in _labelled(f"{LOCK_LABEL}={lock}"):
        with _gone_is_fine():
            _remove(kind, one, grace_s)


def _remove(kind: str, one: str, grace_s: float) -> list[str]:
    found = docker.details(kind, one)
    if kind == "network":
        docker.remove(kind, [one])
        return []
    # It stops by itself, as its stdin was closed, but may be writing a checkpoint.
    docker.call("stop", "--time", f"{grace_s:.0f}", one, timeout_s=grace_s + docker.ANSWER_TIMEOUT_S)
    own(Path(str(_labels(kind, found).get(FOLDER_LABEL))), str(found["Image"]), os.getuid(), os.getgid())
    docker.remove(kind, [one])
    return [str(found["Name"]).lstrip("/")]


def _labelled(label: str) -> list[tuple[str, str]]:
    """Return (kind, id): containers first, since a network cannot be removed below them."""
    return [(kind, one) for kind in ("container", "network") for one in docker.labelled(kind, label)]


def _labels(kind: str, found: Mapping[str, Any]) -> dict[str, str]:
    labels: dict[str, str] = (found["Config"] if kind == "container" else found)["Labels"] or {}
    return labels


@contextlib.contextmanager
def _gone_is_fine() -> Iterator[None]:
    """Pass over what another launcher removes at the same time."""
    try:
        yield
    except DockerError as error:
        if not error.gone:
            raise


def _take(lock: Path, held: contextlib.ExitStack) -> bool:
    """Hold a lock until the stack ends; return False where a process that lives has it, or where nobody can tell."""
    try:
        file = held.enter_context(lock.open("r+"))
        return take_lock(file)
    except FileNotFoundError:  # the outputs folder was deleted
        return True
    except (OSError, StorageError):
        return False
