from __future__ import annotations

from pathlib import Path

import pytest

from videolift.errors import ConfigError
from videolift.plan import PLAN_FILE, Plan, from_plain, read_plan, to_plain
from videolift.settings import Conflicts, Data, Model, Precision, Preprocess, Sampling, Source, Split, problems


def test_a_plan_arrives_as_it_was_sent(tmp_path: Path) -> None:
    plan = Plan(
        "train",
        "train-1",
        Data(source=Source.folder, root="/数据/a 'b'\n[c]"),
        Preprocess(color=False, sampling=Sampling.interval, interval=2),
        Model(args={"width": 4, "flags": [True, None, 1e-3]}, precision=Precision.mixed_bfloat16),
        seed=7,
    )
    plan.write(tmp_path)
    assert read_plan(tmp_path) == plan


def test_a_plan_that_was_changed_on_the_way_is_refused(tmp_path: Path) -> None:
    Plan("train", "train-1").write(tmp_path)
    file = tmp_path / PLAN_FILE
    file.write_text(file.read_text().replace('"epoch": 20', '"epoch": 2'))
    with pytest.raises(ConfigError, match="does not fit its hash"):
        read_plan(tmp_path)


@pytest.mark.parametrize("text", [None, "{", ""])
def test_a_missing_or_broken_plan_is_one_clear_error(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / PLAN_FILE).write_text(text)
    with pytest.raises(ConfigError, match=r"plan\.json: not a readable plan"):
        read_plan(tmp_path)


def test_a_plan_of_another_version_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown keys colour"):
        from_plain(Preprocess, {**to_plain(Preprocess()), "colour": True})


@pytest.mark.parametrize(
    ("data", "preprocess", "model", "expected"),
    [
        (Data(source=Source.ucf101), Preprocess(), Model(), ["data.root: data=ucf101 needs it"]),
        (Data(source=Source.npz), Preprocess(), Model(), ["data.npz: data=npz needs it"]),
        (Data(test_share=0), Preprocess(), Model(), ["data.test_share"]),
        (Data(val_share=1), Preprocess(), Model(), ["data.val_share"]),
        (
            Data(Source.ucf101, "videos", split=Split.official, conflicts=Conflicts.drop),
            Preprocess(),
            Model(),
            ["data.conflicts: a given split (data.split=official) is never changed"],
        ),
        (Data(), Preprocess(depth=0, height=-1), Model(name="cnn2d"), ["preprocess.depth", "preprocess.height"]),
        (Data(), Preprocess(interval=2, sampling=Sampling.uniform), Model(), ["preprocess.interval: has a meaning"]),
        (
            Data(),
            Preprocess(sampling=Sampling.interval),
            Model(),
            ["preprocess.interval: preprocess.sampling=interval needs"],
        ),
        (Data(), Preprocess(windows=3), Model(), ["preprocess.windows: has a meaning"]),
        (
            Data(),
            Preprocess(interval=1, windows=3, stride=2),
            Model(),
            ["preprocess.stride: preprocess.windows already"],
        ),
        (Data(), Preprocess(depth=1), Model(), ["preprocess.depth: cnn3d convolves over time"]),
        (Data(), Preprocess(height=8), Model(name="cnn2d"), ["preprocess.height, preprocess.width: cnn2d"]),
        (Data(val_share=0), Preprocess(), Model(early_stopping=3), ["model.early_stopping: needs a validation set"]),
        (Data(), Preprocess(), Model(args={"a": 1}), ["model.args: are the arguments of model.builder"]),
        (Data(), Preprocess(), Model(name="cnn4d", epoch=0), ["model.epoch", "model.name: no model 'cnn4d'"]),
        (Data(), Preprocess(), Model(learning_rate=-1.0), ["model.learning_rate"]),
    ],
)
def test_mistakes_between_fields_are_all_told(
    data: Data, preprocess: Preprocess, model: Model, expected: list[str]
) -> None:
    found = problems(data, preprocess, model)
    assert len(found) >= len(expected)
    for start in expected:
        assert any(line.startswith(start) for line in found), found
