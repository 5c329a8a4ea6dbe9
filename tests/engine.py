"""A Docker engine of the tests' own: no service, no registry, no firewall rules, all of it in one folder."""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = REPOSITORY / ".engine"
BASE_IMAGE = "videolift-base:bookworm"
SUITE = "bookworm"
PACKAGES = "python3,python3-pip,ca-certificates"
PYTHON = "3.11"  # what the suite has
GLIBC_MINORS = range(28, 4, -1)  # wheels for glibc 2.28 and older; the suite has a newer one
IMAGE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_S = 120
PID_FILES = ("docker.pid", "exec/containerd/containerd.pid")
TERM_S, KILL_S = 60, 20  # dockerd gives containers 10 seconds before it ends itself
SHORT = re.compile(r"[\w./-]{1,60}", re.ASCII)  # a socket's path has 107 bytes, containerd adds 40 to ours


class EngineError(Exception):
    """The engine, or what is put into it, cannot be had; the text says why and what to do."""


class Engine:
    """A Docker engine that keeps everything in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.log = self.folder / "dockerd.log"
        self._data = self.folder / "data"
        self._config = self.folder / "daemon.json"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        """Return what DOCKER_HOST has to be."""
        return f"unix://{self._socket}"

    @property
    def running(self) -> bool:
        """Ask the engine itself, through its socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            try:
                connection.connect(str(self._socket))
                connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
                return b" 200 " in connection.recv(64)
            except OSError:
                return False

    def start(self, seconds: float = START_S) -> bool:
        """Start the engine unless it runs; return whether this call started it."""
        if set(",:\\") & set(str(self.folder)):
            raise EngineError(f"{self.folder}: overlay2 takes no path with a comma, a colon or a backslash; move it")
        with locked(self.folder.parent):
            if self.running:
                return False
            if (pid := self._pid("docker.pid")) is not None:  # whoever started it was killed while waiting
                self._wait(pid, seconds)
                if self.running:
                    return False
            self._launch(seconds)
        return True

    def stop(self) -> None:
        """End the engine with its containers and networks, and nothing that is not provably its own."""
        with locked(self.folder.parent):
            if self._state.exists() and not self.running and self._pid("docker.pid") is None:
                self._revive()
            if self.running:
                self._empty()
            for name in PID_FILES:
                if (pid := self._pid(name)) is not None:
                    self._end(pid)
            self._clear()

    def remove(self) -> None:
        """Stop the engine and delete its folder with all images."""
        self.stop()
        shutil.rmtree(self._runtime, ignore_errors=True)
        if self.folder.exists():
            shutil.rmtree(self.folder)

    @property
    def _runtime(self) -> Path:
        return (self.folder / "run").resolve()

    @property
    def _socket(self) -> Path:
        return self._runtime / "docker.sock"

    @property
    def _state(self) -> Path:
        """What dockerd knows of running containers; an engine that ended well leaves none."""
        return self._runtime / "exec"

    @property
    def _command(self) -> list[str]:
        run = self._runtime
        return [
            *("dockerd", "--data-root", str(self._data), "--exec-root", str(self._state)),
            *("--pidfile", str(run / "docker.pid"), "--host", self.host, "--config-file", str(self._config)),
            *("--storage-driver=overlay2", "--bridge=none", "--ip-forward=false"),
            # Firewall rules would outlive the engine, and an internal network needs none.
            *("--iptables=false", "--ip6tables=false", "--ip-masq=false"),
        ]

    def _prepare(self) -> None:
        """Make the folders; what holds sockets is a link to a short one where this one's path is too long."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._config.write_text("{}")  # the machine's own settings are for the machine's own engine
        run = self.folder / "run"
        if SHORT.fullmatch(str(run)):
            run.mkdir(mode=0o700, exist_ok=True)
        elif not run.is_dir():
            short = tempfile.mkdtemp(prefix="engine-")
            if not SHORT.fullmatch(short):
                Path(short).rmdir()
                raise EngineError(f"{short}: too long for a socket's path; set TMPDIR to a shorter one")
            run.unlink(missing_ok=True)
            run.symlink_to(short)

    def _launch(self, seconds: float) -> None:
        """Start dockerd, and once more without what an earlier one left if it ends by itself."""
        self._prepare()
        self._forget()
        if self._spawn(seconds) is None:
            return
        self._clear()
        if (code := self._spawn(seconds)) is not None:
            raise EngineError(f"dockerd ended by itself twice, at last with exit code {code}; {self._tail()}")

    def _revive(self) -> None:
        """Start an engine that was killed: nothing else can end its containers."""
        try:
            self._launch(START_S)
        except EngineError as error:
            tell(f"containers of an engine that was killed may be left: {error}")

    def _spawn(self, seconds: float) -> int | None:
        """Start dockerd and wait until it answers; return its exit code if it ended instead."""
        with self.log.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    env=environment(),
                    start_new_session=True,
                )
            except OSError as error:
                raise EngineError(f"dockerd cannot be started: {error}") from None
        try:
            self._wait(self._process.pid, seconds)
        except BaseException:
            self._end(self._process.pid)
            raise
        return self._process.returncode

    def _wait(self, pid: int, seconds: float) -> None:
        """Wait until the engine answers or its process ends."""
        deadline = time.monotonic() + seconds
        while not self.running and self._alive(pid):
            if time.monotonic() > deadline:
                raise EngineError(f"dockerd (process {pid}) did not answer within {seconds:.0f} s; {self._tail()}")
            time.sleep(0.1)

    def _pid(self, name: str) -> int | None:
        """Return the process that a pid file names if it is this engine's: ids wrap and are used again."""
        try:
            pid = int((self._runtime / name).read_text())
        except (OSError, ValueError):
            return None
        return pid if self._alive(pid) else None

    def _alive(self, pid: int) -> bool:
        if self._process is not None and self._process.pid == pid:
            return self._process.poll() is None
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        mine = tuple(os.fsencode(f"{root}/") for root in (self.folder, self._runtime))
        return any(argument.startswith(mine) for argument in arguments)

    def _end(self, pid: int) -> None:
        for number, seconds in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, KILL_S)):
            deadline = time.monotonic() + seconds
            if self._alive(pid):
                os.kill(pid, number)
            while self._alive(pid) and time.monotonic() < deadline:
                time.sleep(0.1)
        if self._alive(pid):
            raise EngineError(f"process {pid} of the engine does not end, not even by SIGKILL; see {self.log}")

    def _empty(self) -> None:
        """Remove containers and networks: a network's bridge would stay on the machine without its engine."""
        try:
            if containers := docker("ps", "--all", "--quiet", host=self.host, seconds=60).split():
                docker("rm", "--force", "--volumes", *containers, host=self.host, seconds=120)
            docker("network", "prune", "--force", host=self.host, seconds=60)
        except EngineError as error:
            tell(f"containers and networks may be left: {error}")

    def _forget(self) -> None:
        """Remove pid files, whose numbers others may have now: dockerd would take those for itself."""
        for name in (*PID_FILES, "docker.sock"):
            (self._runtime / name).unlink(missing_ok=True)

    def _clear(self) -> None:
        """Remove what a dead engine left: mounts and its state."""
        for mount in reversed(mounts_below(self.folder, self._runtime)):
            subprocess.run(["umount", "--lazy", mount], env=environment(), capture_output=True, check=False)
        if left := mounts_below(self.folder, self._runtime):
            raise EngineError(f"{left[-1]} is still mounted and does not come off; unmount it by hand")
        shutil.rmtree(self._state, ignore_errors=True)
        self._forget()

    def _tail(self, lines: int = 15) -> str:
        text = self.log.read_text(errors="replace").strip() if self.log.exists() else ""
        end = "\n  ".join(text.splitlines()[-lines:])
        return f"{self.log} ends:\n  {end}" if end else f"{self.log} is empty"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder against others who do the same; there is no lock file that deleting it could take away."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def mounts_below(*roots: Path) -> list[str]:
    """Return what is mounted below the folders, outermost first."""
    table = Path("/proc/self/mountinfo")
    lines = os.fsdecode(table.read_bytes()).splitlines() if table.exists() else []
    points = [re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), line.split(" ")[4]) for line in lines]
    return [point for point in points if point.startswith(tuple(f"{root}/" for root in roots))]


def environment() -> dict[str, str]:
    """Return this process's environment with the folders where Debian keeps programs for root."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return {**os.environ, "PATH": path}


def call(command: Sequence[str], host: str | None = None, seconds: float | None = None) -> str:
    """Run a command, with ``host`` as its engine, and return what it printed."""
    variables = environment()
    if host is not None:
        variables["DOCKER_HOST"] = host
        variables.pop("DOCKER_CONTEXT", None)  # it would win
    try:
        ended = subprocess.run(
            command,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError:
        raise EngineError(f"there is no program {command[0]}") from None
    except subprocess.TimeoutExpired:
        raise EngineError(f"{shlex.join(command)}: no end after {seconds} s") from None
    if ended.returncode != 0:
        said = (ended.stderr.strip() or ended.stdout.strip())[-3000:]
        raise EngineError(f"{shlex.join(command)[:500]}: exit code {ended.returncode}\n{said}")
    return ended.stdout.strip()


def docker(*args: str, host: str | None = None, seconds: float | None = None) -> str:
    """Run the docker command; without ``host`` against the engine that the environment names."""
    return call(("docker", *args), host, seconds)


def missing(*programs: str) -> str | None:
    """Say in one sentence why this machine cannot do it: not Linux, or without one of the programs."""
    if sys.platform != "linux":
        return "a Docker engine of our own needs Linux."
    absent = [name for name in programs if shutil.which(name, path=environment()["PATH"]) is None]
    return f"missing: {', '.join(absent)} (Debian's docker.io and mmdebstrap have them)." if absent else None


def missing_for_base() -> str | None:
    return missing("docker", "mmdebstrap")


def missing_for_engine() -> str | None:
    problem = missing("docker", "dockerd", "mmdebstrap")
    if problem is None and os.geteuid() != 0:
        return "a Docker engine of our own needs root."
    return problem


def found_engine() -> str | None:
    """Return the host of an engine that answers already; it has to see this machine's folders, so no remote one."""
    try:
        docker("version", "--format", "{{.Server.Version}}", seconds=60)
        host = docker("context", "inspect", "--format", "{{.Endpoints.docker.Host}}", seconds=60)
    except EngineError:
        return None
    return host if host.startswith("unix://") else None


def make_base(host: str, folder: Path) -> bool:
    """Make the base image from Debian's packages unless the engine has it; return whether it was made."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if docker("images", "--quiet", BASE_IMAGE, host=host):
            return False
        archive = folder / f"{SUITE}.tar"
        if not archive.exists():
            part = folder / f"{SUITE}.part.tar"
            part.unlink(missing_ok=True)
            bootstrap(part)
            part.rename(archive)
        docker("import", "--change", f"ENV PATH={IMAGE_PATH}", str(archive), BASE_IMAGE, host=host)
    return True


def bootstrap(archive: Path) -> None:
    """Write a minimal Debian, from this machine's own mirror if it has one for the suite, else from Debian's."""
    command = ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", *apt_options(), SUITE, str(archive)]
    if sources := apt_sources():
        try:
            call([*command, *sources])
            return
        except EngineError as error:
            tell(f"not from this machine's mirror: {error}")
            archive.unlink(missing_ok=True)
    call(command)


def apt_sources() -> list[str]:
    """Return this machine's sources of the suite; third parties' repositories have other suites or components."""
    if missing("apt-get"):
        return []
    form = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    targets = call(["apt-get", "indextargets", "--format", form, "Identifier: Packages"]).splitlines()
    wanted = {f"{SUITE}{kind} main" for kind in ("", "-updates", "-security")}
    found = [target for target in dict.fromkeys(targets) if target.split(" ", 1)[1] in wanted]
    return [f"deb {target}" for target in found] if any(f" {SUITE} main" in target for target in found) else []


def apt_options() -> list[str]:
    """Return this machine's proxies and leniency about dates, which mmdebstrap does not take over by itself."""
    if missing("apt-config"):
        return []
    lines = call(["apt-config", "dump", "--no-empty"]).splitlines()
    taken = re.compile(r"Acquire::(https?|Check-Valid-Until|Check-Date|Retries)\b")
    return [f"--aptopt={line}" for line in lines if taken.match(line)]


def download_wheels(folder: Path, *requirements: Path) -> bool:
    """Download the wheels that files of hashed requirements pin, into one folder; return whether any was missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        present = {digest(file) for file in folder.glob("*.whl")}
        wanted = {name: hashes for file in requirements for name, hashes in pinned(file).items()}
        absent = {name: hashes for name, hashes in wanted.items() if not hashes & present}
        if absent:
            download(folder, absent)
    return bool(absent)


def download(folder: Path, wanted: dict[str, set[str]]) -> None:
    """Let pip fetch requirements by their hashes, for the base image's Python whatever runs here."""
    machine = platform.machine()
    tags = [*(f"manylinux_2_{minor}_{machine}" for minor in GLIBC_MINORS), f"manylinux2014_{machine}"]
    with tempfile.TemporaryDirectory() as scratch:
        listed = Path(scratch) / "requirements.txt"
        lines = (" ".join([name, *(f"--hash=sha256:{code}" for code in sorted(wanted[name]))]) for name in wanted)
        listed.write_text("\n".join(lines))
        call(
            [
                *(python_with_pip(), "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
                *("--require-hashes", "--no-deps", "--only-binary=:all:", "--python-version", PYTHON),
                *(f"--platform={tag}" for tag in tags),
                *("--dest", str(folder), "--requirement", str(listed)),
            ]
        )


def pinned(requirements: Path) -> dict[str, set[str]]:
    """Return what a file of requirements pins for the base image, with the hashes that it allows.

    Markers are decided here: pip would ask the Python that it runs in.
    """
    there = {
        "python_version": PYTHON,
        "python_full_version": f"{PYTHON}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "platform_machine": platform.machine(),
    }
    allowed: dict[str, set[str]] = {}
    for line in requirements.read_text().replace("\\\n", " ").splitlines():
        text = line.partition("--hash=")[0].strip()
        if not text or text.startswith(("#", "-")):
            continue
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(there):
            hashes = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
            if not hashes:
                raise EngineError(f"{requirements}: {text} has no hash")
            allowed[f"{requirement.name}{requirement.specifier}"] = hashes
    return allowed


def digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def python_with_pip() -> str:
    """Return a Python that has pip: uv's environments have none, so look where they came from."""
    base = getattr(sys, "_base_executable", sys.executable)
    for python in dict.fromkeys((sys.executable, base, str(REPOSITORY / ".uv" / "bin" / "python"))):
        try:
            call([python, "-m", "pip", "--version"])
        except EngineError:
            continue
        return python
    raise EngineError(f"{base} has no pip, and wheels are downloaded with it; install it (Debian: python3-pip)")


def tell(text: str) -> None:
    print(text, file=sys.stderr)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.engine", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    start = commands.add_parser("start", help="start the engine in .engine/ unless it runs, as root")
    start.epilog = 'Prints a line for the shell: eval "$(python -m tests.engine start)"'
    commands.add_parser("stop", help="end it with its containers and networks; its images stay")
    commands.add_parser("remove", help="end it and delete .engine/ with all images and wheels")
    commands.add_parser("base", help=f"make the image {BASE_IMAGE} from Debian's packages, once")
    wheels = commands.add_parser("wheels", help="download what files of hashed requirements pin, once")
    wheels.add_argument("folder", type=Path, metavar="DIR", help="where the wheels go, for example .engine/wheels")
    wheels.add_argument("requirements", type=Path, nargs="+", metavar="REQUIREMENTS", help="file in pip's format")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments().parse_args(argv)
    engine = Engine(FOLDER)
    try:
        if args.command == "start":
            if problem := missing_for_engine():
                raise EngineError(problem)
            tell("started" if engine.start() else "runs already")
            print(f"export DOCKER_HOST={shlex.quote(engine.host)}")
        elif args.command == "stop":
            engine.stop()
        elif args.command == "remove":
            engine.remove()
        elif args.command == "base":
            host = engine.host if engine.running else found_engine()
            if host is None:
                raise EngineError("no Docker engine answers; start one: python -m tests.engine start")
            if problem := missing_for_base():
                raise EngineError(problem)
            tell(f"{BASE_IMAGE} was {'made' if make_base(host, FOLDER) else 'there'}")
        else:
            tell("downloaded" if download_wheels(args.folder, *args.requirements) else "all there")
    except EngineError as error:
        tell(f"EngineError: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
