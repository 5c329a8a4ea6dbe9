from collections.abc import Mapping, Sequence

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from launchers.config import Sweep
from launchers.overrides import quote
from launchers.sweeps.space import Choices, Distribution, FloatRange, IntRange, Space, corners, describe, space_of
from videolift.errors import ConfigError

GROUPS = {"model": ["cnn2d", "cnn3d"], "data": ["demo", "folder"], "experiment": ["demo_quick"]}


def space(*typed: str, entries: Mapping[str, str] | None = None) -> Space:
    arguments = [quote(text, multirun=True) for text in typed]
    return space_of(arguments, Sweep(name="optuna", space=dict(entries or {})), GROUPS)


def problem_lines(*typed: str, entries: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as error:
        space(*typed, entries=entries)
    headline, *lines = str(error.value).splitlines()
    assert headline.startswith(f"{len(lines)} mistake") and headline.endswith("nothing was run:")
    return [line.strip() for line in lines]


@pytest.mark.parametrize(
    ("typed", "distribution"),
    [
        ("model.batch=16,32,16", Choices(("16", "32"))),
        ("model.batch=choice(16,32)", Choices(("16", "32"))),
        ("model.learning_rate=1e-3,null", Choices(("0.001", "null"))),
        ("model.dropout=true,false", Choices(("true", "false"))),
        ("model.optimizer=adam,sgd", Choices(("'adam'", "'sgd'"))),
        ("model=cnn2d,cnn3d", Choices(("cnn2d", "cnn3d"))),
        ("model=glob(*)", Choices(("cnn2d", "cnn3d"))),
        ("model.batch=range(1,5)", IntRange(1, 4)),
        ("model.batch=range(1,10,3)", IntRange(1, 7, 3)),
        ("model.batch=range(9,0,-4)", IntRange(1, 9, 4)),
        ("model.batch=shuffle(range(1,5))", IntRange(1, 4)),
        ("model.batch=interval(8,64)", IntRange(8, 64)),
        ("model.batch=tag(log,interval(8,64))", IntRange(8, 64, log=True)),
        ("model.batch=tag(log,range(8,65))", IntRange(8, 64, log=True)),
        ("model.learning_rate=interval(0.1,1)", FloatRange(0.1, 1.0)),
        ("model.learning_rate=tag(log, interval(1e-4, 1e-1))", FloatRange(1e-4, 0.1, log=True)),
        ("data.val_share=range(0.1,0.5,0.1)", FloatRange(0.1, 0.4, step=0.1)),
        ("model.args.units=int(interval(4,8))", IntRange(4, 8)),
        ("model.args.units=tag(int,interval(4,8))", IntRange(4, 8)),
        ("model.args.share=interval(0,1)", FloatRange(0.0, 1.0)),
        ("model.args.units=range(4,8)", IntRange(4, 7)),
        ("tags.x=range(1,3)", Choices(("1", "2"))),
    ],
)
def test_hydras_words_become_what_is_chosen_from(typed: str, distribution: Distribution) -> None:
    assert list(space(typed).distributions.values()) == [distribution]


def test_what_is_typed_replaces_adds_to_and_empties_what_the_settings_say() -> None:
    entries = {"model.batch": "choice(8, 16)", "model.epoch": "range(1, 5)", "model.learning_rate": "interval(0.1, 1)"}
    found = space("model.batch=32", "model.epoch=2,4", "preprocess.depth=8,12", "model.dropout=false", entries=entries)
    assert found.fixed == ("model.batch=32", "model.dropout=false")
    assert found.distributions == {
        "model.learning_rate": FloatRange(0.1, 1.0),
        "model.epoch": Choices(("2", "4")),
        "preprocess.depth": Choices(("8", "12")),
    }
    assert space("model.batch=32", "model.batch=8,16").distributions == {"model.batch": Choices(("8", "16"))}


def test_hydras_own_settings_are_no_part_of_a_trial() -> None:
    assert space("hydra.sweep.dir=x", "hydra/launcher=joblib", "seed=1,2").fixed == ()


def test_one_value_is_no_choice_and_is_told() -> None:
    found = space("model.batch=choice(16)", "model.epoch=range(3,4)", "tags.x=choice('a b')", "seed=1,2")
    assert list(found.distributions) == ["seed"]
    assert found.fixed == ("model.batch=16", "model.epoch=3", "++tags.x=a\\ b")
    assert found.notes[0] == "model.batch has one value to choose from, 16" and len(found.notes) == 3


BAD = {
    "model.batch=interval(1.5,8)": "must be whole numbers, got 1.5",
    "model.batch=range(1,2,0.5)": "must be whole numbers, got 1.5",
    "model.batch=interval(8,1)": "must go from a number to a larger one, not from 8 to 1",
    "model.batch=interval(8,8)": "must go from a number to a larger one, not from 8 to 8",
    "model.batch=range(5,1)": "there is nothing from 5 to 1",
    "model.batch=range(1,5,0)": "needs two numbers and a step; say interval(...) for numbers without steps",
    "model.learning_rate=interval(0,inf)": "must be a number or null, got inf",
    "model.learning_rate=range(0,inf)": "needs two numbers and a step; say interval(...) for numbers without steps",
    "model.learning_rate=tag(log,interval(0,1))": "log needs numbers above 0, and this starts at 0",
    "model.learning_rate=tag(log,range(1,5,2))": "takes either log or a step; leave one of the two out",
    "model.learning_rate=tag(lg,interval(1,2))": "there is no tag 'lg' here, there are int and log",
    "model.batch=tag(log,choice(1,2))": "tags are for interval(...) and range(...), and these are choices",
    "model.optimizer=interval(1,2)": "interval(...) is for numbers, and model.optimizer is none; say choice(...)",
    "model.dropout=interval(0,1)": "interval(...) is for numbers, and model.dropout is none; say choice(...)",
    "model=interval(1,2)": "interval(...) is for numbers, and model is none; say choice(...)",
    "model=glob(*5d)": "there is nothing to choose among",
    "model.lerning_rate=interval(1,2)": "there is no setting model.lerning_rate; did you mean model.learning_rate?",
    "sweep.trials=1,2": "is the same for every trial; give it one value",
    "outputs=a,b": "is the same for every trial; give it one value",
}


@pytest.mark.parametrize("typed", BAD)
def test_a_mistake_is_told_with_what_was_typed(typed: str) -> None:
    assert problem_lines(typed) == [f"{quote(typed, multirun=True)}: {BAD[typed]}"]


def test_all_mistakes_are_told_at_once_those_of_the_settings_too() -> None:
    entries = {
        "model.batch": "choice(16, x)",
        "model.epoch": "5",
        "model": "cnn3d, cnn4d",
        "modle.batch": "1, 2",
        "seed": "interval(1",
        "preprocess.depth": "interval(9, 1)",
    }
    assert problem_lines("preprocess.width=interval(2,1)", entries=entries) == [
        "sweep.space: model.batch=choice(16, x) (model.batch=x): must be a whole number, got x",
        "sweep.space: model.epoch=5: is one value; say choice(...), or model.epoch=... outside of sweep.space",
        "sweep.space: model=cnn3d, cnn4d (model=cnn4d): model has no choice 'cnn4d', it has cnn2d, cnn3d; "
        "did you mean cnn3d?",
        "sweep.space: modle.batch=1, 2: there is no setting modle.batch; did you mean model.batch?",
        "sweep.space: seed=interval(1: Hydra cannot read this; say choice(...) or interval(...)",
        "sweep.space: preprocess.depth=interval(9, 1): must go from a number to a larger one, not from 9 to 1",
        "preprocess.width=interval(2,1): must go from a number to a larger one, not from 2 to 1",
    ]
    fine = [f"{key}={value}" for key, value in {"model.batch": 1, "seed": 1, "preprocess.depth": 9}.items()]
    assert len(problem_lines("preprocess.width=interval(2,1)", *fine, entries=entries)) == 4


def test_a_space_without_a_choice_is_a_mistake() -> None:
    (line,) = problem_lines("model.batch=16", entries={"model.batch": "choice(8, 16)"})
    assert line.startswith("sweep.space: there is nothing to choose; say what differs between trials")


def test_a_trial_is_overrides_to_type_and_parameters_to_read() -> None:
    found = space(
        *("tags.x=choice('a b',c)", "model.optimizer=adam,sgd", "model.learning_rate=tag(log,interval(1e-4,1e-1))"),
        *("model.batch=range(8,33,8)", "model.epoch=5", "model.dropout=true,false"),
    )
    values = {"tags.x": "a\\ b", "model.optimizer": "'sgd'", "model.learning_rate": 0.00123456, "model.batch": 24}
    overrides = found.overrides(values)
    assert overrides == [
        *("model.epoch=5", "++tags.x=a\\ b", "model.optimizer='sgd'", "model.learning_rate=0.001235", "model.batch=24")
    ]
    parsed = OverridesParser.create().parse_overrides(overrides)
    assert [override.value() for override in parsed] == [5, "a b", "sgd", 0.001235, 24]
    parameters = ["a b", "sgd", "0.001235", "24"]
    assert list(found.parameters(values).values()) == parameters


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.floats(0, 1))
def test_rounding_stays_in_bounds_and_near(one: float, other: float, share: float) -> None:
    low, high = sorted((one, other))
    value = min(max(low + share * (high - low), low), high)
    rounded = float(FloatRange(low, high).text(value))
    assert low <= rounded <= high and rounded == pytest.approx(value, rel=1e-3)


def test_steps_are_not_rounded_away() -> None:
    found = FloatRange(0.1, 10000.7, step=0.1)
    assert [found.text(value) for value in (0.1 + 2 * 0.1, 9999.4, 10000.7)] == ["0.3", "9999.4", "10000.7"]


def corner_values(found: Space) -> list[Sequence[str]]:
    return [[text.partition("=")[2] for text in corner] for corner in corners(found)]


def test_corners_hold_every_bound_and_every_choice() -> None:
    found = space("model.batch=8,16,32", "model.learning_rate=interval(0.1,1)", "model=cnn2d,cnn3d", "seed=range(1,5)")
    assert corner_values(found) == [
        ["8", "0.1", "cnn2d", "1"],
        ["16", "1.0", "cnn3d", "4"],
        ["32", "0.1", "cnn3d", "1"],
    ]
    assert corner_values(space("model.epoch=7", "seed=interval(1,5)")) == [["7", "1"], ["7", "5"]]


def test_a_space_is_described_as_a_table() -> None:
    found = space(
        *("tags.x=choice('a b',c)", "model.learning_rate=tag(log,interval(1e-4,1e-1))", "model.batch=range(8,33,8)"),
        *("seed=interval(1,5)", "data.val_share=range(0.1,0.5,0.1)"),
    )
    assert describe(found) == [
        ("setting", "values", "scale"),
        ("tags.x", "a b, c", "one of them"),
        ("model.learning_rate", "0.0001 to 0.1", "numbers, logarithmic"),
        ("model.batch", "8 to 32", "whole numbers, step 8"),
        ("seed", "1 to 5", "whole numbers"),
        ("data.val_share", "0.1 to 0.4", "numbers, step 0.1"),
    ]
