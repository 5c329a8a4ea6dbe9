"""A user's model that trains, and cannot be loaded by the stage that evaluates it."""

from __future__ import annotations

import sys
from typing import Any

import keras


@keras.saving.register_keras_serializable("unloadable")
class Halve(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    def call(self, x: Any) -> Any:
        return x / 2

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Halve:
        if "evaluate" in sys.argv:  # the training sees that the network can be loaded there
            raise ZeroDivisionError("my own mistake")
        return cls(**config)


def build(shape: tuple[int, ...], classes: int) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(shape, dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            Halve(),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )
