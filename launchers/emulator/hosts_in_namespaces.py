"""Hosts as processes of this machine in namespaces of their own: no images, no Docker, a few milliseconds to start.

Each has its own /opt/ml, /etc/hosts, host name and process ids; libraries are those of this Python, the network is this
machine's loopback: hosts of one job must not listen at the same port of all addresses.
Sources: unshare(1), pid_namespaces(7) (the first process gets only signals that it handles, and takes the others with
it when it ends), AWS, "How Amazon SageMaker AI Runs Your Training Image".
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import psutil

from launchers.emulator.hosts import Host, HostPlan
from launchers.repository import SOURCE
from videolift.script_requirements import HOOK

SHIM = Path(__file__).resolve().parent / "shim"  # what `python3 -m pip` is where this Python has none
OUR_IMAGE = re.compile(r"(?:^|/)videolift-(?:preprocess|train|predict)(?:[:@]|$)")
OUR_ENTRYPOINT = ("python3", "-m", "videolift.entry")  # as in launchers/images/*.Dockerfile
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_S = 10.0
# `unshare --fork` would not tell by which signal its child was killed, and would say so in the job's output.
# Nor does this shell, whose own words go nowhere.
FORK = 'exec 3>&2 2>/dev/null; (exec setpriv --pdeathsig KILL "$@" 2>&3 3>&-); exit $?'
# What is in /opt here stays, but for the folder that jobs own; videolift is not installed, as in nobody else's image.
# Nothing of this is seen outside of the namespace.
PREPARE = """
set -e
mount -t proc proc /proc
folder=$1 hosts=$2 name=$3 below=$4 installed=$5
shift 5
mount --rbind /opt "$below"
mount -t tmpfs -o mode=0755 tmpfs /opt
for entry in "$below"/* "$below"/.[!.]*; do
    place=/opt/${entry##*/}
    if [ "$place" = /opt/ml ]; then :
    elif [ -L "$entry" ]; then cp -P "$entry" "$place"
    elif [ -d "$entry" ]; then mkdir "$place"; mount --rbind "$entry" "$place"
    elif [ -e "$entry" ]; then : > "$place"; mount --bind "$entry" "$place"
    fi
done
mkdir /opt/ml
mount --bind "$folder" /opt/ml
mount --bind "$hosts" /etc/hosts
[ -z "$installed" ] || mount --bind /dev/null "$installed"
hostname "$name" 2>/dev/null || echo "$name" > /proc/sys/kernel/hostname
cd /
exec "$@"
"""


class NamespaceHosts:
    """Starts hosts as processes of this machine."""

    name = "namespaces"
    interface = "lo"

    def __init__(self, root: Path) -> None:
        self._programs = root / "bin"  # first in a host's PATH
        self._counter = itertools.count()
        self._pip_is_missing = not _has_pip()

    def problem(self) -> str | None:
        for program in ("unshare", "setpriv", "mount"):
            if shutil.which(program, path=SYSTEM_PATH) is None:
                return f"there is no program `{program}` (of util-linux); install it, or use --hosts containers"
        done = subprocess.run(
            _enclosed("/bin/sh", "-c", "mount -t proc proc /proc && mount -t tmpfs tmpfs /opt && mkdir /opt/ml"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return None
        return (
            f"the kernel lets this user have no namespaces ({done.stderr.strip()}); be root, allow user namespaces "
            "(sysctl kernel.unprivileged_userns_clone=1), or use --hosts containers"
        )

    def image_problem(self, image: str) -> str | None:
        return None

    def open_network(self, job: str, hosts: Sequence[str]) -> tuple[str, Mapping[str, str]]:
        """Give a job's hosts addresses of the loopback network that no other job has had lately."""
        number = next(self._counter) % 250
        return "", {host: f"127.0.{number}.{index + 2}" for index, host in enumerate(hosts)}

    def close_network(self, network: str) -> None:
        pass

    def start(self, plan: HostPlan) -> Host:
        own = self._programs.parent / "jobs" / plan.job
        hosts = own / f"{plan.name}.hosts"
        lines = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in plan.addresses.items())]
        hosts.write_text("\n".join(lines) + "\n", encoding="utf-8")
        below, home = own / f"{plan.name}.opt", own / f"{plan.name}.home"
        for folder in (below, home):
            folder.mkdir(exist_ok=True)
        (home / ".aws").mkdir(exist_ok=True)
        (home / ".aws" / "config").write_text(plan.aws_config, encoding="utf-8")
        return NamespaceHost(
            _enclosed(
                *("/bin/sh", "-c", PREPARE, "host", str(plan.folder), str(hosts), plan.name, str(below), _installed()),
                *self._program(plan),
            ),
            self._environment(plan, home),
        )

    def _program(self, plan: HostPlan) -> list[str]:
        entrypoint = plan.entrypoint or (OUR_ENTRYPOINT if OUR_IMAGE.search(plan.image) else None)
        if entrypoint is None:
            message = f"{plan.image}: what this image runs is not known here; give the job a ContainerEntrypoint"
            return ["/bin/sh", "-c", 'echo "$1" >&2; exit 127', "sh", message]
        return [*entrypoint, *plan.arguments]

    def _environment(self, plan: HostPlan, home: Path) -> dict[str, str]:
        sources = [str(SOURCE)] if OUR_IMAGE.search(plan.image) else []
        programs = [str(Path(sys.executable).parent), SYSTEM_PATH]
        if self._pip_is_missing:
            sources.append(str(SHIM))
            programs.insert(0, self._pip_program())
        fixed = {
            "PATH": ":".join(programs),
            "HOME": str(home),
            "HOSTNAME": plan.name,
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        paths = {"PYTHONPATH": ":".join(sources)} if sources else {}
        return {**fixed, **paths, **plan.environment}

    def _pip_program(self) -> str:
        self._programs.mkdir(parents=True, exist_ok=True)
        for name in ("pip", "pip3"):
            program = self._programs / name
            program.write_text('#!/bin/sh\nexec python3 -m pip "$@"\n', encoding="utf-8")
            program.chmod(0o755)
        return str(self._programs)


class NamespaceHost:
    """A process that is the first one of its namespace."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is the emulator's
        )
        assert self._process.stdout is not None
        self.output: IO[bytes] = self._process.stdout
        self._first = self._find_first()

    def _find_first(self) -> psutil.Process | None:
        """Return the only child of what :data:`FORK` runs in, by the number that it has on this machine."""
        deadline = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                children = psutil.Process(self._process.pid).children()
            except psutil.NoSuchProcess:
                return None
            if children:
                return children[0]
            time.sleep(0.002)
        return None

    @property
    def pid(self) -> int | None:
        return self._first.pid if self._first is not None and self.poll() is None else None

    def send(self, number: signal.Signals) -> None:
        if self._first is None:
            self._process.kill()
            return
        with suppress(psutil.NoSuchProcess):  # that the number is still this process's is checked
            self._first.send_signal(number)

    def poll(self) -> int | None:
        return self._process.poll()

    def close(self) -> None:
        if self.poll() is None:
            self._process.kill()  # takes its child with it
        self._process.wait()
        self.output.close()


def _enclosed(*program: str) -> list[str]:
    """Return the command that makes a program the first process of new namespaces and kills it when this one dies."""
    user = [] if os.geteuid() == 0 else ["--map-root-user", "--user"]
    return [
        *("setpriv", "--pdeathsig", "KILL", "unshare", *user, "--mount", "--uts", "--pid", "--"),
        *("/bin/sh", "-c", FORK, "fork", *program),
    ]


def _has_pip() -> bool:
    return find_spec("pip") is not None


def _installed() -> str:
    """Return the file that makes videolift importable in the running Python, "" where it is not installed."""
    hook = find_spec(HOOK)
    return str(Path(hook.origin).with_suffix(".pth")) if hook is not None and hook.origin is not None else ""
