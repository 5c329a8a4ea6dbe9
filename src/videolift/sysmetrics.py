"""Samples CPU, memory and GPU of the machine that a stage runs on."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from videolift.job import Job

GPU_QUERY = ("nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits")


@contextmanager
def sampled(job: Job) -> Iterator[None]:
    """Emit ``system/...`` metrics every ``plan.system_interval_s`` seconds while the block runs; once at least."""
    if not job.plan.system_interval_s:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_sample, args=(job, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _sample(job: Job, ended: threading.Event) -> None:
    prefix = f"system/{job.plan.stage}"
    if len(job.workspace.hosts) > 1:
        prefix += f"/{job.workspace.host}"
    psutil.cpu_percent()  # the first call only sets the start of the interval
    step = 0
    while True:
        last = ended.wait(job.plan.system_interval_s)
        job.events.metrics({f"{prefix}/{key}": value for key, value in read_machine().items()}, step)
        step += 1
        if last:
            return


def read_machine() -> dict[str, float]:
    """Return utilisation of all cores in percent since the last call, used memory in MB, and the same of each GPU."""
    memory = psutil.virtual_memory()
    values = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": (memory.total - memory.available) / 1e6,
        "system_memory_usage_percentage": memory.percent,
    }
    for number, line in enumerate(_gpu_lines()):
        for key, cell in zip(("utilization_percentage", "memory_usage_megabytes"), line.split(","), strict=False):
            if cell.strip().isdigit():  # "[N/A]" on a partitioned GPU
                values[f"gpu_{number}_{key}"] = float(cell)
    return values


def _gpu_lines() -> list[str]:
    if shutil.which(GPU_QUERY[0]) is None:
        return []
    try:
        answer = subprocess.run(GPU_QUERY, capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:  # a busy driver: this sample goes without
        return []
    return answer.stdout.splitlines() if answer.returncode == 0 else []
