"""What each request to the emulator is: service, operation, IAM action and resource, found as the services find them.

Sources: AWS, "Signature Version 4 signing" (credential scope: date/region/service), "Actions, resources, and condition
keys for Amazon S3" (which action an operation needs), and the service models that botocore ships.
"""

from __future__ import annotations

import io
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

SCOPE = re.compile(r"Credential=([^/\s,]+)/\d{8}/([^/]+)/([^/]+)/aws4_request")
BODY_IS_READ = ("application/x-amz-json", "application/x-www-form-urlencoded")  # of these protocols, and small
# Prefix of IAM actions where it is not the name that requests are signed for.
IAM_PREFIXES = {"monitoring": "cloudwatch"}
# S3's actions whose name is not the operation's.
S3_ACTIONS = {
    "ListObjects": ("ListBucket",),
    "ListObjectsV2": ("ListBucket",),
    "HeadBucket": ("ListBucket",),
    "ListBuckets": ("ListAllMyBuckets",),
    "HeadObject": ("GetObject",),
    "GetObjectAttributes": ("GetObject", "GetObjectAttributes"),
    "CopyObject": ("PutObject", "GetObject"),
    "CreateMultipartUpload": ("PutObject",),
    "UploadPart": ("PutObject",),
    "UploadPartCopy": ("PutObject", "GetObject"),
    "CompleteMultipartUpload": ("PutObject",),
    "ListParts": ("ListMultipartUploadParts",),
    "ListMultipartUploads": ("ListBucketMultipartUploads",),
    "DeleteObjects": ("DeleteObject",),
    "GetBucketEncryption": ("GetEncryptionConfiguration",),
    "PutBucketEncryption": ("PutEncryptionConfiguration",),
    "GetPublicAccessBlock": ("GetBucketPublicAccessBlock",),
    "PutPublicAccessBlock": ("PutBucketPublicAccessBlock",),
    "GetBucketLifecycleConfiguration": ("GetLifecycleConfiguration",),
    "PutBucketLifecycleConfiguration": ("PutLifecycleConfiguration",),
}
# What a request's body names, the first that is there.
NAMES = (
    *("TrainingJobName", "ProcessingJobName", "ResourceArn", "logGroupName", "repositoryName", "RoleName", "RoleArn"),
    *("QuotaCode", "ServiceCode", "SecretId"),
)


@dataclass
class Call:
    """One request."""

    service: str  # as in the credential scope; "" where nothing tells
    operation: str
    region: str
    access_key: str
    user_agent: str
    resource: str
    iam_actions: tuple[str, ...]
    body: Any = field(default=None, repr=False)  # decoded, of JSON and query protocols
    is_role: bool = False  # made by the service itself, with the rights of a job's role

    @property
    def iam_action(self) -> str:
        return self.iam_actions[0] if self.iam_actions else ""


def read_call(environ: dict[str, Any], role_key: str) -> Call:
    """Find out what a request asks for; its body can be read again afterwards.

    Args:
        role_key: access key of the requests that the emulator makes for jobs.
    """
    key, region, service = _signer(environ)
    body: Any = None
    content_type = environ.get("CONTENT_TYPE", "")
    if content_type.startswith(BODY_IS_READ):
        raw = drain(environ)
        body = _json(raw) if "json" in content_type else _form(raw)
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        operation = target.rpartition(".")[2]
        resource = _named(body)
    elif isinstance(body, dict) and "Action" in body:
        operation = str(body["Action"])
        resource = _named(body)
    elif service in ("s3", ""):
        bucket, name = _bucket_and_key(environ)
        operation = s3_operation(environ, bucket, name)
        service = "s3" if operation else service
        resource = f"{bucket}/{name}" if name else bucket
    else:
        operation, resource = "", environ.get("PATH_INFO", "")
    return Call(
        service=service,
        operation=operation,
        region=region,
        access_key=key,
        user_agent=environ.get("HTTP_USER_AGENT", ""),
        resource=resource,
        iam_actions=_iam_actions(service, operation, body),
        body=body,
        is_role=key == role_key,
    )


def drain(environ: dict[str, Any]) -> bytes:
    """Read a request's body, and put it back for whoever reads it next."""
    raw: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(raw)
    return raw


def _signer(environ: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return access key, region and service of a signed or presigned request."""
    found = SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    if not found:
        credential = parse_qs(environ.get("QUERY_STRING", "")).get("X-Amz-Credential", [""])[0]
        found = SCOPE.search(f"Credential={credential}")
    return (found[1], found[2], found[3].lower()) if found else ("", "us-east-1", "")


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw or b"{}")
    except ValueError:
        return None


def _form(raw: bytes) -> dict[str, str]:
    return {key: values[0] for key, values in parse_qs(raw.decode("utf-8", "replace")).items()}


def _named(body: Any) -> str:
    if not isinstance(body, dict):
        return ""
    return next((str(body[name]) for name in NAMES if body.get(name)), "")


def _bucket_and_key(environ: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a path-style request names; an address without a host name has no other style."""
    path = unquote(environ.get("RAW_URI") or environ.get("REQUEST_URI") or environ.get("PATH_INFO", "")).split("?")[0]
    bucket, _, key = path.lstrip("/").partition("/")
    return bucket, key


@cache
def _s3_operations() -> list[tuple[str, str, bool, bool, frozenset[tuple[str, str]], frozenset[str], frozenset[str]]]:
    """Return (name, method, on a bucket, on a key, words of the query, parameters and headers that must be there)."""
    from botocore.session import get_session

    model = get_session().get_service_model("s3")
    found = []
    for name in model.operation_names:
        operation = model.operation_model(name)
        path, _, query = str(operation.http["requestUri"]).partition("?")
        words = frozenset((word.partition("=")[0], word.partition("=")[2]) for word in query.split("&") if word)
        shape = operation.input_shape
        places: dict[str, set[str]] = {"querystring": set(), "header": set()}
        for member in shape.required_members if shape else []:
            how = shape.members[member].serialization
            if how.get("location") in places:
                places[str(how["location"])].add(str(how["name"]))
        found.append(
            (
                name,
                str(operation.http["method"]),
                "{Bucket}" in path,
                "{Key" in path,
                words,
                frozenset(places["querystring"]),
                frozenset(f"HTTP_{header.upper().replace('-', '_')}" for header in places["header"]),
            )
        )
    return found


def s3_operation(environ: Mapping[str, Any], bucket: str, key: str) -> str:
    """Return the operation of S3 whose address in the service model fits a request best, "" where none does."""
    method = environ["REQUEST_METHOD"]
    query = {
        name: values[0] for name, values in parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True).items()
    }
    best, best_score = "", -1
    for name, its_method, on_bucket, on_key, words, parameters, headers in _s3_operations():
        if its_method != method or on_bucket != bool(bucket) or on_key != bool(key):
            continue
        if not all(word in query and (not value or query[word] == value) for word, value in words):
            continue
        if not all(parameter in query for parameter in parameters) or not all(header in environ for header in headers):
            continue
        score = len(words) + len(parameters) + len(headers)
        if score > best_score:
            best, best_score = name, score
    return best


def _iam_actions(service: str, operation: str, body: Any) -> tuple[str, ...]:
    if not operation:
        return ()
    prefix = IAM_PREFIXES.get(service, service)
    names = S3_ACTIONS.get(operation, (operation,)) if service == "s3" else (operation,)
    actions = [f"{prefix}:{name}" for name in names]
    # Actions, resources, and condition keys for Amazon SageMaker: dependent actions of the Create calls.
    if service == "sagemaker" and operation.startswith("Create") and isinstance(body, dict):
        actions += ["iam:PassRole"] if body.get("RoleArn") else []
        actions += ["sagemaker:AddTags"] if body.get("Tags") else []
    return tuple(actions)


class CallsFile:
    """A file with one line of JSON a request."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def add(self, call: Call, status: int) -> None:
        entry = asdict(call)
        del entry["body"]
        line = json.dumps({"time": time.time(), **entry, "iam_action": call.iam_action, "status": status})
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
