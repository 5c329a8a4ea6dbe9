"""A sweep's run in MLflow: what is written, under which name, and how it is written once only."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launchers import provenance
from launchers.mlflow_store import MAX_PARAM, MAX_PARAMS, MAX_TAG, chunks, cut, name_of, plain_json
from launchers.records import DETACHED, DETACHED_TAG, Status
from launchers.redaction import redacted, redacted_text
from launchers.sweeps.description import description
from launchers.sweeps.record import Child, State, SweepRecord
from launchers.sweeps.results import best_command

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SWEEP_TAG = "videolift.sweep"
JOBS_TAG = "videolift.jobs"  # number of children; tells the sweep's run from theirs
ARTIFACTS = "sweep"  # folder
MAX_NAME = 250  # characters, of a run
MAX_VALUES = 12  # of a swept parameter that are told one by one
ENDED = (State.finished, State.failed, State.pruned)


@dataclass(frozen=True)
class Shown:
    """What the run shows, as long as nothing newer is known."""

    metrics: dict[str, float]
    tags: dict[str, str]
    ended: int  # children


class ParentRun:
    """One run in MLflow, found or made. Not safe for several threads."""

    def __init__(self, client: MlflowClient, experiment_id: str, record: SweepRecord) -> None:
        self.client = client
        run = self._known(record) or self._find(record, experiment_id)
        self.id = self._create(record, experiment_id) if run is None else str(run.info.run_id)
        self._experiment = experiment_id if run is None else str(run.info.experiment_id)
        there = client.get_run(self.id).data
        self._metrics, self._tags, self._params = dict(there.metrics), dict(there.tags), dict(there.params)
        self._step = max((m.step for m in client.get_metric_history(self.id, "finished")), default=-1)
        self._sent: dict[str, tuple[int, int]] = {}

    def address(self, child: Child) -> str | None:
        """Return where MLflow's page shows a child, below the page's own address."""
        return f"#/experiments/{self._experiment}/runs/{child.mlflow_run}" if child.mlflow_run else None

    def begin(self, record: SweepRecord, folder: Path) -> None:
        """Write what is known when a sweep starts, or goes on: then it is open again.

        Args:
            folder: has what ``provenance.capture`` wrote.
        """
        self.client.update_run(self.id, status=Status.RUNNING.value)
        source = {"mlflow.source.name": "run.py", "mlflow.source.type": "LOCAL"}
        again = {DETACHED_TAG: "no"} if DETACHED_TAG in self._tags else {}
        self._write({}, {**source, **provenance.captured_tags(folder), **record.tags, **again})
        settings = {"sweep.name": record.sampler, "sweep.metric": record.metric, "sweep.goal": record.goal.value}
        # What a sampler will have chosen is known at the end, and a param is written once.
        self._write_params({**settings, **(swept(record) if record.sampler == "grid" else {})})
        if (folder / provenance.DIFF_FILE).is_file():
            self._send(folder / provenance.DIFF_FILE, None)

    def shown(self, record: SweepRecord) -> Shown:
        """Return what there is to show by now."""
        counted = {state.value: float(record.count(state)) for state in (State.finished, State.failed, State.pruned)}
        tags = {JOBS_TAG: str(len(record.children)), "mlflow.note.content": description(record, self.address)}
        best, command = record.best, best_command(record)
        if best is not None and best.value is not None and command is not None:
            counted[f"best_{record.metric}"] = best.value
            tags |= {"videolift.best_command": command, "videolift.best_run": best.mlflow_run or ""}
        return Shown(counted, tags, record.count(*ENDED))

    def show(self, shown: Shown, *files: Path) -> None:
        """Write what is not there yet, and the files that are new or newer."""
        self._step = max(self._step + 1, shown.ended)  # whatever is written last has to be the highest step
        self._write(shown.metrics, shown.tags)
        for file in files:
            self._send(file, ARTIFACTS)

    def end(self, record: SweepRecord) -> None:
        """Write what is known when a sweep ends; one that goes on without its launcher stays open."""
        self.client.log_text(self.id, plain_json(redacted(asdict(record))), f"{ARTIFACTS}/sweep.json")
        if record.status is Status.RUNNING:
            self._write({}, {DETACHED_TAG: DETACHED})
            return
        self._write_params(swept(record))
        end_ms = int((record.ended or time.time()) * 1000)
        self.client.set_terminated(self.id, record.status.value, end_ms)

    def _known(self, record: SweepRecord) -> Run | None:
        """Return the run that the record names, whichever experiment it is in; None where it is gone."""
        from mlflow.exceptions import MlflowException

        if record.mlflow_run is None:
            return None
        try:
            run = self.client.get_run(record.mlflow_run)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        is_there = run.info.lifecycle_stage == "active" and run.data.tags.get(SWEEP_TAG) == record.id
        return run if is_there else None

    def _find(self, record: SweepRecord, experiment_id: str) -> Run | None:
        found = self.client.search_runs(
            [experiment_id],
            f"tags.`{SWEEP_TAG}` = '{record.id}' AND tags.`{JOBS_TAG}` LIKE '%'",
            max_results=1,
            order_by=["attributes.start_time ASC"],
        )
        return found[0] if found else None

    def _create(self, record: SweepRecord, experiment_id: str) -> str:
        # The tags that it is found by come with the run: a launcher may be killed at any time.
        tags = {SWEEP_TAG: record.id, JOBS_TAG: str(len(record.children))}
        name = cut(redacted_text(record.name), MAX_NAME)
        return str(self.client.create_run(experiment_id, int(record.created * 1000), tags, name).info.run_id)

    def _write(self, metrics: dict[str, float], tags: dict[str, str]) -> None:
        from mlflow.entities import Metric, RunTag

        values = {name_of(key): value for key, value in metrics.items()}
        texts = {name_of(key): cut(redacted(text, key), MAX_TAG) for key, text in tags.items()}
        new_values = {key: value for key, value in values.items() if self._metrics.get(key) != value}
        new_texts = {key: text for key, text in texts.items() if self._tags.get(key) != text}
        now_ms = int(time.time() * 1000)
        if new_values:
            written = [Metric(key, value, now_ms, self._step) for key, value in new_values.items()]
            self.client.log_batch(self.id, metrics=written, synchronous=True)
        for batch in chunks(list(new_texts.items()), MAX_PARAMS):
            self.client.log_batch(self.id, tags=[RunTag(key, text) for key, text in batch], synchronous=True)
        self._metrics |= new_values
        self._tags |= new_texts

    def _write_params(self, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        wanted = {name_of(key): cut(redacted(text, key), MAX_PARAM) for key, text in params.items()}
        new = {key: text for key, text in wanted.items() if key not in self._params}
        changed = [f"{k}: {self._params[k]} -> {t}" for k, t in wanted.items() if self._params.get(k, t) != t]
        for batch in chunks(list(new.items()), MAX_PARAMS):
            self.client.log_batch(self.id, params=[Param(key, text) for key, text in batch], synchronous=True)
        self._params |= new
        if changed:
            self._write({}, {"videolift.changed_params": "\n".join(changed)})

    def _send(self, file: Path, folder: str | None) -> None:
        state = (file.stat().st_mtime_ns, file.stat().st_size)
        if self._sent.get(file.name) != state:
            self.client.log_artifact(self.id, str(file), folder)
            self._sent[file.name] = state


def swept(record: SweepRecord) -> dict[str, str]:
    """Return the values of every swept parameter as one text: ``16, 32``."""
    return {name: _told(record, name) for name in record.parameters}


def _told(record: SweepRecord, parameter: str) -> str:
    children = (child for child in record.children if parameter in child.parameters)
    values = list(dict.fromkeys(child.parameters[parameter] for child in children))
    if len(values) <= MAX_VALUES:
        return ", ".join(values)
    try:
        values.sort(key=float)
    except ValueError:
        return f"{', '.join(values[:MAX_VALUES])}, ... ({len(values)} values)"
    return f"{values[0]} ... {values[-1]} ({len(values)} values)"
