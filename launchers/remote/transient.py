"""Which refusals of AWS may be answered otherwise when the same is asked again: one rule for all who ask.

Sources: botocore's own tables (botocore.retries.standard), which decide what it asks again by itself, though not for
long; "Common Errors" in the API references of SageMaker, CloudWatch Logs, ECR and STS, "Error responses" in that of S3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REQUEST_TIMEOUT, TOO_MANY_REQUESTS = 408, 429
NEVER = {501, 505}  # not implemented, HTTP version: the same request never succeeds
# By name, because some services and what stands before them send these with a status of 400.
OF_THE_SERVICE = {
    "DependencyTimeoutException",
    "IDPCommunicationError",
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "InternalServerException",
    "InternalServiceError",
    "InternalServiceException",
    "InternalServiceFault",
    "KMSInternalException",
    "OperationAborted",
    "ServerException",
    "ServiceException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
}
# What an account may have at most: asking again changes nothing.
QUOTAS = {
    "LimitExceeded",
    "QuotaExceededException",
    "ResourceLimitExceeded",
    "ServiceQuotaExceededException",
    "TooManyBuckets",
}
# Means a quota where something is to be made, and throttling everywhere else: a look can exceed no quota of resources.
LIMIT = "LimitExceededException"
MAKES = "Create"


def is_quota(code: str, operation: str) -> bool:
    """Tell whether a refusal says that the account has all that it may have."""
    return code in QUOTAS or (code == LIMIT and operation.startswith(MAKES))


def is_throttling(response: Mapping[str, Any], operation: str) -> bool:
    """Tell whether a refusal says that requests come too fast.

    Args:
        response: as botocore parses it: ``Error.Code`` and ``ResponseMetadata.HTTPStatusCode``.
        operation: as ``CreateTrainingJob``.
    """
    from botocore.retries.standard import ThrottledRetryableChecker

    if is_quota(_code(response), operation):
        return False
    return _status(response) == TOO_MANY_REQUESTS or _is_known_to(ThrottledRetryableChecker(), response)


def is_transient_answer(response: Mapping[str, Any], operation: str) -> bool:
    """Tell whether the same request may succeed later, unchanged and without anybody's doing; arguments as above."""
    from botocore.retries.standard import TransientRetryableChecker

    code, status = _code(response), _status(response)
    if is_quota(code, operation):
        return False
    if code in OF_THE_SERVICE or is_throttling(response, operation):
        return True
    if status == REQUEST_TIMEOUT or (status >= 500 and status not in NEVER):
        return True
    return _is_known_to(TransientRetryableChecker(), response)


def _is_known_to(checker: Any, response: Mapping[str, Any]) -> bool:
    from botocore.retries.standard import RetryContext

    return bool(checker.is_retryable(RetryContext(attempt_number=1, parsed_response=response)))


def _code(response: Mapping[str, Any]) -> str:
    return str(response.get("Error", {}).get("Code", ""))


def _status(response: Mapping[str, Any]) -> int:
    """Return the HTTP status, 0 where it is not told; an answer without a body has it for its code."""
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = _code(response)
    return int(status) if status else int(code) if code.isdecimal() else 0
