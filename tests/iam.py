"""What calls of AWS need of an IAM policy, and whether a policy grants it: for docs/iam and what an emulator recorded.

Sources, by the titles of AWS's pages: "Actions, resources, and condition keys for ..." of each service in the Service
Authorization Reference (which actions there are, and on what resources), "Required permissions for Amazon S3 API
operations", "Multipart upload API and permissions", "How to use SageMaker AI execution roles", "IAM permissions for
pushing an image to an Amazon ECR private repository".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "iam"
PERSON, JOB_ROLE, TRUST = "person", "job-role", "job-role-trust"
ACCOUNT, REGION, BUCKET, KEY = "123456789012", "us-east-1", "bucket", "1234abcd-12ab-34cd-56ef-1234567890ab"

# Operations that the launcher calls, by the name that requests are signed for, and the actions that they need.
ACTIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("sts", "GetCallerIdentity"): (),  # needs no permission, says its documentation
    ("s3", "HeadBucket"): ("s3:ListBucket",),
    ("s3", "GetBucketLocation"): ("s3:GetBucketLocation",),
    ("s3", "ListObjectsV2"): ("s3:ListBucket",),
    ("s3", "HeadObject"): ("s3:GetObject",),
    ("s3", "GetObject"): ("s3:GetObject",),
    ("s3", "PutObject"): ("s3:PutObject",),
    ("s3", "CreateMultipartUpload"): ("s3:PutObject",),
    ("s3", "UploadPart"): ("s3:PutObject",),
    ("s3", "CompleteMultipartUpload"): ("s3:PutObject",),
    ("s3", "AbortMultipartUpload"): ("s3:AbortMultipartUpload",),
    ("s3", "ListParts"): ("s3:ListMultipartUploadParts",),
    ("s3", "ListMultipartUploads"): ("s3:ListBucketMultipartUploads",),
    ("sagemaker", "CreateProcessingJob"): ("sagemaker:CreateProcessingJob",),
    ("sagemaker", "DescribeProcessingJob"): ("sagemaker:DescribeProcessingJob",),
    ("sagemaker", "StopProcessingJob"): ("sagemaker:StopProcessingJob",),
    ("sagemaker", "CreateTrainingJob"): ("sagemaker:CreateTrainingJob",),
    ("sagemaker", "DescribeTrainingJob"): ("sagemaker:DescribeTrainingJob",),
    ("sagemaker", "StopTrainingJob"): ("sagemaker:StopTrainingJob",),
    ("sagemaker", "ListProcessingJobs"): ("sagemaker:ListProcessingJobs",),
    ("sagemaker", "ListTrainingJobs"): ("sagemaker:ListTrainingJobs",),
    ("sagemaker", "DescribeNotebookInstance"): ("sagemaker:DescribeNotebookInstance",),
    ("sagemaker", "DescribeDomain"): ("sagemaker:DescribeDomain",),
    ("sagemaker", "DescribeUserProfile"): ("sagemaker:DescribeUserProfile",),
    ("logs", "DescribeLogStreams"): ("logs:DescribeLogStreams",),
    ("logs", "FilterLogEvents"): ("logs:FilterLogEvents",),
    ("iam", "GetRole"): ("iam:GetRole",),
    ("servicequotas", "ListServiceQuotas"): ("servicequotas:ListServiceQuotas",),
    ("ecr", "GetAuthorizationToken"): ("ecr:GetAuthorizationToken",),
    ("ecr", "DescribeRepositories"): ("ecr:DescribeRepositories",),
    ("ecr", "CreateRepository"): ("ecr:CreateRepository",),
    ("ecr", "DescribeImages"): ("ecr:DescribeImages",),
}
# What the service does for a job, with the job's role, of which an emulator shows some.
ROLE_ACTIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("s3", "ListObjects"): ("s3:ListBucket",),
    ("logs", "CreateLogGroup"): ("logs:CreateLogGroup",),
    ("logs", "CreateLogStream"): ("logs:CreateLogStream",),
    ("logs", "PutLogEvents"): ("logs:PutLogEvents",),
    ("monitoring", "PutMetricData"): ("cloudwatch:PutMetricData",),
    ("secretsmanager", "GetSecretValue"): ("secretsmanager:GetSecretValue",),
}
# Asked for, and done without where it is refused: a notebook's role says itself what it is.
TOLERATED = {"sagemaker:DescribeNotebookInstance", "sagemaker:DescribeDomain", "sagemaker:DescribeUserProfile"}

_PUSHING = "docker push; IAM permissions for pushing an image to an Amazon ECR private repository"
_JOB = "How to use SageMaker AI execution roles, CreateProcessingJob and CreateTrainingJob API"
_VPC = f"{_JOB}: where a private VPC is specified"
# Granted though no request of the launcher is of that name, and why.
IMPLIED: dict[str, str] = {
    "iam:PassRole": "dependent action of sagemaker:CreateTrainingJob and CreateProcessingJob",
    "sagemaker:AddTags": "dependent action of the same where a job has tags",
    "ecr:TagResource": "dependent action of ecr:CreateRepository where it has tags",
    "ecr:BatchCheckLayerAvailability": _PUSHING,
    "ecr:BatchGetImage": _PUSHING,
    "ecr:InitiateLayerUpload": _PUSHING,
    "ecr:UploadLayerPart": _PUSHING,
    "ecr:CompleteLayerUpload": _PUSHING,
    "ecr:PutImage": _PUSHING,
    "ecr:GetDownloadUrlForLayer": "docker pull of a base image",
    "kms:GenerateDataKey": "S3 for an upload that is encrypted with a key; Multipart upload API and permissions",
    "kms:Decrypt": "S3 for a download, and for the parts of an upload; the same",
}
# Granted to a job's role, and why.
ROLE: dict[str, str] = {
    "s3:ListBucket": _JOB,
    "s3:GetObject": _JOB,
    "s3:PutObject": _JOB,
    "logs:CreateLogGroup": _JOB,
    "logs:CreateLogStream": _JOB,
    "logs:DescribeLogStreams": _JOB,
    "logs:PutLogEvents": _JOB,
    "cloudwatch:PutMetricData": _JOB,
    "secretsmanager:GetSecretValue": "script.secrets; GetSecretValue, AWS Secrets Manager API reference",
    "ecr:GetAuthorizationToken": _JOB,
    "ecr:BatchCheckLayerAvailability": _JOB,
    "ecr:BatchGetImage": _JOB,
    "ecr:GetDownloadUrlForLayer": _JOB,
    "kms:Decrypt": f"{_JOB}: input that is encrypted with a key",
    "kms:Encrypt": f"{_JOB}: a key in the output configuration",
    "kms:CreateGrant": f"{_JOB}: a key of volumes",
    "kms:GenerateDataKey": "S3 for an upload that is encrypted with a key; Multipart upload API and permissions",
    "ec2:CreateNetworkInterface": _VPC,
    "ec2:CreateNetworkInterfacePermission": _VPC,
    "ec2:DeleteNetworkInterface": _VPC,
    "ec2:DeleteNetworkInterfacePermission": _VPC,
    "ec2:DescribeDhcpOptions": _VPC,
    "ec2:DescribeNetworkInterfaces": _VPC,
    "ec2:DescribeSecurityGroups": _VPC,
    "ec2:DescribeSubnets": _VPC,
    "ec2:DescribeVpcs": _VPC,
}

_BUCKET = (r"s3:::[\w.-]+",)
_OBJECT = (r"s3:::[\w.-]+/.+",)
_JOBS = (r"sagemaker:[\w-]+:\w+:(training|processing)-job/.+",)
_PROCESSING, _TRAINING = ((rf"sagemaker:[\w-]+:\w+:{kind}-job/.+",) for kind in ("processing", "training"))
# With :* at the end except where tags are meant: LogGroup, "arn", in the CloudWatch Logs API reference.
_LOG_GROUP = (r"logs:[\w-]+:\w+:log-group:[\w./-]+:\*",)
_LOG_STREAM = (r"logs:[\w-]+:\w+:log-group:[\w./-]+:(\*|log-stream:.+)",)
_ROLE = (r"iam::\w+:role/.+",)
_REPOSITORY = (r"ecr:[\w-]+:\w+:repository/.+",)
_KEY = (r"kms:[\w-]+:\w+:key/.+",)
_INTERFACE = (r"ec2:[\w-]+:\w+:network-interface/.+",)
# What an action is granted on: forms of ARNs, without their partition, of which a statement must have every one. Empty:
# the reference has no type of resource for it, so that it takes nothing but *.
RESOURCES: dict[str, tuple[str, ...]] = {
    "s3:ListBucket": _BUCKET,
    "s3:GetBucketLocation": _BUCKET,
    "s3:ListBucketMultipartUploads": _BUCKET,
    "s3:GetObject": _OBJECT,
    "s3:PutObject": _OBJECT,
    "s3:AbortMultipartUpload": _OBJECT,
    "s3:ListMultipartUploadParts": _OBJECT,
    "sagemaker:CreateProcessingJob": _PROCESSING,
    "sagemaker:DescribeProcessingJob": _PROCESSING,
    "sagemaker:StopProcessingJob": _PROCESSING,
    "sagemaker:CreateTrainingJob": _TRAINING,
    "sagemaker:DescribeTrainingJob": _TRAINING,
    "sagemaker:StopTrainingJob": _TRAINING,
    "sagemaker:ListProcessingJobs": (),
    "sagemaker:ListTrainingJobs": (),
    "sagemaker:AddTags": _JOBS,
    "logs:CreateLogGroup": _LOG_GROUP,
    "logs:DescribeLogStreams": _LOG_GROUP,
    "logs:CreateLogStream": _LOG_STREAM,
    "logs:PutLogEvents": _LOG_STREAM,
    "logs:FilterLogEvents": _LOG_GROUP,
    "iam:GetRole": _ROLE,
    "iam:PassRole": _ROLE,
    "servicequotas:ListServiceQuotas": (),
    "cloudwatch:PutMetricData": (),
    "secretsmanager:GetSecretValue": (r"secretsmanager:[\w-]+:\w+:secret:.+",),
    "ecr:GetAuthorizationToken": (),
    "ecr:DescribeRepositories": _REPOSITORY,
    "ecr:CreateRepository": _REPOSITORY,
    "ecr:TagResource": _REPOSITORY,
    "ecr:DescribeImages": _REPOSITORY,
    "ecr:BatchCheckLayerAvailability": _REPOSITORY,
    "ecr:BatchGetImage": _REPOSITORY,
    "ecr:GetDownloadUrlForLayer": _REPOSITORY,
    "ecr:InitiateLayerUpload": _REPOSITORY,
    "ecr:UploadLayerPart": _REPOSITORY,
    "ecr:CompleteLayerUpload": _REPOSITORY,
    "ecr:PutImage": _REPOSITORY,
    "kms:Decrypt": _KEY,
    "kms:Encrypt": _KEY,
    "kms:GenerateDataKey": _KEY,
    "kms:CreateGrant": _KEY,
    "ec2:CreateNetworkInterface": (
        *_INTERFACE,
        r"ec2:[\w-]+:\w+:subnet/.+",
        r"ec2:[\w-]+:\w+:security-group/.+",
    ),
    "ec2:CreateNetworkInterfacePermission": _INTERFACE,
    "ec2:DeleteNetworkInterface": _INTERFACE,
    "ec2:DeleteNetworkInterfacePermission": _INTERFACE,
    "ec2:DescribeDhcpOptions": (),
    "ec2:DescribeNetworkInterfaces": (),
    "ec2:DescribeSecurityGroups": (),
    "ec2:DescribeSubnets": (),
    "ec2:DescribeVpcs": (),
}

Policy = dict[str, Any]
Call = Mapping[str, Any]  # with service, operation, and maybe resource: a line of the emulator's calls.jsonl


class UnknownOperation(Exception):
    """A call is in no table: say in tests/iam.py what it needs, and grant it in docs/iam."""


def text_of(name: str) -> str:
    return (FOLDER / f"{name}.json").read_text(encoding="utf-8")


def read_policy(name: str) -> Policy:
    """Return a policy of docs/iam as it is there, with placeholders."""
    policy: Policy = json.loads(text_of(name))
    return policy


def filled(name: str, account: str = ACCOUNT, region: str = REGION, bucket: str = BUCKET) -> Policy:
    """Return a policy of docs/iam for an account."""
    text = text_of(name)
    for placeholder, value in {"ACCOUNT": account, "REGION": region, "BUCKET": bucket, "KEY": KEY}.items():
        text = re.sub(rf"\b{placeholder}\b", value, text)
    policy: Policy = json.loads(text)
    return policy


def statements(policy: Policy) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = policy["Statement"]
    return found


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def granted(policy: Policy) -> set[str]:
    """Return the actions that a policy allows on anything."""
    return {action for one in statements(policy) if one["Effect"] == "Allow" for action in listed(one["Action"])}


def actions_of(calls: Iterable[Call]) -> set[str]:
    """Return the actions that calls need.

    Raises:
        UnknownOperation: for a call that is in no table.
    """
    return {action for call in calls for action in _actions(call)}


def check(calls: Iterable[Call], policy: Policy) -> list[str]:
    """Return what calls need and a policy does not allow, each once.

    Args:
        policy: with no placeholder in it, so that what a call is about can be compared too.
    """
    problems: dict[str, None] = {}
    for call in calls:
        for action in _actions(call):
            if action in TOLERATED or _allows(policy, action, _arn(action, str(call.get("resource") or ""), policy)):
                continue
            problems[f"{action} on {call.get('resource') or 'something'} ({call['operation']})"] = None
    return list(problems)


def unused(calls: Iterable[Call], policy: Policy) -> set[str]:
    """Return what a policy allows, and calls neither need nor imply."""
    return granted(policy) - actions_of(calls) - IMPLIED.keys()


def _actions(call: Call) -> tuple[str, ...]:
    key = (str(call["service"]), str(call["operation"]))
    found = (ACTIONS | ROLE_ACTIONS).get(key)
    if found is None:
        raise UnknownOperation(f"{key[0]}:{key[1]}: {UnknownOperation.__doc__}")
    return found


def _allows(policy: Policy, action: str, arn: str | None) -> bool:
    """Tell whether a policy allows an action on a resource, or on any where it is not known which."""
    resources = [
        resource
        for one in statements(policy)
        if one["Effect"] == "Allow" and action in listed(one["Action"])
        for resource in listed(one["Resource"])
    ]
    return any(arn is None or matches(resource, arn) for resource in resources)


def matches(pattern: str, arn: str) -> bool:
    """Tell whether an ARN is one of those that a pattern of a policy means."""
    parts = (".*" if part == "*" else "." if part == "?" else re.escape(part) for part in re.split(r"([*?])", pattern))
    return re.fullmatch("".join(parts), arn, re.DOTALL) is not None


def _arn(action: str, resource: str, policy: Policy) -> str | None:
    """Return the ARN of what a recorded call is about, None where the record does not say."""
    if not RESOURCES.get(action) or not resource:
        return None
    if resource.startswith("arn:"):
        return resource
    partition, region, account = _place(policy)
    service = action.partition(":")[0]
    kind = "training-job" if "Training" in action else "processing-job"
    forms = {
        "s3": f"s3:::{resource}",
        "sagemaker": f"sagemaker:{region}:{account}:{kind}/{resource}",
        "iam": f"iam::{account}:role/{resource}",
        "ecr": f"ecr:{region}:{account}:repository/{resource}",
    }
    if service == "s3" and RESOURCES[action] == _BUCKET:
        return f"arn:{partition}:s3:::{resource.partition('/')[0]}"
    if RESOURCES[action] == _LOG_GROUP:
        return f"arn:{partition}:logs:{region}:{account}:log-group:{resource}:log-stream:"
    return f"arn:{partition}:{forms[service]}" if service in forms else None  # a log's stream is not recorded


def _place(policy: Policy) -> tuple[str, str, str]:
    """Return partition, region and account that a policy is for."""
    jobs = next(arn for one in statements(policy) for arn in listed(one["Resource"]) if ":repository/videolift" in arn)
    _, partition, _, region, account, _ = jobs.split(":", 5)
    return partition, region, account
