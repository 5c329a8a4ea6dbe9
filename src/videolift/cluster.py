"""The hosts of one training job meet: the first one leads, all are together from the start of training to its end.

Lines of text over TCP. A follower connects to the leader by name and says its own name. When all are there, the leader
gives everyone the state that training starts from: ``start`` and a number of bytes, then those. At the end it says
``done``, or ``stopped`` where the job was asked to stop, or ``failed`` and why. A connection that ends without a word
means that the host at its other end failed.

Training itself talks over connections of its own, see :mod:`videolift.distributed`. Those tell that *some* host is
gone; these tell which.

Hosts come up one after the other, and a name may not resolve at first (AWS, "How to Build Your Own Processing
Container", advises to try again), so both sides wait. All hosts know the same list of names in the same order.
"""

from __future__ import annotations

import math
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from videolift.errors import Stopped, TrainingError
from videolift.job import Stop

PORT = 7077
TIMEOUT_S = 600.0  # until all are there: images are pulled and channels filled at different speeds
POLL_S = 1.0  # between two looks at the stop request, and between two tries to connect
PATIENCE_S = 30.0  # a failed leader still has to say why, and whoever started the hosts to stop the others
ABANDON_S = 60.0  # from the end of a connection to that of a host which waits for a dead one and does not notice
NEWS_S = 10.0  # from a failed exchange between hosts to knowing which one is gone
NAME_TIMEOUT_S = 5.0  # from connecting to having said the name
LONGEST_LINE = 1024  # bytes
PIECE = 1 << 20  # bytes sent or taken at once
START, DONE, STOPPED, FAILED = "start", "done", "stopped", "failed"
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}  # seconds, seconds, unanswered probes

GiveUp = Callable[[str], None]


class HostLost(TrainingError):
    """An exchange with another host failed."""


@dataclass(frozen=True)
class Met:
    """What a host knows once all have met."""

    hosts: int  # this one included
    state: bytes  # what training starts from, the leader's
    trained: Callable[[], None]  # is to be called when no host waits for another any more


def leader_of(hosts: Sequence[str]) -> str:
    return hosts[0]


def absent(hosts: Sequence[str], met: Iterable[str]) -> list[str]:
    """Return the followers that have not come, in the order of the hosts."""
    came = set(met)
    return [host for host in hosts[1:] if host not in came]


@contextmanager
def leading(
    hosts: Sequence[str],
    state: bytes,
    stop: Stop,
    give_up: GiveUp,
    *,
    port: int = PORT,
    timeout_s: float = TIMEOUT_S,
    patience_s: float = PATIENCE_S,
    abandon_s: float = ABANDON_S,
) -> Iterator[Met]:
    """Wait for the other hosts, give them the state, and tell them how the block ended.

    Args:
        give_up: is called from another thread with a reason where a follower is gone and the block does not end within
            ``abandon_s``: it is then waiting for that host, and nothing but the end of the process ends that.
        patience_s: how long to wait at the end until the followers have left; they need the leader until then.

    Raises:
        TrainingError: if a host does not come, or the block raised HostLost; the message names who is gone.
        Stopped: if the job was asked to stop before all met, or the block raised it.
    """
    met: dict[str, socket.socket] = {}
    try:
        with _listening(hosts, port) as server:
            _meet(server, hosts, met, stop, timeout_s)
        for connection in met.values():
            _send(connection, f"{START} {len(state)}\n".encode() + state)
        with _watched(met, give_up, abandon_s) as watch:
            try:
                yield Met(len(met) + 1, state, watch.end)
            except HostLost as error:
                lost = watch.lost(NEWS_S)
                raise TrainingError(_ended(lost) if lost else str(error)) from error
        _tell(met.values(), DONE)
        _wait_for_the_end(met.values(), patience_s)
    except Stopped:
        _tell(met.values(), STOPPED)
        _wait_for_the_end(met.values(), patience_s)
        raise
    except TrainingError as error:
        word = f"{FAILED} {error}".replace("\n", " ").encode()[: LONGEST_LINE // 2]
        _tell(met.values(), word.decode(errors="ignore"))
        raise
    finally:
        for connection in met.values():
            connection.close()


@contextmanager
def following(
    hosts: Sequence[str],
    host: str,
    stop: Stop,
    give_up: GiveUp,
    *,
    port: int = PORT,
    timeout_s: float = TIMEOUT_S,
    patience_s: float = PATIENCE_S,
    abandon_s: float = ABANDON_S,
) -> Iterator[Met]:
    """Meet the leader, take the state from it, and stay after the block until it is done.

    Args:
        give_up: as in :func:`leading`, where the leader is gone.
        patience_s: how long to wait to be stopped where the leader fails, so that its failure is told first.

    Raises:
        TrainingError: if the leader cannot be reached, ends without being done, or says that another host is gone.
        Stopped: if this job, or the leader's, was asked to stop before all met, or the block raised it.
    """
    leader = leader_of(hosts)
    with _connected(leader, host, stop, port, timeout_s) as connection:
        _tell([connection], host)
        state = _state(connection, leader, stop, patience_s)
        try:
            with _watched({leader: connection}, give_up, abandon_s) as watch:
                yield Met(len(hosts), state, watch.end)
        except HostLost:
            word = _line(connection, Stop(), NEWS_S)
            _refuse(word, leader, stop, patience_s)
        # The training is over, and stopping now would only make a failure of what the leader is about to finish.
        word = _line(connection, Stop())
    if word != DONE:
        _refuse(word, leader, stop, patience_s)


def _state(connection: socket.socket, leader: str, stop: Stop, patience_s: float) -> bytes:
    word, _, size = _line(connection, stop).partition(" ")
    if word != START:
        _refuse(f"{word} {size}".strip(), leader, stop, patience_s)
    state = _received(connection, int(size), stop)
    if len(state) < int(size):
        _refuse("", leader, stop, patience_s)
    return state


def _refuse(word: str, leader: str, stop: Stop, patience_s: float) -> None:
    """Raise what a leader's last word means, an empty one being none."""
    stop.check()  # hosts are stopped one after the other: the leader may have gone first
    if word == STOPPED:
        raise Stopped(f"{leader} was asked to stop; what is finished is kept")
    _wait(stop, patience_s)
    said = word.removeprefix(FAILED).strip() if word.startswith(FAILED) else ""
    raise TrainingError(f"{leader}: {said}" if said else _ended([leader]))


def _ended(names: Sequence[str]) -> str:
    return f"{', '.join(names)} ended before the training was done; what it printed last says why"


def _wait(stop: Stop, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        stop.check()
        time.sleep(min(POLL_S, seconds))


class _Watch(threading.Thread):
    """Notices which connections end, or bring a word that nobody asked for, while the main thread is busy."""

    def __init__(self, connections: Mapping[str, socket.socket], give_up: GiveUp, abandon_s: float) -> None:
        super().__init__(daemon=True)
        self._names = {connection: name for name, connection in connections.items()}
        self._give_up = give_up
        self._abandon_s = abandon_s
        self._lost: list[str] = []
        self._news = threading.Event()
        self._over = threading.Event()

    def lost(self, timeout_s: float) -> list[str]:
        """Return whose connections have ended, waiting for the first."""
        self._news.wait(timeout_s)
        return list(self._lost)

    def end(self) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        open_ones = set(self._names)
        while open_ones and not self._over.is_set():
            for connection in select.select(open_ones, [], [], POLL_S / 5)[0]:
                open_ones.remove(connection)
                self._lost.append(self._names[connection])
                self._news.set()
            if self._lost and self._over.wait(self._abandon_s):
                return
            if self._lost:
                self._give_up(_ended(self._lost))
                return


@contextmanager
def _watched(connections: Mapping[str, socket.socket], give_up: GiveUp, abandon_s: float) -> Iterator[_Watch]:
    watch = _Watch(connections, give_up, abandon_s)
    watch.start()
    try:
        yield watch
    finally:
        watch.end()


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
        _keep_alive(connection)
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
    _keep_alive(connection)
    return connection


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a machine that is lost says no goodbye
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # Linux
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


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
            more = connection.recv(1)  # what follows the line is not ours to read
        except TimeoutError:
            continue
        except OSError:  # reset: the other end was killed
            return ""
        if not more:
            return ""
        said += more
    return said.decode(errors="replace").strip()


def _received(connection: socket.socket, size: int, stop: Stop) -> bytes:
    """Return the next ``size`` bytes; fewer where the connection ends before."""
    connection.settimeout(POLL_S)
    found = bytearray()
    while len(found) < size:
        stop.check()
        try:
            more = connection.recv(min(size - len(found), PIECE))
        except TimeoutError:
            continue
        except OSError:
            break
        if not more:
            break
        found += more
    return bytes(found)


def _tell(connections: Iterable[socket.socket], word: str) -> None:
    for connection in connections:
        with suppress(OSError):  # who is gone needs no word; that the leader is, is heard next
            connection.sendall(f"{word}\n".encode())


def _send(connection: socket.socket, content: bytes) -> None:
    connection.settimeout(NEWS_S)  # without any progress
    with suppress(OSError):  # as above
        for start in range(0, len(content), PIECE):
            connection.sendall(content[start : start + PIECE])


def _wait_for_the_end(connections: Iterable[socket.socket], patience_s: float) -> None:
    for connection in connections:
        _line(connection, Stop(), patience_s)
