from __future__ import annotations

from pathlib import Path

import pytest

from launchers.machine import best_precision
from videolift.gpus import gpus
from videolift.settings import Precision
from videolift.sysmetrics import read_machine

# As nvidia-smi 580 prints it for an NVIDIA H200, and for another one that is partitioned.
ANSWERS = {"utilization.gpu,memory.used": "99, 883\n[N/A], 12\n", "compute_cap": "9.0\n7.5\n"}


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "nvidia-smi"
    cases = "".join(f"--query-gpu={query}) printf '{answer}' ;;\n" for query, answer in ANSWERS.items())
    program.write_text(
        f'#!/bin/sh\n[ "$2" = --format=csv,noheader,nounits ] || exit 2\n'
        f'case "$1" in\n{cases}*) echo "Field is not a valid field to query."; exit 2 ;;\nesac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return program


@pytest.mark.usefixtures("two_gpus")
def test_use_and_memory_of_every_gpu_are_sampled() -> None:
    found = {key: value for key, value in read_machine().items() if key.startswith("gpu")}
    assert found == {
        "gpu_0_utilization_percentage": 99.0,
        "gpu_0_memory_usage_megabytes": pytest.approx(925.9, abs=0.1),  # 883 MiB
        "gpu_1_memory_usage_megabytes": pytest.approx(12.6, abs=0.1),
    }


@pytest.mark.usefixtures("two_gpus")
def test_precision_is_what_the_oldest_gpu_is_good_at() -> None:
    assert best_precision(gpus=True) is Precision.mixed_float16


def test_without_a_driver_that_answers_there_is_no_gpu(
    two_gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpus("compute_cap") == [["9.0"], ["7.5"]]
    assert gpus("no.such.property") == []
    two_gpus.write_text("#!/bin/sh\nsleep 60\n")
    monkeypatch.setattr("videolift.gpus.PATIENCE_S", 0.2)
    assert gpus("compute_cap") == []
    two_gpus.unlink()
    assert gpus("compute_cap") == []
    assert best_precision(gpus=True) in (Precision.float32, Precision.mixed_bfloat16)
