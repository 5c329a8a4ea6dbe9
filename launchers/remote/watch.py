"""Many jobs looked at together, by whoever follows them from threads of one process.

A look asks for a list of the jobs in progress, describes those of which the list tells something new, and reads the new
lines of all: a few requests however many jobs there are. Two looks are ``backend.poll_s`` apart. A service that refuses
or is not reached is left alone for longer and longer, for the sake of all jobs.

Looks have threads of their own, one after the other: a request that takes its time keeps nobody from being interrupted,
and an interruption never comes between reading a line and putting it where it is taken from.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

from launchers.remote import state
from launchers.remote.aws import Aws, CredentialsError, is_transient
from launchers.remote.logs import JobLog, Logs
from launchers.remote.state import State
from launchers.signals import pause
from videolift.workspace import Kind

LONGEST_BACK_OFF_S = 60.0
TURN_S = 0.1  # between two looks of a follower at what was found
# AWS does not say what makes a summary another one, so that a job is described again after a while all the same: one a
# look. Summaries of processing jobs do not say whether their program runs; until it does there is no such while.
STALE_S = 15.0
SEARCHES = 3  # for streams of logs, a look
EARLIER_MS = 60_000  # than a job was made, by another clock


class Watched:
    """A job that somebody follows, and what is known of it."""

    def __init__(self, kind: Kind, job: str) -> None:
        self.kind = kind
        self.job = job
        self.log = JobLog(job)
        self.state: State | None = None
        self.unknown = False  # to SageMaker
        self.trouble: Exception | None = None  # of the last look
        self.own_trouble: Exception | None = None  # of this job alone
        self.look = 0  # the number of the last one that was taken note of
        self._summary: Any = None
        self.described = 0.0  # last, by time.monotonic
        self._searched = 0.0  # for streams, by time.monotonic
        self._ended_log = False  # its streams were searched for after its end

    @property
    def ended(self) -> bool:
        return self.state is not None and self.state.ended

    @property
    def stale(self) -> bool:
        """Tell whether more may have happened than its summary tells."""
        starting = self.kind is Kind.processing and (self.state is None or not self.state.has_run)
        return starting or time.monotonic() - self.described > STALE_S

    def news(self, summary: Any) -> bool:
        """Tell whether it has to be described.

        Args:
            summary: what the list of jobs in progress has of it, None where it is not there.
        """
        return self.state is None or summary is None or summary != self._summary

    def describe(self, client: Any, summary: Any) -> None:
        """Learn how far it is; what is wrong with this job alone keeps nobody from looking at the others.

        Raises:
            AwsError: if the service is not reached, or will not be by anybody.
        """
        try:
            found = state.describe(client, self.kind, self.job)
        except Exception as error:
            if is_transient(error) or isinstance(error, CredentialsError):
                raise
            self.own_trouble = error
            return
        self.own_trouble = None
        self.unknown = found is None
        if found is not None:
            self.state, self._summary, self.described = found, summary, time.monotonic()

    @property
    def lacks_streams(self) -> bool:
        """Tell whether there may be lines that are not looked for."""
        if self.state is None or not self.state.has_run:
            return False
        if self.ended:
            return not self._ended_log
        return len(self.log.found) < self.state.instances * self.state.rounds

    @property
    def searched(self) -> float:
        """Return when its streams were searched for last; after its end that is done at once."""
        return float("-inf") if self.ended else self._searched

    def search(self, logs: Logs) -> None:
        assert self.state is not None
        ended = self.ended
        logs.find(self.log, int(self.state.steps[0].started.timestamp() * 1000) - EARLIER_MS)
        self._searched, self._ended_log = time.monotonic(), ended


class Watch:
    """Looks at the jobs that are followed with one backend's settings."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._lock = threading.Lock()
        self._watched: list[Watched] = []
        self._one_at_a_time = threading.Lock()
        self._thread: threading.Thread | None = None  # of the look under way
        self._begun = self._done = 0  # looks
        self._due = 0.0  # the next one, by time.monotonic
        self.wait_s = aws.settings.poll_s

    @contextmanager
    def following(self, watched: Watched) -> Iterator[None]:
        """Look at a job, too, as long as the block lasts."""
        try:
            with self._lock:
                watched.look = self._begun  # one that has begun may be without it
                self._watched.append(watched)
            yield
        finally:
            with self._lock:
                self._watched = [one for one in self._watched if one is not watched]

    def wait(self, watched: Watched) -> None:
        """Return after the next look at a job."""
        while not self._is_news(watched):
            pause(TURN_S)

    def _is_news(self, watched: Watched) -> bool:
        """Tell whether a look has been done since the last one that was taken note of; begin one that is due."""
        with self._lock:
            if self._done > watched.look:
                watched.look = self._done
                return True
            under_way = self._thread is not None and self._thread.is_alive()
            if not under_way and time.monotonic() >= self._due:
                self._thread = threading.Thread(target=self._look, daemon=True, name="look at jobs")
                self._thread.start()
        return False

    def _look(self) -> None:
        with self._one_at_a_time:
            with self._lock:
                self._begun += 1
                number, watched = self._begun, list(self._watched)
            trouble: Exception | None = None
            try:
                for kind in dict.fromkeys(one.kind for one in watched):
                    self._look_at(kind, [one for one in watched if one.kind is kind])
            except Exception as error:  # it is raised again by those who follow the jobs
                trouble = error
            with self._lock:
                poll_s = self._aws.settings.poll_s
                self.wait_s = min(2 * self.wait_s, LONGEST_BACK_OFF_S) if trouble is not None else poll_s
                for one in watched:
                    one.trouble = trouble
                self._due = time.monotonic() + self.wait_s
                self._done = number

    def _look_at(self, kind: Kind, watched: Sequence[Watched]) -> None:
        client = self._aws.client("sagemaker")
        going_on = [one for one in watched if not one.ended]
        if going_on:
            listed = _listed(client, kind, going_on)
            for one in _to_describe(going_on, listed):
                one.describe(client, listed.get(one.job))
        logs = Logs(self._aws.client("logs"), kind)
        for one in _to_search(watched):
            one.search(logs)
        logs.read([one.log for one in watched], {one.log for one in watched if one.ended})


def common_beginning(names: Sequence[str]) -> str:
    """Return what all names begin with."""
    first, last = min(names), max(names)  # those that differ first
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(letter for letter, _ in same)


def _listed(client: Any, kind: Kind, watched: Sequence[Watched]) -> dict[str, Any]:
    """Return the summaries of those that have not ended, and maybe of others, by name."""
    stopping = any(one.state is not None and one.state.status == state.STOPPING for one in watched)
    part = common_beginning([one.job for one in watched])
    listed = state.summaries(client, kind, state.IN_PROGRESS, part)
    return listed | state.summaries(client, kind, state.STOPPING, part) if stopping else listed


def _to_describe(watched: Sequence[Watched], listed: dict[str, Any]) -> list[Watched]:
    news = [one for one in watched if one.news(listed.get(one.job))]
    stale = sorted((one for one in watched if one not in news and one.stale), key=lambda one: one.described)
    return [*news, *stale[:1]]


def _to_search(watched: Sequence[Watched]) -> list[Watched]:
    lacking = sorted((one for one in watched if one.lacks_streams), key=lambda one: one.searched)
    at_their_end = [one for one in lacking if one.ended]
    return [*at_their_end, *[one for one in lacking if not one.ended][:SEARCHES]]
