"""The networks. Input is uint8 (frame, height, width, channel), scaled inside; output is one probability a class.

``original=True`` gives the layer tables of the scripts of github.com/kcct-fujimotolab/3DCNN (3dcnn.py, 2dcnn.py):
axes in their order, pixels unscaled, softmax between the convolutions of the 3D model and sigmoid before its head.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
from keras import layers

from videolift.errors import ConfigError
from videolift.settings import Model

Shape = tuple[int, int, int, int]


def build(model: Model, shape: Shape, classes: int, source: Path | None = None) -> keras.Model:
    """Return the network for clips of ``shape`` (frame, height, width, channel), not compiled.

    Args:
        source: folder where the source of ``model.builder`` lies, for a file.

    Raises:
        ConfigError: if the builder cannot be loaded, or gives something that does not map clips to class probabilities.
    """
    if model.builder:
        network = load_builder(model.builder, source)(shape, classes, **model.args)
        return _checked(network, model.builder, shape, classes)
    return BUILT_IN[model.name](shape, classes, original=model.original, dropout=model.dropout)


def cnn3d(shape: Shape, classes: int, *, original: bool, dropout: bool) -> keras.Model:
    """Build two blocks of two 3x3x3 convolutions, 32 and 64 filters wide, and a dense head."""
    inner, dense = ("softmax", "sigmoid") if original else ("relu", "relu")
    drop = _dropout(dropout)
    body: list[Callable[[Any], Any]] = []
    for filters in (32, 64):
        body += [
            layers.Conv3D(filters, 3, padding="same", activation="relu"),
            layers.Conv3D(filters, 3, padding="same", activation=inner),
            layers.MaxPooling3D(3, padding="same"),
            *drop(0.25),
        ]
    head = [layers.Flatten(), layers.Dense(512, activation=dense), *drop(0.5)]
    # The original's arrays are (height, width, frame, channel). Its kernels are cubes: only the layer table needs it.
    scaling = [layers.Permute((2, 3, 1, 4))] if original else [layers.Rescaling(1 / 255)]
    return _model("cnn3d", shape, [*scaling, *body, *head], classes)


def cnn2d(shape: Shape, classes: int, *, original: bool, dropout: bool) -> keras.Model:
    """Build the 2D network of the original on the clip's middle frame."""
    drop = _dropout(dropout)
    body: list[Callable[[Any], Any]] = []
    for filters in (32, 64):
        body += [
            layers.Conv2D(filters, 3, padding="same", activation="relu"),
            layers.Conv2D(filters, 3, activation="relu"),
            layers.MaxPooling2D(2),
            *drop(0.25),
        ]
    head = [layers.Flatten(), layers.Dense(512, activation="relu"), *drop(0.5)]
    middle = shape[0] // 2
    first = [layers.Cropping3D(((middle, shape[0] - middle - 1), 0, 0)), layers.Reshape(shape[1:])]
    scaling = [] if original else [layers.Rescaling(1 / 255)]
    return _model("cnn2d", shape, [*first, *scaling, *body, *head], classes)


BUILT_IN: dict[str, Callable[..., keras.Model]] = {"cnn3d": cnn3d, "cnn2d": cnn2d}


def _dropout(enabled: bool) -> Callable[[float], list[Any]]:
    return lambda rate: [layers.Dropout(rate)] if enabled else []


def _model(name: str, shape: Shape, stack: Sequence[Callable[[Any], Any]], classes: int) -> keras.Model:
    clip = keras.Input(shape, dtype="uint8", name="clip")
    x = clip
    for layer in stack:
        x = layer(x)
    # float32 whatever the policy: a probability in bfloat16 has three digits.
    return keras.Model(clip, layers.Dense(classes, activation="softmax", dtype="float32", name="class")(x), name=name)


def load_builder(builder: str, source: Path | None = None) -> Callable[..., Any]:
    """Return the function that ``file.py:function`` or ``package.module:function`` names.

    Raises:
        ConfigError: if there is no such file, module or function.
    """
    place, _, function = builder.rpartition(":")
    try:
        if place.endswith(".py"):
            file = (source or Path()) / (Path(place).name if source else place)
            spec = importlib.util.spec_from_file_location(file.stem, file)
            if spec is None or spec.loader is None:
                raise ImportError(f"{file} cannot be loaded")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        return getattr(module, function)  # type: ignore[no-any-return]
    except (ImportError, OSError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"model.builder={builder}: {error}; it must be file.py:function or package.module:function"
        ) from error


def _checked(network: Any, builder: str, shape: Shape, classes: int) -> keras.Model:
    if not isinstance(network, keras.Model):
        raise ConfigError(f"model.builder={builder}: returned {type(network).__name__}, not a keras.Model")
    if tuple(network.input_shape) != (None, *shape) or tuple(network.output_shape) != (None, classes):
        raise ConfigError(
            f"model.builder={builder}: maps {network.input_shape} to {network.output_shape}, "
            f"must map {(None, *shape)} (frame, height, width, channel) to {(None, classes)} (class probabilities)"
        )
    return network
