"""What is asked for many jobs at once, and that no line of theirs is lost or told twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.config import Backend
from launchers.remote.aws import Aws, AwsError
from launchers.remote.logs import LATE_MS, SLACK_MS, TALKING_MS, JobLog, Logs, requests_for
from launchers.remote.watch import Watch, Watched, common_beginning
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


# ---- Looks


class Service:
    """SageMaker and its jobs, of which nothing but their states changes."""

    def __init__(self, *jobs: str) -> None:
        self.status = dict.fromkeys(jobs, "InProgress")
        self.refused: set[str] = set()

    def list(self, asked: dict[str, Any]) -> dict[str, Any]:
        names = [name for name, status in self.status.items() if status == asked["StatusEquals"]]
        names = [name for name in sorted(names) if asked.get("NameContains", "") in name]
        first = int(asked.get("NextToken", 0))
        more = {"NextToken": str(first + 1)} if first + 1 < len(names) else {}  # one a page
        shown = [{**self._times(name), "TrainingJobStatus": self.status[name]} for name in names[first : first + 1]]
        return {"TrainingJobSummaries": shown, **more}

    def describe(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["TrainingJobName"]
        if name in self.refused:
            raise Refused("AccessDeniedException", "not this one")
        if name not in self.status:
            raise Refused("ValidationException", "Requested resource not found.")
        return {
            **self._times(name),
            "TrainingJobArn": f"arn:{name}",
            "TrainingJobStatus": self.status[name],
            "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.xlarge"},
            "OutputDataConfig": {"S3OutputPath": "s3://bucket/jobs"},
        }

    def _times(self, name: str) -> dict[str, Any]:
        changed = 1 if self.status[name] == "InProgress" else 2
        return {"TrainingJobName": name, "CreationTime": 1, "LastModifiedTime": changed}


@pytest.fixture
def service() -> Service:
    return Service("job-1", "job-2", "job-3")


@pytest.fixture
def asked(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "mine")
    with json_service({"ListTrainingJobs": service.list, "DescribeTrainingJob": service.describe}) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running.asked


@contextmanager
def watched(*names: str) -> Iterator[tuple[Watch, list[Watched]]]:
    watch = Watch(Aws(Backend(region="us-east-1", poll_s=0.01)))
    with ExitStack() as stack:
        jobs = [Watched(Kind.training, name) for name in names]
        for job in jobs:
            stack.enter_context(watch.following(job))
        yield watch, jobs


def operations(asked: list[tuple[str, dict[str, Any]]]) -> Counter[str]:
    counts = Counter(operation for operation, _ in asked)
    asked.clear()
    return counts


def test_only_what_has_changed_is_described(service: Service, asked: list[tuple[str, dict[str, Any]]]) -> None:
    with watched("job-1", "job-2", "job-3") as (watch, (one, two, three)):
        watch.wait(one)
        assert operations(asked) == {"ListTrainingJobs": 3, "DescribeTrainingJob": 3}  # a page a job
        watch.wait(one)
        assert operations(asked) == {"ListTrainingJobs": 3}
        service.status["job-2"] = "Stopping"
        watch.wait(one)
        assert operations(asked) == {"ListTrainingJobs": 2, "DescribeTrainingJob": 1}
        watch.wait(one)
        assert operations(asked) == {"ListTrainingJobs": 3, "DescribeTrainingJob": 1}
        watch.wait(one)
        assert operations(asked) == {"ListTrainingJobs": 3}, "stopping may take minutes"
        service.status |= {"job-2": "Stopped", "job-3": "Completed"}
        watch.wait(one)
        states = [job.state.status for job in (one, two, three) if job.state]
        assert states == ["InProgress", "Stopped", "Completed"]
        operations(asked)
        watch.wait(one)
        assert operations(asked) == {"ListTrainingJobs": 1}, "what has ended is left alone"


def test_what_is_wrong_with_one_job_is_told_of_that_one(
    service: Service, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    service.refused = {"job-2"}
    with watched("job-1", "job-2", "job-4") as (watch, (one, two, unknown)):
        watch.wait(one)
        assert one.state is not None and one.state.status == "InProgress"
        assert (one.trouble, one.own_trouble, one.unknown) == (None, None, False)
        assert isinstance(two.own_trouble, AwsError) and "not this one" in str(two.own_trouble)
        assert unknown.unknown


def test_followers_in_many_threads_share_one_look(service: Service, asked: list[tuple[str, dict[str, Any]]]) -> None:
    with watched("job-1", "job-2", "job-3") as (watch, jobs):
        with ThreadPoolExecutor(len(jobs)) as pool:
            list(pool.map(watch.wait, jobs))
        counts = operations(asked)
        assert counts["DescribeTrainingJob"] == 3
        assert all(job.state is not None for job in jobs)
