"""The account, role and bucket that the settings and the credentials lead to."""

from __future__ import annotations

from launchers.config import Backend
from launchers.remote import partition
from launchers.remote.aws import Aws
from launchers.remote.identity import find_role
from launchers.remote.layout import UNKNOWN_ACCOUNT, Site


def find_site(aws: Aws) -> Site:
    """Return the site that the settings and the credentials lead to.

    Raises:
        ConfigError: if there is no region, or no role.
        AwsError: if AWS cannot be asked.
    """
    return _site(aws, aws.account, find_role(aws))


def unresolved_site(aws: Aws) -> Site:
    """Return the site as far as it is known without credentials."""
    role = aws.settings.role
    if role is None or not role.startswith("arn:"):
        role = partition.role_arn(aws.region, UNKNOWN_ACCOUNT, role or "unresolved")
    return _site(aws, UNKNOWN_ACCOUNT, role)


def _site(aws: Aws, account: str, role: str) -> Site:
    settings: Backend = aws.settings
    bucket = settings.bucket or partition.default_bucket(aws.region, account)
    return Site(aws.region, account, role, bucket, settings.prefix)
