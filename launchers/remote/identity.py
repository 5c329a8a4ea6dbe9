"""The IAM role that jobs run as.

The order is that of ``get_execution_role`` in the SageMaker SDK 3.27 (sagemaker.core.helper.session_helper), except
that nothing is guessed on a laptop: who is logged in there is a person or a deployment, which SageMaker cannot run as.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launchers.remote import partition
from launchers.remote.aws import DENIED, Aws, AwsError, explained
from videolift.errors import ConfigError

# Written by notebook instances and Studio (NOTEBOOK_METADATA_FILE of the SDK).
METADATA = Path("/opt/ml/metadata/resource-metadata.json")
ASSUMED_ROLE = re.compile(r"arn:(aws[a-z-]*):sts::(\d{12}):assumed-role/([^/]+)/.+")
# Roles that the console makes begin so, and have a path that the ARN of a session does not show.
MADE_BY_CONSOLE = "AmazonSageMaker-ExecutionRole"
HOW_TO_MAKE_ONE = "docs/remote.md says how to make one (docs/iam/job-role.json is what it may do)"


def find_role(aws: Aws, metadata: Path = METADATA) -> str:
    """Return the ARN of the role that jobs run as.

    Args:
        metadata: file that tells a notebook on SageMaker what it is.

    Raises:
        ConfigError: none is configured, or there is none of that name.
        AwsError: AWS cannot be asked.
    """
    role = aws.settings.role
    if role is not None:
        return role if partition.ROLE_ARN.fullmatch(role) else _role_named(aws, role)
    notebook = notebook_metadata(metadata)
    if notebook is None:
        raise ConfigError(f"backend.role: say which role the jobs run as, a name or an ARN; {HOW_TO_MAKE_ONE}")
    return _role_of_notebook(aws, notebook) or _role_of_session(aws)


def notebook_metadata(file: Path = METADATA) -> dict[str, Any] | None:
    """Return what a notebook on SageMaker knows of itself, None where this is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ConfigError(f"{file}: is no JSON ({error}); say backend.role=ARN") from error
    return found if isinstance(found, dict) else None


def assumed_role(arn: str) -> tuple[str, str, str] | None:
    """Return (partition, account, role name) of an assumed role's session, None for any other identity."""
    found = ASSUMED_ROLE.fullmatch(arn)
    return (found[1], found[2], found[3]) if found else None


def _role_named(aws: Aws, role: str) -> str:
    name = role.strip("/").rpartition("/")[2]  # the API takes the name without its path
    try:
        with explained("iam:GetRole", f"backend.role={role}"):
            return str(aws.client("iam").get_role(RoleName=name)["Role"]["Arn"])
    except AwsError as error:
        if error.code == "NoSuchEntity":
            raise ConfigError(
                f"backend.role: there is no role {name} in account {aws.account}; {HOW_TO_MAKE_ONE}"
            ) from error
        if error.code in DENIED:
            raise ConfigError(
                f"backend.role: the ARN of {name} cannot be looked up, iam:GetRole is not allowed; say it: "
                f"backend.role={partition.role_arn(aws.region, aws.account, name)} or one with a path"
            ) from error
        raise


def _role_of_notebook(aws: Aws, notebook: Mapping[str, Any]) -> str | None:
    """Return the role that a notebook instance or a Studio space runs as; None where it may not ask."""
    if notebook.get("ExecutionRoleArn"):
        return str(notebook["ExecutionRoleArn"])
    try:
        with explained("sagemaker:DescribeNotebookInstance or DescribeDomain"):
            return _asked_of_sagemaker(aws.client("sagemaker"), notebook)
    except AwsError as error:
        if error.code not in {*DENIED, "ValidationException", "ResourceNotFound"}:
            raise
        return None  # the session that this runs in tells as well


def _asked_of_sagemaker(sagemaker: Any, notebook: Mapping[str, Any]) -> str | None:
    domain, user, name = (notebook.get(key) for key in ("DomainId", "UserProfileName", "ResourceName"))
    if not domain:
        if not name:
            return None
        return str(sagemaker.describe_notebook_instance(NotebookInstanceName=name)["RoleArn"])
    if user:
        profile = sagemaker.describe_user_profile(DomainId=domain, UserProfileName=user)
        own = profile.get("UserSettings", {}).get("ExecutionRole")
        if own:
            return str(own)
    described = sagemaker.describe_domain(DomainId=domain)
    settings = described.get("DefaultUserSettings" if user else "DefaultSpaceSettings", {})
    return settings.get("ExecutionRole") or None


def _role_of_session(aws: Aws) -> str:
    with explained("sts:GetCallerIdentity"):
        caller = str(aws.client("sts").get_caller_identity()["Arn"])
    session = assumed_role(caller)
    if session is None:
        raise ConfigError(
            f"backend.role: {caller} is no role, and jobs run as one; say backend.role=ARN; {HOW_TO_MAKE_ONE}"
        )
    name_of_partition, account, name = session
    try:
        with explained("iam:GetRole", name):
            return str(aws.client("iam").get_role(RoleName=name)["Role"]["Arn"])
    except AwsError as error:
        if error.code not in DENIED:
            raise
        path = "service-role/" if name.startswith(MADE_BY_CONSOLE) else ""
        return f"arn:{name_of_partition}:iam::{account}:role/{path}{name}"
