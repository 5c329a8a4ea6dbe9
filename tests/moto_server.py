"""moto's AWS over HTTP on loopback, and a front before it that counts requests and breaks them."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

START_S = 240
POLL_S = 0.01  # how long a front may take to end
CREDENTIALS = {  # what boto3 asks for; moto takes any
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "of-nobody",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def moto_server(log: Path) -> Iterator[str]:
    """Yield the URL of a moto server of its own, empty at first."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, cwd=log.parent)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_S
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"moto did not start:\n{log.read_text()}")
            time.sleep(0.1)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def forget_everything(url: str) -> None:
    """Empty all services of a moto server."""
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST"), timeout=START_S).close()


def use(url: str, setenv: Callable[[str, str], None]) -> None:
    """Lead boto3 to a server by setting variables."""
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": url}.items():
        setenv(name, value)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/moto-api/", timeout=START_S).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Request:
    """A request that came to the front."""

    method: str
    path: str
    query: dict[str, list[str]]
    sent: int  # bytes of its body

    @property
    def is_part(self) -> bool:
        return self.method == "PUT" and "partNumber" in self.query


@dataclass
class Fault:
    """What happens to requests that match, a number of times; without any of the below the connection is dropped.

    Args:
        cut: bytes of the answer that arrive.
        lost: the request is done, and nothing of its answer arrives.
        hook: only called, before the request goes on.
    """

    match: Callable[[Request], bool]
    times: int = 1
    status: int | None = None
    code: str = "InternalError"  # S3's, with the status
    cut: int | None = None
    lost: bool = False
    hook: Callable[[], None] | None = None


@dataclass
class Front:
    """Passes requests on to moto and remembers them.

    It adds what S3 does and moto does not: it refuses a body whose SHA-256 is not the one that was announced, and tells
    the SHA-256 of parts.
    """

    target: str
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    part_sums: dict[tuple[str, str], str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self, method: str) -> int:
        return sum(request.method == method for request in self.requests)

    @property
    def sent(self) -> int:
        """Return the bytes of all objects and parts that came."""
        return sum(request.sent for request in self.requests if request.method == "PUT")

    def fault_for(self, request: Request) -> Fault | None:
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times > 0 and fault.match(request):
                    fault.times -= 1
                    return fault
        return None


@contextmanager
def front_of(target: str) -> Iterator[Front]:
    """Yield a front before a moto server."""
    front = Front(target)

    class Handler(_Passing):
        pass

    Handler.front = front
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    front.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(POLL_S,), daemon=True)
    thread.start()
    try:
        yield front
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    front: Front

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        fault = self.front.fault_for(Request(self.command, parts.path, query, len(body)))
        if fault is not None and fault.hook is not None:
            fault.hook()
        elif fault is not None and fault.status is not None:
            self._answer(fault.status, {}, f"<Error><Code>{fault.code}</Code></Error>".encode())
            return
        elif fault is not None and fault.cut is None and not fault.lost:
            self._drop()
            return
        announced = self.headers.get("x-amz-checksum-sha256")
        if announced and body and announced != base64.b64encode(hashlib.sha256(body).digest()).decode():
            self._answer(400, {}, b"<Error><Code>BadDigest</Code><Message>not the announced checksum</Message></Error>")
            return
        status, headers, content = self._ask(body)
        if announced and "partNumber" in query:
            self.front.part_sums[query["uploadId"][0], query["partNumber"][0]] = announced
        if self.command == "GET" and "uploadId" in query:
            content = self._with_sums(content, query["uploadId"][0])
        if fault is not None and fault.lost:
            self._drop()
            return
        if fault is not None and fault.cut is not None:
            self._answer(status, headers, content[: fault.cut], length=len(content))
            self._drop()
            return
        self._answer(status, headers, content)

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.front.target).netloc, timeout=START_S)
        kept = {name: value for name, value in self.headers.items() if name.lower() not in ("expect", "connection")}
        connection.request(self.command, self.path, body or None, kept)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, dict(response.getheaders()), content

    def _with_sums(self, content: bytes, upload_id: str) -> bytes:
        for (upload, number), sha256 in self.front.part_sums.items():
            if upload == upload_id:
                tag = f"<PartNumber>{number}</PartNumber>".encode()
                content = content.replace(tag, tag + f"<ChecksumSHA256>{sha256}</ChecksumSHA256>".encode())
        return content

    def _answer(self, status: int, headers: dict[str, str], content: bytes, length: int | None = None) -> None:
        self.send_response_only(status)
        told = {
            name: value for name, value in headers.items() if name.lower() not in ("connection", "transfer-encoding")
        }
        if self.command != "HEAD":
            told = {name: value for name, value in told.items() if name.lower() != "content-length"}
            told["Content-Length"] = str(len(content) if length is None else length)
        for name, value in told.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _drop(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
