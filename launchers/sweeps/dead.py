"""Sweeps whose launcher died: they are marked as what they are at the next start of any other one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from launchers.config import Config
from launchers.outputs import Outputs
from launchers.records import Status, is_detached
from launchers.sweeps.record import State, all_sweeps

if TYPE_CHECKING:
    from rich.console import Console


def close_dead_sweeps(console: Console, outputs: Outputs, config: Config, but: str | None = None) -> None:
    """Mark sweeps KILLED whose launcher died, here and in MLflow.

    Args:
        but: the id of one that is gone on with.
    """
    for folder, record in all_sweeps(outputs.root):
        if record.status is not Status.RUNNING or is_detached(record) or record.id == but:
            continue
        with folder.held() as mine:
            if not mine:
                continue
            record.status, record.ended = Status.KILLED, folder.record_file.stat().st_mtime or time.time()
            for child in record.children:
                if child.state is State.running:
                    child.state = State.stopped
            folder.save(record)
            from launchers.sweeps.parent import Parent

            Parent(config.tracking, outputs.root, folder).close(record)
        console.print(f"sweep {record.id} was left by a launcher that died; it is marked KILLED", soft_wrap=True)
