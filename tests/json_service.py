"""A service of AWS that moto lacks, over HTTP on loopback: it answers operations with what a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], dict[str, Any]]


class Refused(Exception):
    """Raised by an answer: the service's error code, and what it says."""


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
            try:
                status, body = 200, service.answers[operation](asked)
            except KeyError:
                status, body = 400, {"__type": "UnknownOperationException", "message": operation}
            except Refused as refused:
                status, body = 400, {"__type": refused.args[0], "message": refused.args[1]}
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service = JsonService(f"http://127.0.0.1:{server.server_address[1]}", dict(answers))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
