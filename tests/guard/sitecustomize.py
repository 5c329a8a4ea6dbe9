"""Keeps a Python process off the network: a folder for PYTHONPATH, which Python imports this module from at its start.

SOCKET_GUARD names a file that every refused attempt is written to, so that one is known of even if nobody told. With
SOCKET_GUARD_ALLOWS=loopback the loopback interface may be reached, and no name but localhost looked up.
"""

from __future__ import annotations

import os
import sys
from typing import Any

# "Audit events table" of Python's documentation; for most, the address follows the socket.
ADDRESS_AT = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
    "socket.getnameinfo": 0,
}


def host_of(event: str, arguments: tuple[Any, ...]) -> str | None:
    """Return the host that is to be reached or looked up, None where it is no matter of the network."""
    address = arguments[ADDRESS_AT[event]]
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg") and not isinstance(address, tuple):
        return None  # a file of this machine, or a socket that is connected already
    host = address[0] if isinstance(address, tuple) else address
    if not host:
        return None  # an address to listen at
    return host.decode() if isinstance(host, bytes) else str(host)


def is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or (host.startswith("127.") and host.replace(".", "").isdecimal())


def watch(log: str, *, loopback: bool) -> None:
    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ADDRESS_AT:
            return
        host = host_of(event, arguments)
        if host is None or (loopback and is_loopback(host)):
            return
        with open(log, "a", encoding="utf-8") as file:  # noqa: PTH123 pathlib costs each process its import
            file.write(f"{event} {host}\n")
        raise PermissionError(f"the guard of sockets refuses {event} {host}")

    sys.addaudithook(refuse)


if os.environ.get("SOCKET_GUARD"):
    watch(os.environ["SOCKET_GUARD"], loopback=os.environ.get("SOCKET_GUARD_ALLOWS") == "loopback")
