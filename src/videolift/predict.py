"""Classifies one video with a trained model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from videolift.errors import ConfigError
from videolift.files import CLASSES_FILE, MODEL_FILE, SETTINGS_FILE
from videolift.models import load_builder
from videolift.plan import SOURCE_FOLDER, from_plain
from videolift.settings import Preprocess
from videolift.video import read_clips

FILES = (MODEL_FILE, CLASSES_FILE, SETTINGS_FILE)


class Predictor:
    """A model with what belongs to it: its classes, and how the videos that it was trained on became clips."""

    def __init__(self, model: keras.Model, classes: list[str], preprocess: Preprocess) -> None:
        self._model = model
        self.classes = classes
        self.preprocess = preprocess

    def predict(self, video: Path) -> list[tuple[str, float]]:
        """Return every class with its probability, averaged over the video's windows, best first.

        Raises:
            ClipError: if the video does not decode.
        """
        clips = read_clips(video, self.preprocess).clips  # uint8 (window, frame, height, width, channel)
        probabilities = self._probabilities(clips).mean(axis=0)
        order = np.argsort(-probabilities, kind="stable")
        return [(self.classes[i], float(probabilities[i])) for i in order]

    def _probabilities(self, clips: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        return np.asarray(self._model.predict(clips, verbose=0), dtype=np.float64)


def load_predictor(folder: Path) -> Predictor:
    """Load what a training leaves in its model folder.

    Raises:
        ConfigError: if one of them is missing, or they do not belong together.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ConfigError(f"{folder}: no {', '.join(missing)}; give the model folder of a finished training")
    settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    classes = (folder / CLASSES_FILE).read_text(encoding="utf-8").splitlines()
    if settings.get("builder"):  # registers its own layers with Keras
        sys.path.insert(0, str(folder / SOURCE_FOLDER))
        load_builder(settings["builder"], folder / SOURCE_FOLDER)
    model = keras.saving.load_model(folder / MODEL_FILE, compile=False)
    if model.output_shape[-1] != len(classes):
        raise ConfigError(
            f"{folder}: the model tells {model.output_shape[-1]} classes apart, {CLASSES_FILE} names {len(classes)}; "
            "the files are of different trainings"
        )
    return Predictor(model, classes, from_plain(Preprocess, settings["preprocess"]))
