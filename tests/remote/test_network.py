"""A run reaches AWS and nothing else: with everything but loopback refused to the launcher, it is the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launchers.config import STAGES
from launchers.emulator.client import Emulator
from tests import runs
from tests.guarded import Guard
from tests.remote.careless import a_day


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    return Guard(tmp_path / "refused", loopback=True)


def test_runs_reach_nothing_but_their_endpoint_and_their_tracking_server(
    emulator: Emulator, quick: list[str], videos: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    day = a_day(emulator, quick, videos, tmp_path_factory)
    assert day.user.guard.refused == []
    whole, failed = runs.records(day.user.cwd)
    assert (whole["status"], failed["status"]) == ("FINISHED", "FAILED") and whole["synced"] and failed["synced"]
    assert [(stage["name"], stage["cached"]) for stage in whole["stages"]] == [(name, False) for name in STAGES]


def test_the_guard_sees_what_would_leave_this_machine(tmp_path: Path, quick: list[str], guard: Guard) -> None:
    """So that the test above can fail: here the endpoint is another machine's."""
    elsewhere = {"AWS_ENDPOINT_URL": "http://192.0.2.1:5001"}  # "TEST-NET-1" of RFC 5737
    ended = runs.run(*quick, cwd=tmp_path, code=2, **guard.variables, **elsewhere)
    assert "AWS cannot be reached" in ended.err
    assert set(guard.refused) == {"socket.getaddrinfo 192.0.2.1"}  # again and again


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        ("socket.create_connection(('192.0.2.1', 80))", "socket.getaddrinfo 192.0.2.1"),
        ("socket.socket().connect(('192.0.2.1', 80))", "socket.connect 192.0.2.1"),
        ("socket.socket().connect_ex(('192.0.2.1', 80))", "socket.connect 192.0.2.1"),
        ("socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 80))", "socket.sendto 192.0.2.1"),
        ("socket.gethostbyname('example.invalid')", "socket.gethostbyname example.invalid"),
        ("urllib.request.urlopen('http://127.example.invalid')", "socket.getaddrinfo 127.example.invalid"),
        ("socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))", "socket.connect 2001:db8::1"),
    ],
)
def test_every_way_out_is_guarded(guard: Guard, code: str, refused: str) -> None:
    program = f"import socket, urllib.request\ntry: {code}\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", program], env=guard.variables, check=True)
    assert guard.refused == [refused]


def test_loopback_is_open(guard: Guard) -> None:
    program = (
        "import socket\n"
        "with socket.create_server(('127.0.0.1', 0)) as server:\n"
        "    socket.create_connection(('localhost', server.getsockname()[1])).close()\n"
        "    socket.create_connection(server.getsockname()).close()\n"
    )
    subprocess.run([sys.executable, "-c", program], env=guard.variables, check=True)
    assert guard.refused == []


def test_not_even_loopback_is_open_where_nothing_is(tmp_path: Path) -> None:
    guard = Guard(tmp_path / "refused", loopback=False)
    program = "import socket\ntry: socket.socket().connect(('127.0.0.1', 80))\nexcept PermissionError: pass"
    subprocess.run([sys.executable, "-c", program], env=guard.variables, check=True)
    assert guard.refused == ["socket.connect 127.0.0.1"]
