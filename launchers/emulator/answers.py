"""How the services answer: JSON, and errors in the protocol that was asked in."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable
from typing import Any
from xml.sax.saxutils import escape

StartResponse = Callable[..., Any]
REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 500: "Internal Server Error"}
JSON_TYPE = "application/x-amz-json-1.1"


class ServiceError(Exception):
    """What a service refuses."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


def reply(start: StartResponse, status: int, content: bytes, content_type: str = JSON_TYPE) -> Iterable[bytes]:
    request = str(uuid.uuid4())
    start(
        f"{status} {REASONS.get(status, 'Error')}",
        [
            ("Content-Type", content_type),
            ("Content-Length", str(len(content))),
            ("x-amzn-RequestId", request),
            ("x-amz-request-id", request),
        ],
    )
    return [content]


def reply_json(start: StartResponse, content: Any, status: int = 200) -> Iterable[bytes]:
    return reply(start, status, json.dumps(content).encode())


def reply_error(start: StartResponse, service: str, method: str, error: ServiceError) -> Iterable[bytes]:
    """Answer as the service's protocol does: AWS JSON, AWS query, or S3's XML (nothing at all to HEAD).

    An error without a code has no body: what stands before a service answers so.

    Sources: AWS, "Error responses" of the S3 API reference; botocore/parsers.py for the other two.
    """
    if not error.code:
        return reply(start, error.status, b"", "text/plain")
    if service == "s3":
        xml = (
            f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{escape(error.code)}</Code>'
            f"<Message>{escape(error.message)}</Message></Error>"
        )
        return reply(start, error.status, b"" if method == "HEAD" else xml.encode(), "application/xml")
    if service in ("iam", "sts"):
        xml = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{escape(error.code)}</Code>"
            f"<Message>{escape(error.message)}</Message></Error><RequestId>0</RequestId></ErrorResponse>"
        )
        return reply(start, error.status, xml.encode(), "text/xml")
    return reply_json(start, {"__type": error.code, "message": error.message}, error.status)
