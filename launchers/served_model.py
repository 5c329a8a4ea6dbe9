"""What MLflow loads to serve a trained model; copied next to it when it is logged (models from code).

The only module of the launchers that imports mlflow at its top: MLflow executes the file, so mlflow is there already.
It does so when the model is logged too, in a process that stays free of Keras; hence the import in ``load_context``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

TOP = 5


class VideoClassifier(PythonModel):
    """Classifies the videos at the paths it is given."""

    def load_context(self, context: PythonModelContext) -> None:
        from videolift.predictor import load_predictor

        self._predictor = load_predictor(Path(context.artifacts["model"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return one row a video: path, class, probability, top5 (JSON: [[class, probability], ...], best first)."""
        return pd.DataFrame([self._row(path) for path in model_input["path"]])

    def _row(self, path: str) -> dict[str, Any]:
        scores = self._predictor.predict(Path(path))
        best, probability = scores[0]
        top = json.dumps(scores[:TOP], ensure_ascii=False)
        return {"path": path, "class": best, "probability": float(probability), "top5": top}


mlflow.models.set_model(VideoClassifier())
