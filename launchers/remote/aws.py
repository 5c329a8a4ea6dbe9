"""The way to AWS: one session and its clients, made when they are first used, and errors that say what to do."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launchers.config import Backend
from videolift.errors import ConfigError, VideoliftError

if TYPE_CHECKING:
    import boto3
    import botocore.session
    from botocore.exceptions import ClientError

ATTEMPTS = 8  # of one call, with botocore's own back-off between them
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
NOT_VALID = {"InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "403"}
THROTTLED = {"Throttling", "ThrottlingException", "TooManyRequestsException", "SlowDown", "RequestLimitExceeded"}
# How files of an instance of EC2 begin: "Detect whether a host is an EC2 instance" in the EC2 user guide.
OF_EC2 = {"devices/virtual/dmi/id/board_asset_tag": "i-", "hypervisor/uuid": "ec2"}
METADATA_ENDPOINTS = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE")


class AwsError(VideoliftError):
    """AWS refused something, or cannot be reached."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code  # the service's, "" where it was not reached


class CredentialsError(AwsError):
    """There are no credentials, or they do not hold (any more)."""


class ConnectionLost(AwsError):
    """The service was not reached."""


class Aws:
    """What an experiment reaches AWS with: region, profile and credentials as the user's AWS configuration has them.

    May be used from several threads.
    """

    def __init__(self, settings: Backend) -> None:
        self.settings = settings
        self._making = threading.RLock()  # sessions are not made for several threads; clients are
        self._clients: dict[str, Any] = {}

    @cached_property
    def _core(self) -> botocore.session.Session:
        import botocore.session

        return botocore.session.Session(profile=self.settings.profile)

    @cached_property
    def session(self) -> boto3.Session:
        import boto3
        from botocore.exceptions import BotoCoreError

        try:
            return boto3.Session(botocore_session=self._core, region_name=self.settings.region)
        except BotoCoreError as error:
            raise ConfigError(f"backend.profile: {error}; see ~/.aws/config, or leave it out") from error

    @property
    def region(self) -> str:
        """Raise ConfigError where none is configured."""
        found = self.session.region_name
        if not found:
            raise ConfigError(
                "backend.region: there is none; say backend.region=us-east-1, set AWS_DEFAULT_REGION, or put one into "
                "~/.aws/config"
            )
        return str(found)

    def has_credentials(self) -> bool:
        """Tell whether the default chain finds any; whether they are valid is the service's to say.

        Asks the metadata service where there is one only: a plan without credentials reaches for nothing.
        """
        from botocore.exceptions import BotoCoreError

        session = self.session
        try:
            if "account" not in vars(self) and not has_metadata_service():
                self._core.get_component("credential_provider").remove("iam-role")
            return session.get_credentials() is not None
        except BotoCoreError:
            return False

    @cached_property
    def account(self) -> str:
        with explained("sts:GetCallerIdentity"):
            return str(self.client("sts").get_caller_identity()["Account"])

    def client(self, service: str) -> Any:
        """Return the client of a service, always the same one."""
        if service not in self._clients:
            with self._making:
                if service not in self._clients:
                    self._clients[service] = self._made(service)
        return self._clients[service]

    def _made(self, service: str) -> Any:
        from botocore.config import Config

        config = Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=32,
            user_agent_extra="videolift",
            # An endpoint on this machine has no host names of buckets.
            s3={"addressing_style": "path"} if os.environ.get("AWS_ENDPOINT_URL") else {},
        )
        return self.session.client(service, region_name=self.region, config=config)


def has_metadata_service(system: Path = Path("/sys")) -> bool:
    """Tell whether this is an instance of EC2, or something is named that stands for its metadata service."""
    if any(os.environ.get(name) for name in METADATA_ENDPOINTS):
        return True
    for name, beginning in OF_EC2.items():
        try:
            if (system / name).read_text(encoding="utf-8", errors="replace").lower().startswith(beginning):
                return True
        except OSError:  # another machine, or nothing that this user may read
            continue
    return False


@contextmanager
def explained(action: str, where: str = "") -> Iterator[None]:
    """Turn what boto3 raises into an AwsError that says what to do.

    Args:
        action: IAM action of the call: ``s3:PutObject``.
        where: what it was about: a bucket, a job.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except ClientError as error:
        raise _of_service(error, action, where) from error
    except ResponseParserError as error:  # no answer of AWS's: a proxy's, or half of one
        raise ConnectionLost(f"{where or action}: what answered is not AWS ({str(error).splitlines()[0]})") from error
    except BotoCoreError as error:
        raise _of_connection(error, action, where) from error


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _of_service(error: ClientError, action: str, where: str) -> AwsError:
    code = code_of(error)
    told = str(error.response.get("Error", {}).get("Message", "")) or str(error)
    at = f"{where}: " if where else ""
    if code in EXPIRED:
        return CredentialsError(
            f"{at}the AWS credentials have expired; renew them (aws sso login, or aws configure)", code
        )
    if code in NOT_VALID:
        return CredentialsError(
            f"{at}the AWS credentials are not valid ({told}); see aws sts get-caller-identity", code
        )
    if code in DENIED:
        return AwsError(
            f"{at}{action} is not allowed ({told}); docs/iam/person.json is the policy that a person needs", code
        )
    if code in THROTTLED:
        return AwsError(f"{at}{action} is throttled by AWS ({told}); try again later", code)
    return AwsError(f"{at}{action}: {told} ({code})", code)


def _of_connection(error: Exception, action: str, where: str) -> AwsError:
    from botocore import exceptions

    at = f"{where}: " if where else ""
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return CredentialsError(
            f"{at}there are no AWS credentials; say aws configure or aws sso login, set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or name a backend.profile"
        )
    # Connect, read, proxy, closed: all that is the network's.
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
        return ConnectionLost(f"{at}{action}: AWS cannot be reached ({error}); check the network and backend.region")
    return CredentialsError(f"{at}{action}: {error}") if "token" in str(error).lower() else AwsError(f"{at}{error}")
