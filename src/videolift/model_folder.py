"""What a training leaves in its job's model folder, for evaluate, predict and whoever serves the model."""

from __future__ import annotations

import json
import shutil

import keras

from videolift.files import CLASSES_FILE, MODEL_FILE, SETTINGS_FILE
from videolift.job import Job
from videolift.plan import SOURCE_FOLDER, to_plain
from videolift.provenance import library_versions


def write_model_folder(job: Job, network: keras.Model) -> None:
    """Write the model, its classes, how clips for it are made, and the user's own source that it takes to load it."""
    folder, builder = job.workspace.model, job.plan.model.builder
    network.save(folder / MODEL_FILE)
    (folder / CLASSES_FILE).write_text("".join(f"{c}\n" for c in job.manifest.classes), encoding="utf-8")
    settings = {
        "preprocess": to_plain(job.plan.preprocess),
        "builder": builder,
        "versions": library_versions("train"),
    }
    if builder:  # its own layers are needed to load the model
        shutil.copytree(job.workspace.channel("plan") / SOURCE_FOLDER, folder / SOURCE_FOLDER, dirs_exist_ok=True)
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=1), encoding="utf-8")
