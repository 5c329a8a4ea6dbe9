"""``backend=local``: every host of a stage is a process on this machine, with SageMaker's layout re-rooted."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

from launchers.base import HostEnd, Stage
from videolift.settings import Precision
from videolift.workspace import Workspace

SOURCE = Path(__file__).resolve().parent.parent / "src"
CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}  # without them bfloat16 is emulated and slower than float32
FAILED_GRACE_S = 30.0  # that the other hosts of a failed stage get to end
BFLOAT16_GPU = 8.0  # CUDA compute capability from which on tensor cores take bfloat16


class LocalBackend:
    """Runs stages as subprocesses."""

    name = "local"

    def check(self, stage: str, hosts: int) -> list[str]:
        if stage != "preprocess" and hosts > 1:
            return [f"backend.{stage}.instance_count: backend=local trains on one host, got {hosts}; leave it at 1"]
        return []

    def precision(self) -> Precision:
        capability = _gpu_capability()
        if capability is not None:
            return Precision.mixed_bfloat16 if capability >= BFLOAT16_GPU else Precision.mixed_float16
        flags = CPUINFO.read_text().split() if CPUINFO.is_file() else []
        return Precision.mixed_bfloat16 if BFLOAT16_FLAGS & set(flags) else Precision.float32

    def submit(self, stage: Stage) -> LocalJob:
        spaces = [stage.folder.workspace(host, stage.hosts, stage.channels_of(host)) for host in stage.hosts]
        for space in spaces:
            space.lay_out()
        return LocalJob([(space, self._start(space)) for space in spaces])

    def _command(self, space: Workspace) -> list[str]:
        entry = [sys.executable, "-m", "videolift.entry", "--root", str(space.root)]
        return [*entry, "--parent", str(os.getpid())]

    def _start(self, space: Workspace) -> subprocess.Popen[str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("SM_")}
        environment = {**inherited, **space.variables(), "PYTHONPATH": str(SOURCE), "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            self._command(space),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C in the terminal is ours to pass on
        )


class LocalJob:
    """The processes of one stage."""

    def __init__(self, processes: list[tuple[Workspace, subprocess.Popen[str]]]) -> None:
        self._processes = processes
        self._failed: list[str] = []  # hosts, in the order in which they failed
        self._running = {space.host: process for space, process in processes}
        self._lines: queue.Queue[tuple[str, str | None]] = queue.Queue()
        for space, process in processes:
            threading.Thread(target=_pump, args=(space.host, process, self._lines), daemon=True).start()

    def follow(self) -> Iterator[tuple[str, str]]:
        while self._running:
            host, line = self._lines.get()
            if line is not None:
                yield host, line
            elif self._running.pop(host).wait() != 0:
                self._failed.append(host)
                self.stop(FAILED_GRACE_S)

    def stop(self, grace_s: float) -> None:
        threading.Thread(target=self._stop, args=(grace_s,), daemon=True).start()

    def _stop(self, grace_s: float) -> None:
        deadline = time.monotonic() + grace_s
        for _, process in self._processes:
            _signal(process, signal.SIGTERM)
        for _, process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)

    def ends(self) -> list[HostEnd]:
        ends = [HostEnd(s.host, p.wait(), _read(s.failure_file)) for s, p in self._processes]
        order = {host: number for number, host in enumerate(self._failed)}
        return sorted(ends, key=lambda end: order.get(end.host, len(order)))


def _pump(host: str, process: subprocess.Popen[str], lines: queue.Queue[tuple[str, str | None]]) -> None:
    if process.stdout is not None:
        for line in process.stdout:
            lines.put((host, line.rstrip("\n")))
    lines.put((host, None))


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(number)


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def _gpu_capability() -> float | None:
    """Return the lowest CUDA compute capability of the GPUs that TensorFlow can use here, None where there is none."""
    # TensorFlow's wheel brings no CUDA: a GPU counts only where `tensorflow[and-cuda]` is installed.
    if shutil.which("nvidia-smi") is None or not _has_cuda():
        return None
    query = ("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    lines = answer.stdout.split() if answer.returncode == 0 else []
    return min((float(line) for line in lines), default=None)


def _has_cuda() -> bool:
    return any((d.name or "").startswith("nvidia-cudnn") for d in distributions())
