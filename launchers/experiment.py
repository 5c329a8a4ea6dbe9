"""One experiment from configuration to recorded run: prepare, submit, follow, record."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from launchers import actions, commands, facts, report
from launchers.base import Detached, Job, LostTouch, Stage
from launchers.cache import StageFolder, event_files
from launchers.config import Action, Config
from launchers.display import JobDisplay
from launchers.follow import follow
from launchers.outputs import Outputs
from launchers.parity import PARITY_FILE, differences, to_csv
from launchers.planning import KINDS, NEEDS, PlannedStage, finished_stages, inputs_of, prepare_stage
from launchers.preparing import Prepared, make_ready, prepare
from launchers.records import DETACHED, DETACHED_TAG, RunFolder, RunRecord, StageRecord, Status, is_detached
from launchers.redaction import redacted, redacted_text
from launchers.signals import terminate_as_interrupt
from videolift import events
from videolift.errors import ConfigError, DataError, StageError, Stopped, VideoliftError, as_expected
from videolift.events import Event
from videolift.parts import INDEX_FILE, merge, read_index, refuse_too_many_bad
from videolift.plan import from_plain, to_plain
from videolift.workspace import PARTS, PROCESSING_OUTPUT, Kind

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
        return actions.sync(console, outputs, config)
    if config.action is Action.build:
        return actions.build(console, outputs, config)
    if config.action is Action.push:
        return actions.push(console, config)
    if config.run is not None:
        config = _again(config, outputs)
    with terminate_as_interrupt():
        return _run_or_plan(console, outputs, config, parent, label)


def _run_or_plan(console: Console, outputs: Outputs, config: Config, parent: str | None, label: str | None) -> int:
    prepared = prepare(config, outputs, console)
    for note in prepared.manifest.notes:
        console.print(f"note: {note}", style="yellow", soft_wrap=True)
    if config.action is Action.plan:
        report.print_plan(console, prepared, outputs)
        report.print_described(console, actions.described(prepared, outputs))
        return 0
    _refuse_missing_inputs(prepared, outputs)
    prepared = make_ready(prepared, outputs, console)
    return _Run(console, outputs, prepared, parent, label).execute()


def _again(config: Config, outputs: Outputs) -> Config:
    """Return the configuration of an earlier run; with ``action=run`` only its stages are other ones."""
    record = outputs.run(str(config.run)).load()
    earlier = from_plain(Config, record.config)
    stages = earlier.stages if config.action is Action.resume else config.stages
    backend = replace(earlier.backend, wait=True)  # who comes back wants to see the end
    return replace(
        earlier,
        backend=backend,
        action=config.action,
        run=config.run,
        stages=stages,
        outputs=config.outputs,
        tracking=config.tracking,
    )


def _refuse_missing_inputs(prepared: Prepared, outputs: Outputs) -> None:
    finished = finished_stages(prepared.planned, outputs.cache, prepared.backend)
    wanted = prepared.config.stages
    missing = {need: name for name in wanted for need in NEEDS[name] if need not in wanted and need not in finished}
    if missing:
        lines = [
            f"stages: {name} needs {need}, which is not finished for these settings" for need, name in missing.items()
        ]
        raise ConfigError("\n".join(lines) + f"\n  say stages=[{','.join([*missing, *wanted])}]")


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
            try:
                self._execute_recorded(record, folder, tracker)
            except Detached as detached:
                self._console.print(str(detached), soft_wrap=True)
                return 0 if not self._config.backend.wait else detached.exit_code
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
            wanted = [name for name in self._prepared.planned if name in self._config.stages]
            for names in self._prepared.backend.jobs(wanted):
                self._job([self._prepared.planned[name] for name in names], record, folder, tracker)
            status = Status.FINISHED
        except Detached:
            status = Status.RUNNING
            record.tags[DETACHED_TAG] = DETACHED
            raise
        except (KeyboardInterrupt, Stopped) as stopped:
            if (busy := self._busy(record)) is not None:
                status, record.tags[DETACHED_TAG] = Status.RUNNING, DETACHED
                come_back = _come_back(self._config, record.id)
                raise Detached(f"interrupted; {busy} goes on; come back with: {come_back}") from stopped
            status, error = Status.KILLED, str(stopped) or "interrupted"
            raise Stopped(str(stopped) or "interrupted; the same command goes on from there") from stopped
        except BaseException as failed:
            error = str(failed) or type(failed).__name__
            raise
        finally:
            record.status, record.error = status, error
            if status is not Status.RUNNING:
                record.ended = time.time()
                for stage in record.stages:
                    if stage.status is Status.RUNNING:
                        stage.status, stage.ended = status, record.ended
            try:
                folder.save(record)
            finally:  # a full disk must not leave the run open on a server
                tracker.finish(record)
            folder.save(record)

    def _busy(self, record: RunRecord) -> str | None:
        """Return what still computes a stage of the run, None where nothing does."""
        unfinished = [Path(stage.folder) for stage in record.stages if stage.status is not Status.FINISHED]
        return next((busy for folder in unfinished if (busy := self._prepared.backend.busy(folder))), None)

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
            self._refuse_lost_jobs(record)
            self._console.print(f"goes on with run {record.id}")
            record.stages = [s for s in record.stages if s.name not in self._config.stages]
            record.parent = self._parent or record.parent
        record.status, record.error, record.ended = Status.RUNNING, None, None
        again = {DETACHED_TAG: "no"} if DETACHED_TAG in record.tags else {}
        record.tags = {**facts.tags(self._prepared), **again}
        record.data = facts.data_facts(self._prepared)
        return record

    def _refuse_lost_jobs(self, record: RunRecord) -> None:
        """Raise ConfigError where a job of the run still computes a stage that would be another one now."""
        for stage in record.stages:
            planned = self._prepared.planned.get(stage.name)
            if stage.status is Status.FINISHED or planned is None or planned.id == stage.id:
                continue
            busy = self._prepared.backend.busy(Path(stage.folder))
            if busy is not None:
                raise ConfigError(
                    f"run: {stage.name} of {record.id} is being computed by {busy}. Source, data or settings have "
                    "changed since, so its result would not be this one's: bring them back to wait for it, or stop it"
                )

    def _record_to_reopen(self) -> RunRecord | None:
        if self._config.run is not None:
            return self._outputs.run(self._config.run).load()
        for file in sorted(self._outputs.runs.glob("*/run.json"), reverse=True):
            record = RunFolder(file.parent).load()
            left = record.status is Status.KILLED or is_detached(record)
            if record.fingerprint == self._fingerprint and left:
                return record
        return None

    def _job(self, planned: Sequence[PlannedStage], record: RunRecord, folder: RunFolder, tracker: Tracker) -> None:
        """Take what is finished from the cache, and compute the other stages."""
        with ExitStack() as locks:
            for one in planned:
                locks.enter_context(self._cache.lock(one.id, partial(self._say_waiting, one.name)))
            waiting: list[tuple[PlannedStage, StageRecord]] = []
            for one in planned:
                stage = StageRecord(one.name, one.id, str(self._cache.path(one.id)), started=time.time())
                stage.origin = self._origin(one)
                stage.cached = stage.origin is not None
                record.stages = sorted([*record.stages, stage], key=lambda s: list(KINDS).index(s.name))
                if stage.cached:
                    self._check_arrays(one, Path(stage.folder))
                    self._console.print(f"{one.name}: cached, computed by {stage.origin}", soft_wrap=True)
                    stage.status, stage.ended = Status.FINISHED, time.time()
                else:
                    stage.folder = str(self._cache.partial(one.id))
                    waiting.append((one, stage))
                tracker.stage(stage)
            folder.save(record)
            while waiting:
                done = self._compute(waiting, folder, tracker)
                for _, stage in waiting[:done]:
                    self._put_away(stage, folder)
                    folder.save(record)
                del waiting[:done]
        for stage in record.stages:
            if stage.name in {one.name for one in planned}:
                _reconcile(stage, tracker)

    def _say_waiting(self, name: str) -> None:
        self._console.print(f"{name}: another process computes it; waiting")

    def _origin(self, planned: PlannedStage) -> str | None:
        """Return the run that computed a stage, which is in the cache afterwards; None where nobody has."""
        here = self._cache.finished(planned.id)
        if here is None and (there := self._prepared.backend.origin(planned.id)) is not None:
            self._prepared.backend.fetch(planned.id, self._console)
            return there
        return here

    def _put_away(self, stage: StageRecord, folder: RunFolder) -> None:
        """Move a finished stage from where it was computed to where it is found."""
        stage.folder = str(self._cache.finish(stage.id, folder.path.name))
        _delete_host_parts(Path(stage.folder))
        stage.status, stage.ended = Status.FINISHED, time.time()
        self._prepared.backend.keep(stage.id, self._console)

    def _compute(self, waiting: Sequence[tuple[PlannedStage, StageRecord]], folder: RunFolder, tracker: Tracker) -> int:
        """Compute stages as one job, and return how many of them it took on: at least the first one."""
        backend, config = self._prepared.backend, self._config
        prepared = [self._prepare(planned, stage, [w.name for w, _ in waiting]) for planned, stage in waiting]
        records = {stage.name: stage for _, stage in waiting}
        outputs = {stage.plan.stage: stage.folder.first.output for stage in prepared}
        first = waiting[0][0].name
        come_back = _come_back(config, folder.path.name)

        def on_event(event: Event) -> None:
            # Files are taken up at the end, from the place where they stay.
            name = event.get("stage") or first
            if event["type"] in ("metric", "tag") and name in records:
                tracker.event(records[name], event, outputs[name])

        try:
            job = backend.submit(prepared, self._console)
        except LostTouch as error:
            raise _detached(error, come_back) from error
        with self._closing(job), JobDisplay(self._console, [s.plan.stage for s in job.stages]) as display:
            if job.lasting and not config.backend.wait:
                raise Detached(f"the job was submitted and goes on; come back with: {come_back}")
            try:
                follow(
                    *(job, display, folder.path / f"{first}.log", on_event),
                    grace_s=config.backend.grace_s,
                    on_interrupt=config.backend.on_interrupt,
                    come_back=come_back,
                    alone=partial(commands.alone, config),
                )
            except LostTouch as error:
                raise _detached(error, come_back) from error
            except StageError:
                self._keep_finished(job, waiting, folder)
                raise
            if first == "preprocess":
                self._merge(job.stages[0])
            display.ended("done")
        return len(job.stages)

    def _keep_finished(self, job: Job, waiting: Sequence[tuple[PlannedStage, StageRecord]], folder: RunFolder) -> None:
        """Keep the stages of a job that were finished before a later one failed."""
        finished = {stage.plan.id for stage in job.finished}
        for _, stage in waiting:
            if stage.id in finished:
                self._put_away(stage, folder)

    def _prepare(self, planned: PlannedStage, stage: StageRecord, together: Sequence[str]) -> Stage:
        """Return what a backend submits; what comes from a stage of the same job has no folder yet."""
        inputs = inputs_of(self._prepared.planned, planned.name, together, self._cache)
        return prepare_stage(planned, Path(stage.folder), self._prepared.manifest, self._prepared.data, inputs)

    @contextmanager
    def _closing(self, job: Job) -> Iterator[None]:
        try:
            yield
        except Detached:
            raise
        except BaseException:
            try:
                job.close()
            except VideoliftError as error:  # what went wrong first is what the run ends with
                self._console.print(f"cleaning up: {error}", style="yellow", soft_wrap=True)
            raise
        job.close()

    def _merge(self, stage: Stage) -> None:
        manifest, p = self._prepared.manifest, self._config.preprocess
        parts = [stage.workspace(host, {}).parts for host in stage.hosts]
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


def _detached(error: LostTouch, come_back: str) -> Detached:
    detached = Detached(f"{error}\n  come back with: {come_back}")
    detached.exit_code = error.exit_code
    return detached


def _delete_host_parts(stage: Path) -> None:
    """Delete what the merged arrays repeat and what hosts were dealt; only now: until here a crash would lose work."""
    for file in stage.glob(f"hosts/*/{PROCESSING_OUTPUT}/*/{PARTS}/part-*"):
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

    for run_id in tracking.leave_lasting(outputs.root, config.tracking):
        console.print(
            f"run {run_id} was left by a launcher that died, and its job goes on; come back with: "
            f"{_come_back(config, run_id)}",
            soft_wrap=True,
        )
    for run_id in tracking.close_dead(outputs.root, config.tracking):
        console.print(f"run {run_id} was left by a launcher that died; it is marked KILLED", soft_wrap=True)


def _come_back(config: Config, run_id: str) -> str:
    """Return the command that goes on with a run, recording it where this one is."""
    words = ["action=resume", f"run={run_id}", *commands.changed({"outputs": config.outputs})]
    recorded = redacted(to_plain(config.tracking))
    return f"python run.py {shlex.join([*words, *commands.changed({'tracking': recorded})])}"


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
