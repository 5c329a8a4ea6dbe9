"""The layers of a Keras model by its configuration, without Keras: what has no such layer is told before it matters."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from videolift.errors import ConfigError
from videolift.settings import Visualize

CONFIG = "config.json"  # in a .keras file, by keras.saving
OPERATIONS = "keras.src.ops."  # functions like keras.ops.reshape, which are in a model's graph but are no layers of it
WIDTHS = ("filters", "units")  # keys of a layer's configuration that tell how many units it has


def layers_of(model: Path) -> dict[str, int | None]:
    """Return the names of a saved model's layers, and of those in models inside of it as ``inner/conv3d``.

    Returns:
        Name -> number of units; None where that follows from what the layer is given; empty where it is, or has
        inside, a model with a call() of its own, whose layers only its own source knows.
    """
    with zipfile.ZipFile(model) as saved:
        return layers_in(json.loads(saved.read(CONFIG)))


def layers_in(configuration: dict[str, Any]) -> dict[str, int | None]:
    """Return the same of what ``keras.saving.serialize_keras_object`` gives for a model."""
    return {} if _has_closed(configuration) else dict(_layers(configuration, ""))


def refuse_missing_layers(visualize: Visualize, layers: Mapping[str, int | None]) -> None:
    """Raise ConfigError where a model's layers lack the one, or its units, that pictures are wanted of."""
    wanted = visualize.layer
    if wanted is None or not layers:
        return
    refuse_missing_layer(wanted, layers)
    units = layers[wanted]
    if units is not None:
        refuse_units_beyond(wanted, units, visualize.units or [])


def refuse_missing_layer(wanted: str, layers: Mapping[str, int | None]) -> None:
    """Raise ConfigError where a layer is none of those that there are."""
    if wanted not in layers:
        known = ", ".join(name if units is None else f"{name} ({units})" for name, units in layers.items())
        raise ConfigError(f"visualize.layer: the model has no layer {wanted!r}; it has, with their units, {known}")


def refuse_units_beyond(layer: str, count: int, units: Sequence[int]) -> None:
    """Raise ConfigError where a layer, which has so many units, does not have all of some."""
    beyond = [unit for unit in units if unit >= count]
    if beyond:
        missing = ", ".join(map(str, beyond))
        raise ConfigError(f"visualize.units: {layer} has {count} units, counted from 0; there is no {missing}")


def _has_closed(layer: dict[str, Any]) -> bool:
    """Tell whether a layer is, or has inside, a model that does not tell its layers."""
    inside = layer["config"].get("layers")
    if inside is None:
        return "compile_config" in layer  # of models only
    return any(_has_closed(one) for one in inside)


def _layers(model: dict[str, Any], prefix: str) -> Iterator[tuple[str, int | None]]:
    for layer in model["config"].get("layers", ()):
        config = layer["config"]
        name = f"{prefix}{config['name']}"
        if "layers" in config:
            yield from _layers(layer, f"{name}/")
        elif layer["class_name"] != "InputLayer" and not str(layer["module"]).startswith(OPERATIONS):
            yield name, _units({**config, **config.get("layer", {}).get("config", {})})


def _units(config: dict[str, Any]) -> int | None:
    return next((int(config[key]) for key in WIDTHS if isinstance(config.get(key), int)), None)
