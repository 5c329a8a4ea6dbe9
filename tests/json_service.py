"""A service of AWS that moto lacks, over HTTP on loopback: it answers operations with what a test says."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

POLL_S = 0.02  # between two looks of a server whether it is to end

Answer = Callable[[dict[str, Any]], dict[str, Any]]


class Refused(Exception):
    """Raised by an answer: the service's error code, "" for no body at all, what it says, and a status if not 400."""

    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(code, message)
        self.code, self.message, self.status = code, message, status


class Dropped(Exception):
    """Raised by an answer: the connection is closed without one."""


@dataclass
class JsonService:
    """A running service."""

    url: str
    answers: dict[str, Answer]
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # operation, parameters


@contextmanager
def json_service(answers: Mapping[str, Answer]) -> Iterator[JsonService]:
    """Yield a service that answers the operations that are named, and refuses all others."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_POST(self) -> None:
            operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
            asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            service.asked.append((operation, asked))
            body: dict[str, Any] | None
            try:
                status, body = 200, service.answers[operation](asked)
            except KeyError:
                status, body = 400, {"__type": "UnknownOperationException", "message": operation}
            except Dropped:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            except Refused as refused:
                status = refused.status
                body = {"__type": refused.code, "message": refused.message} if refused.code else None
            content = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service = JsonService(f"http://127.0.0.1:{server.server_address[1]}", dict(answers))
    thread = threading.Thread(target=server.serve_forever, args=(POLL_S,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
