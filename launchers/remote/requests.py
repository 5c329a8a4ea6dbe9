"""What is asked of SageMaker for a job, as plain values: nothing here reaches AWS.

Sources: CreateProcessingJob and CreateTrainingJob in the SageMaker API reference; "How Amazon SageMaker Processing
Configures Input and Output For Your Processing Container"; for metric definitions "Define Training Metrics".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launchers.config import Backend, Resources
from launchers.redaction import redacted_text
from launchers.remote.instances import has_local_disks
from launchers.remote.layout import UNKNOWN_ACCOUNT, UNRESOLVED, Site
from launchers.remote.s3 import Location
from launchers.remote.trainer import Training
from videolift.plan import Plan, to_plain
from videolift.script_arguments import options, words_of
from videolift.workspace import CONTAINER_ROOT, PROCESSING_OUTPUT

INPUT = f"{CONTAINER_ROOT}/processing/input"
CODE_CHANNEL = "code"
SCRIPT = "stage.py"
MAX_HYPERPARAMETERS = 100
MAX_HYPERPARAMETER_KEY, MAX_HYPERPARAMETER = 256, 2500  # characters
# Quotes, as they are and as JSON has them, end a text that the SDK's start script exports; the service takes no lines.
NOT_IN_HYPERPARAMETERS = re.compile(r"'|\\u0027|[\n\r\x85\u2028\u2029]")
NUMBER = r"([-+0-9.eE]+)"
CURVES = ("loss", "accuracy", "val_loss", "val_accuracy", "test_accuracy", "samples_per_second")
MAX_DEFINITIONS = 40  # AlgorithmSpecification in the API reference
MAX_WAIT_MARGIN_S = 3600  # that a spot job may wait for capacity, where nothing is said
OWN_TAG = "videolift"


@dataclass(frozen=True)
class Input:
    """An input of a processing job."""

    location: Location  # of a prefix, or of the manifest file that lists its objects
    listed: bool = False
    sharded: bool = False  # dealt out to the instances by key


def processing_request(
    name: str,
    site: Site,
    settings: Backend,
    job: Resources,
    image: str,
    inputs: Mapping[str, Input],
    output: Location,
    tags: Mapping[str, str],
    instances: int,
) -> dict[str, Any]:
    """Return the request for a processing job.

    Args:
        inputs: by name; one called ``code`` makes the job run our script from there.
    """
    cluster: dict[str, Any] = {
        "InstanceCount": instances,
        "InstanceType": job.instance_type,
        "VolumeSizeInGB": job.volume_gb,
    }
    if settings.kms_key and not has_local_disks(job.instance_type):
        cluster["VolumeKmsKeyId"] = settings.kms_key
    entry = {"ContainerEntrypoint": ["python3", f"{INPUT}/{CODE_CHANNEL}/{SCRIPT}"]} if CODE_CHANNEL in inputs else {}
    target = {"S3Uri": output.uri, "LocalPath": f"{CONTAINER_ROOT}/{PROCESSING_OUTPUT}", "S3UploadMode": "EndOfJob"}
    return {
        "ProcessingJobName": name,
        "ProcessingInputs": [_processing_input(name, given) for name, given in inputs.items()],
        "ProcessingOutputConfig": {
            "Outputs": [{"OutputName": "output", "S3Output": target}],
            **({"KmsKeyId": settings.kms_key} if settings.kms_key else {}),
        },
        "ProcessingResources": {"ClusterConfig": cluster},
        "StoppingCondition": {"MaxRuntimeInSeconds": job.max_run_s},
        "AppSpecification": {"ImageUri": image, **entry},
        "Environment": environment(settings),
        "NetworkConfig": {
            "EnableInterContainerTrafficEncryption": settings.encrypt_traffic,
            "EnableNetworkIsolation": settings.network_isolation,
            **({"VpcConfig": vpc} if (vpc := _vpc(settings)) else {}),
        },
        "RoleArn": site.role,
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }


def _processing_input(name: str, given: Input) -> dict[str, Any]:
    return {
        "InputName": name,
        "S3Input": {
            "S3Uri": given.location.uri if given.listed else f"{given.location.uri.rstrip('/')}/",
            "LocalPath": f"{INPUT}/{name}",
            "S3DataType": "ManifestFile" if given.listed else "S3Prefix",
            "S3InputMode": "File",
            "S3DataDistributionType": "ShardedByS3Key" if given.sharded else "FullyReplicated",
        },
    }


def listing(location: Location, names: Sequence[str]) -> bytes:
    """Return a manifest file: the objects of a prefix that are meant, where others lie there too."""
    return json.dumps([{"prefix": f"{location.uri.rstrip('/')}/"}, *names], ensure_ascii=False).encode()


def training(
    name: str,
    site: Site,
    settings: Backend,
    image: str,
    channels: Mapping[str, Location],
    source: Location | None,
    checkpoints: Location | None,
    plan: Plan,
    tags: Mapping[str, str],
    instances: int,
) -> Training:
    """Return the training job that runs the stages from train on.

    Args:
        source: of our script, where the image does not bring it.
        plan: of the first stage.
    """
    job = settings.train
    ships = source is not None
    return Training(
        name=name,
        image=image,
        role=site.role,
        bucket=site.bucket,
        region=site.region,
        # `exec`, so that the job is told when it is to stop: a shell would not pass SIGTERM on.
        command=f"exec python3 {SCRIPT}" if ships else None,
        source=f"{source.uri}/" if source else None,
        channels={channel: f"{place.uri.rstrip('/')}/" for channel, place in channels.items()},
        output=site.jobs.uri,
        drivers=(site.root / "source").uri,
        instance_type=job.instance_type,
        instance_count=instances,
        volume_gb=job.volume_gb,
        keep_alive_s=job.keep_alive_s,
        spot=job.spot,
        max_run_s=job.max_run_s,
        max_wait_s=job.max_wait_s or job.max_run_s + MAX_WAIT_MARGIN_S,
        checkpoints=f"{checkpoints.uri}/" if checkpoints else None,
        kms_key=settings.kms_key,
        volume_kms_key=settings.kms_key if not has_local_disks(job.instance_type) else None,
        subnets=settings.subnets,
        security_groups=settings.security_groups,
        isolated=settings.network_isolation,
        encrypt_traffic=settings.encrypt_traffic,
        environment=environment(settings),
        tags=tags,
        hyperparameters=hyperparameters(plan),
        metrics=metric_definitions((*CURVES, *plan.script.metrics)),
    )


def hyperparameters(plan: Plan) -> dict[str, str]:
    """Return the settings as the console shows them: flat, texts, none of them read back by the job.

    The SDK's start script exports each as a shell variable: a quote in a value, or a dot in a key, would end the job.
    """
    if plan.script.path is not None:
        script = {"path": plan.script.path, **options(words_of(plan.script.args))}
        return _cut(dict(_flat({"script": script, "seed": plan.seed})))
    model = to_plain(plan.model)
    own = model.pop("args")  # last: of too many, these are left out
    groups = {"model": model, "preprocess": to_plain(plan.preprocess), "seed": plan.seed, "model_args": own}
    return _cut(dict(_flat(groups)))


def _cut(flat: dict[str, str]) -> dict[str, str]:
    return {key: value[:MAX_HYPERPARAMETER] for key, value in list(flat.items())[:MAX_HYPERPARAMETERS]}


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}_{key}" if prefix else str(key))
    elif value is not None and value != []:
        key = re.sub(r"[^A-Za-z0-9_]", "_", prefix)[:MAX_HYPERPARAMETER_KEY]
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield key, NOT_IN_HYPERPARAMETERS.sub(" ", text)


def metric_definitions(names: Sequence[str] = CURVES) -> dict[str, str]:
    """Return what the service finds metrics by in the lines of a job: regular expressions over our events."""
    return {
        name: f'"type": "metric", .*"key": "{name}", "value": {NUMBER}'
        for name in dict.fromkeys(names[:MAX_DEFINITIONS])
    }


def environment(settings: Backend) -> dict[str, str]:
    return {"PYTHONUNBUFFERED": "1", **settings.environment}


def tags(settings: Backend, stages: Sequence[str]) -> dict[str, str]:
    """Return a job's tags: the user's for cost allocation, and how to find all that is ours."""
    return {OWN_TAG: "-".join(stages)} | settings.job_tags


def _vpc(settings: Backend) -> dict[str, list[str]]:
    if not settings.subnets:
        return {}
    return {"Subnets": list(settings.subnets), "SecurityGroupIds": list(settings.security_groups)}


def shown(text: str) -> str:
    """Return a text of a plan with what is not known marked."""
    text = re.sub(rf"arn:[\w-]+:iam::{UNKNOWN_ACCOUNT}:role/unresolved", UNRESOLVED, text)
    return redacted_text(text.replace(UNKNOWN_ACCOUNT, UNRESOLVED))
