"""What can be told wrong about the settings of a run on SageMaker without asking AWS.

Bounds are those of the API as botocore's service model has them, and where a guide of AWS is stricter, its own:
"General purpose bucket naming rules" (S3); "SageMaker AI Managed Warm Pools", by which they last an hour at most and
are not for spare capacity; StoppingCondition in the API reference, for 28 days of training and the time to wait.
Loads botocore's data (0.3 s once), and so is for this backend only.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping

from launchers.config import Backend, Mode, PreprocessJob, Resources, TrainJob, Where
from launchers.redaction import redacted
from launchers.remote import instances, partition
from videolift.workspace import Kind

DAY_S = 86400
MAX_RUN_S = {Kind.training: 28 * DAY_S, Kind.processing: 9 * DAY_S}
MAX_INSTANCES = {Kind.training: 1000, Kind.processing: 100}  # the API bounds processing only; quotas are far below
MAX_VOLUME_GB = 16384
MAX_KEEP_ALIVE_S = 3600
MAX_PREFIX_BYTES = 512  # a key has 1,024, and the paths of the videos follow
MAX_VARIABLES = 100
MAX_TAGS = 50
MAX_SUBNETS, MAX_SECURITY_GROUPS = 16, 5

VARIABLE = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
ROLE_NAME = re.compile(r"/?(?:[\w+=,.@-]+/)*[\w+=,.@-]{1,64}", re.ASCII)
KMS_KEY = re.compile(
    r"(?:arn:(?P<partition>aws[a-z-]*):kms:[a-z0-9-]+:\d{12}:)?"
    r"(?:(?:key/)?(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32})|alias/[a-zA-Z0-9:/_-]+)"
)
SUBNET, SECURITY_GROUP = re.compile(r"subnet-[0-9a-f]{8,27}"), re.compile(r"sg-[0-9a-f]{8,29}")
BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9-]|\.(?!\.)){1,61}[a-z0-9]")
IP_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")
RESERVED_BUCKETS = (("xn--", "sthree-", "amzn-s3-demo-"), ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"))


def setting_problems(backend: Backend) -> Iterator[str]:
    """Yield every mistake as ``key: what; what to do``; asks nobody."""
    region = partition.region_problem(backend.region) if backend.region is not None else None
    if region:
        yield f"backend.region: {region}"
    yield from _role_problems(backend)
    yield from _bucket_problems(backend)
    yield from _network_problems(backend)
    yield from _environment_problems(backend)
    yield from _tag_problems(backend.job_tags)
    if not 0 < backend.poll_s < math.inf:
        yield f"backend.poll_s: must be above 0 seconds, got {backend.poll_s}"
    for key in ("max_cost", "price_per_hour"):
        value = getattr(backend, key)
        if value is not None and not 0 < value < math.inf:
            yield f"backend.{key}: must be above 0 US dollars, got {value}"
    if backend.preprocess.where is Where.job:
        yield from _job_problems("backend.preprocess", Kind.processing, backend.preprocess)
    else:
        yield from _unused_problems(backend.preprocess)
    yield from _job_problems("backend.train", Kind.training, backend.train)
    yield from _job_problems("backend.predict", Kind.processing, backend.predict)
    yield from _training_problems(backend.train)


def _job_problems(key: str, kind: Kind, job: Resources) -> Iterator[str]:
    wrong = instances.type_problem(kind, job.instance_type)
    if wrong:
        yield f"{key}.instance_type: {wrong}"
    # At least one instance is asked for wherever stages run.
    if job.instance_count > MAX_INSTANCES[kind]:
        yield f"{key}.instance_count: must be at most {MAX_INSTANCES[kind]}, got {job.instance_count}"
    if not 1 <= job.volume_gb <= MAX_VOLUME_GB:
        yield f"{key}.volume_gb: must be from 1 to {MAX_VOLUME_GB} GB, got {job.volume_gb}"
    if not 1 <= job.max_run_s <= MAX_RUN_S[kind]:
        days = MAX_RUN_S[kind] // DAY_S
        yield f"{key}.max_run_s: must be from 1 to {MAX_RUN_S[kind]} seconds ({days} days), got {job.max_run_s}"


def _unused_problems(preprocess: PreprocessJob) -> Iterator[str]:
    """Name what would silently do nothing where arrays are made on this machine."""
    plain = PreprocessJob()
    for key in ("mode", "image", "base_image", "instance_type", "volume_gb", "max_run_s"):
        if getattr(preprocess, key) != getattr(plain, key):
            yield f"backend.preprocess.{key}: is for a job, and where=local makes the arrays here; leave it out"


def _training_problems(train: TrainJob) -> Iterator[str]:
    of_aws = train.in_image_of_aws
    if not of_aws and train.framework_version != TrainJob.framework_version:
        yield "backend.train.framework_version: is of AWS's image, which mode=byoc and image= do not use; leave it out"
    if of_aws and train.base_image != TrainJob.base_image:
        yield "backend.train.base_image: is of our image, which mode=byos does not use; say mode=byoc, or leave it out"
    if train.image is None and train.mode is Mode.byoc and instances.has_gpu(train.instance_type):
        yield from _without_cuda(train)
    if train.spot and not train.checkpoints:
        yield (
            "backend.train.spot: an interrupted training without checkpoints starts all over again; "
            "say backend.train.checkpoints=true"
        )
    if train.max_wait_s is not None:
        if not train.spot:
            yield "backend.train.max_wait_s: is for spare capacity; say backend.train.spot=true, or leave it out"
        elif train.max_wait_s < train.max_run_s:
            yield (
                f"backend.train.max_wait_s: includes the running time, so it must be at least "
                f"backend.train.max_run_s={train.max_run_s}, got {train.max_wait_s}"
            )
    if not 0 <= train.keep_alive_s <= MAX_KEEP_ALIVE_S:
        yield f"backend.train.keep_alive_s: must be from 0 to {MAX_KEEP_ALIVE_S} seconds, got {train.keep_alive_s}"
    elif train.keep_alive_s and train.spot:
        yield "backend.train.keep_alive_s: SageMaker keeps no spare capacity warm; leave it or backend.train.spot out"


def _without_cuda(train: TrainJob) -> Iterator[str]:
    if train.base_image == TrainJob.base_image:
        yield (
            f"backend.train.mode: our image on {train.base_image} brings no CUDA, so {train.instance_type} would train "
            "on its processor; say mode=byos for AWS's image, or a base_image that has TensorFlow for GPUs"
        )


def _role_problems(backend: Backend) -> Iterator[str]:
    role, key = backend.role, backend.kms_key
    arn = partition.ROLE_ARN.fullmatch(role) if role is not None else None
    if role is not None and arn is None and (role.startswith("arn:") or not ROLE_NAME.fullmatch(role)):
        yield f"backend.role: is no role's name or ARN: {role!r}; an ARN is like arn:aws:iam::123456789012:role/NAME"
    elif arn is not None:
        yield from _foreign("backend.role", arn[1], backend.region)
    if key is None:
        return
    kms = KMS_KEY.fullmatch(key)
    if kms is None:
        yield f"backend.kms_key: is no key's id, alias or ARN: {key!r}; say like alias/NAME"
    elif kms["partition"]:
        yield from _foreign("backend.kms_key", kms["partition"], backend.region)


def _foreign(key: str, name_of_partition: str, region: str | None) -> Iterator[str]:
    if region is not None and partition.partition_of(region).name != name_of_partition:
        here = partition.partition_of(region).name
        yield f"{key}: is one of {name_of_partition}, and {region} belongs to {here}; ARNs there begin with arn:{here}:"


def _bucket_problems(backend: Backend) -> Iterator[str]:
    bucket, prefix = backend.bucket, backend.prefix
    if bucket is not None:
        starts, ends = RESERVED_BUCKETS
        if bucket.startswith(("s3:", "arn:")) or "/" in bucket:
            yield f"backend.bucket: say the name alone, got {bucket!r}; what follows it belongs to backend.prefix"
        elif not BUCKET.fullmatch(bucket) or IP_ADDRESS.fullmatch(bucket):
            yield (
                f"backend.bucket: is no bucket's name: {bucket!r}; it has 3 to 63 lower-case letters, digits, dots and "
                "hyphens"
            )
        elif bucket.startswith(starts) or bucket.endswith(ends):
            yield f"backend.bucket: S3 reserves names like {bucket}; choose another"
    if not prefix or prefix != prefix.strip("/") or "" in prefix.split("/") or {".", ".."} & set(prefix.split("/")):
        yield f"backend.prefix: must be like team/project, with no / at either end, got {prefix!r}"
    elif len(prefix.encode()) > MAX_PREFIX_BYTES:
        yield f"backend.prefix: must be at most {MAX_PREFIX_BYTES} bytes long, got {len(prefix.encode())}"
    elif any(unicodedata.category(letter).startswith("C") for letter in prefix):
        yield f"backend.prefix: has characters that cannot be printed: {prefix!r}"


def _network_problems(backend: Backend) -> Iterator[str]:
    subnets, groups = backend.subnets, backend.security_groups
    if bool(subnets) != bool(groups):
        given, missing = ("subnets", "security_groups") if subnets else ("security_groups", "subnets")
        yield f"backend.{given}: a network is both; say backend.{missing}=[...] too"
    for key, ids, kind, shape, most in (
        ("subnets", subnets, "subnet", SUBNET, MAX_SUBNETS),
        ("security_groups", groups, "sg", SECURITY_GROUP, MAX_SECURITY_GROUPS),
    ):
        if len(ids) > most:
            yield f"backend.{key}: must be at most {most}, got {len(ids)}"
        for one in ids:
            if not shape.fullmatch(one):
                yield f"backend.{key}: {one!r} is no id of one; say like {kind}-0a1b2c3d"


def _environment_problems(backend: Backend) -> Iterator[str]:
    # The same variables go to both jobs: those of processing are held shorter.
    longest = 256 if backend.preprocess.where is Where.job else 512
    if len(backend.environment) > MAX_VARIABLES:
        yield f"backend.environment: must be at most {MAX_VARIABLES} variables, got {len(backend.environment)}"
    for name, value in backend.environment.items():
        if not VARIABLE.fullmatch(name):
            yield f"backend.environment: {name!r} is no variable's name; it has letters, digits and _"
        elif name in CREDENTIALS:
            yield f"backend.environment: {name} would show in the console; jobs get their permissions from backend.role"
        elif redacted(value, name) != value:
            yield (
                f"backend.environment: {name} looks like a secret, and would show in the console. Only a script of "
                "your own is given secrets (script.secrets)"
            )
        elif len(name) > longest or len(value) > longest:
            yield f"backend.environment: {name[:40]} is too long; a name and a value have at most {longest} characters"


def _tag_problems(tags: Mapping[str, str]) -> Iterator[str]:
    if len(tags) > MAX_TAGS:
        yield f"backend.job_tags: must be at most {MAX_TAGS}, got {len(tags)}"
    for key, value in tags.items():
        if key.lower().startswith("aws:"):
            yield f"backend.job_tags: {key}: names with aws: are Amazon's own; choose another"
        elif not 1 <= len(key) <= 128 or len(value) > 256:
            yield f"backend.job_tags: {key[:40]!r} is too long; a name has 1 to 128 characters, a value at most 256"
        elif not all(_fits_a_tag(letter) for letter in key + value):
            yield f"backend.job_tags: {key}: a tag has letters, digits, spaces and _.:/=+-@ only, got {value!r}"


def _fits_a_tag(letter: str) -> bool:
    return letter in "_.:/=+-@" or unicodedata.category(letter)[0] in "LNZ"
