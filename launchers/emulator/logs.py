"""The output of jobs in CloudWatch Logs: kept by moto, written from here.

Source: AWS, "CloudWatch Logs for Amazon SageMaker AI" (names of groups and streams), "PutLogEvents" (262,144 bytes an
event, no empty one), "FilterLogEvents" (order, pages). Events become visible within a second, as on the service.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from launchers.emulator.answers import ServiceError

ACCOUNT = "123456789012"  # moto's
EVENT_BYTES = 262_144 - 26  # the service counts 26 bytes of its own
FLUSH_S = 0.2
STREAMS = 100  # that FilterLogEvents takes
PAGE_EVENTS, PAGE_BYTES = 10_000, 1 << 20
MISSING = "ResourceNotFoundException"


class LogStream:
    """One host's output."""

    def __init__(self, region: str, group: str, stream: str, delay_s: float = 0.0) -> None:
        from moto.logs.models import logs_backends

        self.group, self.name = group, stream
        self.delay_s = delay_s
        self._backend: Any = logs_backends[ACCOUNT][region]
        self._backend.ensure_log_group(group)
        self._backend.ensure_log_stream(group, stream)
        self._waiting: deque[tuple[float, dict[str, Any]]] = deque()  # (visible from, event)
        self._lock = threading.Lock()

    def add(self, line: str) -> None:
        """Add a line of output; one without text is no event."""
        now = int(time.time() * 1000)
        content = line.encode("utf-8", "replace")
        visible = time.monotonic() + self.delay_s
        with self._lock:
            for start in range(0, len(content), EVENT_BYTES):
                message = content[start : start + EVENT_BYTES].decode("utf-8", "replace")
                self._waiting.append((visible, {"timestamp": now, "message": message}))

    def flush(self, *, everything: bool = False) -> None:
        """Make events visible whose time has come."""
        with self._lock:
            events = []
            while self._waiting and (everything or self._waiting[0][0] <= time.monotonic()):
                events.append(self._waiting.popleft()[1])
            if events:
                self._backend.put_log_events(self.group, self.name, events)


class LogWriter(threading.Thread):
    """Makes the events of all streams visible, a few times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="logs")
        self.delay_s = 0.0  # of the streams opened from now on
        self._streams: list[LogStream] = []
        self._names: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def open(self, region: str, group: str, prefix: str) -> LogStream:
        """Open the stream of a host that starts now: prefix, a dash, seconds since 1970."""
        with self._lock:
            second = int(time.time())
            while (region, f"{prefix}-{second}") in self._names:
                second += 1
            self._names.add((region, f"{prefix}-{second}"))
            stream = LogStream(region, group, f"{prefix}-{second}", self.delay_s)
            self._streams.append(stream)
            return stream

    def run(self) -> None:
        while True:
            time.sleep(FLUSH_S)
            with self._lock:
                streams = list(self._streams)
            for stream in streams:
                stream.flush()


def filter_events(region: str, body: dict[str, Any]) -> dict[str, Any] | None:
    """Answer FilterLogEvents, None where it has a pattern, which is left to moto.

    Raises:
        ServiceError: as the service words it to users (github.com/percona/rds_exporter/issues/81).
    """
    from moto.logs.models import logs_backends

    if body.get("filterPattern"):
        return None
    group = logs_backends[ACCOUNT][region].groups.get(body.get("logGroupName", ""))
    if group is None:
        raise ServiceError(MISSING, "The specified log group does not exist.")
    names = body.get("logStreamNames")
    prefix = body.get("logStreamNamePrefix")
    if (names is not None and prefix is not None) or len(names or ()) > STREAMS:
        raise ServiceError(
            "InvalidParameterException", f"logStreamNames: at most {STREAMS}, and no logStreamNamePrefix with them"
        )
    if names is not None and not set(names) <= set(group.streams):
        raise ServiceError(MISSING, "The specified log stream does not exist.")
    wanted = names if names is not None else [name for name in list(group.streams) if name.startswith(prefix or "")]
    found = [
        (event.timestamp, event.ingestion_time, event.event_id, name, event.message)
        for name in dict.fromkeys(wanted)
        for event in list(group.streams[name].events)
        if body.get("startTime", 0) <= event.timestamp <= body.get("endTime", event.timestamp)
    ]
    return _page(sorted(found), body.get("nextToken"), body.get("limit", PAGE_EVENTS))


def _page(found: list[tuple[int, int, int, str, str]], token: str | None, limit: int) -> dict[str, Any]:
    """Return the events after the one that a token names, as many as a page has."""
    after = tuple(int(part) for part in token.split("-")) if token else ()
    events: list[dict[str, Any]] = []
    size = 0
    for at, ingested, number, name, message in found:
        if (at, ingested, number) <= after:
            continue
        size += len(message.encode("utf-8"))
        if len(events) == limit or (events and size > PAGE_BYTES):
            return {"events": events, "nextToken": token, "searchedLogStreams": []}
        shown = {"logStreamName": name, "timestamp": at, "ingestionTime": ingested, "message": message}
        events.append({**shown, "eventId": f"{number:056}"})
        token = f"{at}-{ingested}-{number}"
    return {"events": events, "searchedLogStreams": []}
