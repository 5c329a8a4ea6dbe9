"""One run in MLflow: what is written, under which name, and how it is written once only.

MlflowClient throughout: the fluent functions ask global state, and MLFLOW_RUN_ID beats what they are given.
"""

from __future__ import annotations

import json
import logging
import math
import os
import posixpath
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeVar

from launchers import mlflow_model, provenance
from launchers.cache import PARTIAL_SUFFIX, event_files, model_folder
from launchers.config import PREDICT, SCRIPT
from launchers.locking import take_lock
from launchers.parity import PARITY_FILE
from launchers.records import RunFolder, RunRecord, StageRecord, Status
from launchers.redaction import redacted
from videolift.errors import VideoliftError
from videolift.events import Event, read
from videolift.script_arguments import options, words_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

    from launchers.config import Tracking

T = TypeVar("T")

# Limits of MLflow's REST API (mlflow/utils/validation.py).
MAX_PARAMS = 100  # params, and tags, a call
MAX_METRICS = 1000  # a call
MAX_PARAM = 6000  # characters
MAX_TAG = 8000  # characters
MAX_KEY = 250  # characters
MAX_DIGEST = 36  # characters, of a data set
SECOND_TRY_S = 0.2

RUN_TAG, ERROR_TAG = "videolift.run", "videolift.error"
COPIED = ("plan.json", provenance.DIFF_FILE, PARITY_FILE)  # from the run's folder, as they are
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",  # or a uv.lock in the working directory would describe the model
}


@dataclass(frozen=True)
class Point:
    """One value of a metric."""

    key: str
    step: int
    value: float
    time_ms: int


def tracking_uri(tracking: Tracking, outputs: Path) -> str:
    """Return the address that is recorded to, with its credentials."""
    if tracking.uri:
        return tracking.uri
    # SQLAlchemy unquotes the path and takes what follows a question mark for options.
    path = str(outputs.resolve() / "mlflow.db").replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{path}"


def connect(tracking: Tracking, outputs: Path) -> tuple[MlflowClient, str]:
    """Return a client and the id of the experiment, which is made where it is missing."""
    os.environ.update(ENVIRONMENT, MLFLOW_HTTP_REQUEST_TIMEOUT=str(max(1, math.ceil(tracking.timeout_s))))
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # they tell about every table they make
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)  # a venv made by uv has no pip
    uri = tracking_uri(tracking, outputs)
    with _one_at_a_time(outputs):  # two processes that both make the tables disturb each other
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        experiment = client.get_experiment_by_name(tracking.experiment)
        if experiment is None:
            place = None if uri.startswith("http") else (outputs.resolve() / "mlartifacts").as_uri()
            return client, client.create_experiment(tracking.experiment, place)
    if experiment.lifecycle_stage == "deleted":
        raise VideoliftError(
            f"experiment {tracking.experiment!r} is deleted in MLflow; restore it, or say another tracking.experiment="
        )
    return client, experiment.experiment_id


@contextmanager
def _one_at_a_time(outputs: Path) -> Iterator[None]:
    outputs.mkdir(parents=True, exist_ok=True)
    with (outputs / "mlflow.lock").open("w") as lock:
        take_lock(lock, wait=True)
        yield


class Recording:
    """One run in MLflow, found or made. What is there already is not written again. Not safe for several threads."""

    def __init__(self, client: MlflowClient, experiment_id: str, record: RunRecord) -> None:
        self.client = client
        self._seen: dict[tuple[str, int], Point] = {}
        self._sent: dict[str, tuple[int, int]] = {}
        self._tags: dict[str, str] = {}
        run = self._find(experiment_id, record)
        if run is None:
            self.run_id = self._create(experiment_id, record)
            return
        self.run_id = run.info.run_id
        self._seen = {(p.key, p.step): p for p in history(client, run)}

    def _find(self, experiment_id: str, record: RunRecord) -> Run | None:
        found = self.client.search_runs(
            [experiment_id],
            f"tags.`{RUN_TAG}` = '{record.id}'",
            max_results=10,
            order_by=["attributes.start_time DESC"],
        )
        return next((r for r in found if r.info.run_id == record.mlflow_run), found[0] if found else None)

    def _create(self, experiment_id: str, record: RunRecord) -> str:
        tags = {RUN_TAG: record.id, **({"mlflow.parentRunId": record.parent} if record.parent else {})}
        run = self.client.create_run(experiment_id, int(record.created * 1000), tags, record.name)
        return str(run.info.run_id)

    def begin(self, record: RunRecord, folder: RunFolder) -> None:
        """Write what is known when a run starts; a run that was ended is open again."""
        self.client.update_run(self.run_id, status=Status.RUNNING.value)
        if ERROR_TAG in self.client.get_run(self.run_id).data.tags:  # of an earlier try
            self.client.delete_tag(self.run_id, ERROR_TAG)
        self._params(record)
        self._describe(record, folder)
        dataset = dataset_input(record)
        inputs = self.client.get_run(self.run_id).inputs
        known = [known.dataset.digest for known in inputs.dataset_inputs] if inputs else []
        if dataset is not None and dataset.dataset.digest not in known:
            self._inputs(dataset)

    def _inputs(self, dataset: DatasetInput) -> None:
        """Write the data that the run had.

        The store looks for the data and then makes it. Of several runs that begin at once, one makes it, the others
        fail and find it the next time.
        """
        try:
            self.client.log_inputs(self.run_id, [dataset])
        except Exception:
            time.sleep(SECOND_TRY_S)
            self.client.log_inputs(self.run_id, [dataset])

    def stage(self, stage: StageRecord) -> None:
        """Write which stage begins, and which run computed it where it is not this one."""
        tags = {f"videolift.stage.{stage.name}": stage.id}
        if stage.cached:
            tags[f"videolift.cached.{stage.name}"] = stage.origin or "unknown"
        self.tags(tags)

    def points(self, points: Iterable[Point]) -> None:
        """Write values that are new, or newer than what is there for their key and step."""
        from mlflow.entities import Metric

        fresh = [p for p in points if is_news(p, self._seen.get((p.key, p.step)))]
        for batch in chunks(fresh, MAX_METRICS):
            metrics = [Metric(p.key, p.value, p.time_ms, p.step) for p in batch]
            self.client.log_batch(self.run_id, metrics=metrics, synchronous=True)
            self._seen.update({(p.key, p.step): p for p in batch})

    def stages(self, record: RunRecord) -> None:
        """Write what the stages' own files say and is not written yet."""
        for stage in record.stages:
            self.stage(stage)
            told = events_of(stage)
            self.points(newest(point_of(event) for event, _ in told if event["type"] == "metric"))
            for event, output in told:
                self.event(event, output)

    def event(self, event: Event, output: Path) -> None:
        """Write what an event announces; a file that is not here yet is written when the event is repeated."""
        if event["type"] == "tag":
            self.tags({event["key"]: event["value"]})
        elif event["type"] == "artifact":
            file = output / event["path"]
            # A job says which file; it must not be able to name one of ours.
            if file.exists() and file.resolve().is_relative_to(output.resolve()):
                self.artifact(file, name_of(event["folder"]) if event.get("folder") else "")

    def artifact(self, file: Path, folder: str) -> None:
        """Write a file or folder, unless this very version was written already."""
        state = (file.stat().st_mtime_ns, file.stat().st_size)
        target = posixpath.join(folder, file.name)
        if self._sent.get(target) == state:
            return
        if file.is_dir():
            self.client.log_artifacts(self.run_id, str(file), target)
        else:
            self.client.log_artifact(self.run_id, str(file), folder or None)
        self._sent[target] = state

    def tags(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        fresh = {k: v for k, v in tags.items() if self._tags.get(k) != v}
        for batch in chunks(list(fresh.items()), MAX_PARAMS):
            written = [RunTag(name_of(key), cut(redacted(value, key), MAX_TAG)) for key, value in batch]
            self.client.log_batch(self.run_id, tags=written, synchronous=True)
        self._tags.update(fresh)

    def end(self, record: RunRecord, folder: RunFolder, tracking: Tracking) -> None:
        """Write what is known when a run ends; a detached run, which still runs, stays open."""
        self._describe(record, folder)
        finished = {stage.name: stage for stage in record.stages if stage.status is Status.FINISHED}
        if SCRIPT in finished and tracking.log_model:
            model = model_folder(Path(finished[SCRIPT].folder))
            if model.is_dir() and any(model.iterdir()):
                self.artifact(model, "")
        train = finished.get("train")
        if train and tracking.log_model:
            mlflow_model.log_model(self.client, self.run_id, train)
        if record.status is not Status.RUNNING:
            end_ms = int(record.ended * 1000) if record.ended else None
            self.client.set_terminated(self.run_id, record.status.value, end_ms)
        if train and tracking.log_model and tracking.register:
            version = mlflow_model.register_model(self.client, self.run_id, train, tracking.register)
            record.registered = f"{tracking.register} version {version}"

    def _params(self, record: RunRecord) -> None:
        from mlflow.entities import Param

        there = self.client.get_run(self.run_id).data.params
        wanted = params(record.config)
        changed = [f"{key}: {there[key]} -> {value}" for key, value in wanted.items() if there.get(key, value) != value]
        for batch in chunks([(k, v) for k, v in wanted.items() if k not in there], MAX_PARAMS):
            self.client.log_batch(self.run_id, params=[Param(k, v) for k, v in batch], synchronous=True)
        if changed:  # a param is written once in MLflow, and a run may be resumed with more epochs
            self.tags({"videolift.changed_params": "\n".join(changed)})

    def _describe(self, record: RunRecord, folder: RunFolder) -> None:
        self.tags({**provenance.captured_tags(folder.path), **run_tags(record)})
        recorded = replace(record, synced=True)  # as it will be once this is written
        self.client.log_text(self.run_id, plain_json(redacted(asdict(recorded))), "run.json")
        self.client.log_text(self.run_id, plain_yaml(redacted(record.config)), "config.yaml")
        for name in COPIED:
            if (folder.path / name).is_file():
                self.artifact(folder.path / name, "")


def files_of(stage: StageRecord) -> list[tuple[Path, Path]]:
    """Return the stage's event files with their output folders, wherever the stage is by now.

    A stage that this run left unfinished is renamed when another run finishes it.
    """
    return event_files(Path(stage.folder)) or event_files(Path(stage.folder.removesuffix(PARTIAL_SUFFIX)))


def events_of(stage: StageRecord) -> list[tuple[Event, Path]]:
    """Return what a stage said, with the folder that paths are relative to.

    Another run may have gone on with a stage that this run left unfinished; what it said then is not this run's.
    """
    finished = stage.status is Status.FINISHED or stage.ended is None
    until = math.inf if finished else float(stage.ended or 0)
    return [
        (stage.as_told(event), output)
        for file, output in files_of(stage)
        for event in read(file)
        if event["time"] <= until
    ]


def history(client: MlflowClient, run: Run) -> list[Point]:
    """Return every value of every metric of a run."""
    return [
        Point(m.key, m.step, m.value, m.timestamp)
        for key in run.data.metrics
        for m in client.get_metric_history(run.info.run_id, key)
    ]


def is_news(point: Point, there: Point | None) -> bool:
    """Tell whether a value has to be written: none is there for its key and step, or an older one that differs.

    A stage that was killed does its last epoch again. MLflow cannot replace a value, but shows the newest.
    """
    if there is None:
        return True
    same = point.value == there.value or (math.isnan(point.value) and math.isnan(there.value))
    return point.time_ms > there.time_ms and not same


def point_of(event: Event) -> Point:
    return Point(name_of(event["key"]), int(event.get("step", 0)), float(event["value"]), int(event["time"] * 1000))


def newest(points: Iterable[Point]) -> list[Point]:
    """Return the newest value of each key and step."""
    found: dict[tuple[str, int], Point] = {}
    for point in points:
        known = found.get((point.key, point.step))
        if known is None or point.time_ms >= known.time_ms:
            found[point.key, point.step] = point
    return list(found.values())


def name_of(key: str) -> str:
    """Return a name that MLflow accepts: letters of any script, digits and ``_-./: ``, and no path out of itself."""
    name = posixpath.normpath(re.sub(r"[^/\w.\- :]", "_", key)).lstrip("/")
    return "_" if name in ("", ".") or name.startswith("..") else name[:MAX_KEY]


def cut(text: str, limit: int) -> str:
    """Return the text, cut visibly where it is longer than the limit."""
    note = f" ... cut: {len(text)} characters"
    return text if len(text) <= limit else text[: limit - len(note)] + note


def flattened(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under the names that the command line has for them."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat.update(flattened(value, f"{name}.") if isinstance(value, dict) and value else {name: value})
    return flat


def params(config: dict[str, Any]) -> dict[str, str]:
    """Return settings as MLflow's params; ``config.yaml`` keeps whole what is too long for one."""
    texts = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in flattened(config).items()}
    return {name_of(k): cut(redacted(v, k), MAX_PARAM) for k, v in {**_script_options(config), **texts}.items()}


def _script_options(config: dict[str, Any]) -> dict[str, str]:
    """Return what a script's arguments set, as settings of their own: ``--epochs 5`` is ``script.epochs``."""
    script = config.get("script") or {}
    if not script.get("path"):
        return {}
    found = options(words_of(script.get("args") or ""))
    return {f"script.args.{name}" if name in script else f"script.{name}": value for name, value in found.items()}


def run_tags(record: RunRecord) -> dict[str, str]:
    backend = record.config.get("backend")
    tags = {
        "mlflow.source.name": "run.py",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": note(record),
        "videolift.fingerprint": record.fingerprint,
        "videolift.data.digest": str(record.data.get("digest", "")),
        "videolift.backend": str(backend.get("name", "") if isinstance(backend, dict) else backend or ""),
        ERROR_TAG: record.error or "",
    }
    return {**{k: v for k, v in tags.items() if v}, **record.tags}


def note(record: RunRecord) -> str:
    """Return the description that MLflow shows above a run, in Markdown."""
    data, classes = record.data, record.data.get("classes", [])
    count = len(classes) if isinstance(classes, (list, tuple)) else classes
    split = ", ".join(f"{name} {size}" for name, size in data.get("splits", {}).items())
    lines = [f"Run `{record.id}`."]
    if data:
        where = data.get("root") or data.get("source") or "data"
        has = f"{data['files']} files" if "files" in data else f"{data.get('clips', '?')} clips, {count} classes"
        lines.append(f"Data: `{where}`, {has}{'' if 'files' in data else f', {split}' if split else ', no split'}.")
    if record.error:
        lines.append(f"Error: {record.error}")
    return "\n\n".join(lines)


def dataset_input(record: RunRecord) -> DatasetInput | None:
    """Return the run's data as an MLflow dataset, None where its digest is not known."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if not record.data.get("digest"):
        return None
    data = redacted(record.data)
    columns = [{"name": name, "type": "string", "required": True} for name in ("path", "label", "group", "split")]
    root = str(data.get("root") or data.get("source") or "data")
    dataset = Dataset(
        name=PurePath(root).name or root,
        digest=str(data["digest"])[:MAX_DIGEST],
        source_type="local",
        source=json.dumps({"uri": root}, ensure_ascii=False),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps(data, ensure_ascii=False),
    )
    context = "prediction" if data.get("source") == PREDICT else "training"
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])


def plain_json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)


def plain_yaml(value: Any) -> str:
    from yaml import safe_dump

    return str(safe_dump(value, sort_keys=False, allow_unicode=True))


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
