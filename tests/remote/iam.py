"""Users, roles and what they may do, in moto."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import boto3

ACCOUNT = "123456789012"
OF_SAGEMAKER = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "sagemaker.amazonaws.com"}},
    ],
}


def make_role(name: str, path: str = "/", trust: Mapping[str, Any] = OF_SAGEMAKER, may: tuple[str, ...] = ()) -> str:
    """Make a role and return its ARN."""
    iam = boto3.client("iam")
    made = iam.create_role(RoleName=name, Path=path, AssumeRolePolicyDocument=json.dumps(trust))
    if may:
        iam.put_role_policy(RoleName=name, PolicyName="may", PolicyDocument=policy(may))
    return str(made["Role"]["Arn"])


def become_user(setenv: Callable[[str, str], None], may: tuple[str, ...]) -> None:
    """Go on as a new user who may do these actions."""
    iam = boto3.client("iam")
    iam.create_user(UserName="person")
    iam.put_user_policy(UserName="person", PolicyName="may", PolicyDocument=policy(may))
    key = iam.create_access_key(UserName="person")["AccessKey"]
    setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])


def become_role(setenv: Callable[[str, str], None], arn: str) -> None:
    """Go on as a session of a role."""
    session = boto3.client("sts").assume_role(RoleArn=arn, RoleSessionName="session")["Credentials"]
    setenv("AWS_ACCESS_KEY_ID", session["AccessKeyId"])
    setenv("AWS_SECRET_ACCESS_KEY", session["SecretAccessKey"])
    setenv("AWS_SESSION_TOKEN", session["SessionToken"])


@contextmanager
def enforced(url: str) -> Iterator[None]:
    """Have moto refuse what policies do not allow."""
    _check_from(url, "0")
    try:
        yield
    finally:
        _check_from(url, "inf")


def policy(actions: tuple[str, ...]) -> str:
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def _check_from(url: str, request: str) -> None:
    ask = urllib.request.Request(f"{url}/moto-api/reset-auth", request.encode(), {"Content-Type": "text/plain"})
    urllib.request.urlopen(ask, timeout=60).close()
