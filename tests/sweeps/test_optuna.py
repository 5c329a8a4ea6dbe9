"""``sweep=optuna``: real trials of the real command."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.trial import TrialState

from launchers.sweeps.record import State
from tests import runs
from tests.sweeps.sweeps import TRAIN, in_mlflow, records, states, wait_until

TRIALS = 8


def test_eight_trials_of_which_some_fail_and_the_launcher_is_killed(quick: list[str], tmp_path: Path) -> None:
    settings = [word for word in quick if word != "tracking=none"]
    # With plain gradient descent 1e30 diverges at once; sampled at random it comes up among eight trials of this seed.
    space = ["model.learning_rate=choice(1e-3,1e-2,1e30)", "model.batch=choice(4,8)", "model.dropout=false"]
    swept = ["-m", *settings, "model=cnn2d", TRAIN, "sweep=optuna", "model.optimizer=sgd", *space]
    swept += ["sweep.parallel=2", "sweep.threads=1", "tracking.log_model=false", "model.epoch=1"]
    process = runs.start(*swept, f"sweep.trials={TRIALS // 2}", cwd=tmp_path)
    wait_until(process, tmp_path, lambda r: r.count(State.finished, State.failed) >= 1 and r.count(State.running) >= 1)
    process.kill()
    runs.wait(process)
    ended = runs.run(*swept, f"sweep.trials={TRIALS}", cwd=tmp_path, code=4)  # more of them: the study goes on
    assert "Traceback" not in ended.text
    (record,) = records(tmp_path)
    assert len(record.children) == len({child.trial for child in record.children}) == TRIALS
    assert set(states(record)) == {"finished", "failed"}
    failing = [child for child in record.children if float(child.parameters["model.learning_rate"]) == 1e30]
    assert [c for c in record.children if c.state is State.failed] == failing
    # Of two trials with the same values the second one never begins, so that MLflow has no run of it.
    doomed = [child for child in failing if "that failed in #" in child.error]
    assert all("the loss became" in child.error for child in failing if child not in doomed)
    assert len(doomed) < len(failing)
    best = record.best
    assert best is not None
    assert best.value == max(child.value for child in record.children if child.value is not None)
    assert f"model.learning_rate={best.parameters['model.learning_rate']}" in ended.out
    parent, children = in_mlflow(tmp_path)
    assert (parent.info.status, len(children)) == ("FAILED", TRIALS - len(doomed))
    database = tmp_path / "outputs" / "sweeps" / record.id / "study.db"
    study = optuna.load_study(study_name=record.id, storage=f"sqlite:///{database}")
    ends = {trial.state for trial in study.get_trials(deepcopy=False)}
    assert ends <= {TrialState.COMPLETE, TrialState.FAIL}
    assert study.best_value == best.value


def test_a_search_space_is_checked_before_the_first_trial(quick: list[str], tmp_path: Path) -> None:
    wrong = ["model.learning_rate=interval(1,0.1)", "model.batch=interval(0,8)", "model.depht=choice(1,2)"]
    ended = runs.run("-m", *quick, "sweep=optuna", *wrong, cwd=tmp_path, code=2)
    for key in ("model.learning_rate", "model.batch", "model.depht"):
        assert key in ended.err
    assert not (tmp_path / "outputs").exists()
