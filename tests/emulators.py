"""An emulator of AWS for tests, and what a person does with it."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launchers.emulator.client import Emulator

BUCKET = "sagemaker-us-east-1-123456789012"
ROLE = "arn:aws:iam::123456789012:role/videolift-job"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:2.19.0-cpu-py312-ubuntu22.04-sagemaker"
ENDED = ("Completed", "Failed", "Stopped")
PATIENCE_S = 240.0


@contextmanager
def running_emulator(root: Path, **options: Any) -> Iterator[Emulator]:
    """Run an emulator whose files lie in a folder; options are those of :class:`launchers.emulator.Emulator`."""
    with Emulator(root, **options) as emulator:
        yield emulator


class Account:
    """What a person does with AWS, here with an emulator."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self._clients: dict[tuple[str, str], Any] = {}

    def client(self, service: str, region: str = "us-east-1") -> Any:
        import boto3
        from botocore.config import Config

        if (service, region) not in self._clients:
            variables = self.emulator.environment()
            self._clients[service, region] = boto3.client(
                service,
                region_name=region,
                endpoint_url=variables["AWS_ENDPOINT_URL"],
                aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
                config=Config(retries={"mode": "standard", "total_max_attempts": 1}, proxies={}),
            )
        return self._clients[service, region]

    @property
    def s3(self) -> Any:
        return self.client("s3")

    @property
    def sagemaker(self) -> Any:
        return self.client("sagemaker")

    def put(self, key: str, content: str = "") -> None:
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=content.encode())

    def text(self, key: str) -> str:
        return str(self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode())

    def process(self, name: str, code: str, **more: Any) -> dict[str, Any]:
        """Start a processing job that runs a Python program, and return its request."""
        self.put(f"scripts/{name}/stage.py", code)
        request = processing(name, **more)
        self.sagemaker.create_processing_job(**request)
        return request

    def train(self, name: str, code: str, **more: Any) -> None:
        """Start a training job that runs a Python program."""
        self.put(f"scripts/{name}/stage.py", code)
        self.sagemaker.create_training_job(**training(name, **more))

    def keys(self, prefix: str) -> list[str]:
        found = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return [entry["Key"].removeprefix(prefix) for entry in found]

    def archive(self, key: str) -> dict[str, str]:
        content = self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            files = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
            return {name: file.read().decode() for name, file in files.items() if file}

    def describe(self, kind: str, name: str) -> dict[str, Any]:
        ask = getattr(self.sagemaker, f"describe_{kind.lower()}_job")
        answer: dict[str, Any] = ask(**{f"{kind}JobName": name})
        return answer

    def ended(self, kind: str, name: str) -> dict[str, Any]:
        """Wait for a job's end and return what describes it."""
        return self.until(kind, name, lambda answer: answer[f"{kind}JobStatus"] in ENDED)

    def until(self, kind: str, name: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while not holds(answer := self.describe(kind, name)):
            assert time.monotonic() < deadline, answer
            time.sleep(0.05)
        return answer

    def log(self, kind: str, name: str, wanted: Callable[[dict[str, list[str]]], bool] = bool) -> dict[str, list[str]]:
        """Return the lines of each host once they are as wanted."""
        deadline = time.monotonic() + PATIENCE_S
        while not wanted(lines := self._log(f"/aws/sagemaker/{kind}Jobs", name)):
            assert time.monotonic() < deadline, lines
            time.sleep(0.05)
        return lines

    def _log(self, group: str, name: str) -> dict[str, list[str]]:
        logs = self.client("logs")
        try:
            streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/")["logStreams"]
        except logs.exceptions.ResourceNotFoundException:  # no job has written yet
            return {}
        lines: dict[str, list[str]] = {}
        for stream in streams:
            host = stream["logStreamName"].split("/")[1].rpartition("-")[0]
            token: dict[str, str] = {}
            while True:
                page = logs.get_log_events(
                    logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True, limit=100, **token
                )
                lines.setdefault(host, []).extend(event["message"] for event in page["events"])
                if token.get("nextToken") == page["nextForwardToken"]:  # as the service tells the end
                    break
                token = {"nextToken": page["nextForwardToken"]}
        return lines


def processing(name: str, *, hosts: int = 1, inputs: tuple[dict[str, Any], ...] = (), **more: Any) -> dict[str, Any]:
    code = processing_input("code", f"s3://{BUCKET}/scripts/{name}")
    output = {
        "S3Uri": f"s3://{BUCKET}/{name}/out",
        "LocalPath": "/opt/ml/processing/output",
        "S3UploadMode": "EndOfJob",
    }
    return {
        "ProcessingJobName": name,
        "RoleArn": ROLE,
        "AppSpecification": {
            "ImageUri": IMAGE,
            "ContainerEntrypoint": ["python3", "/opt/ml/processing/input/code/stage.py"],
        },
        "ProcessingInputs": [code, *inputs],
        "ProcessingResources": {
            "ClusterConfig": {"InstanceCount": hosts, "InstanceType": "ml.m5.xlarge", "VolumeSizeInGB": 10}
        },
        "ProcessingOutputConfig": {"Outputs": [{"OutputName": "output", "S3Output": output}]},
        **more,
    }


def processing_input(name: str, address: str, *, kind: str = "S3Prefix", sharded: bool = False) -> dict[str, Any]:
    return {
        "InputName": name,
        "S3Input": {
            "S3Uri": address,
            "LocalPath": f"/opt/ml/processing/input/{name}",
            "S3DataType": kind,
            "S3InputMode": "File",
            "S3DataDistributionType": "ShardedByS3Key" if sharded else "FullyReplicated",
        },
    }


def training(name: str, *, hosts: int = 1, channels: tuple[dict[str, Any], ...] = (), **more: Any) -> dict[str, Any]:
    return {
        "TrainingJobName": name,
        "RoleArn": ROLE,
        "AlgorithmSpecification": {
            "TrainingImage": IMAGE,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python3", "/opt/ml/input/data/code/stage.py"],
        },
        "InputDataConfig": [channel("code", f"s3://{BUCKET}/scripts/{name}"), *channels],
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/jobs"},
        "ResourceConfig": {"InstanceCount": hosts, "InstanceType": "ml.m5.xlarge", "VolumeSizeInGB": 10},
        "StoppingCondition": {"MaxRuntimeInSeconds": 600},
        **more,
    }


def channel(name: str, address: str, *, sharded: bool = False) -> dict[str, Any]:
    source = {
        "S3DataType": "S3Prefix",
        "S3Uri": address,
        "S3DataDistributionType": "ShardedByS3Key" if sharded else "FullyReplicated",
    }
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}
