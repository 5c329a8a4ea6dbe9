"""Hosts that meet over real sockets on loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from videolift.cluster import absent, follow, leader_of, leading
from videolift.errors import Stopped, TrainingError, VideoliftError
from videolift.job import Stop

LEADER = "127.0.0.1"
HOSTS = (LEADER, "algo-2", "algo-3")


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
        except VideoliftError as error:
            ended.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return ended


def test_the_first_host_leads_and_the_others_may_be_missing() -> None:
    assert leader_of(HOSTS) == LEADER
    assert absent(HOSTS, []) == ["algo-2", "algo-3"]
    assert absent(HOSTS, ["algo-3", "stranger"]) == ["algo-2"]


@pytest.mark.parametrize("leader_late_s", [0.0, 0.3])
def test_all_meet_and_the_followers_stay_until_the_leader_is_done(port: int, stop: Stop, leader_late_s: float) -> None:
    followers = [
        start(lambda h=h: follow(HOSTS, h, Stop(), port=port, timeout_s=20, patience_s=0.1)) for h in HOSTS[1:]
    ]
    time.sleep(leader_late_s)
    with leading(HOSTS, stop, port=port, timeout_s=20) as met:
        assert met == 3
        time.sleep(0.1)
        assert not any(f.done() for f in followers)
    assert [f.result(timeout=5) for f in followers] == [None, None]


def test_strangers_and_hosts_that_start_again_do_not_count_twice(port: int, stop: Stop) -> None:
    leader = start(lambda: lead(stop, port))
    with connect(port) as stranger, connect(port) as silent, connect(port) as before:
        stranger.sendall(b"algo-9\n")
        silent.sendall(b"x" * 2000)
        before.sendall(b"algo-2\n")
        assert (stranger.recv(10), silent.recv(10)) == (b"", b"")
        followers = [
            start(lambda h=h: follow(HOSTS, h, Stop(), port=port, timeout_s=20, patience_s=0.1)) for h in HOSTS[1:]
        ]
        assert leader.result(timeout=20) == 3
        assert [f.result(timeout=5) for f in followers] == [None, None]


def test_hosts_that_do_not_come_are_named(port: int, stop: Stop) -> None:
    follower = start(lambda: follow(HOSTS, "algo-2", Stop(), port=port, timeout_s=20, patience_s=0.1))
    with pytest.raises(TrainingError, match=rf"^algo-3 did not come within 2 s.*port {port} of {LEADER}"):
        lead(stop, port, timeout_s=2)
    with pytest.raises(TrainingError, match=f"{LEADER} ended before the training was done"):
        follower.result(timeout=5)


def test_a_leader_that_does_not_come_is_named(port: int, stop: Stop) -> None:
    with pytest.raises(TrainingError, match=rf"algo-2 could not reach {LEADER} on TCP port {port} within 0\.2 s"):
        follow(HOSTS, "algo-2", stop, port=port, timeout_s=0.2, patience_s=0.1)
    with pytest.raises(TrainingError, match=r"could not reach no-such-host\.invalid"):
        follow(("no-such-host.invalid", "algo-2"), "algo-2", stop, port=port, timeout_s=0.2, patience_s=0.1)


def test_a_port_that_is_taken_is_an_error_that_says_so(stop: Stop) -> None:
    with socket.create_server(("", 0)) as server, pytest.raises(TrainingError, match="cannot listen on TCP port"):
        lead(stop, server.getsockname()[1])


@pytest.mark.parametrize("reset", [False, True])
def test_a_leader_that_dies_fails_its_followers(stop: Stop, reset: bool) -> None:
    with socket.create_server(("", 0)) as server:
        follower = start(
            lambda: follow(HOSTS, "algo-2", stop, port=server.getsockname()[1], timeout_s=20, patience_s=0.1)
        )
        connection, _ = server.accept()
    assert connection.recv(100) == b"algo-2\n"
    if reset:  # as a killed process with unread data does
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
    with pytest.raises(TrainingError, match=f"{LEADER} ended before the training was done"):
        follower.result(timeout=5)


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (TrainingError("diverged"), TrainingError(f"{LEADER} ended before the training was done")),
        (Stopped("asked"), Stopped(f"{LEADER} was asked to stop")),
    ],
    ids=["fails", "is stopped"],
)
def test_how_a_leader_ends_its_followers_end(
    port: int, stop: Stop, failure: VideoliftError, told: VideoliftError
) -> None:
    hosts = HOSTS[:2]
    follower = start(lambda: follow(hosts, "algo-2", Stop(), port=port, timeout_s=20, patience_s=0.1))
    with pytest.raises(type(failure)), leading(hosts, stop, port=port, timeout_s=20):
        raise failure
    with pytest.raises(type(told), match=str(told)):
        follower.result(timeout=5)


@pytest.mark.parametrize("who", ["leader", "unconnected", "follower"])
def test_a_stop_request_is_heard_while_waiting(port: int, stop: Stop, who: str) -> None:
    waiting: dict[str, Callable[[], object]] = {
        "leader": lambda: lead(stop, port),
        "unconnected": lambda: follow(HOSTS, "algo-2", stop, port=port, timeout_s=20, patience_s=0.1),
        "follower": lambda: follow(HOSTS, "algo-2", stop, port=port, timeout_s=20, patience_s=0.1),
    }
    with socket.create_server(("", port)) if who == "follower" else socket.socket():
        ended = start(waiting[who])
        time.sleep(0.3)
        stop.requested = True
        with pytest.raises(Stopped):
            ended.result(timeout=5)


def lead(stop: Stop, port: int, timeout_s: float = 20) -> int:
    with leading(HOSTS, stop, port=port, timeout_s=timeout_s) as met:
        return met


def connect(port: int) -> socket.socket:
    """Connect as soon as somebody listens."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection((LEADER, port), 10)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
