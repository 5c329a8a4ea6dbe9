"""What this machine computes best in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

from launchers.config import Config
from videolift.gpus import gpus
from videolift.settings import Precision

if TYPE_CHECKING:
    from launchers.base import Stage

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}  # without them bfloat16 is emulated and slower than float32
BFLOAT16_GPU = 8.0  # CUDA compute capability from which on tensor cores take bfloat16


def best_precision(*, gpus: bool) -> Precision:
    """Return the fastest arithmetic that trains as well as float32.

    Args:
        gpus: whether the stages can use this machine's GPUs.
    """
    capability = _gpu_capability() if gpus else None
    if capability is not None:
        return Precision.mixed_bfloat16 if capability >= BFLOAT16_GPU else Precision.mixed_float16
    flags = CPUINFO.read_text().split() if CPUINFO.is_file() else []
    return Precision.mixed_bfloat16 if BFLOAT16_FLAGS & set(flags) else Precision.float32


@cache
def has_cuda_libraries() -> bool:
    """Tell whether TensorFlow here can use a GPU: its wheel brings no CUDA, ``tensorflow[and-cuda]`` does."""
    return any((d.name or "").startswith("nvidia-cudnn") for d in distributions())


def _gpu_capability() -> float | None:
    """Return the lowest CUDA compute capability of this machine's GPUs, None where it has none."""
    return min((float(cell) for (cell,) in gpus("compute_cap")), default=None)


@dataclass(frozen=True)
class Threads:
    """How many threads of TensorFlow stages on this machine have; None: as many as there are cores."""

    alone: int | None = None
    beside_others: int | None = None  # of a member of an ensemble: others of it train at the same time

    def of(self, stage: Stage) -> int | None:
        return self.beside_others if stage.is_member else self.alone


ALL_CORES = Threads()


def thread_variables(count: int | None) -> dict[str, str]:
    """Return the environment variables by which TensorFlow shares a machine; none where it may take all of it.

    It has so many threads then, and of a GPU as much memory as it needs: otherwise the first one takes all.

    Source: NumIntraOpThreadsFromEnvironment and NumInterOpThreadsFromEnvironment in TensorFlow's process_util.cc,
    TF_FORCE_GPU_ALLOW_GROWTH in its gpu_bfc_allocator.cc.
    """
    if count is None:
        return {}
    threads = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
    return {"TF_FORCE_GPU_ALLOW_GROWTH": "true", **{name: str(count) for name in threads}}


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def members_at_once(config: Config) -> int:
    return min(config.backend.train.parallel, config.model.members)


def threads_of(config: Config) -> Threads:
    alone, at_once = config.sweep.threads, members_at_once(config)
    return Threads(alone, max(1, (alone or usable_cores()) // at_once) if at_once > 1 else alone)
