"""Runs of the real command, in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
RUN = REPOSITORY / "run.py"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


def start(*overrides: str, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    """Start ``python run.py`` in ``cwd``; TEST_FOLDER tells apart what it keeps elsewhere."""
    return subprocess.Popen(
        [sys.executable, str(RUN), *overrides],
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "TEST_FOLDER": _digest(cwd), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _digest(folder: Path) -> str:
    return hashlib.sha256(str(folder).encode()).hexdigest()[:12]


def wait(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate()
    return Ended(process.returncode, out, err)


def run(*overrides: str, cwd: Path, code: int = 0, **variables: str) -> Ended:
    """Run ``python run.py`` in ``cwd`` and check its exit code."""
    ended = wait(start(*overrides, cwd=cwd, **variables))
    assert ended.code == code, f"exit code {ended.code}\n{ended.text}"
    return ended


def records(cwd: Path) -> list[dict[str, Any]]:
    """Return the records of all runs, oldest first."""
    files = sorted((cwd / "outputs" / "runs").glob("*/run.json"), key=lambda f: json.loads(f.read_text())["created"])
    return [json.loads(file.read_text()) for file in files]


def stage(record: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(s for s in record["stages"] if s["name"] == name)
    return found


def arrays(record: dict[str, Any]) -> dict[str, bytes]:
    """Return the files of a run's merged arrays."""
    folder = Path(stage(record, "preprocess")["folder"]) / "arrays"
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def metrics(record: dict[str, Any], name: str) -> dict[tuple[str, int], float]:
    """Return the metrics that a stage told, by key and step, without timings."""
    files = Path(stage(record, name)["folder"]).rglob("events-*.jsonl")
    told = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return {
        (e["key"], e["step"]): e["value"]
        for e in told
        if e["type"] == "metric"
        and not e["key"].startswith(("system/", "sagemaker/"))
        and e["key"] != "samples_per_second"
    }
