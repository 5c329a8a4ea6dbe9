"""One run on its way: its stages are taken from the cache or computed, followed, and recorded."""

from __future__ import annotations

import copy
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from launchers import commands, facts, predicting, report, script_channels, scripting
from launchers.base import Detached, Job, LostTouch, Pruned, Stage
from launchers.cache import StageFolder, event_files
from launchers.config import PREDICT, PREPROCESS_SCRIPT, Action, Config
from launchers.display import JobDisplay
from launchers.follow import follow
from launchers.outputs import Outputs
from launchers.parity import PARITY_FILE, differences, to_csv
from launchers.planning import KINDS, PlannedStage, in_jobs, inputs_of, place_of, prepare_stage
from launchers.preparing import Prepared
from launchers.records import (
    CHILD_TAG,
    DETACHED,
    DETACHED_TAG,
    SWEEP_TAG,
    RunFolder,
    RunRecord,
    StageRecord,
    Status,
    is_detached,
    stage_of,
)
from launchers.redaction import redacted
from launchers.side_by_side import run_side_by_side
from videolift import events
from videolift.errors import ConfigError, DataError, StageError, Stopped, VideoliftError
from videolift.events import Event
from videolift.parts import INDEX_FILE, merge, read_index, refuse_too_many_bad
from videolift.plan import to_plain
from videolift.workspace import PARTS, PROCESSING_OUTPUT, Kind

if TYPE_CHECKING:
    from rich.console import Console

    from launchers.tracking import Tracker

Watch = Callable[[Event], None]


class Run:
    """One run on its way."""

    def __init__(
        self,
        console: Console,
        outputs: Outputs,
        prepared: Prepared,
        *,
        parent: str | None = None,
        label: str | None = None,
        again: str | None = None,
        tags: Mapping[str, str] | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Prepare one run.

        Args:
            parent: MLflow run id of the sweep that this run is part of.
            label: what tells this run from the sweep's others; names it.
            again: id of the run to go on with, where that is known.
            tags: further ones.
            watch: is told what the stages say while they run; what it raises ends the run.
        """
        self._console = console
        self._outputs = outputs
        self._prepared = prepared
        self._config = prepared.config
        self._cache = outputs.cache
        self._fingerprint = facts.fingerprint(prepared)
        self._parent = parent
        self._label = label
        self._again = again
        self._tags = tags or {}
        self._watch = watch
        self._saving = threading.Lock()
        self.record: RunRecord | None = None  # once it has begun
        self._finished: RunRecord | None = None  # of a run whose further stages these are: as it was before them

    def execute(self) -> RunRecord:
        """Compute what is not finished, and record all of it.

        Raises:
            Detached: if a job goes on without us, and so the run.
            Pruned: as ``watch`` raised it.
            VideoliftError: if a stage failed or was stopped.
        """
        record = self.record = self._opened_record()
        folder = self._outputs.run(record.id)
        with folder.held() as mine:
            if not mine:
                raise ConfigError(f"run: another process is working on {record.id}; wait for it or stop it")
            self._execute_recorded(record, folder, _tracker(self._config, self._outputs, folder))
        return record

    def _execute_recorded(self, record: RunRecord, folder: RunFolder, tracker: Tracker) -> None:
        """Run the stages; whatever happens, the record and the tracker learn how the run ended."""
        status, error = Status.FAILED, None
        try:
            folder.save(record)
            (folder.path / "plan.json").write_text(facts.plan_text(self._prepared), encoding="utf-8")
            self._tell_parity(folder)
            tracker.start(record)
            for are_members, jobs in groupby(in_jobs(self._wanted(), self._prepared.backend), _is_of_member):
                works = [partial(self._job, job, record, folder, tracker) for job in jobs]
                run_side_by_side(works, self._config.backend.train.parallel if are_members else 1, self._say_failed)
            status = Status.FINISHED
        except Detached:
            status = Status.RUNNING
            record.tags[DETACHED_TAG] = DETACHED
            raise
        except Pruned as pruned:
            status, error = Status.KILLED, str(pruned)
            raise
        except (KeyboardInterrupt, Stopped) as stopped:
            if (busy := self._busy(record)) is not None:
                status, record.tags[DETACHED_TAG] = Status.RUNNING, DETACHED
                come_back = resume_command(self._config, record.id)
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
            if self._finished and status in (Status.FAILED, Status.KILLED):
                self._leave_as_it_was(record, self._finished, tracker)
            try:
                folder.save(record)
            finally:  # a full disk must not leave the run open on a server
                tracker.finish(record)
            folder.save(record)

    def _wanted(self) -> list[PlannedStage]:
        """Return what the run is to compute, or to take from what is finished.

        Of an ensemble that is finished, the members that are still here: their curves are worth having.
        """
        planned, backend = self._prepared.planned, self._prepared.backend
        wanted = [one for one in planned.values() if one.stage in self._config.stages]
        if not any(one.is_member for one in wanted):
            return wanted
        whole = planned["train"].id
        is_finished = self._cache.finished(whole) is not None or backend.origin(whole) is not None
        return [one for one in wanted if not (one.is_member and is_finished and not self._cache.finished(one.id))]

    def _say_failed(self, error: BaseException, others: int) -> None:
        if others and isinstance(error, VideoliftError) and not isinstance(error, Stopped):
            what = f"{others} that run are" if others > 1 else "one that runs is"
            self._console.print(f"{error}\nno other member begins; {what} waited for, and kept", soft_wrap=True)

    def _leave_as_it_was(self, record: RunRecord, before: RunRecord, tracker: Tracker) -> None:
        """Take back what further stages changed in a finished run: that they failed does not make its results worse."""
        record.status, record.error, record.ended = before.status, before.error, before.ended
        record.config, record.tags, record.stages = before.config, before.tags, before.stages
        for stage in record.stages:
            if stage_of(stage.name) in self._config.stages:
                tracker.stage(stage)
        self._console.print(f"run {record.id} is left as it was")

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
            if record.status is Status.FINISHED and self._config.run and self._config.action is Action.run:
                self._finished = copy.deepcopy(record)
            self._console.print(f"goes on with run {record.id}")
            record.stages = [s for s in record.stages if stage_of(s.name) not in self._config.stages]
            record.parent = self._parent or record.parent
            # Who comes back to this run wants the pictures that were asked for last.
            record.config["visualize"] = to_plain(self._config.visualize)
        record.status, record.error, record.ended = Status.RUNNING, None, None
        again = {DETACHED_TAG: "no"} if DETACHED_TAG in record.tags else {}
        again |= {tag: record.tags[tag] for tag in (SWEEP_TAG, CHILD_TAG) if tag in record.tags}
        record.tags = {**facts.tags(self._prepared), **again, **self._tags}
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
        known = self._config.run or self._again
        if known is not None:
            return self._outputs.run(known).load()
        for file in sorted(self._outputs.runs.glob("*/run.json"), reverse=True):
            if self._fingerprint not in file.read_text(encoding="utf-8"):
                continue
            record = RunFolder(file.parent).load()
            left = record.status is Status.KILLED or is_detached(record)
            sweeps = {record.tags.get(SWEEP_TAG), self._tags.get(SWEEP_TAG)} - {None}
            if record.fingerprint == self._fingerprint and left and len(sweeps) < 2:  # a sweep's run stays its own
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
                with self._saving:
                    record.stages = sorted([*record.stages, stage], key=lambda s: place_of(s.name))
                if stage.cached:
                    self._check_arrays(one, Path(stage.folder))
                    scripting.retell(Path(stage.folder), one.plan.script.metrics)
                    self._console.print(f"{one.name}: cached, computed by {stage.origin}", soft_wrap=True)
                    stage.status, stage.ended = Status.FINISHED, time.time()
                else:
                    stage.folder = str(self._cache.partial(one.id))
                    waiting.append((one, stage))
                tracker.stage(stage)
            self._save(folder, record)
            while waiting:
                try:
                    done = self._compute(waiting, folder, tracker)
                except VideoliftError:
                    self._tell_what_is_kept(waiting[0][0])
                    raise
                for _, stage in waiting[:done]:
                    self._put_away(stage, folder)
                    self._save(folder, record)
                del waiting[:done]
        for stage in record.stages:
            if stage.name in {one.name for one in planned}:
                _reconcile(stage, tracker)

    def _save(self, folder: RunFolder, record: RunRecord) -> None:
        with self._saving:  # members of an ensemble have threads of their own
            folder.save(record)

    def _say_waiting(self, name: str) -> None:
        self._console.print(f"{name}: another process computes it; waiting")

    def _origin(self, planned: PlannedStage) -> str | None:
        """Return the run that computed a stage, which is in the cache afterwards; None where nobody has."""
        here = self._cache.finished(planned.id)
        if here is None and (there := self._prepared.backend.origin(planned.id)) is not None:
            if planned.plan.script.path is not None:
                script_channels.set_aside(StageFolder(self._cache.partial_path(planned.id), KINDS[planned.stage]))
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
        records = {planned.stage: stage for planned, stage in waiting}  # as events name them
        outputs = {stage.plan.stage: stage.folder.first.output for stage in prepared}
        first = waiting[0][0].name
        come_back = resume_command(config, folder.path.name)

        def on_event(event: Event) -> None:
            # Files are taken up at the end, from the place where they stay.
            name = event.get("stage") or waiting[0][0].stage
            told = {**event, "stage": name}
            if name in records:
                told = records[name].as_told(told)
                if event["type"] in ("metric", "tag"):
                    tracker.event(records[name], told, outputs[name])
            if self._watch is not None:
                self._watch(told)

        try:
            job = backend.submit(prepared, self._console)
        except LostTouch as error:
            raise _detached(error, come_back) from error
        with (
            self._closing(job, come_back),
            JobDisplay(
                self._console, [s.name for s in job.stages], bars=not self._beside_others(waiting[0][0])
            ) as display,
        ):
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
            elif first == PREDICT:
                predicting.merge(job.stages[0], self._prepared.manifest)
            elif first == PREPROCESS_SCRIPT:
                scripting.merge(job.stages[0])
            display.ended("done")
        return len(job.stages)

    def _tell_what_is_kept(self, planned: PlannedStage) -> None:
        """Name what a script that did not finish has left."""
        if planned.plan.script.path is not None:
            for what, place in scripting.results(self._cache.partial_path(planned.id), KINDS[planned.stage]):
                self._console.print(f"kept of {planned.name}: {what} {place}", soft_wrap=True)

    def _beside_others(self, planned: PlannedStage) -> bool:
        return planned.is_member and self._config.backend.train.parallel > 1

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
    def _closing(self, job: Job, come_back: str) -> Iterator[None]:
        try:
            yield
        except Detached:
            raise
        except BaseException as failed:
            try:
                job.close()
            except LostTouch as error:  # it could not be stopped, and is paid for
                raise _detached(LostTouch(f"{failed}; {error}"), come_back) from failed
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


def _is_of_member(job: Sequence[PlannedStage]) -> bool:
    return job[0].is_member


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
            tracker.event(stage, stage.as_told(event), output)


def _tracker(config: Config, outputs: Outputs, folder: RunFolder) -> Tracker:
    from launchers import tracking

    return (
        tracking.MlflowTracker(config.tracking, outputs.root, folder)
        if config.tracking.enabled
        else tracking.NoTracker()
    )


def resume_command(config: Config, run_id: str) -> str:
    """Return the command that goes on with a run, recording it where this one is."""
    words = ["action=resume", f"run={run_id}", *commands.changed({"outputs": config.outputs})]
    recorded = redacted(to_plain(config.tracking))
    return f"python run.py {shlex.join([*words, *commands.changed({'tracking': recorded})])}"
