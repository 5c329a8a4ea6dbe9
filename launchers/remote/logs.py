"""The lines of a job's hosts, from CloudWatch Logs while they come.

Sources: "Log groups and streams that Amazon SageMaker AI sends to Amazon CloudWatch Logs" (a stream a host, called
JOB/HOST-TIME); GetLogEvents in the CloudWatch Logs API reference (the end is reached when the token stays the same).

IAM actions: logs:DescribeLogStreams, logs:GetLogEvents.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from launchers.remote.aws import AwsError, explained
from launchers.remote.partition import LOG_GROUPS
from videolift.workspace import Kind

NO_GROUP = "ResourceNotFoundException"  # until the first job of an account writes its first line


class Logs:
    """Reads each stream of a job from its beginning, every line once."""

    def __init__(self, client: Any, kind: Kind, job: str) -> None:
        self._client = client
        self._group = LOG_GROUPS[kind]
        self._job = job
        self._tokens: dict[str, str | None] = {}  # by stream
        self._waiting: deque[tuple[str, str]] = deque()  # read, and maybe not taken: whoever takes may be interrupted

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield (host, line) for what is new.

        Raises:
            AwsError: if CloudWatch refuses or is not reached; what was not yielded comes the next time.
        """
        for stream in self._streams():
            self._tokens.setdefault(stream, None)
        yield from self._taken()
        for stream in self._tokens:
            yield from self._of_stream(stream)

    def _taken(self) -> Iterator[tuple[str, str]]:
        while self._waiting:
            yield self._waiting[0]
            self._waiting.popleft()

    def _streams(self) -> list[str]:
        from botocore.exceptions import ClientError

        asked: dict[str, Any] = {"logGroupName": self._group, "logStreamNamePrefix": f"{self._job}/"}
        found: list[str] = []
        with explained("logs:DescribeLogStreams", self._job):
            while True:
                try:
                    page = self._client.describe_log_streams(**asked)
                except ClientError as error:
                    if error.response["Error"]["Code"] == NO_GROUP:
                        return found
                    raise
                found += [stream["logStreamName"] for stream in page["logStreams"]]
                if not page.get("nextToken"):
                    return sorted(found)
                asked["nextToken"] = page["nextToken"]

    def _page(self, stream: str, token: str | None) -> dict[str, Any]:
        with explained("logs:GetLogEvents", self._job):
            page: dict[str, Any] = self._client.get_log_events(
                logGroupName=self._group,
                logStreamName=stream,
                startFromHead=True,
                **({"nextToken": token} if token else {}),
            )
            return page

    def _of_stream(self, stream: str) -> Iterator[tuple[str, str]]:
        host = stream.rpartition("/")[2].rpartition("-")[0]
        while True:
            token = self._tokens[stream]
            try:
                page = self._page(stream, token)
            except AwsError as error:
                if error.code != "InvalidParameterException" or token is None:
                    raise
                page = self._page(stream, None)  # a token holds for a day; what is read again is not recorded again
            self._tokens[stream] = page["nextForwardToken"]
            self._waiting.extend((host, event["message"].rstrip("\n")) for event in page["events"])
            yield from self._taken()
            if page["nextForwardToken"] == token:
                return
