"""Finished stages in ``outputs/cache/<stage id>/``, each computed once whoever asks.

<id>.lock       held by the process that computes it
<id>.partial/   under way, or left by a stage that was stopped: goes on from there
<id>/           finished: renamed from .partial after ``finished.json`` was written
    plan/       plan.json, manifest.json, a user's own model: the job's ``plan`` channel
    hosts/H/    what stands for /opt/ml on host H
    arrays/     preprocess only: the merged parts of all hosts; of a user's own script what all hosts wrote
    earlier/N/  of a user's own script only: what a try wrote that did not finish
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from launchers.config import PREPROCESS_SCRIPT, SCRIPT
from launchers.locking import take_lock
from launchers.signals import pause
from videolift.workspace import Kind, Workspace

FINISHED_FILE = "finished.json"
EARLIER = "earlier"
HANDLE = "job.json"  # of a stage that a lasting job computes, or did: which one
PARTIAL_SUFFIX = ".partial"
LOCK_INTERVAL_S = 0.5  # between two looks whether another process is done


class StageFolder:
    """Paths of one stage, finished or under way."""

    def __init__(self, path: Path, kind: Kind) -> None:
        self.path = path
        self.kind = kind

    @property
    def plan(self) -> Path:
        return self.path / "plan"

    @property
    def arrays(self) -> Path:
        return self.path / "arrays"

    @property
    def shares(self) -> Path:
        """Folder of the input that each host is dealt."""
        return self.path / "shares"

    def share(self, channel: str, host: str) -> Path:
        return self.shares / host / channel

    def workspace(self, host: str, hosts: tuple[str, ...] = (), channels: dict[str, Path] | None = None) -> Workspace:
        return Workspace(self.kind, self.path / "hosts" / host, host, hosts or (host,), channels or {})

    @property
    def first(self) -> Workspace:
        """The host whose model and output are the stage's."""
        return self.workspace("algo-1")


def event_files(path: Path) -> list[tuple[Path, Path]]:
    """Return (event file, output folder that its artifacts' paths are relative to) of every host of a stage."""
    files = sorted(path.glob("hosts/*/output/data/events-*.jsonl")) + sorted(
        path.glob("hosts/*/processing/output/*/events-*.jsonl")
    )
    return [(file, file.parent) for file in files]


def model_folder(path: Path) -> Path:
    """Return where the folder of a train stage, or of a user's own training script, holds its model."""
    return StageFolder(path, Kind.training).first.model


class Cache:
    """The stages under ``outputs/cache``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def finished(self, stage_id: str) -> str | None:
        """Return the id of the run that computed a stage, None where it is not finished."""
        try:
            marker = (self.folder / stage_id / FINISHED_FILE).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return str(json.loads(marker)["run"])

    def path(self, stage_id: str) -> Path:
        return self.folder / stage_id

    def partial(self, stage_id: str) -> Path:
        """Return the folder that a stage is computed in; what an earlier try left there is kept."""
        folder = self.partial_path(stage_id)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def emptied(self, stage_id: str) -> Path:
        """Return the folder that a stage is computed in, without an earlier try but for what was set aside of it."""
        folder = self.partial(stage_id)
        for entry in (one for one in folder.iterdir() if one.name != EARLIER):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        return folder

    def partial_path(self, stage_id: str) -> Path:
        return self.folder / f"{stage_id}{PARTIAL_SUFFIX}"

    def finish(self, stage_id: str, run: str) -> Path:
        """Mark a stage as finished, last of all."""
        marker = {"run": run, "time": time.time()}
        (self.partial(stage_id) / FINISHED_FILE).write_text(json.dumps(marker), encoding="utf-8")
        return self.adopt(stage_id)

    def adopt(self, stage_id: str) -> Path:
        """Take in a stage that was marked as finished elsewhere, whose files are in its partial folder."""
        partial, final = self.partial(stage_id), self.path(stage_id)
        if final.is_dir() and _is_of_script(stage_id):  # there only if somebody removed its marker
            aside = earlier_folder(partial)
            aside.parent.mkdir(exist_ok=True)
            final.replace(aside)
        shutil.rmtree(final, ignore_errors=True)
        partial.replace(final)
        return final

    def lock_file(self, stage_id: str) -> Path:
        return self.folder / f"{stage_id}.lock"

    @contextmanager
    def lock(self, stage_id: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """Keep two processes from computing the same stage at the same time; the second waits.

        Raises:
            StorageError: if the file system knows no locks.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.lock_file(stage_id).open("w") as lock:
            waiting = False
            while not take_lock(lock):
                if not waiting:
                    on_wait()
                    waiting = True
                pause(LOCK_INTERVAL_S)  # a wait of the kernel's would not be interrupted in a thread
            yield


def earlier_folder(stage: Path) -> Path:
    """Return a folder, not there yet, for what a try of a script wrote that did not finish."""
    return stage / EARLIER / str(len(list(stage.glob(f"{EARLIER}/*"))) + 1)


def _is_of_script(stage_id: str) -> bool:
    return stage_id.rpartition("-")[0] in (SCRIPT, PREPROCESS_SCRIPT)
