"""A study with a toy objective: what it chooses, what it survives, and what it knows after its process was killed."""

import math
import os
import signal
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus

from launchers.base import Pruned
from launchers.config import Goal, OnFailure, Sweep
from launchers.preparing import Prepared
from launchers.sweeps.record import Child, State, SweepRecord
from launchers.sweeps.source import Ready
from launchers.sweeps.space import Space, space_of
from launchers.sweeps.study import FILE, Study, StudySource, Suggested
from videolift.errors import ConfigError

TYPED = ["model.learning_rate=tag(log,interval(1e-4,1))", "model.batch=choice(8,16,32)", "model.epoch=range(1,9)"]
SPACE = space_of(TYPED, Sweep())
SWEEP = Sweep(name="optuna", trials=12, random_trials=4, prune=False)


def objective(asked: Suggested) -> float:
    """Return a value that is highest for a learning rate of 0.01 and a batch of 16."""
    off = abs(math.log10(float(asked.parameters["model.learning_rate"])) + 2)
    return 1 - off / 4 - (0 if asked.parameters["model.batch"] == "16" else 0.2)


@contextmanager
def opened(folder: Path, sweep: Sweep = SWEEP, space: Space = SPACE, seed: int = 0) -> Iterator[Study]:
    with Study(folder, sweep, space, seed) as study:
        yield study


def run_all(study: Study) -> list[Suggested]:
    asked = []
    while not study.exhausted:
        asked.append(study.ask())
        study.finished(asked[-1].number, objective(asked[-1]))
    return asked


def states(folder: Path) -> list[str]:
    with sqlite3.connect(folder / FILE) as database:
        found = [str(state) for (state,) in database.execute("select state from trials order by number")]
    database.close()
    return found


def test_a_study_asks_for_as_many_trials_as_it_may_and_gets_nearer_to_the_best(tmp_path: Path) -> None:
    with opened(tmp_path / "s", replace(SWEEP, trials=30)) as study:
        asked = run_all(study)
    assert [one.number for one in asked] == list(range(30))
    assert len({tuple(one.overrides) for one in asked}) > 20
    values = [objective(one) for one in asked]
    assert sum(values[-10:]) > sum(values[:10]) + 0.5  # chance would make both alike


def test_what_is_chosen_depends_on_the_seed_and_on_what_is_known_only(tmp_path: Path) -> None:
    chosen: list[list[Suggested]] = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        with opened(tmp_path / name, seed=seed) as study:
            chosen.append(run_all(study))
    assert chosen[0] == chosen[1]
    assert all(one != other for one, other in zip(chosen[0], chosen[2], strict=True))
    in_parts = []
    for trials in (3, 7, 12):
        with opened(tmp_path / "d", replace(SWEEP, trials=trials)) as study:
            in_parts += run_all(study)
    assert in_parts == chosen[0]


@pytest.mark.parametrize("goal", list(Goal))
def test_the_goal_says_which_way_is_better(tmp_path: Path, goal: Goal) -> None:
    sign = 1 if goal is Goal.maximize else -1
    with opened(tmp_path / "s", replace(SWEEP, trials=25, goal=goal)) as study:
        asked = []
        while not study.exhausted:
            asked.append(study.ask())
            study.finished(asked[-1].number, sign * objective(asked[-1]))
    values = [objective(one) for one in asked]
    assert sum(values[-8:]) > sum(values[:8]) + 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_a_value_that_is_none_is_a_failure_and_ends_nothing(tmp_path: Path, value: float | None) -> None:
    with opened(tmp_path / "s") as study:
        study.finished(study.ask().number, value)
        study.failed(study.ask().number, "out of memory")
        assert len(run_all(study)) == 10
    assert states(tmp_path / "s") == ["FAIL", "FAIL", *["COMPLETE"] * 10]


def test_what_failed_is_tried_again_in_a_later_session_under_its_number(tmp_path: Path) -> None:
    with opened(tmp_path / "s", replace(SWEEP, trials=3)) as study:
        first = [study.ask() for _ in range(3)]
        study.finished(first[0].number, 0.5)
        study.failed(first[1].number, "no")
        study.finished(first[2].number, math.nan)
        assert study.exhausted
    for ends in (False, True):
        with opened(tmp_path / "s", replace(SWEEP, trials=3)) as study:
            assert study.exhausted and study.retry_failed() == 2 and not study.exhausted
            again = [study.ask() for _ in range(2)]
            assert again == first[1:] and study.exhausted
            for one in again:
                study.finished(one.number, 0.7 if ends else None)
    with opened(tmp_path / "s", replace(SWEEP, trials=5)) as study:
        assert study.retry_failed() == 0
        further = [study.ask() for _ in range(2)]
        assert study.exhausted and not {one.number for one in further} & {0, 1, 2}


def test_a_retry_that_was_asked_for_is_not_lost_nor_asked_for_twice(tmp_path: Path) -> None:
    with opened(tmp_path / "s", replace(SWEEP, trials=1)) as study:
        first = study.ask()
        study.failed(first.number, "no")
    with opened(tmp_path / "s", replace(SWEEP, trials=1)) as study:
        assert study.retry_failed() == 1
    with opened(tmp_path / "s", replace(SWEEP, trials=1)) as study:
        assert study.retry_failed() == 0
        assert study.ask() == first and study.exhausted


Work = Callable[[Callable[[object], None]], None]  # is given what says something to us


@contextmanager
def other_process(work: Work) -> Iterator[int]:
    """Do work in a process that ends by signal 9, its own or ours; yields the end of a pipe with what it says."""
    reading, writing = os.pipe()

    def say(words: object) -> None:
        os.write(writing, f"{words}\n".encode())

    pid = os.fork()  # a new interpreter would take seconds to import what is here already
    if pid == 0:
        try:
            work(say)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    try:
        yield reading
        os.kill(pid, signal.SIGKILL)
    finally:
        os.close(reading)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def killed(work: Work) -> list[str]:
    """Do work in a process that is killed by signal 9 afterwards, and return what it said."""
    with other_process(work) as reading, os.fdopen(os.dup(reading)) as pipe:
        return pipe.read().splitlines()


def test_after_kill_9_what_ran_is_given_out_again_and_nothing_is_done_twice(tmp_path: Path) -> None:
    def work(say: Callable[[object], None]) -> None:
        study = Study(tmp_path / "s", SWEEP, SPACE, 0)
        for _ in range(5):
            asked = study.ask()
            study.finished(asked.number, objective(asked))
        say(study.ask())
        study.report(5, 1, 0.25)

    with opened(tmp_path / "undisturbed") as study:
        undisturbed = run_all(study)
    assert killed(work) == [str(undisturbed[5])]
    with opened(tmp_path / "s") as study:
        assert run_all(study) == undisturbed[5:]
    assert states(tmp_path / "s") == ["COMPLETE"] * 12


def test_several_that_ran_when_it_was_killed_come_first_in_their_order(tmp_path: Path) -> None:
    def work(say: Callable[[object], None]) -> None:
        study = Study(tmp_path / "s", SWEEP, SPACE, 0)
        for _ in range(3):
            say(study.ask())
        study.finished(1, 0.5)

    said = killed(work)
    with opened(tmp_path / "s") as study:
        again = [study.ask() for _ in range(3)]
    assert [str(one) for one in again[:2]] == [said[0], said[2]]
    assert again[2].number == 3


def test_a_kill_at_any_moment_leaves_a_study_that_goes_on(tmp_path: Path) -> None:
    def work(say: Callable[[object], None]) -> None:
        study = Study(tmp_path / "s", replace(SWEEP, trials=10**6), SPACE, 0)
        while True:
            say("asks")
            asked = study.ask()
            study.report(asked.number, 1, 0.5)
            study.finished(asked.number, objective(asked))

    for delay in (0.001, 0.004, 0.007, 0.013, 0.02, 0.03):
        with other_process(work) as reading:
            os.read(reading, 100)
            time.sleep(delay)
    begun = len(states(tmp_path / "s"))
    with opened(tmp_path / "s", replace(SWEEP, trials=begun + 3)) as study:
        run_all(study)
    assert states(tmp_path / "s") == ["COMPLETE"] * (begun + 3)


def learning(study: Study, reached: float, epochs: int = 6) -> int | None:
    """Run a trial that gets linearly to a value; return the epoch after which it was pruned."""
    asked = study.ask()
    for epoch in range(1, epochs + 1):
        if study.report(asked.number, epoch, reached * epoch / epochs):
            study.pruned(asked.number)
            return epoch
    study.finished(asked.number, reached)
    return None


def test_what_is_worse_than_the_median_is_pruned_after_its_first_epochs(tmp_path: Path) -> None:
    with opened(tmp_path / "s", replace(SWEEP, prune=True, prune_after=3)) as study:
        ends = [learning(study, reached) for reached in (0.1, 0.6, 0.7, 0.8, 0.2, 0.9, 0.64)]
        assert ends == [None, None, None, None, 3, None, 3]
        assert study.median(6) == pytest.approx(0.7)
        assert study.median(99) is None
    assert states(tmp_path / "s").count("PRUNED") == 2


def test_pruning_can_be_switched_off_and_put_off(tmp_path: Path) -> None:
    for name, sweep in (("off", SWEEP), ("late", replace(SWEEP, prune=True, prune_after=6))):
        with opened(tmp_path / name, sweep) as study:
            ends = [learning(study, reached) for reached in (0.5, 0.6, 0.7, 0.8, 0.2)]
        assert ends == [None, None, None, None, None if name == "off" else 6]


def test_reports_that_are_no_numbers_or_come_again_decide_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "s", replace(SWEEP, prune=True, prune_after=1)) as study:
        for _ in range(4):
            learning(study, 0.8)
        number = study.ask().number
        assert not study.report(number, 2, math.nan)
        assert study.report(number, 2, 0.01)
        assert not study.report(number, 2, 0.01)
        assert not study.report(77, 2, 0.01) and not study.report(0, 9, 0.01)


def test_an_epoch_that_was_reported_before_the_kill_is_no_news(tmp_path: Path) -> None:
    def work(_say: Callable[[object], None]) -> None:
        study = Study(tmp_path / "s", SWEEP, SPACE, 0)
        for _ in range(4):
            learning(study, 0.8)
        study.report(study.ask().number, 2, 0.01)

    killed(work)
    with opened(tmp_path / "s", replace(SWEEP, prune=True, prune_after=1)) as study:
        number = study.ask().number
        assert not study.report(number, 2, 0.01)
        assert study.best(number) == 0.01
        assert study.report(number, 3, 0.02)


def test_threads_report_at_once_while_others_are_asked_for(tmp_path: Path) -> None:
    pruned, failures = [], []

    def child(study: Study, asked: Suggested) -> None:
        try:
            for epoch in range(1, 6):
                if study.report(asked.number, epoch, objective(asked) * epoch):
                    pruned.append(asked.number)
                    study.pruned(asked.number)
                    return
            study.finished(asked.number, objective(asked))
        except Exception as error:
            failures.append(error)

    with opened(tmp_path / "s", replace(SWEEP, trials=24, prune=True, prune_after=2)) as study:
        while not study.exhausted:
            threads = [threading.Thread(target=child, args=(study, study.ask())) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert failures == []
    found = states(tmp_path / "s")
    assert len(found) == 24 and found.count("PRUNED") == len(pruned) > 0
    assert found.count("COMPLETE") == 24 - len(pruned)


def test_trials_that_run_at_the_same_time_are_not_alike(tmp_path: Path) -> None:
    with opened(tmp_path / "s", replace(SWEEP, trials=20)) as study:
        for _ in range(8):
            asked = study.ask()
            study.finished(asked.number, objective(asked))
        together = [study.ask() for _ in range(6)]
    assert len({one.parameters["model.learning_rate"] for one in together}) == 6


@pytest.mark.parametrize("name", ["a b", "数据 {x}", "50%?x=1#y", "it's"])
def test_a_study_lies_in_any_folder(tmp_path: Path, name: str) -> None:
    with opened(tmp_path / name / "s") as study:
        asked = study.ask()
    with opened(tmp_path / name / "s") as study:
        assert study.ask() == asked
    assert (tmp_path / name / "s" / FILE).is_file() and os.listdir(tmp_path) == [name]  # noqa: PTH208


# What stands between a study and what runs children.

PREPARED: Any = None  # nobody here runs what is prepared


def child_of(record: SweepRecord, number: int, parameters: dict[str, str], overrides: list[str]) -> Child:
    child = next((known for known in record.children if known.trial == number), None)
    if child is None:
        child = Child(len(record.children), "", parameters, "id", overrides, trial=number)
        record.children.append(child)
    return child


Make = Callable[[list[str], dict[str, str], int], Ready]


@pytest.fixture
def record() -> SweepRecord:
    return SweepRecord("s", "s", [], "videolift", "val_accuracy", Goal.maximize, "optuna")


def making(record: SweepRecord, *, wrong: tuple[int, ...] = ()) -> Make:
    def make(overrides: list[str], parameters: dict[str, str], trial: int) -> Ready:
        if trial in wrong:
            raise ConfigError("preprocess.depth: too small")
        prepared: Prepared = PREPARED
        return Ready(child_of(record, trial, parameters, overrides), prepared)

    return make


def end(source: StudySource, child: Child, state: State, value: float | None = None) -> None:
    child.state, child.value = state, value
    source.ended(child)


def test_a_source_gives_out_no_more_than_may_run_so_that_the_study_learns(tmp_path: Path, record: SweepRecord) -> None:
    with opened(tmp_path / "s", replace(SWEEP, trials=5, parallel=2)) as study:
        source = StudySource(study, making(record), record)
        first, second = source.next(), source.next()
        assert first and second and source.next() is None and not source.exhausted
        end(source, first.child, State.finished, 0.5)
        third = source.next()
        assert third and source.next() is None
        end(source, second.child, State.failed)
        end(source, third.child, State.pruned)
        last = [source.next(), source.next()]
        assert source.exhausted and source.next() is None
        end(source, last[0].child, State.stopped)  # type: ignore[union-attr]
        end(source, last[1].child, State.detached)  # type: ignore[union-attr]
    assert states(tmp_path / "s") == ["COMPLETE", "FAIL", "PRUNED", "RUNNING", "RUNNING"]
    with opened(tmp_path / "s", replace(SWEEP, trials=5, parallel=2)) as study:
        source = StudySource(study, making(record), record)
        again = [source.next(), source.next()]
        assert [ready and ready.child for ready in again] == record.children[3:] and source.exhausted


def test_a_trial_whose_settings_cannot_be_is_a_failed_child(tmp_path: Path, record: SweepRecord) -> None:
    for session in range(2):
        with opened(tmp_path / "s", replace(SWEEP, trials=3)) as study:
            study.retry_failed()
            source = StudySource(study, making(record, wrong=(0, 2)), record)
            while (ready := source.next()) is not None:
                end(source, ready.child, State.finished, 0.5)
            assert source.exhausted
        assert [child.state for child in record.children] == [State.failed, State.finished, State.failed], session
    assert record.children[0].error == "ConfigError: preprocess.depth: too small"
    assert record.children[0].exit_code == ConfigError.exit_code
    assert [child.trial for child in record.children] == [0, 1, 2]


@pytest.mark.parametrize(("value", "told"), [(math.nan, "nan"), (None, "nan"), (math.inf, "inf")])
def test_a_child_without_a_value_has_failed_and_is_tried_again(
    value: float | None, told: str, tmp_path: Path, record: SweepRecord
) -> None:
    with opened(tmp_path / "s", replace(SWEEP, trials=1)) as study:
        source = StudySource(study, making(record), record)
        ready = source.next()
        assert ready is not None
        end(source, ready.child, State.finished, value)
        child = ready.child
    assert (child.state, child.error, child.exit_code) == (State.failed, f"its val_accuracy is {told}", 4)
    with opened(tmp_path / "s", replace(SWEEP, trials=1)) as study:
        assert study.retry_failed() == 1
        again = StudySource(study, making(record), record).next()
        assert again is not None and again.child is child


def test_a_trial_that_cannot_be_stops_a_sweep_that_stops_at_failures(tmp_path: Path, record: SweepRecord) -> None:
    with opened(tmp_path / "s", replace(SWEEP, on_failure=OnFailure["stop"])) as study:
        source = StudySource(study, making(record, wrong=(0,)), record)
        assert source.next() is None and source.exhausted
    assert len(record.children) == 1


def test_a_child_that_ended_before_it_could_be_told_is_not_run_again(tmp_path: Path, record: SweepRecord) -> None:
    with opened(tmp_path / "s", replace(SWEEP, trials=2)) as study:
        ready = StudySource(study, making(record), record).next()
        assert ready is not None
    ready.child.state, ready.child.value = State.finished, 0.75
    with opened(tmp_path / "s", replace(SWEEP, trials=2)) as study:
        following = StudySource(study, making(record), record).next()
        assert following is not None and following.child.trial == 1
    assert states(tmp_path / "s") == ["COMPLETE", "RUNNING"]


def metric(key: str, value: float, step: int, **others: object) -> dict[str, object]:
    return {"type": "metric", "key": key, "value": value, "step": step, "time": time.time(), "stage": "train", **others}


def test_a_child_is_pruned_by_what_it_says(tmp_path: Path, record: SweepRecord) -> None:
    with opened(tmp_path / "s", replace(SWEEP, prune=True, prune_after=2)) as study:
        source = StudySource(study, making(record), record)
        for reached in (0.4, 0.5, 0.6, 0.7):
            ready = source.next()
            assert ready is not None
            for epoch in (1, 2, 3):
                source.watch(ready.child, metric("val_accuracy", reached, epoch))
            end(source, ready.child, State.finished, reached)
        ready = source.next()
        assert ready is not None
        child = ready.child
        child.started = time.time()
        source.watch(child, {"type": "progress", "done": 1, "total": 2})
        source.watch(child, metric("val_loss", 0.0, 2))
        source.watch(child, metric("val_accuracy", 0.31, 1))
        source.watch(child, metric("val_accuracy", 0.1, 2, time=child.started - 60))  # it went on without a launcher
        with pytest.raises(Pruned) as pruned:
            source.watch(child, metric("val_accuracy", 0.2, 3))
    assert str(pruned.value) == "pruned after epoch 3: val_accuracy 0.31 at best, median of the others 0.55"


# The sweeper, with a launcher that knows nothing of children.


class OtherLauncher:
    """As Hydra's own: runs a batch, and returns what became of each job."""

    def __init__(self, ends: Callable[[int], JobReturn]) -> None:
        self.ends = ends
        self.launched: list[tuple[int, int]] = []  # first job of a batch, jobs

    def launch(self, job_overrides: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
        self.launched.append((initial_job_idx, len(job_overrides)))
        return [self.ends(initial_job_idx + index) for index in range(len(job_overrides))]


def returned(value: object, status: JobStatus = JobStatus.COMPLETED) -> JobReturn:
    job = JobReturn(status=status)
    job.return_value = value
    return job


def run_by(launcher: OtherLauncher, folder: Path, sweep: Sweep, record: SweepRecord) -> None:
    from launchers.plugins.hydra_plugins.videolift_sweeper import run_in_batches

    with opened(folder, sweep) as study:
        study.retry_failed()
        run_in_batches(study, making(record, wrong=(4,)), record, launcher, lambda record: None)


def test_another_launcher_gets_batches_and_its_failures_are_survived(tmp_path: Path, record: SweepRecord) -> None:
    ends = {1: returned(math.nan), 2: returned(None), 5: returned(RuntimeError("no"), JobStatus.FAILED)}
    launcher = OtherLauncher(lambda number: ends.get(number, returned(0.5)))
    sweep = replace(SWEEP, trials=8, parallel=3)
    run_by(launcher, tmp_path / "s", sweep, record)
    assert launcher.launched == [(0, 3), (3, 1), (5, 2), (7, 1)]
    found = "".join(child.state.value[1] for child in record.children)  # f_i_nished or f_a_iled
    assert found == "iaaiaaii"
    assert record.children[5].error == "RuntimeError: no"
    ends.clear()
    run_by(launcher, tmp_path / "s", sweep, record)
    assert launcher.launched[4:] == [(1, 2), (5, 1)]  # and once more a trial whose settings cannot be
    assert record.count(State.finished) == 7


def test_another_launcher_begins_nothing_more_where_a_failure_stops_the_sweep(
    tmp_path: Path, record: SweepRecord
) -> None:
    launcher = OtherLauncher(lambda number: returned(math.nan if number == 2 else 0.5))
    run_by(launcher, tmp_path / "s", replace(SWEEP, parallel=2, on_failure=OnFailure["stop"]), record)
    assert launcher.launched == [(0, 2), (2, 2)]
