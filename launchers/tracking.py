"""Records runs in MLflow while they run, or afterwards; no experiment fails with its tracking server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from launchers import mlflow_store as store
from launchers import provenance
from launchers.cache import HANDLE
from launchers.reachability import why_unreachable
from launchers.records import DETACHED, DETACHED_TAG, RunFolder, RunRecord, StageRecord, Status, is_detached
from launchers.redaction import redacted_text
from videolift.errors import VideoliftError
from videolift.events import Event

if TYPE_CHECKING:
    from launchers.config import Tracking

SECOND_TRY_S = 2.0  # for a server that failed earlier in the run; with the first try less than 10 s in all
MAX_REASON = 300  # characters

log = logging.getLogger("videolift.tracking")


class Tracker(Protocol):
    """Somewhere a run is recorded while it runs.

    Nothing here raises because of a server. An event may be told again: what is recorded is not recorded twice.
    """

    def start(self, record: RunRecord) -> None: ...

    def stage(self, stage: StageRecord) -> None: ...  # begins, cached or not

    def event(self, stage: StageRecord, event: Event, output: Path) -> None: ...

    def finish(self, record: RunRecord) -> None: ...


class NoTracker:
    """Records nothing."""

    def start(self, record: RunRecord) -> None:
        """Record nothing."""

    def stage(self, stage: StageRecord) -> None:
        """Record nothing."""

    def event(self, stage: StageRecord, event: Event, output: Path) -> None:
        """Record nothing."""

    def finish(self, record: RunRecord) -> None:
        """Record nothing."""


class MlflowTracker:
    """Records a run in MLflow from a thread of its own.

    Connecting begins at once, so that importing MLflow (3 s) overlaps with planning. After the first failure nothing
    more is tried until the run ends; then once, with everything that is missing.

    Attributes:
        problem: why the run is not recorded, None where it is.
    """

    def __init__(self, tracking: Tracking, outputs: Path, folder: RunFolder) -> None:
        self.problem: str | None = None
        self._tracking, self._outputs, self._folder = tracking, outputs, folder
        self._uri = store.tracking_uri(tracking, outputs)
        self._points: list[store.Point] = []
        self._points_lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="tracking")
        self._do(self._connect)

    def start(self, record: RunRecord) -> None:
        """Open the run, and write its id into the record."""
        provenance.capture(self._folder.path)
        self._do(self._open, record).result()
        self._folder.save(record)

    def stage(self, stage: StageRecord) -> None:
        """Record that a stage begins."""
        self._do(lambda: self._recording.stage(stage))

    def event(self, stage: StageRecord, event: Event, output: Path) -> None:
        """Record an event soon; ``output`` is the folder that its path is below."""
        if event["type"] != "metric":
            self._do(lambda: self._recording.event(event, output))
            return
        with self._points_lock:
            self._points.append(store.point_of(event))
            first = len(self._points) == 1
        if first:  # those that come while the worker is busy are written together
            self._do(self._write_points)

    def finish(self, record: RunRecord) -> None:
        """Write what is still waiting, then how the run ended."""
        self._do(lambda: self._recording.stages(record))  # what was missed live, as a file that came later
        self._do(lambda: self._recording.end(record, self._folder, self._tracking))
        self._worker.shutdown()
        record.synced = self.problem is None and record.status is not Status.RUNNING
        self._folder.save(record)
        timeout_s = min(SECOND_TRY_S, self._tracking.timeout_s)
        if self.problem and why_unreachable(self._uri, timeout_s, fresh=True) is None:
            self._catch_up(record)

    def _do(self, job: Callable[..., None], *arguments: object) -> Future[None]:
        return self._worker.submit(self._try, job, *arguments)

    def _try(self, job: Callable[..., None], *arguments: object) -> None:
        if self.problem is not None:
            return
        try:
            job(*arguments)
        except Exception as error:  # whatever it is, it is not worth an experiment
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.problem = (
            f"tracking: {brief(error)}. The experiment goes on without MLflow; record it later with: "
            f"python run.py action=sync run={self._folder.path.name}"
            + (f" tracking.uri={redacted_text(self._tracking.uri)}" if self._tracking.uri else "")
        )
        log.warning(self.problem)

    def _connect(self) -> None:
        reason = why_unreachable(self._uri, self._tracking.timeout_s)
        if reason:
            raise VideoliftError(reason)
        self._client, self._experiment = store.connect(self._tracking, self._outputs)

    def _open(self, record: RunRecord) -> None:
        self._recording = store.Recording(self._client, self._experiment, record)
        record.mlflow_run, record.mlflow_uri = self._recording.run_id, redacted_text(self._uri)
        self._recording.begin(record, self._folder)

    def _write_points(self) -> None:
        with self._points_lock:
            points, self._points = self._points, []
        self._recording.points(store.newest(points))

    def _catch_up(self, record: RunRecord) -> None:
        try:
            _record_all(record, self._folder, self._tracking, self._outputs)
        except Exception as error:
            self._fail(error)
            return
        self.problem = None
        log.warning("tracking: the server answers again, and the whole run is recorded now")


def sync(folder: RunFolder, tracking: Tracking, outputs: Path) -> None:
    """Record a run again from its own files, without duplicates, however much of it was recorded before.

    Raises:
        VideoliftError: if the server does not answer, or not well.
    """
    uri = store.tracking_uri(tracking, outputs)
    reason = why_unreachable(uri, tracking.timeout_s, fresh=True)
    if reason:
        raise VideoliftError(f"tracking: {reason}; run {folder.path.name} is kept, sync it when the server is back")
    try:
        _record_all(folder.load(), folder, tracking, outputs)
    except VideoliftError:
        raise
    except Exception as error:
        raise VideoliftError(f"tracking: {brief(error)}; run {folder.path.name} is kept, sync it again") from error


def _record_all(record: RunRecord, folder: RunFolder, tracking: Tracking, outputs: Path) -> None:
    recording = store.Recording(*store.connect(tracking, outputs), record)
    record.mlflow_run = recording.run_id
    record.mlflow_uri = redacted_text(store.tracking_uri(tracking, outputs))
    folder.save(record)
    recording.begin(record, folder)
    recording.stages(record)
    recording.end(record, folder, tracking)
    record.synced = record.status is not Status.RUNNING
    folder.save(record)


def leave_lasting(outputs: Path, tracking: Tracking) -> list[str]:
    """Mark runs as detached whose launcher died before a job that goes on without it, and return their ids."""
    left = [folder for folder in _abandoned(outputs) if _leave(folder)]
    _sync_here(left, tracking, outputs)
    return [folder.path.name for folder in left]


def close_dead(outputs: Path, tracking: Tracking) -> list[str]:
    """Mark runs KILLED whose launcher died, here and in MLflow, and return their ids.

    Those that are detached are not dead. Without any, MLflow is not imported.
    """
    closed = [folder for folder in _abandoned(outputs) if _close(folder)]
    _sync_here(closed, tracking, outputs)
    return [folder.path.name for folder in closed]


def _abandoned(outputs: Path) -> Iterator[RunFolder]:
    """Yield runs that seem to run while no process holds them; each is held meanwhile."""
    for file in sorted((outputs / "runs").glob("*/run.json")):
        if f'"{Status.RUNNING.value}"' not in file.read_text(encoding="utf-8"):
            continue
        folder = RunFolder(file.parent)
        with folder.held() as mine:
            if mine:
                yield folder


def _sync_here(folders: Sequence[RunFolder], tracking: Tracking, outputs: Path) -> None:
    if folders and tracking.enabled:
        _sync_all([f for f in folders if _belongs_here(f.load(), tracking, outputs)], tracking, outputs)


def _belongs_here(record: RunRecord, tracking: Tracking, outputs: Path) -> bool:
    """Tell whether a run was recorded where runs are recorded now; one that was recorded elsewhere is told about."""
    if not record.config.get("tracking", {}).get("enabled", True):
        return False
    here = redacted_text(store.tracking_uri(tracking, outputs))
    if record.mlflow_uri in (None, here):
        return True
    log.warning(
        f"tracking: run {record.id} died while recorded in {record.mlflow_uri}, not where runs are recorded now; "
        f"close it there: python run.py action=sync run={record.id} tracking.uri={record.mlflow_uri}"
    )
    return False


def _leave(folder: RunFolder) -> bool:
    record = folder.load()
    under_way = [Path(stage.folder) / HANDLE for stage in record.stages if stage.status is Status.RUNNING]
    if record.status is not Status.RUNNING or is_detached(record) or not any(file.is_file() for file in under_way):
        return False
    record.tags[DETACHED_TAG] = DETACHED
    folder.save(record)
    return True


def _close(folder: RunFolder) -> bool:
    record = folder.load()
    if record.status is not Status.RUNNING or is_detached(record):
        return False
    record.status, record.synced = Status.KILLED, False
    record.ended = _last_sign_of_life(folder, record)
    record.error = record.error or "the launcher died"
    for stage in record.stages:
        if stage.status is Status.RUNNING:
            stage.status, stage.ended = Status.KILLED, record.ended
    folder.save(record)
    return True


def _last_sign_of_life(folder: RunFolder, record: RunRecord) -> float:
    files = [file for stage in record.stages for file, _ in store.files_of(stage)]
    return max([record.created, *(f.stat().st_mtime for f in (folder.record_file, *files) if f.exists())])


def _sync_all(folders: list[RunFolder], tracking: Tracking, outputs: Path) -> None:
    for folder in folders:
        try:
            experiment = folder.load().config.get("tracking", {}).get("experiment", tracking.experiment)
            sync(folder, replace(tracking, experiment=experiment), outputs)
        except VideoliftError as error:
            names = ", ".join(f.path.name for f in folders)
            log.warning(f"{error} (python run.py action=sync run=...; died earlier: {names})")
            return


def brief(error: Exception) -> str:
    """Return an exception's first line, without credentials, short enough for a person."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return store.cut(redacted_text(lines[0]), MAX_REASON)
