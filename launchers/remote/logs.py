"""The lines of jobs' hosts, from CloudWatch Logs while they come: those of many jobs with a few requests.

Sources: "Log groups and streams that Amazon SageMaker AI sends to Amazon CloudWatch Logs" (a stream a host, called
JOB/HOST-TIME); FilterLogEvents in the CloudWatch Logs API reference (up to 100 streams, sorted by time, each event with
an id, pages that may be empty before the last).

FilterLogEvents knows no place to go on from, only a time, and events become visible some seconds after their time. So
each stream is read again from a little before its newest event, and what was read before is told by its id.

IAM actions: logs:DescribeLogStreams, logs:FilterLogEvents.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from launchers.remote.aws import AwsError, explained
from launchers.remote.partition import LOG_GROUPS
from videolift.workspace import Kind

NOT_THERE = "ResourceNotFoundException"  # a stream, or the group until the first job of an account writes a line
STREAMS_A_REQUEST = 100
SLACK_MS = 10_000  # that an event may become visible after a later one of its stream
TALKING_MS = 60_000  # a stream whose newest event is that much older than the newest of all is quiet
LATE_MS = 600_000  # that a quiet stream's next event may be older than the newest of all


@dataclass
class Stream:
    """What one host prints."""

    host: str
    since_ms: int  # before its first event
    newest_ms: int | None = None
    seen: set[str] = field(default_factory=set)  # ids of events
    there: bool = True  # nobody has deleted it, as far as is known

    def take(self, event: Mapping[str, Any]) -> str | None:
        """Return the line of an event, None where it was taken before."""
        if event["eventId"] in self.seen:
            return None
        self.seen.add(event["eventId"])
        self.newest_ms = max(self.newest_ms or 0, int(event["timestamp"]))
        return str(event["message"]).rstrip("\n")


@dataclass(eq=False)
class JobLog:
    """What the hosts of a job print."""

    job: str
    streams: dict[str, Stream] = field(default_factory=dict)  # by name
    lines: deque[tuple[str, str]] = field(default_factory=deque)  # (host, line) that nobody has taken yet

    @property
    def found(self) -> list[str]:
        """Return the names of the streams that can be read."""
        return [name for name, stream in self.streams.items() if stream.there]


class Logs:
    """Reads what jobs of one kind print."""

    def __init__(self, client: Any, kind: Kind) -> None:
        self._client = client
        self._group = LOG_GROUPS[kind]

    def find(self, log: JobLog, since_ms: int) -> None:
        """Find the streams that a job has now.

        Args:
            since_ms: a time, in milliseconds since 1970, before the job's first line.
        """
        asked: dict[str, Any] = {"logGroupName": self._group, "logStreamNamePrefix": f"{log.job}/"}
        while True:
            try:
                with explained("logs:DescribeLogStreams", log.job):
                    page = self._client.describe_log_streams(**asked)
            except AwsError as error:
                if error.code == NOT_THERE:
                    return
                raise
            for name in sorted(stream["logStreamName"] for stream in page["logStreams"]):
                host = name.rpartition("/")[2].rpartition("-")[0]
                log.streams.setdefault(name, Stream(host, since_ms)).there = True
            if not page.get("nextToken"):
                return
            asked["nextToken"] = page["nextToken"]

    def read(self, logs: Sequence[JobLog], whole: Collection[JobLog]) -> None:
        """Add the lines that are new to the logs of jobs, each line once.

        Args:
            whole: those that are read from their beginning, so that nothing is missing however late it came.

        Raises:
            AwsError: if CloudWatch refuses or is not reached; what was not read is read the next time.
        """
        owners = {name: log for log in logs for name in log.found}
        newest = {name: None if log in whole else log.streams[name].newest_ms for name, log in owners.items()}
        for start_ms, names in requests_for(newest):
            begin_ms = min(owners[name].streams[name].since_ms for name in names) if start_ms is None else start_ms
            for first in range(0, len(names), STREAMS_A_REQUEST):
                self._read(names[first : first + STREAMS_A_REQUEST], begin_ms, owners)

    def _read(self, names: Sequence[str], start_ms: int, owners: Mapping[str, JobLog]) -> None:
        try:
            for event in self._events(names, start_ms):
                log = owners[event["logStreamName"]]
                stream = log.streams[event["logStreamName"]]
                line = stream.take(event)
                if line is not None:
                    log.lines.append((stream.host, line))
        except AwsError as error:
            if error.code != NOT_THERE:
                raise
            for name in names:  # which of them is gone is not told; the others are found again
                owners[name].streams[name].there = False

    def _events(self, names: Sequence[str], start_ms: int) -> Iterator[dict[str, Any]]:
        asked: dict[str, Any] = {"logGroupName": self._group, "logStreamNames": list(names), "startTime": start_ms}
        while True:
            with explained("logs:FilterLogEvents", self._group):
                page = self._client.filter_log_events(**asked)
            yield from page["events"]
            if not page.get("nextToken"):
                return
            asked["nextToken"] = page["nextToken"]


def requests_for(newest: Mapping[str, int | None]) -> list[tuple[int | None, list[str]]]:
    """Divide streams into at most three requests, and return from what time on each reads, None from the beginning.

    A request has one start for all its streams. If those that talk shared it with those that have been quiet for long,
    much would be read again and again.

    Args:
        newest: milliseconds of the newest event that was read of each stream, None of one that is read from its
            beginning.
    """
    known = {name: ms for name, ms in newest.items() if ms is not None}
    latest = max(known.values(), default=0)
    talking = [name for name, ms in known.items() if ms >= latest - TALKING_MS]
    quiet = [name for name in known if name not in talking]
    requests: list[tuple[int | None, list[str]]] = [(None, [name for name in newest if name not in known])]
    requests.append((min((known[name] for name in talking), default=0) - SLACK_MS, talking))
    oldest = min((known[name] for name in quiet), default=0)
    requests.append((max(oldest - SLACK_MS, latest - LATE_MS), quiet))
    return [(start, names) for start, names in requests if names]
