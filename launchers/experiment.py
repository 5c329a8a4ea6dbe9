"""One experiment from configuration to recorded run: prepare, submit, follow, record."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from launchers import commands, facts, report
from launchers.base import Job, Stage
from launchers.cache import StageFolder, event_files
from launchers.config import Action, Config
from launchers.display import StageDisplay
from launchers.follow import follow
from launchers.outputs import Outputs
from launchers.parity import PARITY_FILE, differences, parity_table, to_csv
from launchers.planning import KINDS, NEEDS, PlannedStage, finished_stages, planned_names, prepare_stage
from launchers.preparing import Prepared, find_backend, make_ready, prepare
from launchers.records import RunFolder, RunRecord, StageRecord, Status
from launchers.redaction import redacted, redacted_text
from videolift import events
from videolift.errors import ConfigError, DataError, StageError, Stopped, as_expected
from videolift.events import Event
from videolift.parts import INDEX_FILE, merge, read_index, refuse_too_many_bad
from videolift.plan import from_plain, to_plain
from videolift.workspace import PARTS_FOLDER, Kind

if TYPE_CHECKING:
    from rich.console import Console

    from launchers.tracking import Tracker


PLAIN_WIDTH = 160  # characters


def run(config: Config, parent: str | None = None, label: str | None = None) -> int:
    """Do what ``config.action`` says and return the exit code.

    Args:
        parent: MLflow run id of the sweep that this run is part of.
        label: what tells this run from the sweep's others; names it.

    Raises:
        VideoliftError: for everything that a person can act on.
    """
    try:
        return _run(config, parent, label)
    except OSError as error:
        expected = as_expected(error)
        if expected is None:
            raise
        raise expected from error


def _run(config: Config, parent: str | None, label: str | None) -> int:
    from rich.console import Console

    # A file or a pipe has no width: wrapping there would cut ids and paths.
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    outputs = Outputs(Path(config.outputs).expanduser().resolve())
    if config.action is Action.sync:
        return _sync(console, outputs, config)
    if config.action is Action.build:
        return _build(console, outputs, config)
    if config.run is not None:
        config = _again(config, outputs)
    with _terminate_as_interrupt():
        return _run_or_plan(console, outputs, config, parent, label)


def _run_or_plan(console: Console, outputs: Outputs, config: Config, parent: str | None, label: str | None) -> int:
    prepared = prepare(config, outputs, console)
    for note in prepared.manifest.notes:
        console.print(f"note: {note}", style="yellow", soft_wrap=True)
    if config.action is Action.plan:
        report.print_plan(console, prepared, outputs)
        return 0
    _refuse_missing_inputs(prepared, outputs)
    prepared = make_ready(prepared, outputs, console)
    return _Run(console, outputs, prepared, parent, label).execute()


def _sync(console: Console, outputs: Outputs, config: Config) -> int:
    from launchers import tracking

    folder = outputs.run(str(config.run))
    tracking.sync(folder, config.tracking, outputs.root)
    console.print(f"run {config.run} is recorded in {folder.load().mlflow_uri}", soft_wrap=True)
    return 0


def _build(console: Console, outputs: Outputs, config: Config) -> int:
    """Make the images of all stages asked for, and say what is in them."""
    backend = find_backend(config, outputs)
    stages = planned_names(config.stages)
    with _terminate_as_interrupt():
        backend.settle(stages, console)
        backend.make_ready(stages, console)
    report.print_parity(console, parity_table(backend.environments(stages)))
    return 0


def _again(config: Config, outputs: Outputs) -> Config:
    """Return the configuration of an earlier run; with ``action=run`` only its stages are other ones."""
    record = outputs.run(str(config.run)).load()
    earlier = from_plain(Config, record.config)
    stages = earlier.stages if config.action is Action.resume else config.stages
    return replace(
        earlier, action=config.action, run=config.run, stages=stages, outputs=config.outputs, tracking=config.tracking
    )


def _refuse_missing_inputs(prepared: Prepared, outputs: Outputs) -> None:
    finished = finished_stages(prepared.planned, outputs.cache)
    wanted = prepared.config.stages
    missing = {need: name for name in wanted for need in NEEDS[name] if need not in wanted and need not in finished}
    if missing:
        lines = [
            f"stages: {name} needs {need}, which is not finished for these settings" for need, name in missing.items()
        ]
        raise ConfigError("\n".join(lines) + f"\n  say stages=[{','.join([*missing, *wanted])}]")


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM, which a cluster's scheduler sends, like Ctrl-C."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # a notebook's worker thread has no signals
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Run:
    """One run on its way."""

    def __init__(
        self, console: Console, outputs: Outputs, prepared: Prepared, parent: str | None, label: str | None
    ) -> None:
        self._console = console
        self._outputs = outputs
        self._prepared = prepared
        self._config = prepared.config
        self._cache = outputs.cache
        self._fingerprint = facts.fingerprint(prepared)
        self._parent = parent
        self._label = label

    def execute(self) -> int:
        _close_dead_runs(self._console, self._outputs, self._config)
        record = self._opened_record()
        folder = self._outputs.run(record.id)
        with folder.held() as mine:
            if not mine:
                raise ConfigError(f"run: another process is working on {record.id}; wait for it or stop it")
            tracker = _tracker(self._config, self._outputs, folder)
            self._execute_recorded(record, folder, tracker)
        report.print_summary(self._console, record, self._prepared, self._outputs, _open_with(self._config, record))
        return 0

    def _execute_recorded(self, record: RunRecord, folder: RunFolder, tracker: Tracker) -> None:
        """Run the stages; whatever happens, the record and the tracker learn how the run ended."""
        status, error = Status.FAILED, None
        try:
            folder.save(record)
            (folder.path / "plan.json").write_text(facts.plan_text(self._prepared), encoding="utf-8")
            self._tell_parity(folder)
            tracker.start(record)
            for name in (n for n in self._prepared.planned if n in self._config.stages):
                self._stage(self._prepared.planned[name], record, folder, tracker)
            status = Status.FINISHED
        except (KeyboardInterrupt, Stopped) as stopped:
            status, error = Status.KILLED, str(stopped) or "interrupted"
            raise Stopped(str(stopped) or "interrupted; the same command goes on from there") from stopped
        except BaseException as failed:
            error = str(failed) or type(failed).__name__
            raise
        finally:
            record.status, record.error, record.ended = status, error, time.time()
            for stage in record.stages:
                if stage.status is Status.RUNNING:
                    stage.status, stage.ended = status, record.ended
            try:
                folder.save(record)
            finally:  # a full disk must not leave the run open on a server
                tracker.finish(record)
            folder.save(record)

    def _tell_parity(self, folder: RunFolder) -> None:
        table = self._prepared.parity
        if table is None:
            return
        (folder.path / PARITY_FILE).write_text(to_csv(table), encoding="utf-8")
        if differences(table):
            self._console.print("libraries differ, so results may:", style="yellow")
            report.print_parity(self._console, table)
        else:
            self._console.print("libraries in the images are those here")

    def _opened_record(self) -> RunRecord:
        """Return the record of the run to go on with, else a new one."""
        record = self._record_to_reopen()
        if record is None:
            name = self._label or self._config.name or facts.plain_name(self._config)
            run_id = facts.new_id(name)
            record = RunRecord(run_id, name, self._fingerprint, redacted(to_plain(self._config)), parent=self._parent)
        else:
            self._console.print(f"goes on with run {record.id}")
            record.stages = [s for s in record.stages if s.name not in self._config.stages]
            record.parent = self._parent or record.parent
        record.status, record.error, record.ended = Status.RUNNING, None, None
        record.tags = facts.tags(self._prepared)
        record.data = facts.data_facts(self._prepared)
        return record

    def _record_to_reopen(self) -> RunRecord | None:
        if self._config.run is not None:
            return self._outputs.run(self._config.run).load()
        for file in sorted(self._outputs.runs.glob("*/run.json"), reverse=True):
            record = RunFolder(file.parent).load()
            if record.fingerprint == self._fingerprint and record.status is Status.KILLED:
                return record
        return None

    def _stage(self, planned: PlannedStage, record: RunRecord, folder: RunFolder, tracker: Tracker) -> None:
        stage = StageRecord(planned.name, planned.id, str(self._cache.path(planned.id)), started=time.time())
        with self._cache.lock(
            planned.id, lambda: self._console.print(f"{planned.name}: another process computes it; waiting")
        ):
            origin = self._cache.finished(planned.id)
            stage.cached, stage.origin = origin is not None, origin
            record.stages = sorted([*record.stages, stage], key=lambda s: list(KINDS).index(s.name))
            if origin is not None:
                self._check_arrays(planned, Path(stage.folder))
                self._console.print(f"{planned.name}: cached, computed by {origin}", soft_wrap=True)
                tracker.stage(stage)
            else:
                stage.folder = str(self._cache.partial(planned.id))
                folder.save(record)
                tracker.stage(stage)
                self._compute(planned, stage, folder, tracker)
                final = self._cache.finish(planned.id, record.id)
                stage.folder = str(final)
                _delete_host_parts(final)
        stage.status, stage.ended = Status.FINISHED, time.time()
        folder.save(record)
        _reconcile(stage, tracker)

    def _compute(self, planned: PlannedStage, stage: StageRecord, folder: RunFolder, tracker: Tracker) -> None:
        manifest = self._prepared.manifest
        inputs = {need: self._cache.path(self._prepared.planned[need].id) for need in NEEDS[planned.name]}
        submitted = prepare_stage(planned, Path(stage.folder), manifest, self._config, inputs)
        output = submitted.folder.first.output

        def on_event(event: Event) -> None:
            if event["type"] == "metric":  # files are taken up at the end, from the place where they stay
                tracker.event(stage, event, output)

        with StageDisplay(self._console, planned.name) as display:
            job = self._prepared.backend.submit(submitted)
            with self._closing(job):
                follow(
                    *(job, submitted, display, folder.path / f"{planned.name}.log", on_event),
                    grace_s=self._config.backend.grace_s,
                    alone=commands.alone(self._config, submitted),
                )
            if planned.name == "preprocess":
                self._merge(submitted)
            display.ended("done")

    @contextmanager
    def _closing(self, job: Job) -> Iterator[None]:
        try:
            yield
        except BaseException:
            try:
                job.close()
            except StageError as error:  # what went wrong first is what the run ends with
                self._console.print(f"cleaning up: {error}", style="yellow", soft_wrap=True)
            raise
        job.close()

    def _merge(self, stage: Stage) -> None:
        manifest, p = self._prepared.manifest, self._config.preprocess
        workspaces = [stage.workspace(host, {}) for host in stage.hosts]
        parts = [workspace.parts for workspace in workspaces]
        entries = merge(parts, [clip.id for clip in manifest.clips], p, stage.folder.arrays)
        refuse_too_many_bad(entries, len(manifest.clips), p)
        if not any(entry.stop > entry.start for entry in entries):
            raise DataError(
                f"none of {len(entries)} videos gives a clip of {p.depth} frames with preprocess.short_video="
                f"{p.short_video.value}; use a smaller preprocess.depth, or preprocess.short_video=pad"
            )

    def _check_arrays(self, planned: PlannedStage, folder: Path) -> None:
        """Hold reused arrays to the limits of this run, which may be stricter than those of the run that made them."""
        if planned.name == "preprocess":
            entries = read_index(folder / "arrays" / INDEX_FILE)
            refuse_too_many_bad(entries, len(entries), self._config.preprocess)


def _delete_host_parts(stage: Path) -> None:
    """Delete what the merged arrays repeat and what hosts were dealt; only now: until here a crash would lose work."""
    for file in stage.glob(f"hosts/*/{PARTS_FOLDER}/part-*"):
        file.unlink()
    shutil.rmtree(StageFolder(stage, Kind.processing).shares, ignore_errors=True)


def _reconcile(stage: StageRecord, tracker: Tracker) -> None:
    """Tell the tracker everything that the stage said; it ignores what it knows."""
    for file, output in event_files(Path(stage.folder)):
        for event in events.read(file):
            tracker.event(stage, event, output)


def _tracker(config: Config, outputs: Outputs, folder: RunFolder) -> Tracker:
    from launchers import tracking

    return (
        tracking.MlflowTracker(config.tracking, outputs.root, folder)
        if config.tracking.enabled
        else tracking.NoTracker()
    )


def _close_dead_runs(console: Console, outputs: Outputs, config: Config) -> None:
    from launchers import tracking

    for run_id in tracking.close_dead(outputs.root, config.tracking):
        console.print(f"run {run_id} was left by a launcher that died; it is marked KILLED", soft_wrap=True)


def _open_with(config: Config, record: RunRecord) -> str | None:
    if not config.tracking.enabled:
        return None
    if not record.synced:
        again = ["action=sync", f"run={record.id}"]
        again += [f"outputs={config.outputs}"] if config.outputs != Config.outputs else []
        again += [f"tracking.uri={redacted_text(config.tracking.uri)}"] if config.tracking.uri else []
        return f"not in MLflow yet: python run.py {shlex.join(again)}"
    if config.tracking.uri is not None:
        return record.mlflow_uri
    return "make ui" if config.outputs == Config.outputs else f"make ui OUTPUTS={shlex.quote(config.outputs)}"


@contextmanager
def sweep(config: Config, name: str, job_count: int) -> Iterator[str | None]:
    """Open the MLflow run that a sweep's runs are children of, and close it with the right status.

    Yields:
        Its MLflow run id, None where there is none.
    """
    from launchers import tracking

    outputs = Path(config.outputs).expanduser().resolve()
    if not config.tracking.enabled:
        yield None
        return
    parent = tracking.open_parent(name, config.tracking, outputs, {"videolift.jobs": str(job_count)})
    status = Status.FAILED
    try:
        yield parent
        status = Status.FINISHED
    except KeyboardInterrupt:
        status = Status.KILLED
        raise
    finally:
        if parent is not None:
            tracking.close_parent(parent, status, config.tracking, outputs)
