"""Everything that would keep a run on SageMaker from succeeding, all at once, before anything is uploaded or paid for.

Only reads. What a check needs beyond what a run needs anyway is optional: where it is not allowed, there is a note
instead of a problem. IAM actions:

    sts:GetCallerIdentity                  (needs no permission)
    s3:ListBucket, s3:GetBucketLocation    of the bucket
    iam:GetRole                            of the role; optional where backend.role is an ARN
    ecr:DescribeImages                     of own images; optional
    servicequotas:ListServiceQuotas        optional
    sagemaker:DescribeNotebookInstance, DescribeUserProfile, DescribeDomain
                                           optional, in a notebook without backend.role

Sources: "HeadBucket" and "GetBucketLocation" in the S3 API reference, "DescribeImages" in that of ECR,
"Grant a user permissions to pass a role to an AWS service" in the IAM guide, "How to use SageMaker AI execution roles"
in that of SageMaker AI.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from launchers.remote import partition, quotas
from launchers.remote.aws import DENIED, Aws, AwsError, explained
from launchers.remote.identity import find_role
from launchers.remote.quotas import Machines
from launchers.remote.settings import setting_problems
from videolift.errors import ConfigError, VideoliftError

SERVICE = "sagemaker.amazonaws.com"  # as roles trust it, in every partition
NO_BUCKET = {"404", "NoSuchBucket"}


@dataclass
class Found:
    """What the checks found."""

    problems: list[str] = field(default_factory=list)  # any of them keeps the run from starting
    notes: list[str] = field(default_factory=list)  # worth knowing

    def add(self, other: Found) -> None:
        self.problems += [problem for problem in other.problems if problem not in self.problems]
        self.notes += [note for note in other.notes if note not in self.notes]


def find_problems(aws: Aws, server_problem: Callable[[], str | None] = lambda: None) -> Found:
    """Return all that is wrong with the way to AWS, each with its remedy; nothing is changed.

    Args:
        server_problem: returns the message for a tracking server that does not answer.
    """
    with ThreadPoolExecutor() as pool:
        offline = [
            pool.submit(lambda: Found(list(setting_problems(aws.settings)))),
            pool.submit(lambda: Found([problem] if (problem := server_problem()) else [])),
        ]
        entry, checks = _entry(aws)
        online = [pool.submit(_guarded, check) for check in checks]
        found = Found()
        for result in (*offline, *online):
            found.add(result.result())
    entry.add(found)  # what everything else hangs on comes first
    return entry


def find_job_problems(aws: Aws, machines: Sequence[Machines], images: Mapping[str, str]) -> Found:
    """Return all that keeps jobs from starting where the way is free: missing images, too small quotas.

    Args:
        images: by ``preprocess`` and ``train``.
    """
    ecr, limits = aws.client("ecr"), quotas.client(aws)
    region, account = aws.region, aws.account
    found = Found()
    checks: list[Callable[[], Found]] = [
        partial(_image, ecr, stage, uri, region, account) for stage, uri in images.items()
    ]
    if machines:
        checks.append(lambda: Found(*quotas.too_small(limits, machines, region)))
    for check in checks:
        found.add(_guarded(check))
    return found


def trusts_sagemaker(policy: Mapping[str, Any]) -> bool:
    """Tell whether a role's trust policy lets SageMaker assume it."""
    return any(_lets_sagemaker_in(statement) for statement in _listed(policy.get("Statement")))


def region_of_location(constraint: str | None) -> str:
    """Return the region that S3's answer to GetBucketLocation means."""
    return {None: "us-east-1", "": "us-east-1", "EU": "eu-west-1"}.get(constraint) or str(constraint)


# ---- the way in


def _entry(aws: Aws) -> tuple[Found, list[Callable[[], Found]]]:
    """Find out who and where we are, and return the checks that make sense then."""
    try:
        region = _region(aws)
        account = aws.account
    except VideoliftError as error:
        return Found([str(error), *_without_credentials(aws, error)]), []
    found = Found()
    role = None
    try:
        role = find_role(aws)
    except VideoliftError as error:
        found.problems.append(str(error))
    # Clients cannot be made in several threads at once.
    s3, iam = (aws.client(name) for name in ("s3", "iam"))
    bucket = aws.settings.bucket or partition.default_bucket(region, account)
    checks: list[Callable[[], Found]] = [
        lambda: _bucket(s3, bucket, region, account),
    ]
    if role is not None:
        checks.append(lambda: _role(iam, role, account))
    return found, checks


def _region(aws: Aws) -> str:
    wrong = partition.region_problem(aws.region)
    if wrong:
        raise ConfigError(f"backend.region: {wrong}")
    return aws.region


def _without_credentials(aws: Aws, error: VideoliftError) -> list[str]:
    """Return that there are no credentials either, where it was not for them that the way ended."""
    of_profile = str(error).startswith("backend.profile")  # without its profile nothing can be said of them
    if isinstance(error, AwsError) or of_profile or aws.has_credentials():
        return []
    return [
        "there are no AWS credentials; say aws configure or aws sso login, set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or name a backend.profile"
    ]


def _guarded(check: Callable[[], Found]) -> Found:
    try:
        return check()
    except VideoliftError as error:
        return Found([str(error)])


# ---- S3


def _bucket(s3: Any, bucket: str, region: str, account: str) -> Found:
    try:
        with explained("s3:ListBucket", bucket):
            answer = s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=account)
            where = answer.get("BucketRegion") or region_of_location(
                s3.get_bucket_location(Bucket=bucket, ExpectedBucketOwner=account).get("LocationConstraint")
            )
    except AwsError as error:
        if error.code in NO_BUCKET:
            return Found(
                [
                    f"backend.bucket: there is no bucket {bucket}; make it with: aws s3 mb s3://{bucket} --region "
                    f"{region}, or say backend.bucket=NAME"
                ]
            )
        if error.code in DENIED:  # S3 does not say which
            return Found(
                [
                    f"backend.bucket: {bucket} is not one of account {account}, or s3:ListBucket of it is not allowed; "
                    "say another backend.bucket, or see docs/iam/person.json for what a person must be allowed to do"
                ]
            )
        raise
    if where == region:
        return Found()
    return Found(
        [
            f"backend.bucket: {bucket} is in {where}, and the jobs would run in {region}: SageMaker wants both in one; "
            f"say backend.region={where}, or another backend.bucket"
        ]
    )


# ---- IAM


def _role(iam: Any, arn: str, account: str) -> Found:
    parts = partition.ROLE_ARN.fullmatch(arn)
    if parts is None:
        return Found([f"backend.role: {arn!r} is no role's ARN"])
    if parts[2] != account:
        return Found(
            [
                f"backend.role: {arn} belongs to account {parts[2]}, and you are in {account}; a job's role must be of "
                "its own account: say another backend.role or backend.profile"
            ]
        )
    try:
        with explained("iam:GetRole", arn):
            role = iam.get_role(RoleName=parts[4])["Role"]
    except AwsError as error:
        if error.code in DENIED:
            return Found(notes=[f"backend.role: whether SageMaker may use {arn} is not known, {error}"])
        if error.code != "NoSuchEntity":
            raise
        return Found([f"backend.role: there is no role {parts[4]} in account {account}; docs/remote.md makes one"])
    return _usable(arn, role)


def _usable(arn: str, role: Mapping[str, Any]) -> Found:
    if role["Arn"] != arn:  # found by its name; the path belongs to the ARN
        return Found([f"backend.role: there is no {arn}; did you mean {role['Arn']}?"])
    if trusts_sagemaker(role["AssumeRolePolicyDocument"]):
        return Found()
    return Found(
        [f"backend.role: {arn} does not let {SERVICE} assume it; add it to the role's trust policy, see docs/remote.md"]
    )


def _lets_sagemaker_in(statement: Mapping[str, Any]) -> bool:
    principal = statement.get("Principal", {})
    services = _listed(principal.get("Service")) if isinstance(principal, Mapping) else _listed(principal)
    actions = {str(action).lower() for action in _listed(statement.get("Action"))}
    return (
        statement.get("Effect") == "Allow"
        and bool({SERVICE, "*"} & set(services))
        and bool({"sts:assumerole", "sts:*", "*"} & actions)
    )


def _listed(value: Any) -> list[Any]:
    """Return what a policy holds as a list: it may write a single value without one."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


# ---- ECR


def _image(ecr: Any, stage: str, uri: str, region: str, account: str) -> Found:
    image = partition.ecr_image(uri)
    remedy = f"say python run.py backend=remote action=push, or backend.{stage}.image=URI"
    if image is None:
        return Found([f"backend.{stage}.image: {uri} is not in Amazon's registry, SageMaker cannot pull it; {remedy}"])
    if image.account != account:
        return Found()  # AWS's own, or one that has to be trusted: whose registry it is decides who may look
    if image.region != region:
        return Found(
            [f"backend.{stage}.image: {uri} is in {image.region}, and the jobs would run in {region}; {remedy}"]
        )
    try:
        with explained("ecr:DescribeImages", uri):
            ecr.describe_images(
                registryId=account,
                repositoryName=image.repository,
                imageIds=[{"imageDigest": image.digest} if image.digest else {"imageTag": image.tag}],
            )
    except AwsError as error:
        if error.code in ("RepositoryNotFoundException", "ImageNotFoundException"):
            return Found([f"backend.{stage}.image: there is no {uri}; {remedy}"])
        if error.code in DENIED:
            return Found(notes=[f"backend.{stage}.image: whether {uri} exists is not known, {error}"])
        raise
    return Found()
