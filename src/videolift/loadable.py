"""Shows before a training that what it will save can be loaded: a Keras model may be trained and lost."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from videolift.errors import ConfigError, VideoliftError, described
from videolift.files import MODEL_FILE
from videolift.models import load_network
from videolift.settings import Model

CLIPS = 2  # that the network and its copy are compared on
TOLERANCE = 1e-3  # of probabilities; the same weights on the same device give less
SHOWN_LAYERS = 3


def refuse_unloadable(network: keras.Model, model: Model, source: Path, folder: Path) -> None:
    """Save a network as it is, load it as evaluate and predict do, and compare what both say of the same clips.

    Chance is left as it was: whoever draws numbers afterwards draws the same ones.

    Args:
        source: where the builder's source is.
        folder: for the copy, which is deleted; made where it is not there.

    Raises:
        ConfigError: if the copy cannot be saved or loaded, or says something else; it names the layer.
        OSError: if the folder cannot be written.
    """
    clips = _clips(network)
    folder.mkdir(parents=True, exist_ok=True)
    with _same_chance(), tempfile.TemporaryDirectory(dir=folder) as copy:
        before = _predicted(network, clips)
        comparable = _same(before, _predicted(network, clips))  # unless it draws numbers of its own
        try:
            network.save(Path(copy) / MODEL_FILE)
            loaded = load_network(Path(copy) / MODEL_FILE, model.builder, source)
            after = _predicted(loaded, clips)
        except (VideoliftError, OSError, MemoryError):
            raise
        except Exception as error:  # of any kind: its layers may be the user's own
            raise ConfigError(_unloadable(network, model, error)) from error
    if loaded.output_shape != network.output_shape or (comparable and not _same(before, after)):
        raise ConfigError(_different(network, model))


def _clips(network: keras.Model) -> npt.NDArray[np.uint8]:
    shape = (CLIPS, *network.input_shape[1:])
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _predicted(network: keras.Model, clips: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    return np.asarray(network(clips, training=False), np.float64)


def _same(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> bool:
    return one.shape == other.shape and np.allclose(one, other, rtol=0, atol=TOLERANCE, equal_nan=True)


@contextmanager
def _same_chance() -> Iterator[None]:
    """Let nobody notice that numbers were drawn, as Keras does for the seeds of the layers that it loads."""
    python, of_numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)


def _unloadable(network: keras.Model, model: Model, error: Exception) -> str:
    failing = list(_failing(network))
    shown = "; ".join(f"layer {layer.name} ({type(layer).__name__}): {described(why)}" for layer, why in failing)
    return (
        f"{_setting(model)}: the network could not be loaded once it is saved: {shown or described(error)}. Replace a "
        "Lambda by a subclass of keras.layers.Layer or by keras.ops; give a class or function of your own "
        "@keras.saving.register_keras_serializable() and a class get_config(), with all arguments of its __init__()"
    )


def _different(network: keras.Model, model: Model) -> str:
    own = [layer for layer in _layers(network) if not type(layer).__module__.startswith("keras.")]
    shown = ", ".join(f"{layer.name} ({type(layer).__name__})" for layer in own[:SHOWN_LAYERS])
    return (
        f"{_setting(model)}: once it is saved and loaded, the network gives other probabilities. A layer has arguments "
        "that its get_config() does not return, or values that are no variables of Keras"
        + (f"; those that are not Keras's own: {shown}" if shown else "")
    )


def _setting(model: Model) -> str:
    return f"model.builder={model.builder}" if model.builder else f"model.name={model.name}"


def _failing(network: keras.Model) -> Iterator[tuple[Any, Exception]]:
    """Yield the innermost layers that cannot be made again from their own configurations, a few at most."""
    failed: list[tuple[Any, Exception]] = []
    for layer in _layers(network):
        try:
            keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
        except Exception as error:
            failed.append((layer, error))
    layers = {id(layer) for layer, _ in failed}
    innermost = [(one, why) for one, why in failed if not layers & {id(inner) for inner in _layers(one)}]
    yield from innermost[:SHOWN_LAYERS]


def _layers(layer: Any) -> list[Any]:
    return list(layer._flatten_layers(include_self=False))  # those inside of others too; Keras has no public way
