"""What can be told wrong about a script's settings, all at once, before anything is looked at."""

from __future__ import annotations

import pytest

from launchers import commands
from launchers.compose import check, compose
from videolift.errors import ConfigError


def wrong(*overrides: str, multirun: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as error:
        check(overrides, multirun=multirun)
    return [line.strip() for line in str(error.value).splitlines()[1:]]


def test_a_script_has_stages_of_its_own() -> None:
    assert compose(["script.path=a.py"]).stages == ["script"]
    assert compose(["script.path=a.py", "script.channels.x=arrays", "preprocess.depth=3"]).stages == [
        "preprocess",
        "script",
    ]
    assert compose(["script.path=a.py", "script.stage=preprocess"]).stages == ["preprocess-script"]
    assert wrong("script.path=a.py", "stages=[train]") == ["stages: with script.path they are [script]; leave them out"]


def test_every_mistake_is_told_at_once() -> None:
    told = wrong(
        *("script.path=a.py", "script.args='--x {trian} {{ok}} {seed}'", "script.channels.train=s3://b/c"),
        *("script.channels.my-data=videos", "script.channels.plan=x", "script.metrics.loss=loss (\\d+"),
        *("script.metrics.acc=acc", "script.metrics.ok=(?P<step>\\d) (.)", "script.exclude=[x]", "model.epoch=3"),
        *("preprocess.depth=4", "predict.top=3"),
    )
    assert [line.partition(": ")[0] for line in told] == [
        *("script.args", "script.channels.train", "script.channels.my-data", "script.channels.plan"),
        *("script.metrics.loss", "script.metrics.acc", "script.exclude"),
        *("model.epoch", "predict.top", "preprocess.depth"),
    ]
    assert told[0].startswith(
        "script.args: {trian} stands for nothing; there are {train}, {my-data}, {plan}, {videos},"
    )
    assert told[1].endswith("are for backend=remote, not for local; fetch them first")


def test_settings_that_would_do_nothing_are_named() -> None:
    assert wrong("script.args=x", "script.stage=preprocess") == [
        "script.args: belongs to a script of your own, and there is none; say script.path=FILE",
        "script.stage: belongs to a script of your own, and there is none; say script.path=FILE",
    ]
    assert wrong("script.path=a.py", "script.channels.train=folder", "data=folder", "data.root=x", "data.nclass=3") == [
        f"data.{key}: would do nothing: no channel of the script holds videos or arrays; leave it out"
        for key in ("source", "root", "nclass")
    ]


def test_arrays_and_videos_are_refused_where_there_are_none() -> None:
    npz = ("data=npz", "data.npz=x.npz")
    assert wrong("script.path=a.py", *npz) == [
        "script.channels.train: data=npz has no videos; give the folder of the file"
    ]
    assert "before script.stage=train only" in wrong(
        "script.path=a.py", "script.stage=preprocess", "script.channels.x=arrays"
    )[0]  # fmt: skip


def test_a_sweep_varies_arguments_and_compares_by_what_the_script_prints() -> None:
    jobs = check(
        ["script.path=a.py", "script.args=--lr 1e-3 --data {train},--lr 3e-4 --data {train}", "sweep.metric=f1"],
        multirun=True,
    ).jobs
    assert [job.config.script.args for job in jobs] == ["--lr 1e-3 --data {train}", "--lr 3e-4 --data {train}"]
    assert jobs[0].parameters == {"script.args": "--lr 1e-3 --data {train}"}


def test_the_command_that_is_shown_to_repeat_a_run_is_accepted() -> None:
    typed = [
        *("script.path=/x/a.py", "script.args=--epochs 5 --out '{model_dir}/a b.h5'", "script.channels.train=/da ta"),
        *("script.channels.more=videos", r"script.metrics.loss=loss=([0-9.]+), \{", "data=folder", "data.root=/v"),
    ]
    config = compose(typed)
    again = compose(commands.local_overrides(config, ["script"]))
    assert again.script == config.script and again.data == config.data
