"""Names of the files that stages hand to each other and to people."""

from __future__ import annotations

# beside the model, in the job's model folder
MODEL_FILE = "model.keras"
CLASSES_FILE = "classes.txt"  # one class a line, in the order of the network's outputs
SETTINGS_FILE = "settings.json"  # preprocessing of the clips that the model expects, library versions

# in the job's output folder
HISTORY_FILE = "history.json"
ALL_MEMBERS = "members"  # in an ensemble's history: it has an entry a member, not an epoch, and none is chosen
RESULT_FILE = "result.txt"  # as the original scripts wrote it
EVALUATION_FILE = "evaluation.json"
PER_CLASS_FILE = "per_class.csv"
PREDICTIONS_FILE = "predictions.csv"  # of evaluate: the test videos; of predict: what it was asked for
SCRIPT_LOG = "script.log"  # what a user's script printed, without the steps of its progress bars
