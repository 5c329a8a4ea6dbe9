"""Tells within seconds whether a tracking server answers: MLflow itself would try for minutes."""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from launchers.redaction import redacted_text

DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


REMEMBERED_S = 60.0

_failures: dict[str, tuple[float, str]] = {}  # URI -> when it did not answer, why


def why_unreachable(uri: str, timeout_s: float, *, fresh: bool = False) -> str | None:
    """Return why nothing can be recorded at a tracking URI, None where it looks as if it could.

    A failure is believed for a minute, unless ``fresh``: a launcher asks at several places, and shall wait at one.
    """
    when, reason = _failures.get(uri, (-REMEMBERED_S, ""))
    if not fresh and time.monotonic() - when < REMEMBERED_S:
        return reason
    answer = _ask(uri, timeout_s)
    if answer is not None:
        _failures[uri] = (time.monotonic(), answer)
    return answer


def server_problem(uri: str, timeout_s: float) -> str | None:
    """Return the message for a tracking server over HTTP that does not answer now, None for every other address."""
    if not uri.startswith(("http://", "https://")):
        return None
    reason = why_unreachable(uri, timeout_s, fresh=True)
    return f"tracking.uri: {reason}; start it, set another, or set tracking=none" if reason else None


def _ask(uri: str, timeout_s: float) -> str | None:
    answers: list[str | None] = []
    # A thread, because looking a name up knows no timeout.
    probe = threading.Thread(target=lambda: answers.append(_probe(uri, timeout_s)), daemon=True)
    probe.start()
    probe.join(timeout_s)
    return answers[0] if answers else f"{redacted_text(uri)} does not answer within {timeout_s:g} s"


def _probe(uri: str, timeout_s: float) -> str | None:
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme in ("http", "https"):
        return _probe_http(uri, timeout_s)
    if scheme == "sqlite":
        return _probe_file(Path(unquote(uri.partition("?")[0].removeprefix(f"{parts.scheme}:///"))))
    if scheme in DATABASE_PORTS and parts.hostname:
        return _probe_port(parts.hostname, parts.port or DATABASE_PORTS[scheme], timeout_s)
    return None  # a plugin's own kind of address, such as an ARN


def _probe_http(uri: str, timeout_s: float) -> str | None:
    parts = urlsplit(uri)
    health = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=f"{parts.path.rstrip('/')}/health")
    try:
        urllib.request.urlopen(urlunsplit(health), timeout=timeout_s).close()
    except urllib.error.HTTPError:
        return None  # it answers; whether it lets us in is MLflow's to find out
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)  # urllib wraps what it met
        return f"{redacted_text(uri)} does not answer ({redacted_text(str(reason))})"
    return None


def _probe_port(host: str, port: int, timeout_s: float) -> str | None:
    try:
        socket.create_connection((host, port), timeout_s).close()
    except OSError as error:
        return f"{host}:{port} does not answer ({error})"
    return None


def _probe_file(file: Path) -> str | None:
    if not file.parent.is_dir():
        return f"{file} cannot be made: there is no folder {file.parent}"
    writable = os.access(file.parent, os.W_OK) and (not file.exists() or os.access(file, os.W_OK))
    return None if writable else f"{file} cannot be written: no permission"
