"""A real MLflow server on loopback."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

START_S = 240
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # jobs: four more processes
COMMAND = (sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1")


class MlflowServer:
    """A server that can be stopped, started again on the same port, and frozen: it accepts then and never answers."""

    def __init__(self, store_uri: str, artifacts: Path | None, log: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.log = log
        served = (
            ["--serve-artifacts", "--artifacts-destination", str(artifacts)] if artifacts else ["--no-serve-artifacts"]
        )
        self._command = [*COMMAND, "--port", str(self.port), "--backend-store-uri", store_uri, *served]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, **QUIET}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=environment, start_new_session=True, cwd=self.log.parent
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start:\n{self.log.read_text()}")
            time.sleep(0.2)

    def stop(self) -> None:
        if self._process is not None:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def _answers(self) -> bool:
        try:  # its first look into the database takes longest
            urllib.request.urlopen(
                f"{self.uri}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=START_S
            ).close()
        except OSError:
            return False
        return True


@contextmanager
def mlflow_server(store_uri: str, log: Path, artifacts: Path | None = None) -> Iterator[MlflowServer]:
    """Yield a running server; with ``artifacts`` it takes and serves files itself, else clients write them."""
    server = MlflowServer(store_uri, artifacts, log)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def silent_port() -> Iterator[int]:
    """Yield a port that accepts connections and never answers."""
    with silence() as (port, _):
        yield port


@contextmanager
def silence() -> Iterator[tuple[int, Callable[[], int]]]:
    """Yield a port that accepts connections and never answers, and what counts those that came since it last did."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        listener.setblocking(False)
        yield int(listener.getsockname()[1]), lambda: _waiting(listener)


def _waiting(listener: socket.socket) -> int:
    for count in itertools.count():
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
    raise AssertionError
