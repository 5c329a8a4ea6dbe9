"""What a sweep leaves behind, as a person finds it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from launchers.sweeps.record import Child, State, SweepFolder, SweepRecord
from tests import runs

TRAIN = "stages=[preprocess,train]"
PATIENCE_S = 240


def records(cwd: Path) -> list[SweepRecord]:
    """Return all sweeps, oldest first."""
    folders = [SweepFolder(file.parent) for file in (cwd / "outputs" / "sweeps").glob("*/sweep.json")]
    return sorted((folder.load() for folder in folders), key=lambda record: record.created)


def states(record: SweepRecord) -> list[str]:
    return [child.state.value for child in record.children]


def wait_until(process: subprocess.Popen[str], cwd: Path, reached: Callable[[SweepRecord], bool]) -> None:
    """Wait until the only sweep is as wanted."""
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        if (found := records(cwd)) and reached(found[-1]):
            return
        time.sleep(0.05)
    raise AssertionError(f"not reached: {runs.wait(process).text if process.poll() is not None else records(cwd)}")


def finished(count: int) -> Callable[[SweepRecord], bool]:
    return lambda record: record.count(State.finished) >= count


def trained(cwd: Path, child: Child) -> dict[tuple[str, int], float]:
    """Return the metrics that a child's training told."""
    record = next(r for r in runs.records(cwd) if r["id"] == child.run)
    return runs.metrics(record, "train")


def in_mlflow(cwd: Path) -> tuple[Run, list[Run]]:
    """Return the only parent in MLflow, and its children in the order in which they began."""
    client = MlflowClient(f"sqlite:///{cwd / 'outputs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("videolift").experiment_id
    everything = list(client.search_runs([experiment], order_by=["start_time ASC"]))
    children = [run for run in everything if "mlflow.parentRunId" in run.data.tags]
    (parent,) = (run for run in everything if run not in children)
    assert {run.data.tags["mlflow.parentRunId"] for run in children} <= {parent.info.run_id}
    return parent, children
