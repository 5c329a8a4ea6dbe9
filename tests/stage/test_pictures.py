"""Pictures of networks that were made by hand, so that what has to be seen in them is known."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
from keras import layers
from PIL import Image

from videolift import visualize
from videolift.embedding import embed, principal_components
from videolift.ensemble import average
from videolift.errors import ConfigError
from videolift.events import Events
from videolift.gradcam import heat_maps, stretched
from videolift.job import Job, Stop
from videolift.manifest import Clip, Manifest
from videolift.maximize import liveliest, maximize
from videolift.models import build
from videolift.opened import Opened
from videolift.parts import INDEX_FILE, Entry, write_index, write_part
from videolift.plan import Plan
from videolift.samples import load_samples
from videolift.settings import MODELS, Model, Preprocess, Visualize
from videolift.sheets import Line, save_moving, save_sheets
from videolift.workspace import Kind, Workspace

SHAPE = (4, 8, 8, 1)
BRIGHT, DARK = 0, 1  # classes
PATCH = (slice(None), slice(2, 3), slice(4, 6), slice(1, 3))  # of (clip, frame, height, width)
RNG = np.random.default_rng(0)


def with_patch() -> npt.NDArray[np.uint8]:
    clip = np.zeros((1, *SHAPE), np.uint8)
    clip[PATCH] = 255
    return clip


def convolution() -> layers.Layer:
    """One unit that answers to what is bright."""
    return layers.Conv3D(1, 1, activation="relu", kernel_initializer="ones", name="bright")


def head() -> list[layers.Layer]:
    """The more is bright, the less it is dark."""
    to_class = keras.initializers.Constant([[100.0, -100.0]])
    return [layers.GlobalAveragePooling3D(), layers.Dense(2, "softmax", kernel_initializer=to_class, name="class")]


def chained(*stack: Any, first: tuple[int, ...] = SHAPE, dtype: str = "uint8") -> keras.Model:
    clip = keras.Input(first, dtype=dtype)
    x = clip
    for layer in stack:
        x = layer(x)
    return keras.Model(clip, x)


def plain() -> keras.Model:
    return chained(layers.Rescaling(1 / 255), convolution(), *head())


def permuted() -> keras.Model:
    return chained(layers.Rescaling(1 / 255), layers.Permute((2, 3, 1, 4)), convolution(), *head())


def sequential() -> keras.Model:
    return keras.Sequential([keras.Input(SHAPE, dtype="uint8"), layers.Rescaling(1 / 255), convolution(), *head()])


def nested() -> keras.Model:
    body = chained(layers.Rescaling(1 / 255), convolution(), dtype="float32")
    return chained(lambda x: keras.ops.cast(x, "float32"), body, *head())


def by_frame() -> keras.Model:
    frame = layers.Conv2D(1, 1, activation="relu", kernel_initializer="ones", name="bright")
    return chained(layers.Rescaling(1 / 255), layers.TimeDistributed(frame, name="bright"), *head())


def frames_in_the_batch() -> keras.Model:
    frame = layers.Conv2D(1, 1, activation="relu", kernel_initializer="ones", name="bright")
    apart, together = layers.Lambda(lambda x: keras.ops.reshape(x, (-1, 8, 8, 1))), (-1, *SHAPE)
    return chained(layers.Rescaling(1 / 255), apart, frame, lambda x: keras.ops.reshape(x, together), *head())


def softmax_of_its_own() -> keras.Model:
    *pooled, dense = head()
    dense.activation = keras.activations.linear
    return chained(layers.Rescaling(1 / 255), convolution(), *pooled, dense, layers.Softmax())


@pytest.mark.parametrize(
    "make", [plain, permuted, sequential, nested, by_frame, frames_in_the_batch, softmax_of_its_own]
)
def test_the_heat_is_where_the_network_finds_its_reason(make: Callable[[], keras.Model]) -> None:
    network = make()
    seen = network(with_patch(), training=False).numpy()
    opened = Opened(network)
    (name,) = [answer for answer in opened.answers if answer.rpartition("/")[2] == "bright"]
    heat, probabilities = heat_maps(opened, opened.answer(name), with_patch())
    expected = np.zeros((1, *SHAPE[:3]))
    expected[PATCH] = 1
    np.testing.assert_allclose(heat, expected, atol=1e-6)
    np.testing.assert_allclose(probabilities, seen, atol=1e-6)
    assert seen[0, BRIGHT] > 0.9


def certain() -> keras.Model:
    """A network whose probabilities do not change any more where it has found something, so certain it is."""
    network = build(Model(name="cnn2d"), (4, 16, 16, 1), 3)
    kernel, bias = network.layers[-1].get_weights()
    network.layers[-1].set_weights([kernel * 1e4, bias])
    return network


@pytest.mark.parametrize("make", [certain, plain, softmax_of_its_own])
def test_the_heat_of_a_member_is_that_of_the_member_alone(make: Callable[[], keras.Model]) -> None:
    network = make()
    members = [keras.models.clone_model(network) for _ in range(2)]
    for member in members:
        member.set_weights(network.get_weights())
    whole = average(members)
    clips = RNG.integers(0, 256, (3, *network.input_shape[1:]), np.uint8)
    given = whole(clips, training=False).numpy()
    alone, opened = Opened(network), Opened(whole)
    assert opened.last_map().name == f"member_2/{alone.last_map().name}"
    expected, _ = heat_maps(alone, alone.last_map(), clips)
    heat, probabilities = heat_maps(opened, opened.last_map(), clips)
    assert expected.max(axis=(1, 2, 3)).all() and (make is not certain or given.max(axis=1).min() == 1)
    np.testing.assert_allclose(heat, expected, atol=1e-3)
    np.testing.assert_allclose(probabilities, given, atol=1e-5)
    if make is certain:  # what a class waits for is found before the softmax, which hardly changes any more
        of_class, of_member = (
            maximize(net, net.answer(name), [0, 2], seed=1).pixels
            for net, name in ((alone, "class"), (opened, "member_1/class"))
        )
        np.testing.assert_allclose(of_member.astype(int), of_class.astype(int), atol=3)
        assert np.ptp(of_class) > 100


def test_the_class_that_an_ensemble_sees_is_that_of_its_mean_probability(tmp_path: Path) -> None:
    def biased(*bias: float) -> keras.Model:
        network = plain()
        network.layers[-1].set_weights([np.zeros((1, 2), np.float32), np.array(bias, np.float32)])
        return network

    opened = Opened(average([biased(0, 2), biased(0, 2), biased(9, 0)]))  # the mean of the logits is for the first
    stage = Stage(tmp_path, plain())
    found = embed(opened, load_samples(tmp_path / "arrays", stage.manifest)["test"], batch=4)
    assert found.right.tolist() == [False] * 3 + [True] * 3


def test_what_speaks_for_a_class_in_one_place_only_is_not_averaged_away() -> None:
    sides = np.zeros((*SHAPE, 2), np.float32)
    sides[:, :, :4, :, BRIGHT] = 1  # bright on the left is one class, on the right the other
    sides[:, :, 4:, :, DARK] = 1
    dense = layers.Dense(2, "softmax", kernel_initializer=keras.initializers.Constant(sides.reshape(-1, 2)))
    opened = Opened(chained(layers.Rescaling(1 / 255), convolution(), layers.Flatten(), dense))
    clip = with_patch()
    clip[:, 2, :3, 7] = 100  # less bright, on the right
    heat, _ = heat_maps(opened, opened.last_map(), clip)
    assert heat[PATCH].min() == pytest.approx(1) and heat[..., 4:].max() == 0


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_ours_can_be_looked_into(name: str) -> None:
    shape = (5, 16, 16, 3)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        network = build(Model(name=name), shape, 3)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    opened = Opened(network)
    assert {answer.tensor.dtype for answer in opened.answers.values()} == {"float32"}
    clips = RNG.integers(0, 256, (2, *shape), np.uint8)
    heat, probabilities = heat_maps(opened, opened.last_map(), clips)
    assert heat.shape == (2, *shape[:3]) and heat.min() >= 0 and heat.max() == 1
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert opened.features().shape[-1] >= 64
    if name == "cnn2d":
        assert heat[:, 2].any() and not heat[:, [0, 1, 3, 4]].any()
        assert maximize(opened, opened.answer(None), [0], 0).frames == [2]


def test_a_map_is_taken_after_normalization_and_sums_and_before_pooling() -> None:
    clip = keras.Input(SHAPE, dtype="uint8")
    x = layers.Conv3D(2, 3, padding="same")(layers.Rescaling(1 / 255)(clip))
    y = layers.BatchNormalization()(layers.Conv3D(2, 3, padding="same", name="last")(x))
    y = layers.Activation("relu", name="activation")(layers.Add()([x, y]))
    pooled = layers.Flatten()(layers.MaxPooling3D(2)(y))
    opened = Opened(keras.Model(clip, layers.Dense(2, activation="softmax")(pooled)))
    assert opened.answer(None).name == "last" and opened.last_map().name == "activation"


def test_the_pixels_of_a_unit_are_those_that_it_answers_to_most() -> None:
    # Left and right; and one that its relu keeps silent, of which a climb finds the direction all the same.
    sides = np.zeros((*SHAPE[:3], 3), np.float32)
    sides[..., :4, 0], sides[..., 4:, 0] = 1, -1
    sides[..., :4, 1], sides[..., 4:, 1] = -1, 1
    sides[..., :4, 2], sides[..., 4:, 2] = 1, -1
    dense = layers.Dense(3, "relu", name="sides", kernel_initializer=keras.initializers.Constant(sides.reshape(-1, 3)))
    dense_bias = np.array([0, 0, -1e4], np.float32)
    network = chained(layers.Rescaling(1 / 255), layers.Flatten(), dense, layers.Dense(2, "softmax"))
    dense.bias.assign(dense_bias)
    opened = Opened(network)
    answer = opened.answer("sides")
    found = maximize(opened, answer, [2, 0, 1], seed=3)
    assert found.pixels.dtype == np.uint8 and found.pixels.shape == (3, *SHAPE) and found.frames == [0, 1, 2, 3]
    left, right = found.pixels[..., :4, :].mean(axis=(1, 2, 3, 4)), found.pixels[..., 4:, :].mean(axis=(1, 2, 3, 4))
    assert (left - right > 150).tolist() == [True, True, False] and right[2] - left[2] > 150
    assert answer.layer.activation is keras.activations.relu
    np.testing.assert_array_equal(maximize(opened, answer, [2, 0, 1], seed=3).pixels, found.pixels)
    # The silent one says nothing, so it is not among those that differ most; both others differ.
    noise = RNG.integers(0, 256, (6, *SHAPE), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("videolift.maximize.UNITS", 2)
        assert liveliest(opened, answer, [noise[:4], noise[4:]]) == [0, 1]


def test_components_are_the_directions_of_most_variance() -> None:
    along, across = np.array([3.0, 0, 4, 0]) / 5, np.array([0.0, 1, 0, 0])
    places = np.array([[-6.0, 1], [-2, -1], [2, -1], [6, 1]])
    points, shares = principal_components(places @ np.stack([along, across]) + 7)
    np.testing.assert_allclose(np.abs(points), np.abs(places), atol=1e-9)
    assert shares == pytest.approx((80 / 84, 4 / 84))
    assert principal_components(np.ones((1, 3)))[1] == (0, 0)  # nothing varies
    one = principal_components(np.array([[1.0], [3.0], [8.0]]))[0]
    np.testing.assert_allclose(one, [[-3, 0], [-1, 0], [4, 0]], atol=1e-9)


def test_stretching_keeps_the_middle_of_every_part() -> None:
    assert stretched(np.array([0.0, 4.0]), 0, 4).tolist() == [0, 1, 3, 4]
    assert stretched(np.array([[2.0]]), 1, 3).tolist() == [[2, 2, 2]]


def test_sheets_are_cut_and_pictures_move(tmp_path: Path) -> None:
    lines = [Line(f"unit {n}", RNG.integers(0, 256, (3, 8, 8, 3), np.uint8)) for n in range(5)]
    assert save_sheets(lines, tmp_path, "units", lines_a_sheet=2) == ["units_1.png", "units_2.png", "units_3.png"]
    assert save_sheets(lines, tmp_path, "units") == ["units.png"]
    assert {f.name for f in tmp_path.glob("*.png")} == {"units.png", "units_1.png", "units_2.png", "units_3.png"}
    with Image.open(tmp_path / save_moving(lines, tmp_path / "units.gif")) as moving:
        assert moving.n_frames == 3 and moving.info["loop"] == 0


@keras.saving.register_keras_serializable("pictures")
class Subclassed(keras.Model):  # type: ignore[misc]  # Keras has no types
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.pooled = layers.GlobalAveragePooling3D()
        self.dense = layers.Dense(2, activation="softmax")

    def call(self, x: Any) -> Any:
        return self.dense(self.pooled(keras.ops.cast(x, "float32")))


class Stage:
    """A visualize stage beside arrays of 2 classes and a network."""

    def __init__(self, root: Path, network: keras.Model) -> None:
        names = [f"{name}-{n}" for name in ("bright", "dark") for n in range(3)]
        clips = np.repeat(np.array([200, 20], np.uint8), 3).reshape(-1, 1, 1, 1, 1) + np.zeros((1, *SHAPE), np.uint8)
        (root / "arrays").mkdir(parents=True)
        entries = [(Entry(name, n // 3, "0", frames=4), clips[n : n + 1]) for n, name in enumerate(names)]
        write_index(root / "arrays" / INDEX_FILE, write_part(root / "arrays", 0, SHAPE, entries))
        (root / "model").mkdir()
        network.save(root / "model" / "model.keras")
        self.manifest = Manifest(
            ("bright", "dark"), tuple(Clip(name, n // 3, name, "test", "0", 1) for n, name in enumerate(names)), "test"
        )
        self.root = root

    def draw(self, **wanted: Any) -> tuple[set[str], list[str]]:
        """Return the names of the pictures that are told, and the warnings."""
        channels = {name: self.root / name for name in ("arrays", "model", "plan")}
        workspace = Workspace(Kind.training, self.root / "job", "algo-1", ("algo-1",), channels)
        workspace.create_results()
        workspace.events_file.unlink(missing_ok=True)
        plan = Plan("visualize", "visualize-1", preprocess=Preprocess(4, 8, 8), visualize=Visualize(**wanted))
        events = Events(workspace.events_file, "algo-1", stage="visualize")
        try:
            visualize.run(Job(workspace, plan, self.manifest, events, Stop()))
        finally:
            events.close()
        told = [json.loads(line) for line in workspace.events_file.read_text().splitlines()]
        drawn = {e["path"] for e in told if e["type"] == "artifact" and e["folder"] == "pictures"}
        assert all((workspace.output / name).stat().st_size > 1000 for name in drawn)
        return drawn, [e["text"] for e in told if e["type"] == "message"]


def test_the_stage_draws_what_was_asked_for(tmp_path: Path) -> None:
    stage = Stage(tmp_path, plain())
    every = ["contact_sheet", "gradcam", "maximize", "embedding"]
    drawn, told = stage.draw(pictures=every)
    assert drawn == {
        "contact_sheet.png",
        *("gradcam_bright.png", "maximize_bright.png", "maximize_bright.gif", "embedding.png"),
    }
    assert told == []
    drawn, told = stage.draw(pictures=["maximize", "gradcam"], layer="class", units=[1])
    assert drawn == {"maximize_class.png", "maximize_class.gif", "gradcam_bright.png"}
    assert told == ["gradcam: class does not tell places, so bright is taken"]


def test_clips_that_are_recognised_are_told_from_those_that_are_not(tmp_path: Path) -> None:
    stage = Stage(tmp_path, plain())
    test = load_samples(tmp_path / "arrays", stage.manifest)["test"]
    found = embed(Opened(plain()), test, batch=4)
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.right.tolist() == [True] * 3 + [False] * 3  # for it, everything is bright
    assert found.shares[0] == pytest.approx(1)


def test_a_layer_or_unit_that_is_not_there_is_told_before_anything_is_drawn(tmp_path: Path) -> None:
    stage = Stage(tmp_path, plain())
    with pytest.raises(
        ConfigError, match=r"no layer 'brigth'; it has, with their units, .*bright \(1\), .*class \(2\)"
    ):
        stage.draw(pictures=["contact_sheet", "maximize"], layer="brigth")
    with pytest.raises(ConfigError, match=r"visualize.units: class has 2 units, counted from 0; there is no 2, 7"):
        stage.draw(pictures=["contact_sheet", "maximize"], layer="class", units=[0, 2, 7])
    assert not list(tmp_path.rglob("*.png"))


def test_of_a_network_that_cannot_be_opened_the_other_pictures_are_drawn(tmp_path: Path) -> None:
    network = Subclassed()
    network(np.zeros((1, *SHAPE), np.uint8))
    drawn, (told,) = Stage(tmp_path / "subclassed", network).draw(pictures=["contact_sheet", "gradcam", "embedding"])
    assert drawn == {"contact_sheet.png"}
    assert told.startswith("not drawn: gradcam, embedding: ") and "call() of its own" in told
    flat = chained(layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(2, "softmax", name="class"))
    drawn, told_both = Stage(tmp_path / "flat", flat).draw(pictures=["gradcam", "maximize", "embedding"])
    assert drawn == {"embedding.png"}
    assert [text.partition(": the model")[0] for text in told_both] == ["not drawn: gradcam", "not drawn: maximize"]
