"""What MLflow loads to serve a trained model; copied next to it when it is logged (models from code).

The only module of the launchers that imports mlflow at its top: MLflow executes the file, so mlflow is there already.
It does so when the model is logged too, in a process that stays free of Keras; hence the import in ``load_context``.
"""

from __future__ import annotations

import base64
import binascii
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

TOP = 5
FOLDER = "VIDEOLIFT_VIDEOS"  # environment variable: the only folder whose files may be named by their paths


class Refused(Exception):
    """A row that cannot be answered."""


class VideoClassifier(PythonModel):
    """Classifies videos that it is sent, or that lie in a folder that it was told to allow."""

    def load_context(self, context: PythonModelContext) -> None:
        from videolift.predictor import load_predictor

        self._predictor = load_predictor(Path(context.artifacts["model"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return one row a video: path, class, probability, top5 (JSON: [[class, probability], ...]), error.

        Args:
            model_input: columns ``video`` (a video file's bytes in base64) and ``path`` (below the folder that the
                environment variable VIDEOLIFT_VIDEOS names), one of them a row.
        """
        return pd.DataFrame([self._row(_text(row, "video"), _text(row, "path")) for row in _records(model_input)])

    def _row(self, video: str, path: str) -> dict[str, Any]:
        from videolift.errors import ClipError

        shown = path.encode(errors="backslashreplace").decode()  # half a character fits in no answer
        answer: dict[str, Any] = {"path": shown, "class": "", "probability": 0.0, "top5": "[]", "error": ""}
        try:
            with _file(video, path) as file:
                scores = self._predictor.predict(file)
        except Refused as error:
            return {**answer, "error": str(error)}
        except ClipError as error:
            return {**answer, "error": error.reason}  # without the path, which may be one of ours
        best, probability = scores[0]
        return {
            **answer,
            "class": best,
            "probability": probability,
            "top5": json.dumps(scores[:TOP], ensure_ascii=False),
        }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = frame.to_dict("records")
    return records


def _text(row: dict[str, Any], column: str) -> str:
    """Return what a column holds; nothing where it is missing, which pandas tells by a number."""
    value = row.get(column)
    return value if isinstance(value, str) else ""


@contextmanager
def _file(video: str, path: str) -> Iterator[Path]:
    """Yield a file with the video.

    Raises:
        Refused: if there is not exactly one of both, or the one there is cannot be taken.
    """
    if bool(video) == bool(path):
        raise Refused("send either video, a file's bytes in base64, or path")
    if path:
        yield _allowed(path)
        return
    try:
        content = base64.b64decode(video, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(f"video: is not base64 ({error})") from error
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "video"
        file.write_bytes(content)
        yield file


def _allowed(path: str) -> Path:
    folder = os.environ.get(FOLDER)
    if not folder:
        raise Refused(f"path: no folder is allowed; start the server with {FOLDER}=FOLDER, or send the video itself")
    allowed = Path(folder).resolve()
    try:
        file = (allowed / path).resolve()  # links and .. count as where they lead
        is_below = file.is_relative_to(allowed)
        is_special = is_below and file.exists() and not file.is_file()
    except (RuntimeError, ValueError) as error:  # NUL, half a character, a link to itself
        raise Refused("path: no file can have it") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise Refused("path: no file can have it") from error
        raise Refused(f"path: cannot be read ({error.strerror})") from error
    if not is_below:
        raise Refused(f"path: is not below the folder that {FOLDER} allows")
    if is_special:
        raise Refused("path: is not a regular file")
    return file


mlflow.models.set_model(VideoClassifier())
