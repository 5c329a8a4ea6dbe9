"""What tests of backend=sagemaker-remote share: the settings, and what the emulator does on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from tests.under_way import entries

SETTINGS = (
    "backend.role=videolift-job",
    "backend.poll_s=0.3",
    "backend.prefix=${oc.env:TEST_FOLDER}",  # or a stage that another test computed would be fetched
    "backend.on_interrupt=stop",  # as on the other backends, so that the contract tests say the same of all
)


def forget_aws(patch: pytest.MonkeyPatch) -> None:
    """Remove what this machine's environment says of AWS and of proxies."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower() in ("http_proxy", "https_proxy", "all_proxy"):
            patch.delenv(name)
    patch.setenv("AWS_CONFIG_FILE", os.devnull)
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


class OnEmulator:
    """Jobs whose hosts the emulator runs."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._before = {job.name for job in self._jobs()}

    def _jobs(self) -> list[Path]:
        return [job for job in (self._root / "jobs").glob("*") if job.is_dir()]

    def _new(self, stage: str) -> list[Path]:
        new = [job for job in self._jobs() if job.name not in self._before and f"-{stage}-" in job.name]
        return [job for job in new if any(job.glob("algo-*.pid"))]  # which a host has while it runs

    def files(self, cwd: Path, stage: str, pattern: str) -> list[Path]:
        return sorted(
            file
            for job in self._new(stage)
            for output in ("processing/output/*", f"output/data/{stage}")
            for file in job.glob(f"algo-*/{output}/{pattern}")
        )

    def processes(self, launcher: int) -> list[psutil.Process]:
        hosts = [file for job in self._jobs() if job.name not in self._before for file in job.glob("algo-*.pid")]
        alive = [int(file.read_text()) for file in hosts]
        return entries(psutil.Process(pid) for pid in alive if psutil.pid_exists(pid))
