"""The hosts of one training job meet: the first one leads, the others are with it from its start to its end.

Lines of text over TCP. A follower connects to the leader by name and says its own name; at the end the leader says
``done``, or ``stopped`` where it was asked to stop. A connection that ends without a word means that the leader failed.

Hosts come up one after the other, and a name may not resolve at first (AWS, "How to Build Your Own Processing
Container", advises to try again), so both sides wait. All hosts know the same list of names in the same order.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from videolift.errors import Stopped, TrainingError
from videolift.job import Stop

PORT = 7077
TIMEOUT_S = 600.0  # until all are there: images are pulled and channels filled at different speeds
POLL_S = 1.0  # between two looks at the stop request, and between two tries to connect
PATIENCE_S = 30.0  # a failed leader still has to say why, and whoever started the hosts to stop the others
NAME_TIMEOUT_S = 5.0  # from connecting to having said the name
LONGEST_LINE = 1024  # bytes
DONE, STOPPED = "done", "stopped"
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}  # seconds, seconds, unanswered probes


def leader_of(hosts: Sequence[str]) -> str:
    return hosts[0]


def absent(hosts: Sequence[str], met: Iterable[str]) -> list[str]:
    """Return the followers that have not come, in the order of the hosts."""
    came = set(met)
    return [host for host in hosts[1:] if host not in came]


@contextmanager
def leading(hosts: Sequence[str], stop: Stop, *, port: int = PORT, timeout_s: float = TIMEOUT_S) -> Iterator[int]:
    """Wait for the other hosts, yield how many met, this one included, and tell them how the block ended.

    Raises:
        TrainingError: if a host does not come.
        Stopped: if the job was asked to stop.
    """
    met: dict[str, socket.socket] = {}
    try:
        with _listening(hosts, port) as server:
            _meet(server, hosts, met, stop, timeout_s)
        yield len(met) + 1
        _tell(met.values(), DONE)
    except Stopped:
        _tell(met.values(), STOPPED)
        raise
    finally:
        for connection in met.values():
            connection.close()


def follow(
    hosts: Sequence[str],
    host: str,
    stop: Stop,
    *,
    port: int = PORT,
    timeout_s: float = TIMEOUT_S,
    patience_s: float = PATIENCE_S,
) -> None:
    """Be with the leader until it is done.

    Args:
        patience_s: how long to wait to be stopped where the leader fails, so that its failure is told first.

    Raises:
        TrainingError: if the leader cannot be reached, or ends without being done.
        Stopped: if this job, or the leader's, was asked to stop.
    """
    leader = leader_of(hosts)
    with _connected(leader, host, stop, port, timeout_s) as connection:
        _tell([connection], host)
        word = _line(connection, stop)
    stop.check()  # hosts are stopped one after the other: the leader may have gone first
    if word == STOPPED:
        raise Stopped(f"{leader} was asked to stop; what is finished is kept")
    if word != DONE:
        _wait(stop, patience_s)
        raise TrainingError(f"{leader} ended before the training was done; what it printed last says why")


def _wait(stop: Stop, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        stop.check()
        time.sleep(min(POLL_S, seconds))


def _listening(hosts: Sequence[str], port: int) -> socket.socket:
    try:
        return socket.create_server(("", port), backlog=len(hosts))
    except OSError as error:
        raise TrainingError(
            f"{leader_of(hosts)}: cannot listen on TCP port {port} for the other hosts ({error.strerror}); end what "
            "uses the port, or train on one host"
        ) from error


def _meet(
    server: socket.socket, hosts: Sequence[str], met: dict[str, socket.socket], stop: Stop, timeout_s: float
) -> None:
    """Fill ``met`` until no follower is absent. A stranger is sent away; a host that comes again has started anew."""
    deadline = time.monotonic() + timeout_s
    server.settimeout(POLL_S)
    while missing := absent(hosts, met):
        stop.check()
        if time.monotonic() > deadline:
            port = server.getsockname()[1]
            raise TrainingError(
                f"{', '.join(missing)} did not come within {timeout_s:g} s; see whether they started, and whether the "
                f"network lets them reach TCP port {port} of {leader_of(hosts)}"
            )
        try:
            connection, _ = server.accept()
        except OSError:  # nobody in this second, or somebody who is gone again
            continue
        try:
            name = _line(connection, stop, NAME_TIMEOUT_S)
        except Stopped:
            connection.close()
            raise
        if name not in hosts[1:]:
            connection.close()
            continue
        if name in met:
            met[name].close()
        met[name] = connection


def _connected(leader: str, host: str, stop: Stop, port: int, timeout_s: float) -> socket.socket:
    deadline = time.monotonic() + timeout_s
    while True:
        stop.check()
        try:
            connection = socket.create_connection((leader, port), POLL_S)
            break
        except OSError as error:  # an unknown name is one as well
            if time.monotonic() > deadline:
                raise TrainingError(
                    f"{host} could not reach {leader} on TCP port {port} within {timeout_s:g} s ({error}); see whether "
                    f"{leader} started, and whether the network lets hosts of one job reach each other"
                ) from error
            time.sleep(min(POLL_S, timeout_s))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a machine that is lost says no goodbye
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # Linux
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection


def _line(connection: socket.socket, stop: Stop, timeout_s: float = math.inf) -> str:
    """Return the next line; an empty one where the connection, or the time, ends before it is whole."""
    deadline = time.monotonic() + timeout_s
    connection.settimeout(POLL_S)
    said = b""
    while not said.endswith(b"\n"):
        stop.check()
        if time.monotonic() > deadline or len(said) > LONGEST_LINE:
            return ""
        try:
            more = connection.recv(LONGEST_LINE)
        except TimeoutError:
            continue
        except OSError:  # reset: the other end was killed
            return ""
        if not more:
            return ""
        said += more
    return said.decode(errors="replace").strip()


def _tell(connections: Iterable[socket.socket], word: str) -> None:
    for connection in connections:
        with suppress(OSError):  # who is gone needs no word; that the leader is, is heard next
            connection.sendall(f"{word}\n".encode())
