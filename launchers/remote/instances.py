"""What an instance type is: whether SageMaker has it, its GPUs, and the arithmetic that it is fast in.

Sources. Which types there are: the service model that botocore ships (TrainingInstanceType, ProcessingInstanceType).
GPUs and how many: "Run GPU jobs" (AWS Batch guide) and "AcceleratorCapabilities" (AWS Deadline Cloud);
instance_gpu_info.json of the SageMaker SDK has fewer types and agrees, which a test compares. Their compute capability:
"CUDA GPU Compute Capability" (NVIDIA). bfloat16 in processors: "Accelerate CPU-based AI inference workloads using Intel
AMX on Amazon EC2" (AWS Compute Blog) and the announcement of M7a instances (What's New at AWS, August 2023).
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import lru_cache

from launchers.machine import BFLOAT16_GPU
from videolift.settings import Precision
from videolift.workspace import Kind

SHAPE = re.compile(r"ml\.[a-z][a-z0-9-]*\.[a-z0-9]+")
SIZE = re.compile(r"medium|\d*x?large")
ENUMS = {Kind.training: "TrainingInstanceType", Kind.processing: "ProcessingInstanceType"}
FLOAT16_GPU = 7.0  # CUDA compute capability from which on there are tensor cores


@dataclass(frozen=True)
class Gpus:
    """The GPUs of one instance."""

    count: int
    name: str
    capability: float  # CUDA compute capability


# family -> GPU, its CUDA compute capability
GPU_OF = {
    "p2": ("K80", 3.7),
    "p3": ("V100", 7.0),
    "p3dn": ("V100", 7.0),
    "p4d": ("A100", 8.0),
    "p4de": ("A100", 8.0),
    "p5": ("H100", 9.0),
    "p5e": ("H200", 9.0),
    "p5en": ("H200", 9.0),
    "p6-b200": ("B200", 10.0),
    "p6-b300": ("B300", 10.3),
    "p6e-gb200": ("GB200", 10.0),
    "g4dn": ("T4", 7.5),
    "g5": ("A10G", 8.6),
    "g6": ("L4", 8.9),
    "g6e": ("L40S", 8.9),
    "g7": ("RTX PRO 4500", 12.0),
    "g7e": ("RTX PRO 6000", 12.0),
}
# family -> size -> number of GPUs, where it is not that of the family
GPUS_BY_SIZE = {
    "p2": {"xlarge": 1, "8xlarge": 8, "16xlarge": 16},
    "p3": {"2xlarge": 1, "8xlarge": 4, "16xlarge": 8},
    "p5": {"4xlarge": 1},
    "p6e-gb200": {"36xlarge": 4},
    "g7": {"12xlarge": 2, "24xlarge": 4, "48xlarge": 8},  # as g7e: of 12xlarge that is certain, of 8xlarge it is not
    "g7e": {"12xlarge": 2, "24xlarge": 4, "48xlarge": 8},
}
GPUS_OF_G = {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}  # of g4dn to g6e; all other sizes have one
GPUS_OF_P = 8

# Intel from Sapphire Rapids on (AMX), AMD from Zen 4 on (AVX-512 BF16). Elsewhere bfloat16 is emulated.
BFLOAT16_CPUS = {
    *("m7i", "m7i-flex", "c7i", "c7i-flex", "r7i"),
    *("m8i", "m8i-flex", "c8i", "c8i-flex", "r8i", "r8i-flex"),
    *("m7a", "c7a", "r7a"),
}

# Families whose instances bring their own disks; SageMaker mounts those instead of a volume, and takes no KMS key for
# them: "VolumeKmsKeyId" of ResourceConfig and ProcessingClusterConfig, "SSD instance store volumes" of EC2.
LOCAL_DISKS = {
    "m5d",
    "c5d",
    "r5d",
    "g4dn",
    "g5",
    "g6",
    "g6e",
    "g7",
    "g7e",
    "p3dn",
    "p4d",
    "p4de",
    "p5",
    "p5e",
    "p5en",
} | {
    *("p6-b200", "p6-b300", "p6e-gb200", "trn1", "trn1n", "trn2"),
}


@lru_cache
def known(kind: Kind) -> tuple[str, ...]:
    """Return the instance types that the installed botocore knows for a kind of job."""
    from botocore.loaders import create_loader

    model = create_loader().load_service_model("sagemaker", "service-2")
    return tuple(model["shapes"][ENUMS[kind]]["enum"])


def type_problem(kind: Kind, instance_type: str) -> str | None:
    """Return what is wrong with an instance type for a kind of job, None where nothing is."""
    if instance_type in known(kind):
        return None
    other = Kind.processing if kind is Kind.training else Kind.training
    if instance_type in known(other):
        what = f"{instance_type} is for {other.value} jobs, {kind.value} jobs cannot have it"
    elif SHAPE.fullmatch(instance_type):
        what = f"there is no {instance_type} for {kind.value} jobs, or it is newer than the installed boto3"
    else:
        what = f"{instance_type!r} is no instance type of SageMaker"
    sizes = [name.rpartition(".")[2] for name in known(kind) if family_of(name) == family_of(instance_type)]
    if sizes and SIZE.fullmatch(instance_type.rpartition(".")[2]):  # the nearest one may cost ten times as much
        return f"{what}; ml.{family_of(instance_type)} comes as {', '.join(sizes)}"
    near = nearest(kind, instance_type)
    return f"{what}; did you mean {near}?" if near else f"{what}; say one like ml.m5.xlarge"


def nearest(kind: Kind, instance_type: str) -> str | None:
    """Return the known instance type that is spelled most like this one."""
    asked = instance_type.strip().lower().replace("_", ".")
    if not asked.startswith("ml."):
        asked = f"ml.{asked}"
    same_family = [name for name in known(kind) if family_of(name) == family_of(asked)]
    found = difflib.get_close_matches(asked, same_family or known(kind), n=1)
    return found[0] if found else None


def family_of(instance_type: str) -> str:
    """Return ``m5`` of ``ml.m5.xlarge``; "" where it has not that shape."""
    parts = instance_type.split(".")
    return parts[1] if len(parts) == 3 and parts[0] == "ml" else ""


def gpus_of(instance_type: str) -> Gpus | None:
    """Return the GPUs of an instance, None where it has none or is not known."""
    family, size = family_of(instance_type), instance_type.rpartition(".")[2]
    if family not in GPU_OF:
        return None
    usual = GPUS_OF_P if family.startswith("p") else GPUS_OF_G.get(size, 1)
    by_size = GPUS_BY_SIZE.get(family, {})
    count = by_size.get(size, 1 if family in ("g7", "g7e") else usual)
    return Gpus(count, *GPU_OF[family])


def has_gpu(instance_type: str) -> bool:
    return gpus_of(instance_type) is not None


def has_local_disks(instance_type: str) -> bool:
    """Tell whether the instance brings its own disks, so that a volume's size and KMS key are not asked for."""
    return family_of(instance_type) in LOCAL_DISKS


def precision_of(instance_type: str) -> Precision:
    """Return what ``model.precision=auto`` means on an instance: see :func:`launchers.machine.best_precision`."""
    gpus = gpus_of(instance_type)
    if gpus is None:
        return Precision.mixed_bfloat16 if family_of(instance_type) in BFLOAT16_CPUS else Precision.float32
    if gpus.capability >= BFLOAT16_GPU:
        return Precision.mixed_bfloat16
    return Precision.mixed_float16 if gpus.capability >= FLOAT16_GPU else Precision.float32
