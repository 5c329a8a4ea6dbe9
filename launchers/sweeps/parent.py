"""Shows a sweep in MLflow, as the run that its children's are below, and in its own folder.

Nothing here raises because of a server, as in ``launchers.tracking``.
"""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from launchers import mlflow_store as store
from launchers import provenance
from launchers.reachability import why_unreachable
from launchers.records import RunFolder, Status
from launchers.redaction import redacted_text
from launchers.repository import SOURCE
from launchers.sweeps.parent_run import ParentRun, Shown
from launchers.sweeps.record import Child, SweepFolder, SweepRecord
from launchers.sweeps.results import to_csv, to_html
from launchers.tracking import SECOND_TRY_S, brief, sync
from videolift.errors import VideoliftError

if TYPE_CHECKING:
    from launchers.config import Tracking

RESULTS = "results"  # folder, of the sweep's
CSV_FILE, HTML_FILE = "results.csv", "results.html"
PICTURES_S = 120  # they take seconds
UI_OF_HERE = "http://127.0.0.1:5000"  # where `make ui` shows what is recorded in outputs

log = logging.getLogger("videolift.tracking")


class Parent:
    """Records a sweep from a thread of its own; its tables and pictures are kept in its folder, too.

    After the first failure nothing more is tried until the sweep ends; then once, with everything that is missing.

    Attributes:
        problem: why the sweep is not recorded, None where it is.
    """

    def __init__(self, tracking: Tracking, outputs: Path, folder: SweepFolder) -> None:
        self.problem: str | None = None
        self._tracking, self._outputs, self._folder = tracking, outputs, folder
        self._results = folder.path / RESULTS
        self._uri = store.tracking_uri(tracking, outputs)
        self._run: ParentRun | None = None
        self._waiting: Shown | None = None
        self._lock, self._tables_lock = threading.Lock(), threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="sweep-tracking")
        if tracking.enabled:
            self._do(self._connect)  # importing MLflow takes seconds, which pass while others are busy

    def open(self, record: SweepRecord) -> None:
        """Find or make the run, and write its id into the record."""
        if self._tracking.enabled:
            self._do(self._open, record).result()
            self._folder.save(record)

    def update(self, record: SweepRecord) -> None:
        """Write the tables, and soon what the run shows."""
        if not self._write_tables(record) or self._run is None:
            return
        with self._lock:
            first, self._waiting = self._waiting is None, self._run.shown(record)
        if first:  # what comes while the worker is busy replaces what is still waiting
            self._do(self._show_waiting)

    def close(self, record: SweepRecord) -> None:
        """Write everything there is to show, and how the sweep ended; one that goes on without us stays open."""
        written = self._write_tables(record)
        if not self._tracking.enabled:
            return
        try:
            if written and record.parameters and record.best is not None:
                self._draw(record)
        finally:
            self._do(self._end, record)
            self._worker.shutdown()
            self._try_again(record)
            self._folder.save(record)

    def _do(self, job: Callable[..., object], *arguments: object) -> Future[None]:
        return self._worker.submit(self._try, job, *arguments)

    def _try(self, job: Callable[..., object], *arguments: object) -> None:
        if self.problem is not None:
            return
        try:
            job(*arguments)
        except Exception as error:  # whatever it is, it is not worth a sweep
            self.problem = (
                f"tracking: {brief(error)}. The sweep goes on without its run in MLflow; "
                "once the server answers, the same command records it"
            )
            log.warning(self.problem)

    def _connect(self) -> None:
        reason = why_unreachable(self._uri, self._tracking.timeout_s)
        if reason:
            raise VideoliftError(reason)
        self._client, self._experiment = store.connect(self._tracking, self._outputs)

    def _open(self, record: SweepRecord) -> ParentRun:
        run = ParentRun(self._client, self._experiment, record)
        record.mlflow_run, record.mlflow_uri = run.id, redacted_text(self._uri)
        if not (self._folder.path / provenance.TAGS_FILE).is_file():  # a sweep that goes on is what it was
            provenance.capture(self._folder.path)
        run.begin(record, self._folder.path)
        self._run = run
        return run

    def _show_waiting(self) -> None:
        with self._lock:
            shown, self._waiting = self._waiting, None
        if shown is not None and self._run is not None:
            self._run.show(shown, self._results / CSV_FILE, self._results / HTML_FILE)

    def _end(self, record: SweepRecord) -> None:
        run = self._run or self._open(record)
        self._take_in_children(record, run)
        self._write_tables(record)  # again: now every child has its address
        run.show(run.shown(record), *sorted(self._results.glob("*.*")))
        run.end(record)

    def _try_again(self, record: SweepRecord) -> None:
        timeout_s = min(SECOND_TRY_S, self._tracking.timeout_s)
        if self.problem is None or why_unreachable(self._uri, timeout_s, fresh=True) is not None:
            return
        self.problem = None
        self._try(self._record_all, record)
        if self.problem is None:
            log.warning("tracking: the server answers again, and the whole sweep is recorded now")

    def _record_all(self, record: SweepRecord) -> None:
        self._client, self._experiment = store.connect(self._tracking, self._outputs)
        self._run = None  # what a server that failed has taken in is not known
        self._end(record)

    def _take_in_children(self, record: SweepRecord, run: ParentRun) -> None:
        """Bring children below the run that began, or ended, while the server did not answer."""
        here = redacted_text(self._uri)
        for child in record.children:
            folder = RunFolder(self._outputs / "runs" / str(child.run))
            if child.run is None or not folder.record_file.is_file():
                continue
            with folder.held() as mine:
                if mine:
                    self._take_in(child, folder, run, here)

    def _take_in(self, child: Child, folder: RunFolder, run: ParentRun, here: str) -> None:
        known = folder.load()
        tracked = known.config.get("tracking", {}).get("enabled", True)
        if not tracked or known.mlflow_uri not in (None, here):
            return
        foreign = known.parent != run.id
        if foreign:
            known.parent = run.id
            folder.save(known)
        if not known.synced and known.status is not Status.RUNNING:
            experiment = known.config.get("tracking", {}).get("experiment", self._tracking.experiment)
            sync(folder, replace(self._tracking, experiment=experiment), self._outputs)
        child.mlflow_run = folder.load().mlflow_run
        if foreign and child.mlflow_run:
            self._client.set_tag(child.mlflow_run, "mlflow.parentRunId", run.id)

    def _write_tables(self, record: SweepRecord) -> bool:
        """Write the tables, each at once, and tell whether that worked."""
        texts = {CSV_FILE: to_csv(record), HTML_FILE: to_html(record, self._address)}
        try:
            with self._tables_lock:
                self._results.mkdir(parents=True, exist_ok=True)
                for name, text in texts.items():
                    unfinished = self._results / f".{name}"
                    unfinished.write_text(text, encoding="utf-8", newline="")
                    unfinished.replace(self._results / name)
        except OSError as error:
            log.warning(f"{self._results}: the sweep's tables cannot be written: {error.strerror or error}")
            return False
        return True

    def _address(self, child: Child) -> str | None:
        base = ui_address(self._uri, here=self._tracking.uri is None)
        below = self._run.address(child) if self._run is not None else None
        return f"{base}/{below}" if base and below else None

    def _draw(self, record: SweepRecord) -> None:
        """Draw the pictures, by a process, as no launcher loads matplotlib."""
        command = [sys.executable, "-m", "videolift.sweep_pictures", str(self._results / CSV_FILE), str(self._results)]
        command += [f"--metric={record.metric}", f"--goal={record.goal.value}"]
        command += [f"--parameters={','.join(record.parameters)}"]
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        run = partial(subprocess.run, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PICTURES_S)
        try:
            done = run(command, env=environment, check=False)
            reason = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no reason told"])[-1]
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = brief(error)
        if reason:
            log.warning(f"sweep: its pictures were not drawn: {reason}. Try it with: {shlex.join(command)}")


def ui_address(uri: str, *, here: bool) -> str | None:
    """Return where MLflow's page shows what is recorded at a tracking URI, None where that is not known.

    Args:
        here: it is the database in outputs.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
    return UI_OF_HERE if here else None
