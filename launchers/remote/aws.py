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
from launchers.remote.transient import is_quota, is_throttling, is_transient_answer
from videolift.errors import ConfigError, VideoliftError

if TYPE_CHECKING:
    import boto3
    import botocore.session
    from botocore.exceptions import ClientError

ATTEMPTS = 8  # of one call, with botocore's own back-off between them: seconds in all
METADATA_ATTEMPTS = 3  # of EC2's metadata service for credentials; botocore's default is to give up after one second
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
NOT_VALID = {"InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "403"}
RENEWED = "CredentialsAreRenewed"  # noted in an answer: what has expired is replaced without anybody's doing
# How files of an instance of EC2 begin: "Detect whether a host is an EC2 instance" in the EC2 user guide.
OF_EC2 = {"devices/virtual/dmi/id/board_asset_tag": "i-", "hypervisor/uuid": "ec2"}
METADATA_ENDPOINTS = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE")


class AwsError(VideoliftError):
    """AWS refused something, or cannot be reached."""

    def __init__(self, message: str, code: str = "", *, transient: bool = False) -> None:
        super().__init__(message)
        self.code = code  # the service's, "" where it was not reached
        self.transient = transient  # the same may succeed later


class CredentialsError(AwsError):
    """There are no credentials, or they do not hold (any more)."""


class ConnectionLost(AwsError):
    """The service was not reached."""

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=True)


def is_transient(error: Exception) -> bool:
    """Tell whether AWS may answer otherwise when it is asked again."""
    return isinstance(error, AwsError) and error.transient


class Aws:
    """What an experiment reaches AWS with: region, profile and credentials as the user's AWS configuration has them.

    May be used from several threads.
    """

    def __init__(self, settings: Backend) -> None:
        self.settings = settings
        self._making = threading.RLock()  # sessions are not made for several threads; clients are
        self._clients: dict[tuple[str, int | None], Any] = {}

    @cached_property
    def _core(self) -> botocore.session.Session:
        import botocore.session

        core = botocore.session.Session(profile=self.settings.profile)
        if has_metadata_service() and core.get_config_variable("metadata_service_num_attempts") == 1:
            core.set_config_variable("metadata_service_num_attempts", METADATA_ATTEMPTS)
        return core

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

    def client(self, service: str, *, attempts: int | None = None) -> Any:
        """Return the client of a service, always the same one.

        Args:
            attempts: of one call; None: ``ATTEMPTS``. With 1, an unclear answer is the caller's to look into.
        """
        key = (service, attempts)
        if key not in self._clients:
            with self._making:
                if key not in self._clients:
                    self._clients[key] = self._made(service, attempts or ATTEMPTS)
        return self._clients[key]

    def _made(self, service: str, attempts: int) -> Any:
        from botocore.config import Config
        from botocore.credentials import RefreshableCredentials

        config = Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=32,
            user_agent_extra="videolift",
            # An endpoint on this machine has no host names of buckets.
            s3={"addressing_style": "path"} if os.environ.get("AWS_ENDPOINT_URL") else {},
        )
        client = self.session.client(service, region_name=self.region, config=config)
        if isinstance(self.session.get_credentials(), RefreshableCredentials):
            client.meta.events.register("after-call", _note_renewal)
        return client


def _note_renewal(parsed: dict[str, Any], **_: Any) -> None:
    """Note in an answer that the credentials of the request are renewed when they have expired."""
    parsed.setdefault("ResponseMetadata", {})[RENEWED] = True


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
def explained(action: str, where: str = "", if_denied: str = "") -> Iterator[None]:
    """Turn what boto3 raises into an AwsError that says what to do.

    Args:
        action: IAM action of the call: ``s3:PutObject``.
        where: what it was about: a bucket, a job.
        if_denied: what else may be meant where the service says that it is not allowed.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except ClientError as error:
        raise _of_service(error, action, where, if_denied) from error
    except ResponseParserError as error:  # no answer of AWS's: a proxy's, or half of one
        raise ConnectionLost(f"{where or action}: what answered is not AWS ({str(error).splitlines()[0]})") from error
    except BotoCoreError as error:
        raise _of_connection(error, action, where) from error


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _of_service(error: ClientError, action: str, where: str, if_denied: str) -> AwsError:
    code, operation = code_of(error), error.operation_name
    told = str(error.response.get("Error", {}).get("Message", "")) or str(error)
    at = f"{where}: " if where else ""
    if code in EXPIRED:
        renewed = bool(error.response.get("ResponseMetadata", {}).get(RENEWED))
        remedy = "they are being renewed" if renewed else "renew them (aws sso login, or aws configure)"
        return CredentialsError(f"{at}the AWS credentials have expired; {remedy}", code, transient=renewed)
    if code in NOT_VALID:
        return CredentialsError(
            f"{at}the AWS credentials are not valid ({told}); see aws sts get-caller-identity", code
        )
    if code in DENIED:
        told = f"{told}; {if_denied}" if if_denied else told
        return AwsError(
            f"{at}{action} is not allowed ({told}); docs/iam/person.json is the policy that a person needs", code
        )
    if is_quota(code, operation):
        return AwsError(
            f"{at}{action}: {told} ({code}). This is a quota of the account: wait until other jobs have ended, or ask "
            "for more in the Service Quotas console",
            code,
        )
    if is_throttling(error.response, operation):
        return AwsError(f"{at}{action} is throttled by AWS ({told}); try again later", code, transient=True)
    return AwsError(f"{at}{action}: {told} ({code})", code, transient=is_transient_answer(error.response, operation))


def _of_connection(error: Exception, action: str, where: str) -> AwsError:
    from botocore import exceptions

    at = f"{where}: " if where else ""
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        instance = " (this instance's metadata service gave none)" if has_metadata_service() else ""
        return CredentialsError(
            f"{at}there are no AWS credentials{instance}; say aws configure or aws sso login, set AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY, or name a backend.profile"
        )
    # Connect, read, proxy, closed: all that is the network's.
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
        return ConnectionLost(f"{at}{action}: AWS cannot be reached ({error}); check the network and backend.region")
    if isinstance(error, exceptions.MetadataRetrievalError | exceptions.CredentialRetrievalError):
        return CredentialsError(f"{at}{action}: the AWS credentials could not be renewed ({error})", transient=True)
    of_login = isinstance(error, exceptions.SSOError | exceptions.TokenRetrievalError)
    if of_login or "token" in str(error).lower():
        return CredentialsError(f"{at}{action}: {error}")
    return AwsError(f"{at}{error}")
