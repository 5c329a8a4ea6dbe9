"""Training jobs, from Starting to the final status.

Sources: AWS, API reference "DescribeTrainingJob" (SecondaryStatus and its values, times, FailureReason),
"SecondaryStatusTransition" (messages), "OutputDataConfig", "CheckpointConfig"; developer guide "How Amazon SageMaker AI
Provides Training Information", "How Amazon SageMaker AI Processes Training Output", "Managed Spot Training in Amazon
SageMaker AI". The order of phases and messages is that of logs that users show: a stopped or failed training uploads
first (github.com/aws/sagemaker-python-sdk/issues/3062, /658), one stopped before it trains does not.
"""

from __future__ import annotations

import math
import time
from pathlib import Path, PurePosixPath
from typing import Any

from launchers.emulator.answers import ServiceError
from launchers.emulator.channels import Channel, training_channels
from launchers.emulator.emulated import Emulated
from launchers.emulator.jobs import REASON_LIMIT, STOPPING, FolderSync, Job, JobFailed
from launchers.emulator.round import Cause, Outcome
from launchers.emulator.store import join, safe_name, split
from launchers.emulator.validation import output_members

CHECKPOINTS = "/opt/ml/checkpoints"  # CheckpointConfig.LocalPath where none is given
GROUP = "homogeneousCluster"
SPOT_SHARE = 0.3  # of the time of a spot job that is billed; the service's varies
PREPARING = "Preparing the instances for training"
MESSAGES = {
    "Starting": "Starting the training job",
    "Downloading": "Downloading input data",
    "Training": "Training image download completed. Training in progress.",
    "Interrupted": "Training job interrupted: the spot instances were taken away",
    "Uploading": "Uploading generated training model",
    "Stopping": "Stopping the training job",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds provided",
    "MaxWaitTimeExceeded": "Training job exceeded MaxWaitTimeInSeconds provided",
    "Completed": "Training job completed",
    "Failed": "Training job failed",
}


class TrainingJob(Job):
    """One training job."""

    kind = "training"
    log_group = "/aws/sagemaker/TrainingJobs"

    def __init__(self, world: Emulated, region: str, request: dict[str, Any]) -> None:
        super().__init__(world, region, request)
        self._channels = training_channels(request)
        self._check()
        self._transitions: list[dict[str, Any]] = []
        self._secondary = ""
        self._started: float | None = None
        self._ended: float | None = None
        self._seconds = 0.0  # that instances were there
        self._model: str | None = None
        self._enter("Starting")

    def _check(self) -> None:
        """Refuse what the service refuses beyond its model, and what the emulator cannot do."""
        request = self.request
        stopping = request.get("StoppingCondition") or {}
        if not request["AlgorithmSpecification"].get("TrainingImage"):
            raise ServiceError("ValidationException", "the emulator runs jobs with a TrainingImage only")
        if "ResourceConfig" not in request or not self.resources.get("InstanceType"):
            raise ServiceError("ValidationException", "ResourceConfig must have InstanceType and InstanceCount")
        if self.host_count < 1:
            raise ServiceError("ValidationException", "InstanceCount must be greater than or equal to 1")
        if self.is_spot and stopping.get("MaxWaitTimeInSeconds", 0) < stopping.get("MaxRuntimeInSeconds", 86400):
            raise ServiceError(
                "ValidationException",
                "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds",
            )
        if not self.is_spot and "MaxWaitTimeInSeconds" in stopping:
            raise ServiceError(
                "ValidationException", "MaxWaitTimeInSeconds is for jobs with EnableManagedSpotTraining only"
            )
        if self.is_spot and self.resources.get("KeepAlivePeriodInSeconds"):
            raise ServiceError(
                "ValidationException", "KeepAlivePeriodInSeconds is not supported with managed spot training"
            )

    @property
    def resources(self) -> dict[str, Any]:
        found: dict[str, Any] = self.request["ResourceConfig"]
        return found

    @property
    def is_spot(self) -> bool:
        return bool(self.request.get("EnableManagedSpotTraining"))

    @property
    def host_count(self) -> int:
        return int(self.resources.get("InstanceCount", 1))

    @property
    def channels(self) -> list[Channel]:
        return self._channels

    def describe(self) -> dict[str, Any]:
        with self._lock:
            allowed = output_members("DescribeTrainingJob")
            shown = {key: value for key, value in self.request.items() if key in allowed}
            shown |= {
                "TrainingJobArn": self.arn,
                "TrainingJobStatus": self.status,
                "SecondaryStatus": self._secondary,
                "SecondaryStatusTransitions": [dict(entry) for entry in self._transitions],
                "CreationTime": self.created,
                "LastModifiedTime": self.modified,
            }
            for flag in ("NetworkIsolation", "InterContainerTrafficEncryption", "ManagedSpotTraining"):
                shown.setdefault(f"Enable{flag}", False)
            optional = {
                "FailureReason": self.failure_reason,
                "TrainingStartTime": self._started,
                "TrainingEndTime": self._ended,
                "ModelArtifacts": {"S3ModelArtifacts": self._model} if self._model else None,
            }
            shown |= {key: value for key, value in optional.items() if value is not None}
            if self._ended is not None and self._started is not None:
                whole = max(1, math.ceil(self._seconds))
                shown["TrainingTimeInSeconds"] = whole
                shown["BillableTimeInSeconds"] = int(whole * SPOT_SHARE) if self.is_spot else whole
            return shown

    def _enter(self, secondary: str) -> None:
        with self._lock:
            now = time.time()
            if self._transitions:
                self._transitions[-1]["EndTime"] = now
            self._secondary = secondary
            self._transitions.append({"Status": secondary, "StartTime": now, "StatusMessage": MESSAGES[secondary]})
            self._touch()

    def _begin_stopping(self) -> None:
        self._enter("Stopping")

    def _advance(self, secondary: str) -> None:
        """Enter a phase unless the job is stopping, which it then goes on to be."""
        with self._lock:
            if self.status != STOPPING:
                self._enter(secondary)

    def _tell(self, message: str) -> None:
        """Change the message of the present phase."""
        with self._lock:
            if self.status != STOPPING:
                self._transitions[-1]["StatusMessage"] = message
                self._touch()

    def _finish(self, status: str, reason: str | None = None) -> None:
        self._finish_as(status, status, reason)

    def _finish_as(self, status: str, secondary: str, reason: str | None = None) -> None:
        with self._lock:
            now = time.time()
            self._ended = now if self._started is not None else None
            self.failure_reason = reason[:REASON_LIMIT] if reason else None
            self._enter(secondary)
            self._transitions[-1]["EndTime"] = self._transitions[-1]["StartTime"]
            self.status = status

    def _live(self) -> None:
        limits = self.request.get("StoppingCondition") or {}
        left_s = float(limits.get("MaxRuntimeInSeconds", 86400))
        wait_until = time.monotonic() + float(limits.get("MaxWaitTimeInSeconds", math.inf))
        self._capacity()
        while True:
            if self._wait(self.world.start_s / 2):
                return self._finish("Stopped")
            self._tell(PREPARING)
            if self._wait(self.world.start_s / 2):
                return self._finish("Stopped")
            self._advance("Downloading")
            self._started = self._started or time.time()
            self._lay_out()
            self._restore_checkpoints()
            if self._wait(0):
                return self._finish("Stopped")
            self._advance("Training")
            outcome = self._train(left_s)
            self._seconds += outcome.seconds
            left_s -= outcome.seconds
            if outcome.cause is not Cause.interrupted:
                return self._end(outcome)
            self._enter("Interrupted")
            self._put_away()
            if time.monotonic() > wait_until:
                return self._finish_as("Stopped", "MaxWaitTimeExceeded")
            self._enter("Starting")

    def _train(self, limit_s: float) -> Outcome:
        sync = None
        if config := self.request.get("CheckpointConfig"):
            places = {self._checkpoints(host): config["S3Uri"] for host in self.hosts}
            sync = FolderSync(self, places, self._kms_key)
            sync.know()
            sync.start()
        try:
            return self._run_hosts(limit_s, interruptible=self.is_spot)
        finally:
            if sync is not None and not self.world.closing.is_set():
                sync.finish()

    def _end(self, outcome: Outcome) -> None:
        if outcome.cause is Cause.closed:
            return self._finish("Stopped")
        self._enter("Uploading")
        self._upload(with_model=outcome.cause is not Cause.failed)
        if outcome.cause is Cause.failed:
            written = self._texts("output/failure", (outcome.failed or "",)) or self._texts(
                "output/failure", self.hosts
            )
            told = written[0].decode("utf-8", "replace")[:REASON_LIMIT] if written else ""
            raise JobFailed(f"AlgorithmError: {told}, exit code: {outcome.exit_code}")
        if outcome.cause is Cause.timed_out:
            return self._finish_as("Stopped", "MaxRuntimeExceeded")
        return self._finish("Stopped" if self.status == STOPPING else "Completed")

    def _upload(self, *, with_model: bool) -> None:
        store = self.world.store(self.region)
        place = f"{join(self.request['OutputDataConfig']['S3OutputPath'], self.name)}/output"
        if with_model:
            model = f"{place}/model.tar.gz"
            store.upload_archive([self.folder / host / "model" for host in self.hosts], model, self._kms_key)
            self._model = model
        data = [self.folder / host / "output" / "data" for host in self.hosts]
        if any(folder.is_dir() and any(folder.iterdir()) for folder in data):
            store.upload_archive(data, f"{place}/output.tar.gz", self._kms_key)

    @property
    def _kms_key(self) -> str | None:
        key: str | None = self.request["OutputDataConfig"].get("KmsKeyId")
        return key

    def _checkpoints(self, host: str) -> Path:
        local = (self.request.get("CheckpointConfig") or {}).get("LocalPath") or CHECKPOINTS
        folder: Path = self.folder / host / PurePosixPath(local).relative_to("/opt/ml")
        return folder

    def _restore_checkpoints(self) -> None:
        if not (config := self.request.get("CheckpointConfig")):
            return
        store = self.world.store(self.region)
        address = config["S3Uri"].rstrip("/") + "/"
        bucket, prefix = split(address)
        for host in self.hosts:
            folder = self._checkpoints(host)
            folder.mkdir(parents=True, exist_ok=True)
            for key in store.keys(address):
                store.download(bucket, key, folder / safe_name(key.removeprefix(prefix)))

    def _put_away(self) -> None:
        """Keep what interrupted hosts have left beside the folders of the new ones."""
        for host in self.hosts:
            number = len(list(self.folder.glob(f"{host}.interrupted-*"))) + 1
            (self.folder / host).rename(self.folder / f"{host}.interrupted-{number}")

    def _container(self) -> tuple[str, list[str] | None, list[str]]:
        given = self.request["AlgorithmSpecification"]
        entrypoint = given.get("ContainerEntrypoint")
        arguments = given.get("ContainerArguments")
        default = [] if entrypoint else ["train"]
        return given["TrainingImage"], entrypoint, list(arguments if arguments is not None else default)

    def _environment(self) -> dict[str, str]:
        return {"TRAINING_JOB_NAME": self.name, "TRAINING_JOB_ARN": self.arn}

    def _config_files(self, host: str) -> dict[str, Any]:
        instance_type = self.resources["InstanceType"]
        group = {"instance_group_name": GROUP, "instance_type": instance_type, "hosts": list(self.hosts)}
        return {
            "input/config/hyperparameters.json": self.request.get("HyperParameters") or {},
            "input/config/inputdataconfig.json": {
                entry["ChannelName"]: self._channel_config(entry) for entry in self.request.get("InputDataConfig") or []
            },
            "input/config/resourceconfig.json": {
                "current_host": host,
                "current_instance_type": instance_type,
                "current_group_name": GROUP,
                "hosts": list(self.hosts),
                "instance_groups": [group],
                "network_interface_name": self.world.hosts.interface,
            },
        }

    def _channel_config(self, entry: dict[str, Any]) -> dict[str, str]:
        source = entry["DataSource"]["S3DataSource"]
        config = {
            "TrainingInputMode": "File",
            "S3DistributionType": source.get("S3DataDistributionType") or "FullyReplicated",
            "RecordWrapperType": entry.get("RecordWrapperType") or "None",
        }
        return config | ({"ContentType": entry["ContentType"]} if entry.get("ContentType") else {})

    def _lay_out(self) -> None:
        super()._lay_out()
        for host in self.hosts:
            for name in ("model", "output/data"):
                (self.folder / host / name).mkdir(parents=True, exist_ok=True)
