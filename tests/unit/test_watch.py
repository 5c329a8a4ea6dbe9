"""What is asked for many jobs at once, and that no line of theirs is lost or told twice."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.config import Backend
from launchers.remote.aws import Aws, AwsError
from launchers.remote.logs import LATE_MS, SLACK_MS, TALKING_MS, JobLog, Logs, requests_for
from launchers.remote.watch import common_beginning
from tests.json_service import Refused, json_service
from videolift.workspace import Kind

NOW_MS = 1_700_000_000_000


class Group:
    """A log group as CloudWatch has it: a few events a page, an empty page before them, events that come late."""

    PAGE = 3

    def __init__(self) -> None:
        self.events: dict[str, list[tuple[int, str, str]]] = {}  # by stream: (time, id, message)
        self.starts: list[tuple[int, int]] = []  # (start, streams) of each request that begins to read

    def print(self, stream: str, message: str, ms: int) -> None:
        events = self.events.setdefault(stream, [])
        events.append((ms, f"{stream}-{len(events)}", message))

    def streams(self, asked: dict[str, Any]) -> dict[str, Any]:
        if not self.events:
            raise Refused("ResourceNotFoundException", "The specified log group does not exist.")
        found = sorted(name for name in self.events if name.startswith(asked["logStreamNamePrefix"]))
        first = int(asked.get("nextToken", 0))
        more = {"nextToken": str(first + 1)} if first + 1 < len(found) else {}
        return {"logStreams": [{"logStreamName": name} for name in found[first : first + 1]], **more}

    def filter(self, asked: dict[str, Any]) -> dict[str, Any]:
        names = asked["logStreamNames"]
        assert 1 <= len(names) <= 100
        if not set(names) <= self.events.keys():
            raise Refused("ResourceNotFoundException", "The specified log stream does not exist.")
        if "nextToken" not in asked:
            self.starts.append((asked["startTime"], len(names)))
            return {"events": [], "nextToken": "0"}
        found = sorted((event, name) for name in names for event in self.events[name] if event[0] >= asked["startTime"])
        first = int(asked["nextToken"])
        more = {"nextToken": str(first + self.PAGE)} if first + self.PAGE < len(found) else {}
        return {
            "events": [
                {"logStreamName": name, "timestamp": ms, "eventId": event_id, "message": f"{message}\n"}
                for (ms, event_id, message), name in found[first : first + self.PAGE]
            ],
            **more,
        }


@pytest.fixture
def group() -> Group:
    return Group()


@pytest.fixture
def logs(group: Group, monkeypatch: pytest.MonkeyPatch) -> Iterator[Logs]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "mine")
    with json_service({"DescribeLogStreams": group.streams, "FilterLogEvents": group.filter}) as service:
        monkeypatch.setenv("AWS_ENDPOINT_URL", service.url)
        yield Logs(Aws(Backend(region="us-east-1")).client("logs"), Kind.training)


def taken(log: JobLog) -> list[tuple[str, str]]:
    lines = list(log.lines)
    log.lines.clear()
    return lines


def test_lines_of_several_jobs_come_once_and_in_order(group: Group, logs: Logs) -> None:
    one, other = JobLog("one"), JobLog("other")
    logs.find(one, NOW_MS)  # there is no group yet
    assert one.found == []
    logs.read([one, other], [])
    for number in range(5):
        group.print("one/algo-1-17", f"a{number}", NOW_MS + number)
        group.print("one/algo-2-17", f"b{number}", NOW_MS + number)
        group.print("other/algo-1-17", f"c{number}", NOW_MS)
    group.print("one-more/algo-1-17", "of another job", NOW_MS)
    for log in (one, other):
        logs.find(log, NOW_MS - 1)
    logs.read([one, other], [])
    lines = taken(one)
    assert [line for host, line in lines if host == "algo-1"] == [f"a{number}" for number in range(5)]
    assert [line for host, line in lines if host == "algo-2"] == [f"b{number}" for number in range(5)]
    assert taken(other) == [("algo-1", f"c{number}") for number in range(5)]
    logs.read([one, other], [])
    assert taken(one) == taken(other) == []
    assert [streams for _, streams in group.starts] == [3, 3], "one request reads all"


def test_a_line_that_comes_late_is_not_lost_and_one_that_comes_very_late_is_there_at_the_end(
    group: Group, logs: Logs
) -> None:
    log = JobLog("job")
    group.print("job/algo-1-17", "first", NOW_MS)
    logs.find(log, NOW_MS - LATE_MS)
    logs.read([log], [])
    group.print("job/algo-1-17", "late", NOW_MS - SLACK_MS)
    group.print("job/algo-1-17", "very late", NOW_MS - SLACK_MS - 1)
    logs.read([log], [])
    assert taken(log) == [("algo-1", "first"), ("algo-1", "late")]
    logs.read([log], [log])
    assert taken(log) == [("algo-1", "very late")]


def test_a_stream_that_somebody_deletes_does_not_keep_the_others_from_being_read(group: Group, logs: Logs) -> None:
    log = JobLog("job")
    for host in ("algo-1", "algo-2"):
        group.print(f"job/{host}-17", "before", NOW_MS)
    logs.find(log, NOW_MS)
    logs.read([log], [])
    assert len(taken(log)) == 2
    del group.events["job/algo-2-17"]
    group.print("job/algo-1-17", "after", NOW_MS + 1)
    logs.read([log], [])
    logs.find(log, NOW_MS)
    logs.read([log], [])
    assert taken(log) == [("algo-1", "after")]


def test_what_cloudwatch_refuses_is_an_error_that_names_the_right(
    logs: Logs, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise Refused("AccessDeniedException", "no")

    log = JobLog("job")
    group.print("job/algo-1-17", "a", NOW_MS)
    logs.find(log, NOW_MS)
    with json_service({"FilterLogEvents": refuse}) as service:
        monkeypatch.setenv("AWS_ENDPOINT_URL", service.url)
        strict = Logs(Aws(Backend(region="us-east-1")).client("logs"), Kind.training)
        with pytest.raises(AwsError, match=r"logs:FilterLogEvents is not allowed.*docs/iam/person\.json"):
            strict.read([log], [])


def test_hundreds_of_streams_are_divided(group: Group, logs: Logs) -> None:
    log = JobLog("job")
    for number in range(101):
        group.print(f"job/algo-{number}-17", "a", NOW_MS)
    logs.find(log, NOW_MS)
    logs.read([log], [])
    assert len(taken(log)) == 101
    assert [streams for _, streams in group.starts] == [100, 1]


@given(st.dictionaries(st.text(min_size=1), st.none() | st.integers(NOW_MS - 10 * LATE_MS, NOW_MS), max_size=20))
def test_every_stream_is_in_one_of_three_requests_at_most_that_starts_early_enough(
    newest: dict[str, int | None],
) -> None:
    requests = requests_for(newest)
    assert len(requests) <= 3
    assert sorted(name for _, names in requests for name in names) == sorted(newest)
    latest = max((ms for ms in newest.values() if ms is not None), default=0)
    for start, names in requests:
        for ms in (newest[name] for name in names):
            assert (ms is None) == (start is None)
            if ms is not None and start is not None:
                assert start <= max(ms - SLACK_MS, latest - LATE_MS)
                assert start >= latest - LATE_MS or start >= latest - TALKING_MS - SLACK_MS


@given(st.lists(st.text("ab-", min_size=1), min_size=1))
def test_names_have_their_beginning_in_common(names: list[str]) -> None:
    beginning = common_beginning(names)
    assert all(name.startswith(beginning) for name in names)
    longer = {name[: len(beginning) + 1] for name in names}
    assert len(longer) > 1 or longer == {beginning}
    assert common_beginning(random.sample(names, len(names))) == beginning
