"""The only module that imports the SageMaker SDK: what its ModelTrainer would send, and its registry of AWS's images.

The SDK is run to the end against a session that answers for AWS itself, so that the request and the files are exactly
those that it would send, whether they are then shown or sent. It cannot be asked for a request in any other way that
is public; it names jobs by the clock and uploads its start script anew for each, and both are put right here. It is
asked by one thread at a time, because what keeps it quiet holds for the process; nobody else reads those variables.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from videolift.errors import ConfigError

if TYPE_CHECKING:
    import boto3

DRIVERS_CHANNEL = "sm_drivers"  # sagemaker.train.constants.SM_DRIVERS
CODE_CHANNEL = "code"  # sagemaker.train.constants.SM_CODE
# sagemaker.core.config: files named by these variables are read instead of the user's own and of the machine's. Its
# telemetry calls a server of AWS's.
CONFIG_VARIABLE, ADMIN_VARIABLE = "SAGEMAKER_USER_CONFIG_OVERRIDE", "SAGEMAKER_ADMIN_CONFIG_OVERRIDE"
QUIET = "SchemaVersion: '1.0'\nSageMaker: {PythonSDK: {Modules: {TelemetryOptOut: true}}}\n"
BUCKETS = (  # Amazon S3 API Reference, ListBuckets
    "<ListAllMyBucketsResult><Buckets><Bucket><Name>{}</Name><CreationDate>2020-01-01T00:00:00Z</CreationDate></Bucket>"
    "</Buckets></ListAllMyBucketsResult>"
)
ENVIRONMENT = {
    # Of the SDK: no simulation of what the role may do, which needs a right that a person may not have.
    "SAGEMAKER_VALIDATE_ROLE": "false",
    ADMIN_VARIABLE: os.devnull,
}
# Nothing is sent, so that nobody's profile is needed, nor may a broken one be in the way. Variables of AWS's are left
# alone: other threads' sessions read them. Each is (name in the file, variable, default, conversion).
NO_PROFILE = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}
ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Training:
    """A training job in our words."""

    name: str
    image: str
    role: str
    bucket: str
    region: str
    command: str | None  # run in the folder of the source; None where the image knows what to run
    source: str | None  # s3://.../, where the source is shipped
    channels: Mapping[str, str]  # name -> s3://.../
    output: str  # s3://...; the service adds the job's name
    drivers: str  # s3://..., where the SDK's own files go
    instance_type: str
    instance_count: int
    volume_gb: int
    keep_alive_s: int
    spot: bool
    max_run_s: int
    max_wait_s: int | None
    checkpoints: str | None  # s3://...
    kms_key: str | None  # of what is stored in S3
    volume_kms_key: str | None
    subnets: Sequence[str]
    security_groups: Sequence[str]
    isolated: bool
    encrypt_traffic: bool
    environment: Mapping[str, str]
    tags: Mapping[str, str]
    hyperparameters: Mapping[str, str]
    metrics: Mapping[str, str]  # name -> regular expression of one group


@dataclass
class Captured:
    """What the SDK sends for a training job."""

    request: dict[str, Any] = field(default_factory=dict)  # of CreateTrainingJob
    drivers: dict[str, bytes] = field(default_factory=dict)  # relative path -> content of its own files
    drivers_name: str = ""  # of the folder that they go to


def training_image(region: str, version: str, instance_type: str) -> str:
    """Return the URI of AWS's TensorFlow training image, from the registry that ships with the SDK.

    Raises:
        ConfigError: if there is none for the region or version.
    """
    with _quiet():
        from sagemaker.core import image_uris

        try:
            return str(
                image_uris.retrieve(
                    "tensorflow", region, version=version, instance_type=instance_type, image_scope="training"
                )
            )
        except ValueError as error:
            raise ConfigError(
                f"backend.train.framework_version={version}: AWS has no such TensorFlow image in {region} "
                f"({str(error).splitlines()[0]}); name one with backend.train.image"
            ) from error


def capture(training: Training) -> Captured:
    """Return what the SDK would send; nothing is sent.

    Raises:
        ConfigError: if the SDK refuses a setting.
    """
    with _quiet():
        import boto3
        import botocore.session
        from botocore.exceptions import ParamValidationError
        from pydantic import ValidationError

        captured = Captured()
        core = botocore.session.Session(session_vars=NO_PROFILE)
        keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none"}
        session = boto3.Session(**keys, region_name=training.region, botocore_session=core)
        service = _Service(captured, training.bucket)
        session.events.register("before-send.*.*", service.answer)
        try:
            _train(session, training)
        except (ValidationError, ParamValidationError, ValueError) as error:
            raise ConfigError(f"the SageMaker SDK refuses the training job: {error}") from error
        return _put_right(captured, service.name, training)


def _train(session: boto3.Session, training: Training) -> None:
    from sagemaker.core.helper.session_helper import Session
    from sagemaker.core.shapes import CheckpointConfig, MetricDefinition, OutputDataConfig, StoppingCondition, Tag
    from sagemaker.core.training.configs import Compute, InputData, Networking, SourceCode
    from sagemaker.train.model_trainer import ModelTrainer

    given: dict[str, Any] = {}
    if training.command is not None:
        given["source_code"] = SourceCode(source_dir=training.source, command=training.command)
    if training.subnets or training.isolated or training.encrypt_traffic:
        given["networking"] = Networking(
            subnets=list(training.subnets) or None,
            security_group_ids=list(training.security_groups) or None,
            enable_network_isolation=training.isolated,
            enable_inter_container_traffic_encryption=training.encrypt_traffic,
        )
    if training.checkpoints is not None:
        given["checkpoint_config"] = CheckpointConfig(s3_uri=training.checkpoints)
    compute = Compute(
        instance_type=training.instance_type,
        instance_count=training.instance_count,
        volume_size_in_gb=training.volume_gb,
        volume_kms_key_id=training.volume_kms_key,
        keep_alive_period_in_seconds=training.keep_alive_s or None,
        enable_managed_spot_training=training.spot or None,
    )
    stopping = StoppingCondition(
        max_runtime_in_seconds=training.max_run_s,
        max_wait_time_in_seconds=training.max_wait_s if training.spot else None,
    )
    output = OutputDataConfig(s3_output_path=training.output, kms_key_id=training.kms_key, compression_type="GZIP")
    trainer = ModelTrainer(
        sagemaker_session=Session(boto_session=session, default_bucket=training.bucket),
        role=training.role,
        base_job_name="videolift",
        training_image=training.image,
        compute=compute,
        stopping_condition=stopping,
        output_data_config=output,
        environment=dict(training.environment),
        hyperparameters=dict(training.hyperparameters),
        # One without a value would be sent with none at all, which the service refuses; see _put_right.
        tags=[Tag(key=key, value=value) for key, value in training.tags.items() if value],
        **given,
    )
    if training.metrics:
        trainer.with_metric_definitions(
            [MetricDefinition(name=name, regex=regex) for name, regex in training.metrics.items()]
        )
    inputs = [InputData(channel_name=name, data_source=uri) for name, uri in training.channels.items()]
    trainer.train(input_data_config=inputs, wait=False, logs=False)


def _put_right(captured: Captured, name: str, training: Training) -> Captured:
    """Give the job our name and all tags, and put the SDK's files where they stay the same for every job."""
    from videolift.plan import digest_of

    digest = digest_of({path: content.hex() for path, content in captured.drivers.items()})[:16]
    request: dict[str, Any] = json.loads(json.dumps(captured.request).replace(name, training.name))
    request["Tags"] = [{"Key": key, "Value": value} for key, value in training.tags.items()]
    for channel in request.get("InputDataConfig", []):
        if channel["ChannelName"] == DRIVERS_CHANNEL:
            channel["DataSource"]["S3DataSource"]["S3Uri"] = f"{training.drivers}/sdk-{digest}/"
    return Captured(request, captured.drivers, f"sdk-{digest}")


class _Service:
    """Answers what the SDK asks on its way, and notes what it sends."""

    def __init__(self, captured: Captured, bucket: str) -> None:
        self._captured = captured
        self._bucket = bucket
        self.name = ""

    def answer(self, request: Any, **_: Any) -> Any:
        target = request.headers.get("X-Amz-Target", b"")
        operation = (target.decode() if isinstance(target, bytes) else target).rpartition(".")[2]
        body = _body_of(request)
        if operation == "CreateTrainingJob":
            self._captured.request = json.loads(body)
            self.name = self._captured.request["TrainingJobName"]
            return _answered(request, {"TrainingJobArn": f"arn:aws:sagemaker:x:000000000000:training-job/{self.name}"})
        if operation == "DescribeTrainingJob":
            return _answered(request, {"TrainingJobName": self.name, "TrainingJobStatus": "InProgress"})
        if request.method == "GET" and urlsplit(request.url).path in ("", "/"):
            return _answered(request, BUCKETS.format(self._bucket))  # or it would create its default one
        marker = f"/input/{DRIVERS_CHANNEL}/"
        path = unquote(urlsplit(request.url).path)
        if request.method == "PUT" and marker in path:
            self._captured.drivers[path.partition(marker)[2]] = body
            return _answered(request, "")
        return _answered(request, {}, HTTPStatus.NOT_FOUND)


def _body_of(request: Any) -> bytes:
    body = request.body
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, bytes | bytearray):
        return bytes(body)
    body.seek(0)
    content: bytes = body.read()
    return _without_chunks(content, request.headers)


def _without_chunks(content: bytes, headers: Any) -> bytes:
    """Return the payload of a body that is sent with a trailing checksum (Content-Encoding: aws-chunked)."""
    encoding = headers.get("Content-Encoding", b"")
    if b"aws-chunked" not in (encoding if isinstance(encoding, bytes) else encoding.encode()):
        return content
    stream, payload = BytesIO(content), b""
    while size := int(stream.readline().split(b";")[0].strip() or b"0", 16):
        payload += stream.read(size)
        stream.readline()
    return payload


def _answered(request: Any, content: dict[str, Any] | str, status: HTTPStatus = HTTPStatus.OK) -> Any:
    from botocore.awsrequest import AWSResponse

    class Raw(BytesIO):
        def stream(self, **_: Any) -> Iterator[bytes]:
            yield self.read()

    return AWSResponse(
        request.url, int(status), {}, Raw((content if isinstance(content, str) else json.dumps(content)).encode())
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the SDK from calling home, from reading anybody's defaults and from telling what it does."""
    import logging

    with ONE_AT_A_TIME, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(QUIET, encoding="utf-8")
        wanted = {**ENVIRONMENT, CONFIG_VARIABLE: str(file)}
        before = {name: os.environ.get(name) for name in wanted}
        disabled = logging.root.manager.disable
        os.environ.update(wanted)
        logging.disable(max(disabled, logging.WARNING))
        try:
            yield
        finally:
            logging.disable(disabled)
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
