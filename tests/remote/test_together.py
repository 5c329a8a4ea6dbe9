"""Several jobs that are followed at once from threads of one process, on the emulator."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from launchers import signals
from launchers.base import Job, Stage
from launchers.cache import Cache, StageFolder
from launchers.config import Backend, Config
from launchers.emulator.client import Emulator
from launchers.remote import aws
from launchers.remote.backend import RemoteBackend
from launchers.remote.job import SERVICE, Handle
from launchers.remote.s3 import Location
from launchers.remote.transfer import Sending, Transfer
from tests.emulators import BUCKET, ENDED, Account
from videolift.events import parse
from videolift.plan import Plan
from videolift.workspace import Kind

POLL_S = 0.4
PATIENCE_S = 240.0
BEFORE, AFTER = 5, 300  # lines of a host before and after the gate is opened
HOST = """
import json, os, sys, time
place = "/opt/ml/input/config" if os.path.exists("/opt/ml/input/config") else "/opt/ml/config"
host = json.load(open(place + "/resourceconfig.json"))["current_host"]
for number in range({before}):
    print("line", number, flush=True)
while not os.path.exists({gate!r}):
    time.sleep(0.02)
for number in range({before}, {before} + {after}):
    print("line", number, flush=True)
    time.sleep(0.002)
end = dict(type="end", stage={stage!r}, exit_code={code}, reason="as told", time=time.time(), host=host)
print("::videolift::" + json.dumps(end), flush=True)
sys.exit({code})
"""


class Followed:
    """A job and a thread that follows it."""

    def __init__(self, name: str, job: Job) -> None:
        self.name = name
        self.job = job
        self.lines: list[tuple[str, str]] = []
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()

    def _follow(self) -> None:
        try:
            for line in self.job.follow():
                self.lines.append(line)
        except BaseException as error:
            self.error = error

    def of(self, host: str) -> list[str]:
        return [line for by, line in self.lines if by == host and not line.startswith("::")]

    def warnings(self) -> list[str]:
        events = [parse(line) for host, line in self.lines if host == SERVICE]
        return [str(event["text"]) for event in events if event and event.get("level") == "warning"]

    def join(self) -> None:
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive(), self.lines[-5:]


class Jobs:
    """Jobs whose hosts print some lines, wait for a gate, and print more."""

    def __init__(self, folder: Path, account: Account, poll_s: float = POLL_S) -> None:
        settings = Backend(name="sagemaker-remote", region="us-east-1", role="videolift-job", poll_s=poll_s)
        self._cache = Cache(folder / "cache")
        self.backend = RemoteBackend(Config(backend=settings), self._cache)
        self._account = account
        self._gate = folder / "gate"
        self._token = f"{time.time_ns():x}"
        self.names: list[tuple[str, str]] = []  # (Training | Processing, name)

    def start(self, kind: Kind = Kind.training, *, hosts: int = 1, code: int = 0) -> Followed:
        stage = "train" if kind is Kind.training else "preprocess"
        name = f"videolift-{stage}-{len(self.names)}-{self._token}"
        program = HOST.format(before=BEFORE, after=AFTER, gate=str(self._gate), stage=stage, code=code)
        start = self._account.train if kind is Kind.training else self._account.process
        start(name, program, hosts=hosts)
        self.names.append((kind.value.capitalize(), name))
        plan = Plan(stage, f"{stage}-{name}")
        folder = StageFolder(self._cache.partial(plan.id), kind)
        Handle(name, kind, "us-east-1", "123456789012", {stage: plan.id}).save([folder])
        asked = Stage(plan, kind, folder, tuple(f"algo-{number + 1}" for number in range(hosts)))
        return Followed(name, self.backend.submit([asked], Console(file=StringIO())))

    def open_gate(self) -> None:
        self._gate.touch()

    def end(self) -> None:
        for kind, name in self.names:
            if self._account.describe(kind, name)[f"{kind}JobStatus"] not in ENDED:
                getattr(self._account.sagemaker, f"stop_{kind.lower()}_job")(**{f"{kind}JobName": name})


@pytest.fixture
def account(emulator: Emulator) -> Account:
    return Account(emulator)


@pytest.fixture
def jobs(tmp_path: Path, account: Account) -> Iterator[Jobs]:
    made = Jobs(tmp_path, account)
    yield made
    account.emulator.clear_faults()
    made.open_gate()
    made.end()


class Calls:
    """What the launcher asks, from when this is made."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._before = len(emulator.calls())

    def of_launcher(self) -> list[dict[str, object]]:
        new = self._emulator.calls()[self._before :]
        return [call for call in new if "videolift" in str(call["user_agent"])]

    def counts(self) -> Counter[object]:
        return Counter(call["operation"] for call in self.of_launcher())


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def spoken(followed: list[Followed], hosts: int) -> bool:
    """Tell whether all hosts have said what they say before the gate."""
    return sum(line == f"line {BEFORE - 1}" for one in followed for _, line in one.lines) == hosts


def a_while(emulator: Emulator, looks: int) -> Counter[object]:
    """Return how often each operation was called while so many looks were made."""
    calls = Calls(emulator)
    until(lambda: calls.counts()["ListTrainingJobs"] >= looks)
    return calls.counts()


ALL = [f"line {number}" for number in range(BEFORE + AFTER)]


def test_many_jobs_take_as_many_requests_as_one(jobs: Jobs, emulator: Emulator) -> None:
    alone = jobs.start()
    until(lambda: spoken([alone], 1))
    a_while(emulator, 2)  # what was new when it began has been described
    one = a_while(emulator, 4)
    two_hosts = jobs.start(hosts=2)
    others = [jobs.start() for _ in range(2)]
    failing = jobs.start(code=3)
    until(lambda: spoken([alone, two_hosts, *others, failing], 6))
    a_while(emulator, 2)
    started = time.monotonic()
    five = a_while(emulator, 4)
    assert time.monotonic() - started > 3 * POLL_S, "all look together, no more often than one alone"
    for counts in (one, five):
        looks = counts["ListTrainingJobs"]
        assert counts.keys() == {"ListTrainingJobs", "FilterLogEvents"}
        assert abs(counts["FilterLogEvents"] - looks) <= 1
    jobs.open_gate()
    for job in (alone, two_hosts, *others, failing):
        job.join()
        assert job.error is None
        assert job.of("algo-1") == ALL
        assert job.warnings() == []
    assert two_hosts.of("algo-2") == ALL
    assert [(end.host, end.exit_code, end.failure) for end in failing.job.ends()] == [("algo-1", 3, "as told")]
    assert [job.job.ends() for job in (alone, two_hosts, *others)] == [[], [], [], []]
    assert [len(job.job.finished) for job in (alone, two_hosts, *others)] == [1, 1, 1, 1]


def test_throttling_slows_all_together_and_loses_nothing(
    jobs: Jobs, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aws, "ATTEMPTS", 1)  # botocore's own patience is not what is tested
    followed = [jobs.start(Kind.processing), jobs.start(Kind.processing), jobs.start()]
    until(lambda: spoken(followed, 3))
    emulator.fault("slow_logs", seconds=2)
    late = jobs.start()
    until(lambda: spoken([late], 1))
    calls = Calls(emulator)
    emulator.fault("throttle", operation="FilterLogEvents", times=2)
    jobs.open_gate()
    for one in (*followed, late):
        one.join()
        assert one.error is None
        assert one.of("algo-1") == ALL
        assert [text.partition("trying again in ")[2] for text in one.warnings()] == ["1 s", "2 s"]
    throttled = [call for call in calls.of_launcher() if call["status"] == 400]
    assert len(throttled) == 2, "nobody else asks meanwhile"
    asked = [float(str(c["time"])) for c in calls.of_launcher() if c["operation"] == "FilterLogEvents"]
    failed = [float(str(call["time"])) for call in throttled]
    after = [min(time for time in asked if time > one) - one for one in failed]
    assert after[0] > 2 * POLL_S and after[1] > 4 * POLL_S


def test_one_is_interrupted_at_once_and_the_others_go_on(tmp_path: Path, account: Account, emulator: Emulator) -> None:
    jobs = Jobs(tmp_path, account, poll_s=3)
    try:
        one, other = jobs.start(), jobs.start()
        until(lambda: spoken([one, other], 2))
        time.sleep(0.5)  # in the middle of the pause between two looks
        calls = Calls(emulator)
        signals.interrupt(one.thread)
        one.join()
        assert calls.counts()["ListTrainingJobs"] == 0, "it does not wait for the next look"
        assert isinstance(one.error, KeyboardInterrupt)
        again = Followed(one.name, one.job)
        jobs.open_gate()
        for job in (again, other):
            job.join()
            assert job.error is None
        assert one.of("algo-1") + again.of("algo-1") == other.of("algo-1") == ALL
    finally:
        jobs.open_gate()
        jobs.end()


def test_what_several_send_to_one_place_is_sent_once(tmp_path: Path, emulator: Emulator) -> None:
    files: dict[str, Path | bytes] = {}
    for number in range(10):
        file = tmp_path / f"{number}.npy"
        file.write_bytes(bytes([number]) * 100_000)
        files[file.name] = file
    sending = Sending("arrays", files, Location(BUCKET, f"together/{time.time_ns()}"), last="9.npy")
    transfer = Transfer(aws.Aws(Backend(region="us-east-1")), tmp_path / "checksums.db")
    calls = Calls(emulator)
    errors: list[BaseException] = []

    def send() -> None:
        try:
            transfer.send(sending, Console(file=StringIO()))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert calls.counts()["PutObject"] == len(files)
