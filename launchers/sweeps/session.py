"""One session of a sweep: what its command asks for is planned, found again where it was begun, run, and told."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from launchers.compose import check, told_apart
from launchers.console import new_console
from launchers.experiment import Place, close_dead
from launchers.mlflow_store import plain_yaml
from launchers.overrides import quote
from launchers.preparing import make_ready
from launchers.records import CHILD_TAG, DETACHED, DETACHED_TAG, SWEEP_TAG, RunFolder, RunRecord, Status, is_detached
from launchers.redaction import redacted
from launchers.running import Run
from launchers.sweeps import earlier, planned
from launchers.sweeps.asked import Asked
from launchers.sweeps.conductor import Conductor
from launchers.sweeps.dead import close_dead_sweeps
from launchers.sweeps.identity import child_identity
from launchers.sweeps.live import LiveTable
from launchers.sweeps.measured import measure
from launchers.sweeps.parent import Parent
from launchers.sweeps.record import DONE, Child, State, SweepFolder, SweepRecord, folder_of
from launchers.sweeps.results import best_command
from launchers.sweeps.shown import print_results, short_label
from launchers.sweeps.source import Ready, Source
from videolift.errors import ConfigError, Stopped, VideoliftError
from videolift.events import Event

if TYPE_CHECKING:
    from rich.console import Console

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

    def __init__(self, console: Console, asked: Asked, folder: SweepFolder, record: SweepRecord) -> None:
        self.config = asked.config  # of the first child, or what all that a sampler makes have in common
        self.folder = folder
        self.record = record
        self._console = console
        self._asked = asked
        self._outputs = asked.outputs
        self._live: LiveTable | None = None
        self._parent: Parent | None = None
        self._told_parent = 0.0
        self._interrupted = False

    # What Hydra's launcher and sweepers ask for

    def children(self, overrides: Sequence[Sequence[str]], first: int) -> list[Ready]:
        """Return the children that a sweeper has chosen by their overrides, the first of which has a number."""
        found = []
        for number, chosen in enumerate(overrides, first):
            jobs = self._asked.jobs if self._asked.checked.is_grid else ()
            if number < len(jobs) and list(jobs[number].overrides) == list(chosen):
                found.append(Ready(self.record.children[number], self._asked.runs[number]))
            else:
                found.append(self.make(chosen, told_apart(chosen, self._asked.checked.overrides), number))
        return found

    def make(self, overrides: Sequence[str], parameters: Mapping[str, str], trial: int) -> Ready:
        """Return a child that a sampler has made up.

        Raises:
            VideoliftError: if its settings are wrong.
        """
        jobs = earlier.with_kept_builders(check(overrides, self._asked.sources).jobs, self.folder)
        prepared = self._asked.preparing.prepare(planned.with_threads(jobs[0].config))
        identity = child_identity(prepared)
        known = (c for c in self.record.children if c.trial == trial and c.identity in (identity, ""))
        child = next(known, None)
        if child is None:
            number = len(self.record.children)
            label = " ".join(f"{key}={value}" for key, value in parameters.items())
            child = Child(
                number, label, dict(parameters), identity, earlier.alone(overrides, parameters, self._asked.typed)
            )
            self.record.children.append(child)
        child.trial, child.identity = trial, identity
        return Ready(child, prepared)

    def run(self, source: Source) -> None:
        """Run children; comes back when all have ended.

        Raises:
            KeyboardInterrupt: if that was asked for; nothing more of the sweep is to be begun.
        """
        sweep = self.config.sweep
        with LiveTable(self._console, self.record, self.folder) as self._live:
            conductor = Conductor(
                self._outputs.cache,
                partial(self._run_child, source),
                self._changed,
                self._say_interrupted,
                parallel=sweep.parallel,
                on_failure=sweep.on_failure,
            )
            conductor.conduct(source)
        if conductor.interrupted:
            self._interrupted = True
            raise KeyboardInterrupt

    def _run_child(self, source: Source, ready: Ready) -> None:
        child = ready.child
        child.host = ready.prepared.backend.machine(ready.prepared.config.stages[-1])
        file = self.folder.log(child.number)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as log:
            console = new_console(log)
            run = Run(
                console,
                self._outputs,
                ready.prepared,
                parent=self.record.mlflow_run,
                label=short_label(child, self.record.parameters),
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

    def _say_interrupted(self, running: int) -> None:
        assert self._live is not None
        children = f"{running} children" if running != 1 else "1 child"
        self._live.say(
            f"interrupted: {children} running; each is asked to stop, or left to itself where it can go on without us; "
            "Ctrl-C again stops those, too, and waits for nothing"
        )

    def _known_run(self, child: Child) -> str | None:
        """Return the run that a child goes on with: not one that was deleted, or is another sweep's by now."""
        if child.run is None or not self._outputs.run(child.run).record_file.is_file():
            return None
        return child.run if self._outputs.run(child.run).load().tags.get(SWEEP_TAG) == self.record.id else None

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
            if self.folder.record_file.is_file():  # another process may have worked on it until now
                self.record = earlier.gone_on_with(self.folder.load(), self.record)
            try:
                self._begin()
                _current = self
                yield
            except KeyboardInterrupt:
                self._interrupted = True
                raise
            finally:
                _current = None
                self._end()

    def _begin(self) -> None:
        earlier.keep_builders(self.folder, self._asked.runs)
        self._find_runs()
        self.record.status, self.record.ended = Status.RUNNING, None
        self.record.tags.pop(DETACHED_TAG, None)
        self.folder.save(self.record)
        self._parent = Parent(self.config.tracking, self._outputs.root, self.folder)
        self._parent.open(self.record)
        os.environ |= {SWEEP: self.record.id, PARENT: self.record.mlflow_run or ""}

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
                found = State.detached if is_detached(run) else STATES[run.status]
                # Why a child failed that has an unfinished run of an earlier session is known better than by its run.
                if child.state not in DONE and (child.state is not State.failed or found is State.finished):
                    child.state = found
                if child.state is State.finished:
                    self._measure(child, run)

    def _end(self) -> None:
        record = self.record
        for variable in (SWEEP, PARENT):
            os.environ.pop(variable, None)
        self._find_runs()
        record.status = self._status()
        if record.status is Status.RUNNING:
            record.tags[DETACHED_TAG] = DETACHED
        else:
            record.ended = time.time()
        self.folder.save(record)
        hydras_file = self.folder.path / "multirun.yaml"
        if hydras_file.is_file():  # it holds what was typed
            typed = yaml.safe_load(hydras_file.read_text(encoding="utf-8"))
            hydras_file.write_text(plain_yaml(redacted(typed)), encoding="utf-8")
        if self._parent is not None:
            self._parent.close(record)
        print_results(self._console, record, best_command(record), self.folder)

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


def open_session(asked: Asked, root: Path, console: Console) -> Session:
    """Find out whether a sweep was begun before, tell what it will do, and make what it runs in.

    Args:
        root: of the program that runs.
    """
    outputs, config = asked.outputs, asked.config
    asked.print_plan(console, earlier.find(asked.checked, asked.jobs, asked.runs, asked.typed, root, outputs))
    at_once = config.sweep.parallel
    ready = make_ready(asked.edges or asked.runs, outputs, console, at_once=at_once, wanted=asked.wanted)
    runs = asked.runs if asked.edges else ready
    # An image may hold other libraries than was thought.
    record = earlier.find(asked.checked, asked.jobs, runs, asked.typed, root, outputs)
    close_dead(console, outputs, config)
    close_dead_sweeps(console, outputs, config, but=record.id)
    folder = folder_of(outputs.root, record.id)
    return Session(console, replace(asked, runs=runs), folder, record)
