"""Processing jobs, from their start to the final status.

Sources: AWS, API reference "DescribeProcessingJob", "ProcessingS3Output"; developer guide "How Amazon SageMaker
Processing Configures Input and Output For Your Processing Container", "Save and Access Metadata Information About Your
Processing Job" (ExitMessage), "How Amazon SageMaker Processing Runs Your Processing Container".
"""

from __future__ import annotations

import time
from pathlib import Path, PurePosixPath
from typing import Any

from launchers.emulator.answers import ServiceError
from launchers.emulator.channels import Channel, processing_channels
from launchers.emulator.emulated import Emulated
from launchers.emulator.jobs import REASON_LIMIT, STOPPING, FolderSync, Job, JobFailed
from launchers.emulator.round import Cause, Outcome
from launchers.emulator.validation import output_members

MAX_RUNTIME_S = 86400.0


class ProcessingJob(Job):
    """One processing job."""

    kind = "processing"
    log_group = "/aws/sagemaker/ProcessingJobs"

    def __init__(self, world: Emulated, region: str, request: dict[str, Any]) -> None:
        super().__init__(world, region, request)
        self._channels = processing_channels(request)
        self._outputs = _outputs(request)
        self._started: float | None = None
        self._ended: float | None = None
        self._message: str | None = None

    @property
    def host_count(self) -> int:
        return int(self.request["ProcessingResources"]["ClusterConfig"]["InstanceCount"])

    @property
    def channels(self) -> list[Channel]:
        return self._channels

    def describe(self) -> dict[str, Any]:
        with self._lock:
            allowed = output_members("DescribeProcessingJob")
            shown = {key: value for key, value in self.request.items() if key in allowed}
            shown |= {
                "ProcessingJobArn": self.arn,
                "ProcessingJobStatus": self.status,
                "CreationTime": self.created,
                "LastModifiedTime": self.modified,
            }
            optional = {
                "FailureReason": self.failure_reason,
                "ExitMessage": self._message,
                "ProcessingStartTime": self._started,
                "ProcessingEndTime": self._ended,
            }
            return shown | {key: value for key, value in optional.items() if value is not None}

    def _begin_stopping(self) -> None:
        self._touch()

    def _finish(self, status: str, reason: str | None = None) -> None:
        with self._lock:
            self._ended = time.time()
            self.failure_reason = reason[:REASON_LIMIT] if reason else None
            self.status = status
            self._touch()

    def _live(self) -> None:
        limits = self.request.get("StoppingCondition") or {}
        self._capacity()
        if self._wait(self.world.start_s):
            return self._finish("Stopped")
        self._lay_out()
        if self._wait(0):
            return self._finish("Stopped")
        self._started = time.time()
        sync = FolderSync(self, dict(self._places("Continuous")), self._kms_key)
        sync.start()
        try:
            outcome = self._run_hosts(float(limits.get("MaxRuntimeInSeconds", MAX_RUNTIME_S)))
        finally:
            if not self.world.closing.is_set():
                sync.finish()
        return self._end(outcome)

    def _end(self, outcome: Outcome) -> None:
        if outcome.cause is Cause.closed:
            return self._finish("Stopped")
        self._read_message()
        if outcome.cause is Cause.failed:
            raise JobFailed(f"AlgorithmError: See job logs for more information, exit code: {outcome.exit_code}")
        store = self.world.store(self.region)
        for folder, address in self._places("EndOfJob"):
            store.upload_folder(folder, address, self._kms_key)
        return self._finish("Completed" if outcome.cause is Cause.done and self.status != STOPPING else "Stopped")

    def _read_message(self) -> None:
        try:
            texts = [text.decode("utf-8") for text in self._texts("output/message", self.hosts)]
        except UnicodeDecodeError:
            raise JobFailed("ClientError: the exit message in /opt/ml/output/message is not UTF-8") from None
        self._message = "".join(texts)[:REASON_LIMIT] or None

    def _container(self) -> tuple[str, list[str] | None, list[str]]:
        given = self.request["AppSpecification"]
        return given["ImageUri"], given.get("ContainerEntrypoint"), list(given.get("ContainerArguments") or [])

    def _environment(self) -> dict[str, str]:
        return {}

    def _config_files(self, host: str) -> dict[str, Any]:
        shown = {key: value for key, value in self.request.items() if key != "Tags"}
        return {
            "config/processingjobconfig.json": {"ProcessingJobArn": self.arn, **shown},
            "config/resourceconfig.json": {"current_host": host, "hosts": list(self.hosts)},
        }

    def _lay_out(self) -> None:
        super()._lay_out()
        for host in self.hosts:
            (self.folder / host / "output").mkdir(exist_ok=True)
            for output in self._outputs:
                self._local(host, output).mkdir(parents=True, exist_ok=True)

    def _local(self, host: str, output: dict[str, str]) -> Path:
        folder: Path = self.folder / host / PurePosixPath(output["LocalPath"]).relative_to("/opt/ml")
        return folder

    def _places(self, mode: str) -> list[tuple[Path, str]]:
        """Return (folder of a host, address) of every output with this upload mode."""
        wanted = [output for output in self._outputs if output["S3UploadMode"] == mode]
        return [(self._local(host, output), output["S3Uri"]) for output in wanted for host in self.hosts]

    @property
    def _kms_key(self) -> str | None:
        return (self.request.get("ProcessingOutputConfig") or {}).get("KmsKeyId")


def _outputs(request: dict[str, Any]) -> list[dict[str, str]]:
    found = []
    for entry in (request.get("ProcessingOutputConfig") or {}).get("Outputs") or []:
        output = entry.get("S3Output")
        if not output or not str(output.get("LocalPath") or "").startswith("/opt/ml/processing/"):
            raise ServiceError(
                "ValidationException",
                f"output {entry['OutputName']}: the emulator needs an S3Output with a LocalPath in /opt/ml/processing",
            )
        found.append(output)
    return found
