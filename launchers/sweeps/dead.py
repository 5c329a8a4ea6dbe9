"""Sweeps whose launcher died: they are marked as what they are at the next start of any other one."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from launchers.config import Config, Tracking
from launchers.mlflow_store import tracking_uri
from launchers.outputs import Outputs
from launchers.records import Status, is_detached
from launchers.redaction import redacted_text
from launchers.sweeps.record import State, SweepRecord, all_sweeps

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger("videolift.tracking")


def close_dead_sweeps(console: Console, outputs: Outputs, config: Config, but: str | None = None) -> None:
    """Mark sweeps KILLED whose launcher died, here and in MLflow; those recorded elsewhere are told about.

    Args:
        but: the id of one that is gone on with.
    """
    for folder, record in all_sweeps(outputs.root):
        if record.status is not Status.RUNNING or is_detached(record) or record.id == but:
            continue
        with folder.held() as mine:
            if not mine:
                continue
            recorded = _is_recorded(record, outputs)
            if recorded and not _can_be_closed(record, config.tracking, outputs):
                continue
            record.status, record.ended = Status.KILLED, folder.record_file.stat().st_mtime or time.time()
            for child in record.children:
                if child.state is State.running:
                    child.state = State.stopped
            folder.save(record)
            from launchers.sweeps.parent import Parent

            tracking = replace(config.tracking, enabled=recorded, experiment=record.experiment)
            Parent(tracking, outputs.root, folder).close(record)
        console.print(f"sweep {record.id} was left by a launcher that died; it is marked KILLED", soft_wrap=True)


def _is_recorded(record: SweepRecord, outputs: Outputs) -> bool:
    """Tell whether a sweep has a run in MLflow, or would have one had its server answered."""
    begun = [outputs.run(child.run) for child in record.children if child.run]
    runs = [folder.load() for folder in begun if folder.record_file.is_file()]
    return record.mlflow_run is not None or any(run.config.get("tracking", {}).get("enabled", True) for run in runs)


def _can_be_closed(record: SweepRecord, tracking: Tracking, outputs: Outputs) -> bool:
    """Tell whether a sweep was recorded where this command records; if not, it is left to one that does."""
    here = redacted_text(tracking_uri(tracking, outputs.root)) if tracking.enabled else "nothing"
    if tracking.enabled and record.mlflow_uri in (None, here):
        return True
    there = record.mlflow_uri or "MLflow"
    log.warning(
        f"tracking: sweep {record.id} was left by a launcher that died; it is recorded in {there}, and this command "
        f"records in {here}. It stays as it is until a command that records there closes it, or goes on with it"
    )
    return False
