"""Launchers and sweepers of Hydra's beside ours, and the file that Hydra keeps of a sweep."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

import run as program
from launchers.compose import check
from launchers.sweeps.others import OnlyWhatIsLeft, in_a_row, returned_by
from launchers.sweeps.record import Child, State

SECRET = "hunter2"


def test_hydras_file_of_a_sweep_holds_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr("sys.argv", [str(program.__file__)])
    saved: list[str] = []

    def job(*_args: object) -> tuple[int, float]:
        saved.append((tmp_path / "there" / "multirun.yaml").read_text(encoding="utf-8"))
        return 0, 0.0

    monkeypatch.setattr(program, "_job", job)
    address = f"tracking.uri=http://me:{SECRET}@127.0.0.1:1/a"
    typed = ["-m", "action=sync", "run=a,b", address, f"outputs={tmp_path}", f"hydra.sweep.dir={tmp_path}/there"]
    assert program.main(typed) == 0
    assert len(saved) == 2
    assert SECRET not in saved[0] and "***@127.0.0.1:1/a" in saved[0] and f"outputs: {tmp_path}" in saved[0]


def child(number: int, state: State, value: float | None = None) -> Child:
    return Child(number, f"seed={number}", {"seed": str(number)}, "", [f"seed={number}"], state=state, value=value)


class Other(Launcher):
    """Returns the number of each job."""

    def __init__(self) -> None:
        self.launched: list[tuple[int, list[list[str]]]] = []

    def setup(self, **_given: Any) -> None:
        """Nothing is needed."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        self.launched.append((initial_job_idx, [list(overrides) for overrides in job_overrides]))
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        return [returned_by(child(number, State.finished, number), []) for number in numbers]


def children_in(states: str) -> Callable[..., list[Any]]:
    words = {"f": State.finished, "p": State.pruned, "x": State.failed, "w": State.waiting}
    made = [SimpleNamespace(child=child(n, words[letter], 0.5)) for n, letter in enumerate(states)]
    return lambda overrides, first: made[first : first + len(overrides)]


def test_another_launcher_is_given_what_is_left_under_its_numbers() -> None:
    launcher, jobs = Other(), [[f"seed={number}"] for number in range(8)]
    session = SimpleNamespace(children=children_in("fwxpfwfw"))
    returned = OnlyWhatIsLeft(launcher, session).launch(jobs[1:], 1)
    assert launcher.launched == [(1, jobs[1:3]), (5, jobs[5:6]), (7, jobs[7:8])]
    values = [job.return_value for job in returned]
    assert values[:2] == [1, 2] and math.isnan(values[2]) and values[3:] == [0.5, 5, 0.5, 7]


def test_numbers_are_cut_where_they_leap() -> None:
    assert list(in_a_row([0, 1, 4, 6, 7])) == [[0, 1], [4], [6, 7]]
    assert list(in_a_row([])) == []


def test_jobs_are_all_there_are_unless_a_sweeper_chooses_them() -> None:
    ConfigStore.instance().store(group="hydra/sweeper", name="someones", node={"_target_": "someones.Sweeper"})
    assert check(["seed=1"]).is_grid
    assert check(["seed=1,2"], multirun=True).is_grid
    assert check(["seed=1,2", "hydra/sweeper=basic"], multirun=True).is_grid
    assert not check(["seed=1,2", "hydra/sweeper=someones"], multirun=True).is_grid
    assert not check(["sweep=optuna"], multirun=True).is_grid
