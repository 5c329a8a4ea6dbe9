"""One session of a sweep: what its command asks for is planned, found again where it was begun, run, and told."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from launchers.compose import Checked, Job, check, told_apart
from launchers.config import Config
from launchers.experiment import PLAIN_WIDTH, Place, close_dead_runs
from launchers.outputs import Outputs
from launchers.overrides import quote
from launchers.preparing import Prepared, Preparing, make_ready
from launchers.records import DETACHED, DETACHED_TAG, RunFolder, RunRecord, Status
from launchers.running import Run
from launchers.sweeps import dead, earlier, planned
from launchers.sweeps.conductor import Conductor
from launchers.sweeps.identity import child_identity
from launchers.sweeps.live import LiveTable
from launchers.sweeps.measured import measure
from launchers.sweeps.record import DONE, Child, State, SweepFolder, SweepRecord
from launchers.sweeps.results import best_command
from launchers.sweeps.shown import print_plan, print_results
from launchers.sweeps.source import Ready, Source
from videolift.errors import ConfigError, Stopped, VideoliftError
from videolift.events import Event

if TYPE_CHECKING:
    from rich.console import Console

    from launchers.sweeps.parent import Parent

SWEEP_TAG, CHILD_TAG = "videolift.sweep", "videolift.child"
# Environment variables by which the jobs of other launchers, in processes of their own, know whose children they are.
SWEEP, PARENT = "VIDEOLIFT_CHILD_OF", "VIDEOLIFT_PARENT"
PARENT_INTERVAL_S = 5.0  # between two updates of the sweep's run while children end

STATES = {  # of a child whose run's launcher is gone
    Status.RUNNING: State.stopped,
    Status.KILLED: State.stopped,
    Status.FAILED: State.failed,
    Status.FINISHED: State.finished,
}

_current: Session | None = None


def current() -> Session | None:
    """Return the sweep that this process runs, for what Hydra makes: launchers and sweepers."""
    return _current


class Session:
    """A sweep while its command runs."""

    def __init__(
        self,
        console: Console,
        outputs: Outputs,
        preparing: Preparing,
        folder: SweepFolder,
        record: SweepRecord,
        grid: Sequence[tuple[Job, Prepared]],
        config: Config,
    ) -> None:
        self.config = config  # of the first child, or what all that a sampler makes have in common
        self.folder = folder
        self.record = record
        self._console = console
        self._outputs = outputs
        self._preparing = preparing
        self._jobs = [job for job, _ in grid]
        self._grid = [Ready(child, run) for child, (_, run) in zip(record.children, grid, strict=False)]
        self._live: LiveTable | None = None
        self._parent: Parent | None = None
        self._told_parent = 0.0
        self._interrupted = False

    # What Hydra's launcher and sweepers ask for

    def children(self, overrides: Sequence[Sequence[str]], first: int) -> list[Ready]:
        """Return the children that a sweeper has chosen by their overrides, the first of which has a number."""
        found = []
        for number, chosen in enumerate(overrides, first):
            known = self._jobs[number] if number < len(self._jobs) else None
            if known is not None and list(known.overrides) == list(chosen):
                found.append(self._grid[number])
            else:
                found.append(self.make(chosen, told_apart(chosen, self.record.command), number))
        return found

    def make(self, overrides: Sequence[str], parameters: Mapping[str, str], trial: int) -> Ready:
        """Return a child that a sampler has made up.

        Raises:
            VideoliftError: if its settings are wrong.
        """
        (job,) = check(overrides).jobs
        prepared = self._preparing.prepare(planned.with_threads(job.config))
        identity = child_identity(prepared)
        child = next((c for c in self.record.children if trial == c.trial or _is_left(c, identity)), None)
        if child is None:
            number = len(self.record.children)
            label = " ".join(f"{key}={value}" for key, value in parameters.items())
            child = Child(number, label, dict(parameters), identity, earlier.alone(overrides))
            self.record.children.append(child)
        child.trial = trial
        return Ready(child, prepared)

    def run(self, source: Source) -> None:
        """Run children; comes back when all have ended.

        Raises:
            KeyboardInterrupt: if that was asked for; nothing more of the sweep is to be begun.
        """
        sweep = self.config.sweep
        with LiveTable(self._console, self.record) as self._live:
            conductor = Conductor(
                self._outputs.cache,
                partial(self._run_child, source),
                self._changed,
                parallel=sweep.parallel,
                on_failure=sweep.on_failure,
            )
            conductor.conduct(source)
        if conductor.interrupted:
            self._interrupted = True
            raise KeyboardInterrupt

    def _run_child(self, source: Source, ready: Ready) -> None:
        from rich.console import Console

        child = ready.child
        file = self.folder.log(child.number)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as log:
            console = Console(file=log, markup=False, highlight=False, width=PLAIN_WIDTH)
            run = Run(
                console,
                self._outputs,
                ready.prepared,
                parent=self.record.mlflow_run,
                label=child.label,
                again=self._known_run(child),
                tags={SWEEP_TAG: self.record.id, CHILD_TAG: str(child.number)},
                watch=partial(self._watch, source, child),
            )
            try:
                run.execute()
            except VideoliftError as error:
                console.print(f"{type(error).__name__}: {error}", soft_wrap=True)
                raise
            finally:
                if run.record is not None:
                    self._measure(child, run.record)

    def _known_run(self, child: Child) -> str | None:
        """Return the run that a child goes on with; one that was finished, or deleted, is not gone on with."""
        if child.run is None or not self._outputs.run(child.run).record_file.is_file():
            return None
        return child.run

    def _watch(self, source: Source, child: Child, event: Event) -> None:
        if self._live is not None:
            self._live.event(child, event)
        source.watch(child, event)

    def _measure(self, child: Child, run: RunRecord) -> None:
        measured = measure(run, self.record.metric)
        child.run, child.mlflow_run = run.id, run.mlflow_run
        child.value, child.epoch, child.metrics = measured.value, measured.epoch, measured.metrics

    def _changed(self, child: Child) -> None:
        self.folder.save(self.record)
        if self._live is not None:
            self._live.changed(child)
        ended = child.state is not State.running
        if self._parent is not None and ended and time.monotonic() - self._told_parent > PARENT_INTERVAL_S:
            self._parent.update(self.record)
            self._told_parent = time.monotonic()

    # From its beginning to its end

    @property
    def hydras_own(self) -> list[str]:
        """Return what Hydra has to be told: to keep its files with the sweep's."""
        return [quote(f"hydra.sweep.dir={self.folder.path}", multirun=True)]

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Record the sweep from here on; whatever happens, it is told how it ended."""
        global _current  # noqa: PLW0603 - Hydra makes its plugins itself, and gives them nothing of ours
        with self.folder.held() as mine:
            if not mine:
                raise ConfigError(f"sweep: another process is working on {self.record.id}; wait for it or stop it")
            self._find_runs()
            self.record.status, self.record.ended = Status.RUNNING, None
            self.record.tags.pop(DETACHED_TAG, None)
            self.folder.save(self.record)
            if self.config.tracking.enabled:
                from launchers.sweeps.parent import Parent

                self._parent = Parent(self.config.tracking, self._outputs.root, self.folder)
                self._parent.open(self.record)
                self.folder.save(self.record)
            _current = self
            os.environ |= {SWEEP: self.record.id, PARENT: self.record.mlflow_run or ""}
            try:
                yield
            except KeyboardInterrupt:
                self._interrupted = True
                raise
            finally:
                _current = None
                del os.environ[SWEEP], os.environ[PARENT]
                self._end()

    def _find_runs(self) -> None:
        """Find the runs of children that a launcher which died had begun, and what other launchers have run."""
        for file in sorted(self._outputs.runs.glob("*/run.json")):
            if f'"{self.record.id}"' not in file.read_text(encoding="utf-8"):
                continue
            run = RunFolder(file.parent).load()
            number = int(run.tags.get(CHILD_TAG, "-1"))
            if run.tags.get(SWEEP_TAG) == self.record.id and 0 <= number < len(self.record.children):
                child = self.record.children[number]
                child.run, child.mlflow_run = run.id, run.mlflow_run
                if child.state not in DONE:
                    child.state = STATES[run.status]
                if child.state is State.finished:
                    self._measure(child, run)

    def _end(self) -> None:
        record = self.record
        self._find_runs()
        record.status = self._status()
        if record.status is Status.RUNNING:
            record.tags[DETACHED_TAG] = DETACHED
        else:
            record.ended = time.time()
        self.folder.save(record)
        if self._parent is not None:
            self._parent.close(record)
            self.folder.save(record)
        print_results(self._console, record, best_command(record))

    def _status(self) -> Status:
        record = self.record
        if record.count(State.detached):
            return Status.RUNNING
        if self._interrupted:
            return Status.KILLED
        return Status.FINISHED if record.count(*DONE) == len(record.children) else Status.FAILED

    @property
    def exit_code(self) -> int:
        """Return that of the first child that failed or was left to itself; 0 where none was."""
        if self._interrupted:
            return Stopped.exit_code
        told = next((child.exit_code for child in self.record.children if child.exit_code), 0)
        return told or (VideoliftError.exit_code if self.record.status is Status.FAILED else 0)


def place_of(number: int, label: str | None) -> Place:
    """Return the place of a job that a launcher of Hydra's runs in the sweep that the environment tells of, if any."""
    sweep = os.environ.get(SWEEP)
    if not sweep:
        return Place(None, None, {})
    return Place(os.environ.get(PARENT) or None, label, {SWEEP_TAG: sweep, CHILD_TAG: str(number)})


def value_of(run: RunRecord | None, metric: str) -> float:
    """Return what a sweeper of Hydra's is told of a job: NaN where it failed, or has no such metric."""
    value = measure(run, metric).value if run is not None else None
    return float("nan") if value is None else value


def plan_only(checked: Checked, console: Console) -> None:
    """Print what a sweep would do."""
    outputs, preparing = _places(checked.jobs[0].config, console)
    runs = planned.prepare_all(checked.jobs, preparing, outputs)
    wanted = earlier.new_record(checked, checked.jobs, runs, checked.overrides, code="")
    folder = earlier.folder_of(outputs, wanted.id)
    record = folder.load() if folder.record_file.is_file() else wanted
    _print_plan(console, checked, runs, outputs, record)


def open_session(checked: Checked, typed: Sequence[str], root: Path, console: Console) -> Session:
    """Plan a sweep, and find out whether it was begun before.

    Args:
        typed: overrides, as they were.
        root: of the program that runs.

    Raises:
        VideoliftError: tells everything that is wrong with any child.
    """
    config = checked.jobs[0].config
    outputs, preparing = _places(config, console)
    jobs = earlier.with_frozen_builders(checked.jobs, outputs)
    runs = planned.prepare_all(jobs, preparing, outputs)
    record = earlier.find(checked, jobs, runs, typed, root, outputs)
    _print_plan(console, checked, runs, outputs, record)
    runs = make_ready(runs, outputs, console, at_once=config.sweep.parallel)
    record = earlier.find(
        checked, jobs, runs, typed, root, outputs
    )  # an image may hold other libraries than it was thought to
    close_dead_runs(console, outputs, config)
    dead.close_dead_sweeps(console, outputs, config, but=record.id)
    folder = earlier.folder_of(outputs, record.id)
    earlier.keep_builders(folder, runs)
    children = zip(jobs, runs, strict=True) if record.sampler == "grid" else ()
    return Session(console, outputs, preparing, folder, record, list(children), config)


def _print_plan(
    console: Console, checked: Checked, runs: Sequence[Prepared], outputs: Outputs, record: SweepRecord
) -> None:
    found = planned.overview(checked.jobs, runs, outputs, record)
    print_plan(console, f"sweep {record.id}: {record.name}", found.rows, found.shared, found.costs)


def _is_left(child: Child, identity: str) -> bool:
    """Tell whether a child of an earlier session is this one, and was not finished."""
    return child.identity == identity and child.state not in (*DONE, State.running)


def _places(config: Config, console: Console) -> tuple[Outputs, Preparing]:
    outputs = Outputs(Path(config.outputs).expanduser().resolve())
    return outputs, Preparing(outputs, console)


def new_console() -> Console:
    """Return what a sweep is told on."""
    from rich.console import Console

    return Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
