"""What a sweep keeps so that it can go on as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from launchers.compose import Job, compose
from launchers.config import Config, Goal, Sweep, problems
from launchers.preparing import Prepared
from launchers.sweeps.earlier import alone, keep_builders, with_kept_builders
from launchers.sweeps.record import SweepFolder
from videolift.errors import ConfigError


def with_builder(place: str) -> Config:
    config = Config()
    return replace(config, model=replace(config.model, builder=f"{place}:build"))


def test_a_users_model_stays_what_it_was_however_often_the_sweep_goes_on(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "sweep")
    folder.path.mkdir()
    mine = str(tmp_path / "mine.py")
    for place, content in ((mine, b"first"), (mine, b"edited"), (str(folder.path / "builders/x/mine.py"), b"edited")):
        planned = {"train": SimpleNamespace(builder={"mine.py": content})}
        run = SimpleNamespace(config=with_builder(place), planned=planned)
        keep_builders(folder, [cast(Prepared, run)])
    (job,) = with_kept_builders([Job("", with_builder(mine), (), {})], folder)
    kept = str(job.config.model.builder).removesuffix(":build")
    assert Path(kept).read_bytes() == b"first"
    assert with_kept_builders([Job("", with_builder(mine), (), {})], None)[0].config == with_builder(mine)


def test_a_users_script_stays_what_it_was(tmp_path: Path) -> None:
    folder, project = SweepFolder(tmp_path / "sweep"), tmp_path / "project"
    folder.path.mkdir()
    (project / "sub").mkdir(parents=True)
    (project / "sub" / "train.py").write_text("first")
    config = compose([f"script.path={project / 'sub' / 'train.py'}", f"script.source_dir={project}"])
    planned = {"script": SimpleNamespace(builder={"sub/train.py": b"first"})}
    keep_builders(folder, [cast(Prepared, SimpleNamespace(config=config, planned=planned))])
    (job,) = with_kept_builders([Job("", config, (), {})], folder)
    script = job.config.script
    assert Path(str(script.path)).relative_to(str(script.source_dir)) == Path("sub/train.py")
    assert Path(str(script.path)).read_text() == "first" and script.path != config.script.path


def test_a_child_by_itself_is_what_was_typed_with_its_own_values_and_no_secrets() -> None:
    typed = ["data.root=视频 (1)", "model.batch=8,16", "sweep.parallel=2", "tracking.uri=http://me:secret@host"]
    overrides = ["data.root='视频 (1)'", "model.batch=16", "tracking.uri='http://me:secret@host'", "sweep.parallel=2"]
    assert alone(overrides, {"model.batch"}, typed) == [
        *("data.root=视频 (1)", "tracking.uri=http://***@host", "model.batch=16"),
    ]


def test_which_of_two_values_is_better_follows_from_the_metric() -> None:
    assert Sweep().better is Goal.maximize
    assert Sweep(metric="val_loss").better is Goal.minimize
    assert Sweep(metric="val_loss", goal=Goal.maximize).better is Goal.maximize


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["sweep.metric=val_acurracy"], "did you mean val_accuracy?"),
        (["sweep=optuna", "sweep.metric=accuracy", "model.members=2"], "say val_accuracy or test_accuracy"),
        (["sweep=optuna", "sweep.metric=loss", "model=ensemble"], "an ensemble (model.members=10) has no loss"),
        (["sweep=optuna", "stages=[preprocess]"], "is told by the stage train, which is not in stages"),
        (["sweep=optuna", "sweep.metric=test_accuracy", "stages=[preprocess,train]"], "the stage evaluate"),
        (["sweep=optuna", "data.val_share=0"], "without a validation set"),
    ],
)
def test_a_metric_that_no_child_can_have_is_told_before_the_first(overrides: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose(overrides)
    assert "sweep.metric: " in str(error.value) and problem in str(error.value)
    assert problems(compose()) == []
