"""Samples CPU, memory and GPU of the machine that a stage runs on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from videolift.gpus import gpus
from videolift.job import Job

MB_A_MIB = 2**20 / 1e6
GPU_METRICS = ("utilization_percentage", "memory_usage_megabytes")


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
    for number, cells in enumerate(gpus("utilization.gpu", "memory.used")):
        for key, factor, cell in zip(GPU_METRICS, (1.0, MB_A_MIB), cells, strict=True):
            if cell.isdigit():  # "[N/A]" on a partitioned GPU
                values[f"gpu_{number}_{key}"] = float(cell) * factor
    return values
