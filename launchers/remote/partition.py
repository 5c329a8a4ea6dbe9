"""What a region's name decides: its partition, and with it host names, ARNs and links to the console.

Nothing here talks to AWS. Sources: "Amazon Resource Names (ARNs)" and "AWS Management Console endpoints" in the AWS
General Reference, "Endpoints and ARNs for Amazon Web Services in China", and the endpoint data that botocore ships,
which tests compare this with. The console's fragments are those of sagemaker.train.common_utils.metrics_visualizer.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from videolift.workspace import Kind

LOG_GROUPS = {Kind.training: "/aws/sagemaker/TrainingJobs", Kind.processing: "/aws/sagemaker/ProcessingJobs"}
REGION = re.compile(r"[a-z]{2,4}(-[a-z]+)+-\d{1,2}")
ROLE_ARN = re.compile(r"arn:(aws[a-z-]*):iam::(\d{12}):role/((?:[\w+=,.@-]+/)*)([\w+=,.@-]+)", re.ASCII)


@dataclass(frozen=True)
class Partition:
    """A group of regions that share accounts, ARNs and a console."""

    name: str  # as in ARNs
    dns_suffix: str
    console: str | None  # address, with {region}; None where there is no public one


STANDARD = Partition("aws", "amazonaws.com", "https://{region}.console.aws.amazon.com")
BY_PREFIX = {
    "cn-": Partition("aws-cn", "amazonaws.com.cn", "https://console.amazonaws.cn"),
    "us-gov-": Partition("aws-us-gov", "amazonaws.com", "https://console.amazonaws-us-gov.com"),
    "us-iso-": Partition("aws-iso", "c2s.ic.gov", None),
    "us-isob-": Partition("aws-iso-b", "sc2s.sgov.gov", None),
    "eu-isoe-": Partition("aws-iso-e", "cloud.adc-e.uk", None),
    "us-isof-": Partition("aws-iso-f", "csp.hci.ic.gov", None),
    "eusc-": Partition("aws-eusc", "amazonaws.eu", None),
}

# The last two are those of hosts that speak IPv6 too.
SUFFIXES = {STANDARD.dns_suffix, *(p.dns_suffix for p in BY_PREFIX.values()), "on.aws", "on.amazonwebservices.com.cn"}
ECR_IMAGE = re.compile(
    r"(?P<account>\d{12})\.dkr[.-]ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\."
    rf"(?:{'|'.join(re.escape(suffix) for suffix in sorted(SUFFIXES))})"
    r"/(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)


def partition_of(region: str) -> Partition:
    return next((found for prefix, found in BY_PREFIX.items() if region.startswith(prefix)), STANDARD)


@lru_cache
def known_regions() -> tuple[str, ...]:
    """Return the regions that the installed botocore knows, in every partition."""
    from botocore.loaders import create_loader

    data = create_loader().load_data("endpoints")
    return tuple(sorted(region for partition in data["partitions"] for region in partition["regions"]))


def region_problem(region: str) -> str | None:
    """Return what is wrong with a region's name, None where nothing is."""
    if region in known_regions():
        return None
    if not REGION.fullmatch(region):
        what = f"{region!r} is no region's name"
    else:
        what = f"there is no region {region}, or it is newer than the installed boto3"
    near = difflib.get_close_matches(region.strip().lower().replace("_", "-"), known_regions(), n=1)
    return f"{what}; did you mean {near[0]}?" if near else f"{what}; say one like us-east-1 or cn-northwest-1"


# ---- ARNs and names


def role_arn(region: str, account: str, role: str) -> str:
    """Return the ARN of a role.

    Args:
        role: its name, with its path where it has one: ``service-role/Name``.
    """
    return f"arn:{partition_of(region).name}:iam::{account}:role/{role.lstrip('/')}"


def default_bucket(region: str, account: str) -> str:
    """Return the bucket that the SageMaker SDK uses too when none is named."""
    return f"sagemaker-{region}-{account}"


def registry(region: str, account: str) -> str:
    """Return the host of an account's container registry."""
    return f"{account}.dkr.ecr.{region}.{partition_of(region).dns_suffix}"


@dataclass(frozen=True)
class EcrImage:
    """An image in Amazon's registry, taken apart."""

    account: str
    region: str
    repository: str
    tag: str | None
    digest: str | None


def ecr_image(uri: str) -> EcrImage | None:
    """Take the URI of an image apart; None where it is in no registry of Amazon's."""
    found = ECR_IMAGE.fullmatch(uri)
    if found is None:
        return None
    tag, digest = found["tag"], found["digest"]
    return EcrImage(found["account"], found["region"], found["repository"], tag if tag or digest else "latest", digest)


# ---- links to the console; None where a partition has no public one


def job_link(region: str, kind: Kind, job: str) -> str | None:
    fragment = "jobs" if kind is Kind.training else "processing-jobs"
    return _link(region, f"sagemaker/home?region={region}#/{fragment}/{quote(job, safe='')}")


def logs_link(region: str, kind: Kind, job: str) -> str | None:
    """Return the link to the CloudWatch log streams of a job, one a host."""
    streams = f"{_in_fragment(LOG_GROUPS[kind])}$3FlogStreamNameFilter$3D{_in_fragment(job)}"
    return _link(region, f"cloudwatch/home?region={region}#logsV2:log-groups/log-group/{streams}")


def s3_link(region: str, bucket: str, prefix: str = "") -> str | None:
    """Return the link to what lies below a prefix of a bucket."""
    below = f"&prefix={quote(prefix.strip('/') + '/', safe='')}" if prefix.strip("/") else ""
    return _link(region, f"s3/buckets/{quote(bucket, safe='')}?region={region}{below}")


def quota_link(region: str, code: str | None = None) -> str | None:
    """Return the link to where more of a SageMaker quota can be asked for.

    Args:
        code: the quota's; None: the list of all.
    """
    one = f"/{quote(code, safe='')}" if code else ""
    return _link(region, f"servicequotas/home/services/sagemaker/quotas{one}?region={region}")


def _in_fragment(text: str) -> str:
    """Encode as the fragments of CloudWatch's console are: twice, and then with $ for %."""
    return quote(quote(text, safe=""), safe="").replace("%", "$")


def _link(region: str, path: str) -> str | None:
    console = partition_of(region).console
    return f"{console.format(region=region)}/{path}" if console else None
