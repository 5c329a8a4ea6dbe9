"""Logs a trained model so that ``mlflow models serve`` classifies videos, and puts it into the registry."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from launchers.cache import model_folder
from launchers.provenance import versions
from launchers.repository import PACKAGE
from videolift.errors import ConfigError
from videolift.files import CLASSES_FILE, MODEL_FILE, SETTINGS_FILE

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from launchers.records import StageRecord

NAME = "model"
MODEL_TAG = "videolift.model"  # on the run: which file was logged as which model
REGISTERED_TAG = "videolift.registered"  # on the run: name, model, version
SERVED = Path(__file__).with_name("served_model.py")
NEEDS = ("av", "keras", "numpy", "opencv-python-headless", "tensorflow")


def log_model(client: MlflowClient, run_id: str, train: StageRecord) -> None:
    """Log the model of a training as ``runs:/<run_id>/model``, unless the run has it already, or there is none.

    Through the client: ``mlflow.pyfunc.log_model`` asks global state and MLFLOW_RUN_ID which run is meant.
    """
    from mlflow.entities import LoggedModelOutput

    folder = model_folder(Path(train.folder))
    run = client.get_run(run_id)
    there = run.data.tags.get(MODEL_TAG, "").startswith(f"{train.id} ")
    if there or not all((folder / name).is_file() for name in (MODEL_FILE, CLASSES_FILE, SETTINGS_FILE)):
        return
    logged = client.create_logged_model(
        run.info.experiment_id, name=NAME, source_run_id=run_id, tags={"videolift.stage.train": train.id}
    )
    with tempfile.TemporaryDirectory() as temporary:
        saved = Path(temporary) / NAME
        _save(saved, folder, run_id, logged.model_id)
        client.log_model_artifacts(logged.model_id, str(saved))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    client.set_tag(run_id, MODEL_TAG, f"{train.id} {logged.model_id}")


def register_model(client: MlflowClient, run_id: str, train: StageRecord, name: str) -> str:
    """Make the logged model of a training a version of a registered model, unless it is one already; return which.

    Raises:
        ConfigError: if it was not logged.
    """
    from mlflow.exceptions import MlflowException

    tags = client.get_run(run_id).data.tags
    stage, _, model_id = tags.get(MODEL_TAG, "").partition(" ")
    if stage != train.id:
        raise ConfigError(
            f"tracking.register: the model of {train.id} is not in {train.folder} any more; train it again"
        )
    if tags.get(REGISTERED_TAG, "").startswith(f"{name} {model_id} "):
        return tags[REGISTERED_TAG].rpartition(" ")[2]
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # Not by models:/ID, which a store of this machine would look up in the one that MLflow takes for the default.
    place = client.get_logged_model(model_id).artifact_location
    version = client.create_model_version(
        name, place, run_id, tags={"videolift.stage.train": train.id}, model_id=model_id
    )
    client.set_tag(run_id, REGISTERED_TAG, f"{name} {model_id} {version.version}")
    return str(version.version)


def _save(path: Path, folder: Path, run_id: str, model_id: str) -> None:
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    text, number = DataType.string, DataType.double
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(text, "path"),
        ColSpec(text, "class"),
        ColSpec(number, "probability"),
        ColSpec(text, "top5"),
        ColSpec(text, "error"),
    ]
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(text, "video", required=False),  # base64: a binary column is decoded without a check
        ColSpec(text, "path", required=False),
    ]
    pyfunc.save_model(
        path=str(path),
        python_model=str(SERVED),
        artifacts={"model": str(folder)},
        code_paths=[str(PACKAGE)],
        pip_requirements=requirements(folder),
        signature=ModelSignature(Schema(inputs), Schema(outputs)),
        input_example=pd.DataFrame({"path": ["clips/Jump/v_Jump_g03_c02.avi"]}),
        mlflow_model=Model(run_id=run_id, model_id=model_id, model_uuid=model_id),
    )


def requirements(folder: Path) -> list[str]:
    """Return exact pip requirements: what trained the model, else what is installed here."""
    trained_with = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8")).get("versions", {})
    pinned = {**versions((*NEEDS, "mlflow")), **{name: v for name, v in trained_with.items() if name in NEEDS}}
    return [f"{name}=={version}" for name, version in sorted(pinned.items())]
