"""A user's model whose training waits for a file, so that a test has all the time it needs in the middle of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("held")
class Gate(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Lets so many batches through, and the others once a file is there."""

    def __init__(self, file: str, batches: int, **more: Any) -> None:
        super().__init__(**more)
        self._file, self._batches, self._seen = file, batches, 0

    def call(self, x: Any, training: bool = False) -> Any:
        if not training:
            return x
        passed = tf.py_function(self._wait, [x], x.dtype)
        passed.set_shape(x.shape)
        return passed

    def _wait(self, batch: Any) -> Any:
        self._seen += 1
        while self._seen > self._batches and not Path(self._file).exists():
            time.sleep(0.02)
        return batch

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "file": self._file, "batches": self._batches}


def build(shape: tuple[int, ...], classes: int, file: str, batches: int) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(shape, dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            Gate(file, batches),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )
