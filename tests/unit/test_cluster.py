"""Hosts that meet over real sockets on loopback."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Queue

import pytest

from tests.waiting import HANG_S
from videolift import cluster
from videolift.cluster import HostLost, absent, following, leader_of, leading
from videolift.errors import Stopped, TrainingError, VideoliftError
from videolift.job import Stop

LEADER = "127.0.0.1"
HOSTS = (LEADER, "algo-2", "algo-3")
PAIR = HOSTS[:2]
STATE = bytes(range(256)) * 20_000  # more than a socket takes at once


@pytest.fixture
def port() -> int:
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def stop() -> Stop:
    return Stop()


def start(job: Callable[[], object]) -> Future[object]:
    """Run a host in a thread that does not outlive a failed test."""
    ended: Future[object] = Future()

    def run() -> None:
        try:
            ended.set_result(job())
        except (VideoliftError, SystemExit) as error:
            ended.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return ended


def test_the_first_host_leads_and_the_others_may_be_missing() -> None:
    assert leader_of(HOSTS) == LEADER
    assert absent(HOSTS, []) == ["algo-2", "algo-3"]
    assert absent(HOSTS, ["algo-3", "stranger"]) == ["algo-2"]


@pytest.mark.parametrize("leader_late_s", [0.0, 0.3])
@pytest.mark.parametrize("state", [STATE, b""], ids=["state", "fresh"])
def test_all_meet_take_the_leaders_state_and_stay_until_it_is_done(
    port: int, stop: Stop, leader_late_s: float, state: bytes
) -> None:
    followers = [start(lambda h=h: follow(h, Stop(), port)) for h in HOSTS[1:]]
    time.sleep(leader_late_s)
    with leading(HOSTS, state, stop, never, port=port, timeout_s=HANG_S) as met:
        assert (met.hosts, met.state) == (3, state)
        time.sleep(0.1)
        assert not any(f.done() for f in followers)
    assert [f.result(timeout=HANG_S) for f in followers] == [state, state]


def test_strangers_and_hosts_that_start_again_do_not_count_twice(port: int, stop: Stop) -> None:
    leader = start(lambda: lead(stop, port))
    with connect(port) as stranger, connect(port) as silent, connect(port) as before:
        stranger.sendall(b"algo-9\n")
        silent.sendall(b"x" * 2000)
        before.sendall(b"algo-2\n")
        assert stranger.recv(10) == b""
        followers = [start(lambda: follow(HOSTS[1], Stop(), port))]
        assert before.recv(10) == b"", "the host has started again"
        followers.append(start(lambda: follow(HOSTS[2], Stop(), port)))
        assert leader.result(timeout=HANG_S) == 3
        assert [f.result(timeout=HANG_S) for f in followers] == [STATE, STATE]


def test_hosts_that_do_not_come_are_named(port: int, stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "POLL_S", 0.02)  # the other one is there at once
    follower = start(lambda: follow("algo-2", Stop(), port))
    with pytest.raises(TrainingError, match=rf"^algo-3 did not come within 2 s.*port {port} of {LEADER}"):
        lead(stop, port, timeout_s=2)
    with pytest.raises(TrainingError, match=f"{LEADER}: algo-3 did not come within 2 s"):
        follower.result(timeout=HANG_S)


def test_a_leader_that_does_not_come_is_named(port: int, stop: Stop) -> None:
    with pytest.raises(TrainingError, match=rf"algo-2 could not reach {LEADER} on TCP port {port} within 0\.2 s"):
        follow("algo-2", stop, port, timeout_s=0.2)
    with pytest.raises(TrainingError, match=r"could not reach no-such-host\.invalid"):
        follow("algo-2", stop, port, timeout_s=0.2, hosts=("no-such-host.invalid", "algo-2"))


def test_a_port_that_is_taken_is_an_error_that_says_so(stop: Stop) -> None:
    with socket.create_server(("", 0)) as server, pytest.raises(TrainingError, match="cannot listen on TCP port"):
        lead(stop, server.getsockname()[1])


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("said", [b"", b"start 5\n123", b"start 5\n12345"], ids=["nothing", "a part", "all"])
def test_a_leader_that_dies_fails_its_followers(stop: Stop, reset: bool, said: bytes) -> None:
    with socket.create_server(("", 0)) as server:
        follower = start(lambda: follow("algo-2", stop, server.getsockname()[1]))
        connection, _ = server.accept()
    assert connection.recv(100) == b"algo-2\n"
    connection.sendall(said)
    if reset:  # as a killed process with unread data does
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
    with pytest.raises(TrainingError, match=f"{LEADER} ended before the training was done"):
        follower.result(timeout=HANG_S)


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (ZeroDivisionError("a defect"), TrainingError(f"{LEADER} ended before the training was done")),
        (TrainingError("diver\nged" + "é" * 2000), TrainingError(f"{LEADER}: diver gedé")),
        (Stopped("asked"), Stopped(f"{LEADER} was asked to stop")),
    ],
    ids=["has a defect", "fails", "is stopped"],
)
def test_how_a_leader_ends_its_followers_end(port: int, stop: Stop, failure: Exception, told: VideoliftError) -> None:
    follower = start(lambda: follow("algo-2", Stop(), port, hosts=PAIR))
    with pytest.raises(type(failure)), leading(PAIR, STATE, stop, never, port=port, timeout_s=HANG_S):
        raise failure
    with pytest.raises(type(told), match=str(told)):
        follower.result(timeout=HANG_S)


def test_where_an_exchange_fails_all_name_the_host_that_is_gone(port: int, stop: Stop) -> None:
    def lost() -> None:
        raise HostLost("an exchange failed")

    follower = start(lambda: follow("algo-2", Stop(), port, block=lost))
    gone = start(lambda: follow("algo-3", Stop(), port, block=sys.exit))
    leader = start(lambda: lead(stop, port, block=lost))
    with pytest.raises(TrainingError, match=r"^algo-3 ended before the training was done"):
        leader.result(timeout=HANG_S)
    assert isinstance(gone.exception(timeout=HANG_S), SystemExit)
    with pytest.raises(TrainingError, match=f"^{LEADER}: algo-3 ended before the training was done"):
        follower.result(timeout=HANG_S)


def test_an_exchange_that_fails_with_all_hosts_there_keeps_its_reason(
    port: int, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "NEWS_S", 0.1)
    follower = start(lambda: follow("algo-2", Stop(), port, hosts=PAIR))
    with (
        pytest.raises(TrainingError, match=r"^the cable is loose"),
        leading(PAIR, STATE, stop, never, port=port, timeout_s=HANG_S),
    ):
        raise HostLost("the cable is loose")
    with pytest.raises(TrainingError, match=f"^{LEADER}: the cable is loose"):
        follower.result(timeout=HANG_S)


def test_a_block_that_does_not_notice_a_dead_host_is_given_up(port: int, stop: Stop) -> None:
    given_up: Queue[str] = Queue()
    start(lambda: follow("algo-2", Stop(), port, hosts=PAIR, block=sys.exit))
    with leading(PAIR, STATE, stop, given_up.put, port=port, timeout_s=HANG_S, patience_s=0.1, abandon_s=0.1):
        assert given_up.get(timeout=HANG_S).startswith("algo-2 ended before the training was done")


def test_a_follower_gives_up_a_dead_leader_too(stop: Stop) -> None:
    given_up: Queue[str] = Queue()

    def die() -> None:
        with server.accept()[0] as connection:
            connection.sendall(b"start 0\n")

    with socket.create_server(("", 0)) as server:
        start(die)
        with (
            pytest.raises(TrainingError, match="ended before"),
            following(
                PAIR,
                "algo-2",
                stop,
                given_up.put,
                port=server.getsockname()[1],
                timeout_s=HANG_S,
                patience_s=0.1,
                abandon_s=0.1,
            ),
        ):
            assert given_up.get(timeout=HANG_S).startswith(f"{LEADER} ended before the training was done")


def test_nobody_is_given_up_once_the_training_is_over(port: int, stop: Stop) -> None:
    given_up: Queue[str] = Queue()
    trained = threading.Event()
    gone = start(lambda: follow("algo-2", Stop(), port, hosts=PAIR, block=lambda: sys.exit(not trained.wait(HANG_S))))
    with leading(PAIR, STATE, stop, given_up.put, port=port, timeout_s=HANG_S, patience_s=0.1, abandon_s=0.1) as met:
        met.trained()
        trained.set()
        assert isinstance(gone.exception(timeout=HANG_S), SystemExit)
        time.sleep(0.5)
    assert given_up.empty()


@pytest.mark.parametrize("who", ["leader", "unconnected", "follower"])
def test_a_stop_request_is_heard_while_waiting(port: int, stop: Stop, who: str) -> None:
    waiting: dict[str, Callable[[], object]] = {
        "leader": lambda: lead(stop, port),
        "unconnected": lambda: follow("algo-2", stop, port),
        "follower": lambda: follow("algo-2", stop, port),
    }
    with socket.create_server(("", port)) if who == "follower" else socket.socket():
        ended = start(waiting[who])
        time.sleep(0.3)
        stop.requested = True
        with pytest.raises(Stopped):
            ended.result(timeout=HANG_S)


def test_a_stop_request_after_the_training_waits_for_the_leader(port: int) -> None:
    asked = Stop()

    def ask() -> None:
        asked.requested = True

    follower = start(lambda: follow("algo-2", asked, port, hosts=PAIR, block=ask))
    with leading(PAIR, STATE, Stop(), never, port=port, timeout_s=HANG_S):
        time.sleep(0.3)
        assert not follower.done()
    assert follower.result(timeout=HANG_S) == STATE


def never(reason: str) -> None:
    raise AssertionError(reason)


def lead(stop: Stop, port: int, *, timeout_s: float = HANG_S, block: Callable[[], object] = lambda: None) -> int:
    with leading(HOSTS, STATE, stop, never, port=port, timeout_s=timeout_s, patience_s=5) as met:
        block()
        return met.hosts


def follow(
    host: str,
    stop: Stop,
    port: int,
    *,
    timeout_s: float = HANG_S,
    hosts: Sequence[str] = HOSTS,
    block: Callable[[], object] = lambda: None,
) -> bytes:
    with following(hosts, host, stop, never, port=port, timeout_s=timeout_s, patience_s=0.1) as met:
        block()
        return met.state


def connect(port: int) -> socket.socket:
    """Connect as soon as somebody listens."""
    deadline = time.monotonic() + HANG_S
    while True:
        try:
            return socket.create_connection((LEADER, port), HANG_S)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
