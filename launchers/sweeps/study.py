"""A study: what a sampler has tried, kept in ``study.db``, and what it tries next. Optuna does the choosing."""

from __future__ import annotations

import logging
import math
import sqlite3
import statistics
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from launchers.base import Pruned
from launchers.config import Goal, OnFailure, Sweep
from launchers.redaction import redacted_words
from launchers.sweeps.record import DONE, Child, State, SweepRecord
from launchers.sweeps.source import Ready
from launchers.sweeps.space import Choices, Distribution, IntRange, Space, Value
from videolift.errors import StorageError, TrainingError, VideoliftError
from videolift.events import Event

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial

FILE = "study.db"
MEDIAN_OF = 4  # finished trials, at least, that others are held to
RETRIES = "retries"  # attribute of a trial: the number of the one that it repeats
ERROR = "error"  # attribute of a trial: why it failed

T = TypeVar("T")


@dataclass(frozen=True)
class Suggested:
    """What to try next."""

    number: int  # of the trial; one that is tried again keeps it
    overrides: list[str]
    parameters: dict[str, str]


@dataclass
class _Running:
    """A trial that was given out."""

    trial: Trial
    values: dict[int, float] = field(default_factory=dict)  # that it has reported, by step


class Study:
    """Trials of one search space. Safe to call from several threads.

    All that touches the database happens in one thread of its own: what is raised in a caller's thread from outside, to
    interrupt it, cannot tear a transaction. The choice of a trial depends on the seed, its number, and what is known of
    the others, but not on how often the study was gone on with.
    """

    def __init__(self, folder: Path, sweep: Sweep, space: Space, seed: int) -> None:
        """Open the study of a folder, or begin one. Trials that a killed process was running are given out again."""
        self.sweep = sweep
        self._space = space
        self._seed = seed
        self._running: dict[int, _Running] = {}
        self._again: deque[FrozenTrial] = deque()  # given out by an earlier process, and not ended
        self._retries = 0  # waiting in the study
        self._numbers: set[int] = set()
        self._desk = ThreadPoolExecutor(1, thread_name_prefix="study")
        try:
            self._at_desk(partial(self._open, folder))
        except BaseException:
            self._desk.shutdown()
            raise

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database; trials that were given out and have not ended are given out again next time."""
        self._at_desk(self._storage.engine.dispose)
        self._desk.shutdown()

    @property
    def exhausted(self) -> bool:
        """Whether every trial has been given out."""
        return not self._again and not self._retries and len(self._numbers) >= self.sweep.trials

    def ask(self) -> Suggested:
        """Give out a trial: first those that an earlier process left, then those to retry, then a new one."""
        return self._at_desk(self._ask)

    def retry_failed(self) -> int:
        """Let what has failed be tried once more, and return how many trials that are."""
        return self._at_desk(self._retry_failed)

    def report(self, number: int, step: int, value: float) -> bool:
        """Take note of what a running trial has reached, and tell whether it should be stopped.

        A step that was reported before, by an earlier process too, is a replay and decides nothing.
        """
        return self._at_desk(partial(self._report, number, step, value))

    def best(self, number: int) -> float | None:
        """Return the best value that a running trial has reported."""
        values = self._running[number].values.values() if number in self._running else ()
        return (max if self.sweep.better is Goal.maximize else min)(values, default=None)

    def median(self, step: int) -> float | None:
        """Return the median of what finished trials had reached at a step; None where none has come so far."""
        return self._at_desk(partial(self._median, step))

    def finished(self, number: int, value: float | None) -> None:
        """Take note of a trial's value; without one, or with one that is no number, it has failed."""
        if value is not None and math.isfinite(value):
            self._at_desk(partial(self._tell, number, value=value))
        else:
            self.failed(number, self.without_value(value))

    def without_value(self, value: float | None) -> str:
        """Return why a trial has failed that has reached no number; what is none is kept as None."""
        return f"its {self.sweep.metric} is {math.nan if value is None else value}"

    def failed(self, number: int, reason: str) -> None:
        self._at_desk(partial(self._tell, number, error=reason))

    def pruned(self, number: int) -> None:
        self._at_desk(partial(self._tell, number))

    def _at_desk(self, work: Callable[[], T]) -> T:
        return self._desk.submit(work).result()

    # All of the following happens at the desk.

    def _open(self, folder: Path) -> None:
        import optuna
        from optuna.trial import TrialState

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        # Not by its URL, in which signs that a path may hold have a meaning.
        self._storage = optuna.storages.RDBStorage("sqlite://", {"creator": partial(_connected, folder / FILE)})
        self._study = optuna.create_study(
            study_name=folder.name,
            storage=self._storage,
            direction=self.sweep.better.value,
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=MEDIAN_OF,
                n_warmup_steps=max(1, self.sweep.prune_after),  # step 0 is no epoch
            ),
            load_if_exists=True,
        )
        for trial in self._trials():
            self._numbers.add(_number(trial))
            if trial.state is TrialState.RUNNING:
                self._again.append(trial)
            elif trial.state is TrialState.WAITING:
                self._retries += 1

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _sampler(self, number: int) -> BaseSampler:
        import numpy as np
        from optuna.samplers import TPESampler

        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        return TPESampler(
            n_startup_trials=self.sweep.random_trials,
            seed=seed,
            multivariate=True,  # values are chosen together
            constant_liar=True,  # not near those of trials that run
        )

    def _ask(self) -> Suggested:
        from optuna.trial import Trial

        if self._again:
            known = self._again.popleft()
            self._study.sampler = self._sampler(known.number)
            trial = Trial(self._study, known._trial_id)
            values = dict(known.intermediate_values)
        else:
            self._retries = max(0, self._retries - 1)
            self._study.sampler = self._sampler(len(self._trials()))
            trial, values = self._study.ask(), {}
        chosen = {key: _suggested(trial, key, found) for key, found in self._space.distributions.items()}
        number = _number(trial)
        self._numbers.add(number)
        self._running[number] = _Running(trial, values)
        return Suggested(number, self._space.overrides(chosen), self._space.parameters(chosen))

    def _retry_failed(self) -> int:
        from optuna.trial import TrialState

        newest = {_number(trial): trial for trial in self._trials()}
        failed = {number: trial for number, trial in newest.items() if trial.state is TrialState.FAIL}
        for number, trial in failed.items():
            self._study.enqueue_trial(trial.params, user_attrs={RETRIES: number})
        self._retries += len(failed)
        return len(failed)

    def _report(self, number: int, step: int, value: float) -> bool:
        running = self._running.get(number)
        if running is None or step in running.values or not math.isfinite(value):
            return False
        running.values[step] = value
        running.trial.report(value, step)
        return self.sweep.prune and running.trial.should_prune()

    def _median(self, step: int) -> float | None:
        from optuna.trial import TrialState

        finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        values = [trial.intermediate_values[step] for trial in finished if step in trial.intermediate_values]
        return statistics.median(values) if values else None

    def _tell(self, number: int, *, value: float | None = None, error: str | None = None) -> None:
        """End a trial: finished with a value, failed with an error, pruned without both."""
        from optuna.trial import TrialState

        running = self._running.pop(number, None)
        if running is None:
            return
        if error is not None:
            running.trial.set_user_attr(ERROR, error)
            self._study.tell(running.trial, state=TrialState.FAIL)
        elif value is not None:
            self._study.tell(running.trial, value)
        else:
            self._study.tell(running.trial, state=TrialState.PRUNED)


def _connected(file: Path) -> sqlite3.Connection:
    """Return a connection that survives a kill at any moment, without waiting for the disk at each of many commits."""
    try:
        connection = sqlite3.connect(file, check_same_thread=False)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
    except sqlite3.Error as error:
        raise StorageError(
            f"{file}: {error}; set outputs=FOLDER to a folder on a local disk with free space"
        ) from error
    return connection


def _number(trial: FrozenTrial | Trial) -> int:
    return int(trial.user_attrs.get(RETRIES, trial.number))


def _suggested(trial: Trial, key: str, found: Distribution) -> Value:
    """Return what is chosen for a key, or was chosen when the trial was given out first."""
    if isinstance(found, Choices):
        return str(trial.suggest_categorical(key, found.values))
    if isinstance(found, IntRange):
        return trial.suggest_int(key, found.low, found.high, step=found.step, log=found.log)
    return trial.suggest_float(key, found.low, found.high, step=found.step, log=found.log)


Make = Callable[[list[str], dict[str, str], int], Ready]


class StudySource:
    """The children of a sweep as a study chooses them: no more at a time than run, so that it learns in between."""

    def __init__(self, study: Study, make: Make, record: SweepRecord) -> None:
        """Take children from a study.

        Args:
            make: returns the child of a trial, from its overrides, its parameters, and its number.
            record: is told of trials that no child can be made of.
        """
        self._study = study
        self._make = make
        self._record = record
        self._out: set[int] = set()  # numbers of trials that were given out and have not ended
        self._stopped = False

    @property
    def exhausted(self) -> bool:
        return self._stopped or self._study.exhausted

    def next(self) -> Ready | None:
        while not self.exhausted and len(self._out) < self._study.sweep.parallel:
            asked = self._study.ask()
            self._out.add(asked.number)
            try:
                ready = self._make(asked.overrides, asked.parameters, asked.number)
            except VideoliftError as error:
                self.ended(self._failed_child(asked, error))
                self._stopped = self._study.sweep.on_failure is OnFailure["stop"]
                continue
            if ready.child.state not in DONE:
                return ready
            self.ended(ready.child)  # an earlier process was killed before it could tell
        return None

    def watch(self, child: Child, event: Event) -> None:
        metric = self._study.sweep.metric
        if child.trial is None or event["type"] != "metric" or event["key"] != metric:
            return
        step = int(event["step"])
        if step == 0:  # told once, when nothing is left to stop
            return
        worse = self._study.report(child.trial, step, float(event["value"]))
        replayed = event.get("time", math.inf) < (child.started or 0.0)  # by a job that went on without a launcher
        if worse and not replayed:
            best, median = self._study.best(child.trial), self._study.median(step)
            raise Pruned(f"pruned after epoch {step}: {metric} {best:.6g} at best, median of the others {median:.6g}")

    def ended(self, child: Child) -> None:
        """Tell the study; a child that was stopped, or left to itself, is given out again when the sweep goes on."""
        if child.trial is None:
            return
        self._out.discard(child.trial)
        if child.state is State.finished and (child.value is None or not math.isfinite(child.value)):
            child.state, child.exit_code = State.failed, TrainingError.exit_code  # else it would not be tried again
            child.error = self._study.without_value(child.value)
        if child.state is State.finished:
            self._study.finished(child.trial, child.value)
        elif child.state is State.pruned:
            self._study.pruned(child.trial)
        elif child.state is State.failed:
            self._study.failed(child.trial, child.error)

    def _failed_child(self, asked: Suggested, error: VideoliftError) -> Child:
        """Return the child that stands in the record for a trial whose settings cannot be."""
        record = self._record
        child = next((known for known in record.children if known.trial == asked.number), None)
        if child is None:
            label = " ".join(f"{key}={value}" for key, value in asked.parameters.items())
            overrides = redacted_words(asked.overrides)
            child = Child(len(record.children), label, asked.parameters, "", overrides, trial=asked.number)
            record.children.append(child)
        child.state, child.exit_code = State.failed, error.exit_code
        child.error = f"{type(error).__name__}: {error}"
        return child
