from __future__ import annotations

import os
import random
import re

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.saving.serialization_lib import SafeModeScope

from benchmarks.models import millions, multiply_adds, row, sizes
from videolift import checkpoint
from videolift.ensemble import average
from videolift.errors import ConfigError, TrainingError
from videolift.layers import layers_of, refuse_missing_layers
from videolift.loadable import refuse_unloadable
from videolift.models import build, load_network
from videolift.opened import Closed, Opened
from videolift.settings import LOSSES, MODELS, OPTIMIZERS, ORIGINALS, Model, Visualize
from videolift.train import compile_network

ROOT = Path(__file__).parents[2]
SHAPE = (10, 32, 32, 1)
SMALL = (4, 16, 16, 1)
CLASSES = 101
DEMO_CLASSES = 6
NEW = ("cnn3d_batchnorm", "cnn3d_leakyrelu", "r2plus1d", "mobile_causal")


def conv(kernel: int, inputs: int, outputs: int) -> int:
    return kernel * inputs * outputs + outputs


def dense(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


# By hand: 'same' padding, pooling by 3 rounds up: 32x32x10 -> 11x11x4 -> 4x4x2, 64 wide.
CNN3D = [
    ("Rescaling", (10, 32, 32, 1), 0),  # by 1: from bytes to numbers
    ("Permute", (32, 32, 10, 1), 0),
    ("Conv3D", (32, 32, 10, 32), conv(27, 1, 32)),
    ("Conv3D", (32, 32, 10, 32), conv(27, 32, 32)),
    ("MaxPooling3D", (11, 11, 4, 32), 0),
    ("Dropout", (11, 11, 4, 32), 0),
    ("Conv3D", (11, 11, 4, 64), conv(27, 32, 64)),
    ("Conv3D", (11, 11, 4, 64), conv(27, 64, 64)),
    ("MaxPooling3D", (4, 4, 2, 64), 0),
    ("Dropout", (4, 4, 2, 64), 0),
    ("Flatten", (2048,), 0),
    ("Dense", (512,), dense(2048, 512)),
    ("Dropout", (512,), 0),
    ("Dense", (CLASSES,), dense(512, CLASSES)),
]
# The second convolution of a block is not padded: 32 -> 32 -> 30 -> 15 -> 15 -> 13 -> 6.
CNN2D = [
    ("Cropping3D", (1, 32, 32, 1), 0),
    ("Reshape", (32, 32, 1), 0),
    ("Rescaling", (32, 32, 1), 0),
    ("Conv2D", (32, 32, 32), conv(9, 1, 32)),
    ("Conv2D", (30, 30, 32), conv(9, 32, 32)),
    ("MaxPooling2D", (15, 15, 32), 0),
    ("Dropout", (15, 15, 32), 0),
    ("Conv2D", (15, 15, 64), conv(9, 32, 64)),
    ("Conv2D", (13, 13, 64), conv(9, 64, 64)),
    ("MaxPooling2D", (6, 6, 64), 0),
    ("Dropout", (6, 6, 64), 0),
    ("Flatten", (2304,), 0),
    ("Dense", (512,), dense(2304, 512)),
    ("Dropout", (512,), 0),
    ("Dense", (CLASSES,), dense(512, CLASSES)),
]


def three_blocks(activation: str) -> list[tuple[str, tuple[int, ...], int]]:
    """32x32x10 -> 11x11x4 -> 4x4x2 -> 2x2x1, 64 wide. Batch normalization has four numbers a channel."""
    rows: list[tuple[str, tuple[int, ...], int]] = [*CNN3D[:2]]
    sizes = [(32, 32, 10), (11, 11, 4), (4, 4, 2), (2, 2, 1)]
    for inputs, filters, size, pooled in zip((1, 32, 64), (32, 64, 64), sizes, sizes[1:], strict=False):
        rows += [
            ("Conv3D", (*size, filters), conv(27, inputs, filters)),
            (activation, (*size, filters), 0),
            ("Conv3D", (*size, filters), conv(27, filters, filters)),
            (activation, (*size, filters), 0),
            ("MaxPooling3D", (*pooled, filters), 0),
            ("Dropout", (*pooled, filters), 0),
        ]
    return [
        *rows,
        ("Flatten", (256,), 0),
        ("Dense", (512,), dense(256, 512)),
        ("BatchNormalization", (512,), 4 * 512),
        ("Dropout", (512,), 0),
        ("Dense", (CLASSES,), dense(512, CLASSES)),
    ]


TABLES = {
    "cnn3d": CNN3D,
    "cnn3d_batchnorm": three_blocks("Activation"),
    "cnn3d_leakyrelu": three_blocks("LeakyReLU"),
    "cnn2d": CNN2D,
}


@pytest.fixture
def bfloat16() -> Iterator[None]:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    yield
    keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize(("name", "expected"), TABLES.items())
def test_original_gives_the_layer_table_of_the_original_scripts(
    name: str, expected: list[tuple[str, tuple[int, ...], int]]
) -> None:
    network = build(Model(name=name, original=True), SHAPE, CLASSES)
    table = [(type(x).__name__, x.output.shape[1:], x.count_params()) for x in network.layers[1:]]
    assert table == expected


def test_original_keeps_the_activations_that_make_it_hard_to_train() -> None:
    network = build(Model(original=True), SHAPE, CLASSES)
    activations = [layer.activation.__name__ for layer in network.layers if hasattr(layer, "activation")]
    assert activations == ["relu", "softmax", "relu", "softmax", "sigmoid", "softmax"]


def test_original_leaky_relu_and_normalization_have_the_numbers_of_keras_2() -> None:
    network = build(Model(name="cnn3d_leakyrelu", original=True), SHAPE, CLASSES)
    slopes = {x.negative_slope for x in network.layers if isinstance(x, keras.layers.LeakyReLU)}
    (norm,) = (x for x in network.layers if isinstance(x, keras.layers.BatchNormalization))
    assert (slopes, norm.momentum, norm.epsilon) == ({0.3}, 0.99, 1e-3)


@pytest.mark.parametrize("name", ORIGINALS)
def test_original_takes_pixels_as_they_are(name: str) -> None:
    network = build(Model(name=name, original=True), SHAPE, 3)
    (scaling,) = (layer for layer in network.layers if isinstance(layer, keras.layers.Rescaling))
    clips = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), np.uint8)
    seen = keras.Model(network.input, scaling.output)(clips)
    np.testing.assert_array_equal(seen, clips[:, 5] if name == "cnn2d" else clips)
    np.testing.assert_allclose(np.asarray(network(clips)).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(("original", "optimizer"), [(False, "Adam"), (True, "RMSprop")])
def test_the_original_brings_its_optimizer(original: bool, optimizer: str) -> None:
    settings = Model(name="cnn3d_batchnorm", original=original)
    network = build(settings, SMALL, 2)
    compile_network(network, settings)
    assert type(network.optimizer).__name__ == optimizer
    assert set(ORIGINALS) == set(TABLES)


def norm(channels: int) -> int:
    return 4 * channels


def factorised(inputs: int, between: int, filters: int, size: int = 3) -> int:
    return size**2 * inputs * between + norm(between) + 3 * between * filters + norm(filters)


def inverted(inputs: int, expanded: int, filters: int) -> int:
    squeezed = expanded // 4
    depthwise = (9 + 3) * expanded + 3 * norm(expanded)
    excited = conv(3, expanded, squeezed) + conv(1, squeezed, expanded)
    return inputs * expanded + depthwise + excited + expanded * filters + norm(filters)


# Of 10x32x32 gray and 6 classes. The modern normalized one has no bias under a normalization.
PARAMETERS = {
    "cnn3d_batchnorm": sum(27 * i * o + norm(o) for i, o in ((1, 32), (32, 32), (32, 64), (64, 64), (64, 64), (64, 64)))
    + dense(256, 512)
    + norm(512)
    + dense(512, 6),
    "cnn3d_leakyrelu": sum(conv(27, i, o) for i, o in ((1, 32), (32, 32), (32, 64), (64, 64), (64, 64), (64, 64)))
    + dense(256, 512)
    + norm(512)
    + dense(512, 6),
    # Between space and time: 27io / (9i + 3o) channels, rounded down; in the stem 75io / (25i + 3o).
    "r2plus1d": factorised(1, 16, 16, size=5)
    + 2 * factorised(16, 36, 16)
    + (factorised(16, 57, 32) + factorised(32, 72, 32) + 16 * 32 + norm(32))
    + (factorised(32, 115, 64) + factorised(64, 144, 64) + 32 * 64 + norm(64))
    + dense(64, 6),
    "mobile_causal": (25 * 16 + norm(16))
    + inverted(16, 48, 16)
    + inverted(16, 64, 24)
    + inverted(24, 96, 24)
    + inverted(24, 96, 48)
    + inverted(48, 144, 48)
    + (48 * 192 + norm(192))
    + dense(192, 6),
}


def in_block(inputs: int, expanded: int, filters: int, before: int, after: int) -> int:
    """Multiply-adds of an inverted residual on 10 frames of ``before`` pixels, which become ``after``."""
    excited = (3 + 1) * expanded * (expanded // 4)
    return 10 * (before * inputs * expanded + after * expanded * (9 + 3 + filters) + excited)


MULTIPLY_ADDS = {
    "cnn3d": 10 * 32 * 32 * 27 * (32 + 32 * 32) + 4 * 11 * 11 * 27 * (32 * 64 + 64 * 64) + 2048 * 512 + 512 * 6,
    "cnn2d": 9 * (32**2 * 32 + 30**2 * 32 * 32 + 15**2 * 32 * 64 + 13**2 * 64 * 64) + 2304 * 512 + 512 * 6,
    **dict.fromkeys(
        ("cnn3d_batchnorm", "cnn3d_leakyrelu"),
        10 * 32 * 32 * 27 * (32 + 32 * 32)
        + 4 * 11 * 11 * 27 * (32 * 64 + 64 * 64)
        + 2 * 4 * 4 * 27 * (64 * 64 + 64 * 64)
        + 256 * 512
        + 512 * 6,
    ),
    # 10x16x16 after the stem, then 5x8x8 and 3x4x4; a convolution in space comes before the stride in time.
    "r2plus1d": 10 * 256 * (25 * 16 + 3 * 16 * 16 + 2 * (9 * 16 * 36 + 3 * 36 * 16))
    + 10 * 64 * 9 * 16 * 57
    + 5 * 64 * (3 * 57 * 32 + 9 * 32 * 72 + 3 * 72 * 32 + 16 * 32)
    + 5 * 16 * 9 * 32 * 115
    + 3 * 16 * (3 * 115 * 64 + 9 * 64 * 144 + 3 * 144 * 64 + 32 * 64)
    + 64 * 6,
    "mobile_causal": 10 * 256 * 25 * 16
    + in_block(16, 48, 16, 256, 256)
    + in_block(16, 64, 24, 256, 64)
    + in_block(24, 96, 24, 64, 64)
    + in_block(24, 96, 48, 64, 16)
    + in_block(48, 144, 48, 16, 16)
    + 10 * 16 * 48 * 192
    + 192 * 6,
}
AT_MOST = {"r2plus1d": 400_000, "mobile_causal": 150_000}


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_multiply_adds_are_those_counted_by_hand(name: str) -> None:
    network = build(Model(name=name), SHAPE, DEMO_CLASSES)
    parameters = network.count_params()
    assert parameters == PARAMETERS.get(name, parameters)
    assert parameters < AT_MOST.get(name, 2_000_000)
    assert multiply_adds(network) == MULTIPLY_ADDS[name]
    head = (ROOT / f"conf/model/{name}.yaml").read_text(encoding="utf-8")
    assert (
        f"# 10x32x32 gray, 6 classes: {parameters:,} parameters, {millions(MULTIPLY_ADDS[name])} multiply-adds" in head
    )


def test_an_ensemble_has_the_sizes_of_its_members() -> None:
    head = (ROOT / "conf/model/ensemble.yaml").read_text(encoding="utf-8")
    parameters, multiply_adds = 10 * build(Model(), SHAPE, DEMO_CLASSES).count_params(), 10 * MULTIPLY_ADDS["cnn3d"]
    assert f"{parameters:,} parameters, {multiply_adds / 1e6:,.1f} million multiply-adds" in head


@pytest.mark.parametrize("name", ["cnn3d", "mobile_causal"])
@pytest.mark.usefixtures("bfloat16")
def test_an_ensemble_is_one_saved_model_that_gives_the_mean_of_its_members(name: str, tmp_path: Path) -> None:
    members = [build(Model(name=name), SMALL, 3) for _ in range(3)]
    clips = np.random.default_rng(0).integers(0, 256, (4, *SMALL), np.uint8)
    mean = np.mean([member(clips) for member in members], axis=0)
    average(members).save(tmp_path / "model.keras")
    keras.mixed_precision.set_global_policy("float32")  # the members keep theirs
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_allclose(loaded(clips), mean, rtol=1e-6)
    assert (loaded.output.dtype, loaded.count_params()) == ("float32", sum(m.count_params() for m in members))
    opened = Opened(loaded)  # whose layers have the same names in every member
    assert opened.answer(None).name.startswith("member_3/conv3d")
    decisive = opened.until(*opened.decisive)(clips.astype(np.float32))
    np.testing.assert_allclose(opened.probabilities(decisive), mean, atol=0.02)  # of members in bfloat16


OWN = """
import keras

{decorator}
class Net(keras.Model):
    def __init__(self, classes, **options):
        super().__init__(**options)
        self.classes = classes
        self.scaled = keras.layers.Rescaling(1 / 255)
        self.flat = keras.layers.Flatten()
        self.dense = keras.layers.Dense(classes, activation="softmax", dtype="float32")

    def call(self, x):
        return self.dense(self.flat(self.scaled(x)))

    def get_config(self):
        return {{**super().get_config(), "classes": self.classes}}

def build(shape, classes):
    return {built}
"""
REGISTERED = '@keras.saving.register_keras_serializable("own")'


def own(folder: Path, decorator: str = REGISTERED, built: str = "Net(classes)") -> Model:
    (folder / "own_net.py").write_text(OWN.format(decorator=decorator, built=built))
    return Model(builder="own_net.py:build")


@pytest.mark.usefixtures("bfloat16")
def test_a_users_model_with_a_call_of_its_own_is_trained_saved_and_averaged(tmp_path: Path) -> None:
    model = own(tmp_path)
    network = build(model, SMALL, 3, tmp_path)
    assert (network.input.dtype, network.input_shape, network.output_shape) == ("uint8", (None, *SMALL), (None, 3))
    clips = np.random.default_rng(0).integers(0, 256, (6, *SMALL), np.uint8)
    compile_network(network, model)
    before = np.asarray(network(clips))
    network.fit(clips, np.eye(3)[[0, 1, 2] * 2], verbose=0)
    alone = np.asarray(network(clips))
    assert np.abs(alone - before).max() > 1e-3
    average([network, build(model, SMALL, 3, tmp_path)]).save(tmp_path / "two.keras")
    network.save(tmp_path / "one.keras")
    loaded = load_network(tmp_path / "one.keras", model.builder, tmp_path)
    np.testing.assert_allclose(loaded(clips), alone, atol=1e-6)
    two = load_network(tmp_path / "two.keras", model.builder, tmp_path)
    for closed in (loaded, two):
        with pytest.raises(Closed, match=r"net\S* is a Net with a call\(\) of its own"):
            Opened(closed)
    assert layers_of(tmp_path / "two.keras") == layers_of(tmp_path / "one.keras") == {}  # so that is told by the stage


def test_a_users_model_that_says_nothing_of_its_input_is_given_clips(tmp_path: Path) -> None:
    layers = "keras.layers.Flatten(), keras.layers.Dense(classes)"
    network = build(own(tmp_path, built=f"keras.Sequential([{layers}])"), SMALL, 3, tmp_path)
    assert network.input_shape == (None, *SMALL)
    assert list(Opened(network).answers)[-1].rpartition("/")[2].startswith("dense")
    with pytest.raises(ConfigError, match=r"maps \(None, 4, 16, 16, 1\) to \(None, 4\), must map"):
        build(own(tmp_path, built="Net(classes + 1)"), SMALL, 3, tmp_path)


LAYERS = """
import keras

{top}

def build(shape, classes):
{inside}
    clip = keras.Input(shape, dtype="uint8")
    x = {layer}(keras.layers.Rescaling(1 / 255)(clip))
    x = keras.layers.Dense(classes, activation="softmax")(keras.layers.Flatten()(x))
    return keras.Model(clip, x)
"""
SCALE = """
@keras.saving.register_keras_serializable("own")
class Scale(keras.layers.Layer):
    def __init__(self, by=1.0, **options):
        super().__init__(**options)
        self.by = by

    def call(self, x):
        return x * self.by

    def get_config(self):
        return {configuration}
"""
LAMBDA = "keras.layers.Lambda(lambda x: x / 2, name='half')"
FORGETFUL = SCALE.format(configuration="super().get_config()")
COMPLETE = SCALE.format(configuration='{**super().get_config(), "by": self.by}')
UNSAFE = "keras.config.enable_unsafe_deserialization()"
NOISE = """
@keras.saving.register_keras_serializable("own")
class Noise(keras.layers.Layer):
    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x))
"""


def indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def with_layer(folder: Path, layer: str, top: str = "", inside: str = "") -> Model:
    (folder / "own_net.py").write_text(LAYERS.format(top=top, inside=indented(inside), layer=layer))
    return Model(builder="own_net.py:build")


def show_loadable(model: Model, folder: Path) -> None:
    network = build(model, SMALL, 3, folder)
    state = random.getstate()
    refuse_unloadable(network, model, folder, folder / "scratch")
    assert random.getstate() == state
    assert not list((folder / "scratch").iterdir())


@pytest.mark.parametrize(
    ("layer", "top", "inside", "named"),
    [
        (LAMBDA, "", "", r"half \(Lambda\)"),
        (LAMBDA, "", UNSAFE, r"half \(Lambda\)"),  # which evaluate does not hear of
        (f"keras.layers.TimeDistributed({LAMBDA})", "", "", r"half \(Lambda\)"),
        (
            "keras.Sequential([keras.layers.Dense(4, activation=own)])",
            "def own(x):\n    return x / 2",
            "",
            r"dense\S* ",
        ),
        ("keras.layers.Dense(4, activation=lambda x: x / 2)", "", "", r"dense\S* \(Dense\)"),
        ("Scale(0.5)", "", COMPLETE, r"scale\S* \(Scale\)"),  # registered when it is built, not when it is loaded
        ("Scale(0.5)", COMPLETE.replace("@", "# @"), "", r"scale\S* \(Scale\)"),
        ("Scale(0.5)", COMPLETE.replace("return {", "raise NotImplementedError  # {"), "", r"scale\S* \(Scale\)"),
        ("Scale(0.5)", COMPLETE.replace('"by":', '"times":'), "", r"scale\S* \(Scale\)"),
    ],
)
def test_a_layer_that_could_not_be_loaded_is_named_before_it_is_trained(
    layer: str, top: str, inside: str, named: str, tmp_path: Path
) -> None:
    told = rf"model.builder=own_net.py:build: the network could not be loaded once it is saved: layer {named}.*Replace"
    with pytest.raises(ConfigError, match=told):
        show_loadable(with_layer(tmp_path, layer, top, inside), tmp_path)


def test_a_layer_that_would_be_another_one_is_named_before_it_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gives other probabilities.*get_config\(\).*scale\S* \(Scale\)$"):
        show_loadable(with_layer(tmp_path, "Scale(0.5)", FORGETFUL), tmp_path)


@pytest.mark.parametrize(
    ("layer", "top"),
    [("Scale(0.5)", COMPLETE), (LAMBDA, UNSAFE), ("Noise()", NOISE), ("keras.layers.Dropout(0.5)", "")],
)
def test_what_can_be_loaded_is_trained(layer: str, top: str, tmp_path: Path) -> None:
    with SafeModeScope(None):
        show_loadable(with_layer(tmp_path, layer, top), tmp_path)


@pytest.mark.parametrize(("decorator", "built"), [("", "Net(classes)"), (REGISTERED, "Bare(classes)")])
def test_a_users_model_that_could_not_be_loaded_is_refused_before_it_is_trained(
    decorator: str, built: str, tmp_path: Path
) -> None:
    model = own(tmp_path, decorator, built)
    with (tmp_path / "own_net.py").open("a") as file:
        bare = "class Bare(Net):\n    def get_config(self):\n        raise NotImplementedError('cannot be')\n"
        file.write(f"{REGISTERED.replace('own', 'bare')}\n{bare}")
    told = r"model.builder=own_net.py:build: the network could not be loaded .*: layer \S+ \((Net|Bare)\): .+; give"
    with pytest.raises(ConfigError, match=told):
        show_loadable(model, tmp_path)


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("name", MODELS)
def test_our_own_models_can_be_loaded(name: str, tmp_path: Path) -> None:
    show_loadable(Model(name=name), tmp_path)


def test_a_damaged_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    network = build(Model(), SMALL, 2)
    compile_network(network, Model())
    checkpoint.save(tmp_path, network, checkpoint.Progress(epoch=3))
    assert checkpoint.restore(tmp_path, network).epoch == 3
    file = tmp_path / checkpoint.CHECKPOINT_FILE
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(TrainingError, match=r"checkpoint\.npz: not a readable .*; delete it to train from the start"):
        checkpoint.restore(tmp_path, network)


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_known_without_keras(name: str, tmp_path: Path) -> None:
    network = build(Model(name=name), SMALL, 3)
    each_frame = keras.layers.TimeDistributed(keras.layers.Conv2D(5, 3), name="each")
    inner = keras.Sequential([keras.Input(SMALL), each_frame], name="inner")
    clip = keras.Input(SMALL, dtype="uint8")
    flat = keras.layers.Flatten()(inner(clip))
    average([network, keras.Model(clip, keras.layers.Dense(3)(flat))]).save(tmp_path / "model.keras")
    found = layers_of(tmp_path / "model.keras")
    answers = Opened(keras.saving.load_model(tmp_path / "model.keras", compile=False)).answers
    assert found.keys() == answers.keys()
    assert found["member_2/inner/each"] == 5
    assert all(units in (None, answers[name].units) for name, units in found.items())


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            Visualize(layer="conv"),
            "visualize.layer: the model has no layer 'conv'; it has, with their units, rescaling",
        ),
        (
            Visualize(layer="class", units=[0, 2, 7]),
            "visualize.units: class has 2 units, counted from 0; there is no 2, 7",
        ),
    ],
)
def test_what_a_saved_model_lacks_is_refused(asked: Visualize, told: str, tmp_path: Path) -> None:
    build(Model(), SMALL, 2).save(tmp_path / "model.keras")
    with pytest.raises(ConfigError, match=re.escape(told)):
        refuse_missing_layers(asked, layers_of(tmp_path / "model.keras"))
    refuse_missing_layers(Visualize(layer="class", units=[1]), layers_of(tmp_path / "model.keras"))


@pytest.mark.parametrize("name", [*MODELS, "ensemble"])
def test_the_sizes_that_the_document_shows_are_those_that_are_printed(name: str) -> None:
    assert row(sizes(name)).removesuffix(" |") in (ROOT / "docs/models.md").read_text(encoding="utf-8")


def test_multiply_adds_of_layers_that_no_model_here_has() -> None:
    frames = keras.Input((5, 8, 8, 2))
    x = keras.layers.TimeDistributed(keras.layers.SeparableConv2D(3, 3, depth_multiplier=2, strides=2))(frames)
    x = keras.layers.Conv3D(6, (1, 3, 3), groups=3)(x)
    x = keras.layers.Flatten()(x)
    separable = 5 * 3 * 3 * (2 * 2 * 9 + 2 * 2 * 3)  # 8 -> 3 pixels, 2 x 2 channels between
    grouped = 5 * 1 * 1 * 6 * 9 * 1  # 3 -> 1 pixel, each of 6 channels from 1
    assert multiply_adds(keras.Model(frames, x)) == separable + grouped
    unknown = keras.layers.LSTM(2)(keras.layers.Reshape((5, 6))(x))
    with pytest.raises(TypeError, match="LSTM"):
        multiply_adds(keras.Model(frames, unknown))


@pytest.mark.parametrize("shape", [(2, 16, 16, 1), (3, 20, 17, 3), (16, 48, 32, 3)])
@pytest.mark.parametrize("name", ["r2plus1d", "mobile_causal"])
def test_modern_models_fit_other_shapes(name: str, shape: tuple[int, int, int, int]) -> None:
    network = build(Model(name=name), shape, 3)
    assert np.asarray(network(np.zeros((2, *shape), np.uint8))).shape == (2, 3)


def test_features_of_a_frame_do_not_depend_on_later_frames() -> None:
    keras.utils.set_random_seed(3)
    network = build(Model(name="mobile_causal"), SHAPE, DEMO_CLASSES)
    features = keras.Model(network.input, network.get_layer("features").output)
    clip = np.random.default_rng(0).integers(0, 256, (1, *SHAPE), np.uint8)
    for frame in range(1, 10):
        other = clip.copy()
        other[:, frame:] = 255 - other[:, frame:]
        one, two = np.asarray(features(clip)), np.asarray(features(other))
        np.testing.assert_array_equal(one[:, :frame], two[:, :frame])
        assert all(np.abs(one[:, n] - two[:, n]).max() > 0.1 * np.abs(one).max() for n in range(frame, 10))


def losses(name: str, steps: int) -> list[float]:
    keras.utils.set_random_seed(5)
    rng = np.random.default_rng(5)
    labels = np.eye(2, dtype=np.float32)[np.arange(8) % 2]
    clips = rng.integers(0, 128, (8, *SMALL), np.uint8)
    clips[1::2, 2:] += 120  # every second clip becomes brighter
    settings = Model(name=name, learning_rate=3e-3)
    network = build(settings, SMALL, 2)
    compile_network(network, settings)
    network.run_eagerly = True  # a graph takes longer to make than to run
    return [float(network.train_on_batch(clips, labels)[0]) for _ in range(steps)]


@pytest.mark.parametrize("name", NEW)
def test_training_lowers_the_loss_and_repeats(name: str) -> None:
    told = losses(name, 6)  # the means so far
    assert told[-1] * 6 - told[-2] * 5 < 0.8 * told[0]
    assert losses(name, 2) == told[:2]


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("name", NEW)
def test_a_saved_model_predicts_the_same_in_bfloat16(name: str, tmp_path: Path) -> None:
    network = build(Model(name=name), SMALL, 3)
    clips = np.random.default_rng(0).integers(0, 256, (4, *SMALL), np.uint8)
    network.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert network.output.dtype == "float32"
    np.testing.assert_array_equal(network(clips), loaded(clips))


def gradients(name: str, depth: int, *, original: bool) -> list[Any]:
    keras.utils.set_random_seed(1)
    shape = (depth, 16, 16, 1)
    network = build(Model(name=name, dropout=False, original=original), shape, 3)
    clips = np.random.default_rng(0).integers(0, 256, (4, *shape), np.uint8)
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(tf.math.log(network(clips)[:, 0]))  # not training: statistics are those of the start
    kernels = [v for v in network.trainable_variables if len(v.shape) == 5]
    return [np.asarray(g) for g in tape.gradient(loss, kernels)]


TWO_FRAMES = [
    ("cnn3d", 2, False),
    ("cnn3d", 4, False),
    ("cnn3d_leakyrelu", 10, False),
    ("cnn3d_leakyrelu", 10, True),
    ("r2plus1d", 2, False),
]


@pytest.mark.parametrize(("name", "depth", "original"), TWO_FRAMES)
def test_gradients_over_two_frames_are_right_in_bfloat16(
    name: str, depth: int, original: bool, request: pytest.FixtureRequest
) -> None:
    exact = gradients(name, depth, original=original)
    request.getfixturevalue("bfloat16")
    for one, two in zip(exact, gradients(name, depth, original=original), strict=True):
        assert np.sum(one * two) > 0.8 * np.linalg.norm(one) * np.linalg.norm(two)


@pytest.mark.parametrize("name", MODELS)
def test_by_default_pixels_are_scaled_inside_the_model(name: str) -> None:
    network = build(Model(name=name), SHAPE, CLASSES)
    scaling = next(layer for layer in network.layers if isinstance(layer, keras.layers.Rescaling))
    assert scaling.scale == 1 / 255
    clips = np.full((2, *SHAPE), 255, np.uint8)
    probabilities = np.asarray(network(clips))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_dropout_can_be_switched_off(name: str) -> None:
    assert [x for x in build(Model(name=name), SHAPE, CLASSES).layers if isinstance(x, keras.layers.Dropout)]
    network = build(Model(name=name, dropout=False), SHAPE, CLASSES)
    assert not [layer for layer in network.layers if isinstance(layer, keras.layers.Dropout)]


def test_cnn2d_sees_the_middle_frame_only() -> None:
    network = build(Model(name="cnn2d"), SHAPE, CLASSES)
    clip = np.random.default_rng(0).integers(0, 256, (1, *SHAPE), np.uint8)
    other = clip.copy()
    other[:, [n for n in range(10) if n != 5]] = 0
    np.testing.assert_array_equal(network(clip), network(other))
    other[:, 5] = 0
    assert not np.array_equal(network(clip), network(other))


@pytest.mark.usefixtures("bfloat16")
def test_a_probability_is_float32_whatever_the_policy() -> None:
    assert build(Model(), SHAPE, CLASSES).output.dtype == "float32"


def test_every_optimizer_and_loss_that_a_plan_accepts_is_one_of_keras() -> None:
    clips = np.zeros((2, 4, 4), np.float32)
    for loss in LOSSES:
        assert np.isfinite(np.asarray(keras.losses.get(loss)(np.eye(2, dtype=np.float32), np.full((2, 2), 0.5)))).all()
    for optimizer in OPTIMIZERS:
        network = keras.Sequential([keras.Input((4, 4)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
        network.compile(keras.optimizers.get(optimizer), "categorical_crossentropy")
        assert np.isfinite(network.train_on_batch(clips, np.eye(2, dtype=np.float32)))
    of_keras = {
        name.lower()
        for name, kind in vars(keras.optimizers).items()
        if isinstance(kind, type) and issubclass(kind, keras.optimizers.Optimizer)
    }
    assert of_keras - {"optimizer", "lossscaleoptimizer", "multioptimizer", "lamb"} == set(OPTIMIZERS)
