"""A trained model with all that it takes to classify videos: what a training leaves in its model folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from videolift.errors import ConfigError
from videolift.files import CLASSES_FILE, MODEL_FILE, SETTINGS_FILE
from videolift.plan import SOURCE_FOLDER, from_plain
from videolift.settings import Preprocess
from videolift.video import read_clips

if TYPE_CHECKING:
    import keras

WINDOWS_A_BATCH = 32  # that go through the network at a time: of a long video there may be thousands
FILES = (MODEL_FILE, CLASSES_FILE, SETTINGS_FILE)

Clips = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float64]


def trained_settings(folder: Path) -> Preprocess:
    """Return how the videos that a model was trained on became clips; takes no Keras.

    Raises:
        ConfigError: if the folder is not what a training leaves.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ConfigError(f"{folder}: no {', '.join(missing)}; give the model folder of a finished training")
    return from_plain(Preprocess, _settings(folder)["preprocess"])


def _settings(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    return settings


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
        (probabilities,) = self.probabilities([read_clips(video, self.preprocess).clips])
        return self.ranked(probabilities)

    def probabilities(self, videos: Sequence[Clips]) -> Probabilities:
        """Return the probability of every class (video, class), averaged over each video's windows.

        Args:
            videos: uint8 (window, frame, height, width, channel) of each, at least one window.
        """
        windows = np.concatenate([self._answers(batch) for batch in batches(videos, WINDOWS_A_BATCH)])
        ends = np.cumsum([len(clips) for clips in videos])
        return np.stack([part.mean(axis=0) for part in np.split(windows, ends[:-1])])

    def _answers(self, batch: Sequence[Clips]) -> Probabilities:
        return np.asarray(self._model(np.concatenate(batch), training=False), np.float64)

    def ranked(self, probabilities: Probabilities) -> list[tuple[str, float]]:
        """Return classes with their probabilities, best first."""
        order = np.argsort(-probabilities, kind="stable")
        return [(self.classes[i], float(probabilities[i])) for i in order]


def batches(videos: Sequence[Clips], size: int) -> Iterator[list[Clips]]:
    """Yield the windows of all videos in order, ``size`` at a time, as views of the videos that they are of."""
    batch: list[Clips] = []
    room = size
    for clips in videos:
        first = 0
        while first < len(clips):
            batch.append(clips[first : first + room])
            first += len(batch[-1])
            room -= len(batch[-1])
            if not room:
                yield batch
                batch, room = [], size
    if batch:
        yield batch


def load_predictor(folder: Path) -> Predictor:
    """Load what a training leaves in its model folder.

    Raises:
        ConfigError: if one of the files is missing, or they do not belong together.
    """
    preprocess = trained_settings(folder)
    from videolift.models import load_network  # imports Keras

    classes = (folder / CLASSES_FILE).read_text(encoding="utf-8").splitlines()
    source, builder = folder / SOURCE_FOLDER, _settings(folder).get("builder")
    if builder:
        sys.path.insert(0, str(source))
    model = load_network(folder / MODEL_FILE, builder, source)
    if model.output_shape[-1] != len(classes):
        raise ConfigError(
            f"{folder}: the model tells {model.output_shape[-1]} classes apart, {CLASSES_FILE} names {len(classes)}; "
            "the files are of different trainings"
        )
    return Predictor(model, classes, preprocess)
