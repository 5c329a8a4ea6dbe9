"""Where a job finds its channels and leaves its results: SageMaker's file system, wherever it is rooted.

Sources: AWS, "Amazon SageMaker AI Training and Inference Toolkits" and "How Amazon SageMaker Processing Configures
Input and Output For Your Processing Container" (paths, configuration files), "How Amazon SageMaker AI Provides Training
Information" (hyperparameters, channels, hosts); the variables, and what newer training containers are told besides
(instance types and groups), are sagemaker-training's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any

from videolift.errors import VideoliftError

CONTAINER_ROOT = Path("/opt/ml")
TRAINING_OUTPUT = "output/data"
PROCESSING_OUTPUT = "processing/output"
PARTS = "parts"
INSTANCE_TYPE = "local"  # what SageMaker's own local mode calls this machine
INSTANCE_GROUP = "homogeneousCluster"  # what the service calls the only group of a job


class Kind(str, Enum):
    """The two kinds of SageMaker job, which lay out their folders differently."""

    training = "training"
    processing = "processing"


@dataclass(frozen=True)
class Workspace:
    """The folders of one host of one job. Nobody else joins such paths."""

    kind: Kind
    root: Path
    host: str
    hosts: tuple[str, ...]
    channels: Mapping[str, Path]
    stage: str = ""  # where several stages share a training job: the one whose output is meant

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def output(self) -> Path:
        """Folder of everything but the model: becomes output.tar.gz, or the output of a processing job.

        What several hosts write ends in one place in S3, and no two of them may write to a folder of the same name.
        """
        if self.kind is Kind.processing:
            return self.root / PROCESSING_OUTPUT / self.host
        own = f"-{self.host}" if self.stage and self.host != self.hosts[0] else ""
        return self.root / TRAINING_OUTPUT / f"{self.stage}{own}"

    @property
    def parts(self) -> Path:
        """Folder of the arrays that a preprocessing host has finished."""
        return self.output / PARTS

    @property
    def checkpoints(self) -> Path:
        return self.root / ("checkpoints" if self.kind is Kind.training else "processing/checkpoints")

    @property
    def scratch(self) -> Path:
        """Folder for what is of no use once the job has ended, on the same file system as the results."""
        return self.root / "scratch"

    @property
    def failure_file(self) -> Path:
        """File whose first 1,024 characters the service shows: FailureReason (training), ExitMessage (processing)."""
        return self.root / ("output/failure" if self.kind is Kind.training else "output/message")

    @property
    def events_file(self) -> Path:
        return self.output / f"events-{self.host}.jsonl"

    def channel(self, name: str) -> Path:
        """Return the folder of an input channel.

        Raises:
            VideoliftError: if the job has no such channel.
        """
        if name not in self.channels:
            raise VideoliftError(
                f"channel {name}: the job has none; it has {', '.join(sorted(self.channels)) or 'no channel'}"
            )
        return self.channels[name]

    def of_stage(self, stage: str) -> Workspace:
        """Return the workspace of one of the stages that share this training job."""
        return replace(self, stage=stage)

    def create_results(self) -> None:
        """Create the folders of model and output where nobody did; that of checkpoints is there only in some jobs."""
        for folder in (self.model, self.output) if self.kind is Kind.training else (self.output,):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def inputs(self) -> Path:
        """Folder that a job finds its channels in."""
        return self.root / _input_folder(self.kind)

    def mount_point(self, name: str) -> str:
        """Return where a container sees a channel."""
        return f"{CONTAINER_ROOT}/{_input_folder(self.kind)}/{name}"

    def lay_out(self, *, mounted: bool = False) -> None:
        """Create the folders, bring the channels and write the configuration files that a container would be given.

        A channel whose content is at its place already stays as it is.

        Args:
            mounted: the channels are going to be mounted, so there are empty folders for them instead of links.
        """
        for folder in (self.model, self.output, self.checkpoints, self.failure_file.parent):
            folder.mkdir(parents=True, exist_ok=True)
        for name, target in self.channels.items():
            if target != self.inputs / name:
                _bring(target, self.inputs / name, mounted=mounted)
        if self.kind is Kind.training:
            config, files = self.root / "input" / "config", self._training_files("eth0" if mounted else "lo")
        else:
            config, files = self.root / "config", self._processing_files()
        config.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (config / name).write_text(json.dumps(content), encoding="utf-8")

    def _training_files(self, network_interface: str) -> dict[str, Any]:
        hosts = list(self.hosts)
        group = {"instance_group_name": INSTANCE_GROUP, "instance_type": INSTANCE_TYPE, "hosts": hosts}
        channel = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
        return {
            "resourceconfig.json": {
                "current_host": self.host,
                "current_instance_type": INSTANCE_TYPE,
                "current_group_name": INSTANCE_GROUP,
                "hosts": hosts,
                "instance_groups": [group],
                "network_interface_name": network_interface,
            },
            "inputdataconfig.json": dict.fromkeys(self.channels, channel),
            "hyperparameters.json": {},  # texts only, and none is read back: the plan has them with their types
        }

    def _processing_files(self) -> dict[str, Any]:
        folder = CONTAINER_ROOT / _input_folder(self.kind)
        s3 = {"S3DataDistributionType": "FullyReplicated", "S3DataType": "S3Prefix", "S3InputMode": "File"}
        return {
            "resourceconfig.json": {"current_host": self.host, "hosts": list(self.hosts)},
            "processingjobconfig.json": {
                "ProcessingInputs": [
                    {"InputName": name, "S3Input": {"LocalPath": str(folder / name), **s3}} for name in self.channels
                ],
                "ProcessingOutputConfig": {
                    "Outputs": [
                        {"OutputName": "output", "S3Output": {"LocalPath": str(CONTAINER_ROOT / PROCESSING_OUTPUT)}}
                    ]
                },
                "ProcessingResources": {
                    "ClusterConfig": {"InstanceCount": len(self.hosts), "InstanceType": INSTANCE_TYPE}
                },
            },
        }

    def variables(self) -> dict[str, str]:
        """Return the SM_* variables that SageMaker's training toolkit sets; a processing job gets none."""
        if self.kind is Kind.processing:
            return {}
        folders = {name: str(self.inputs / name) for name in self.channels}
        return {
            "SM_MODEL_DIR": str(self.model),
            "SM_OUTPUT_DATA_DIR": str(self.output),
            "SM_OUTPUT_DIR": str(self.root / "output"),
            "SM_INPUT_DIR": str(self.root / "input"),
            "SM_INPUT_CONFIG_DIR": str(self.root / "input" / "config"),
            "SM_CURRENT_HOST": self.host,
            "SM_HOSTS": json.dumps(list(self.hosts)),
            "SM_NUM_CPUS": str(os.cpu_count() or 1),
            "SM_CHANNELS": json.dumps(sorted(folders)),
            **{f"SM_CHANNEL_{name.upper()}": path for name, path in folders.items()},
        }


def find_workspace(environ: Mapping[str, str], root: Path = CONTAINER_ROOT) -> Workspace:
    """Return the workspace of the job that this process is.

    SM_* variables are believed first, then ``input/config`` (training), then ``config`` (processing). All three need a
    resource configuration, which a notebook's own ``/opt/ml`` does not have.

    Raises:
        VideoliftError: if this is no job.
    """
    if "SM_CURRENT_HOST" in environ and "SM_HOSTS" in environ:
        prefix = "SM_CHANNEL_"
        channels = {k.removeprefix(prefix).lower(): Path(v) for k, v in environ.items() if k.startswith(prefix)}
        return Workspace(
            Kind.training, root, environ["SM_CURRENT_HOST"], tuple(json.loads(environ["SM_HOSTS"])), channels
        )
    for kind, folder, inputs in (
        (Kind.training, root / "input" / "config", "inputdataconfig.json"),
        (Kind.processing, root / "config", "processingjobconfig.json"),
    ):
        if (folder / "resourceconfig.json").is_file() and (folder / inputs).is_file():
            resources = json.loads((folder / "resourceconfig.json").read_text(encoding="utf-8"))
            declared = json.loads((folder / inputs).read_text(encoding="utf-8"))
            channels = (
                _training_channels(root, declared) if kind is Kind.training else _processing_channels(root, declared)
            )
            return Workspace(kind, root, resources["current_host"], tuple(resources["hosts"]), channels)
    raise VideoliftError(
        f"{root}: no job here (no SM_CURRENT_HOST in the environment, no input/config or config/resourceconfig.json); "
        "stages are started by run.py"
    )


def _bring(target: Path, place: Path, *, mounted: bool) -> None:
    """Link a channel's place to its target, or make the place a mount point; an earlier layout may be the other one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink():
        place.unlink()
    if mounted:
        place.mkdir(exist_ok=True)
        return
    if place.is_dir():
        place.rmdir()  # an empty mount point
    place.symlink_to(target.resolve(), target_is_directory=True)


def _input_folder(kind: Kind) -> str:
    return "input/data" if kind is Kind.training else "processing/input"


def _training_channels(root: Path, declared: Mapping[str, object]) -> dict[str, Path]:
    return {name: root / _input_folder(Kind.training) / name for name in declared}


def _processing_channels(root: Path, declared: Mapping[str, list[dict[str, dict[str, str]]]]) -> dict[str, Path]:
    channels = {}
    for entry in declared.get("ProcessingInputs") or []:
        source = entry.get("S3Input") or entry.get("DatasetDefinition") or {}
        local = PurePosixPath(source["LocalPath"])
        channels[str(entry["InputName"])] = root / local.relative_to(CONTAINER_ROOT)
    return channels
