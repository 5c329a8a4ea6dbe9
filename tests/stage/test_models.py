from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

from videolift.models import build
from videolift.settings import LOSSES, OPTIMIZERS, Model

SHAPE = (10, 32, 32, 1)
CLASSES = 101


def conv(kernel: int, inputs: int, outputs: int) -> int:
    return kernel * inputs * outputs + outputs


def dense(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


# By hand: 'same' padding, pooling by 3 rounds up: 32x32x10 -> 11x11x4 -> 4x4x2, 64 wide.
CNN3D = [
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


@pytest.mark.parametrize(("name", "expected"), [("cnn3d", CNN3D), ("cnn2d", CNN2D)])
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


@pytest.mark.parametrize("name", ["cnn3d", "cnn2d"])
def test_by_default_pixels_are_scaled_inside_the_model(name: str) -> None:
    network = build(Model(name=name), SHAPE, CLASSES)
    scaling = next(layer for layer in network.layers if isinstance(layer, keras.layers.Rescaling))
    assert scaling.scale == 1 / 255
    clips = np.full((2, *SHAPE), 255, np.uint8)
    probabilities = np.asarray(network(clips))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_dropout_can_be_switched_off() -> None:
    network = build(Model(dropout=False), SHAPE, CLASSES)
    assert not [layer for layer in network.layers if isinstance(layer, keras.layers.Dropout)]


def test_cnn2d_sees_the_middle_frame_only() -> None:
    network = build(Model(name="cnn2d"), SHAPE, CLASSES)
    clip = np.random.default_rng(0).integers(0, 256, (1, *SHAPE), np.uint8)
    other = clip.copy()
    other[:, [n for n in range(10) if n != 5]] = 0
    np.testing.assert_array_equal(network(clip), network(other))
    other[:, 5] = 0
    assert not np.array_equal(network(clip), network(other))


def test_a_probability_is_float32_whatever_the_policy() -> None:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        assert build(Model(), SHAPE, CLASSES).output.dtype == "float32"
    finally:
        keras.mixed_precision.set_global_policy("float32")


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
