"""Amazon ECR on loopback: Debian's docker-registry keeps images, moto keeps repositories, a small front joins them.

What it lacks: rules of access (but see ``EcrFront.denied``), repositories that a push has to find, immutable tags.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import secrets
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.engine import environment, missing

USER = "AWS"
PASSWORD = "Vid3olift-token"  # of registries that live as long as a test
PASSWORD_HASH = "$2y$05$abcdefghijklmnopqrstuuk0grsqxdwex7xrGtsCD5BVRkVzLFFPK"  # bcrypt of it
TOKEN = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
TARGET = "AmazonEC2ContainerRegistry_V20150921."
START_S, END_S = 30.0, 10.0
MANIFESTS = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
LISTENING = re.compile(r"listening on (127\.0\.0\.1:\d+)")
REQUEST = re.compile(r'"(?P<method>[A-Z]+) (?P<path>/v2/\S*) HTTP/[\d.]+" (?P<status>\d{3}) ')


def missing_for_registry() -> str | None:
    problem = missing("docker-registry")
    return problem.replace("docker.io and mmdebstrap have", "docker-registry has") if problem else None


class Registry:
    """A docker-registry on loopback that asks for a password and keeps everything in one folder."""

    def __init__(self, folder: Path, host: str) -> None:
        self.host = host  # with its port
        self._log = folder / "log"

    def requests(self, *methods: str) -> list[str]:
        """Return the requests that it answered well so far, of some methods: ``PUT /v2/...``."""
        answered = [one for one in REQUEST.finditer(self._log.read_text()) if one["status"].startswith("2")]
        return [f"{one['method']} {one['path']}" for one in answered if one["method"] in methods]

    def manifest(self, name: str, tag: str) -> tuple[str, str] | None:
        """Return digest and media type of an image, None where it is not there."""
        request = urllib.request.Request(f"http://{self.host}/v2/{name}/manifests/{tag}", method="HEAD")
        request.add_header("Authorization", f"Basic {TOKEN}")
        request.add_header("Accept", MANIFESTS)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.headers["Docker-Content-Digest"], answer.headers["Content-Type"]
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 404:
                    raise
                return None


@contextmanager
def registry(folder: Path) -> Iterator[Registry]:
    """Run a docker-registry."""
    (folder / "htpasswd").write_text(f"{USER}:{PASSWORD_HASH}\n")
    settings = {
        "version": 0.1,
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": "127.0.0.1:0", "secret": secrets.token_hex(8)},
        "auth": {"htpasswd": {"realm": "ecr", "path": str(folder / "htpasswd")}},
    }
    (folder / "config.yml").write_text(json.dumps(settings))  # JSON is YAML
    command = ["docker-registry", "serve", str(folder / "config.yml")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment())
    try:
        yield Registry(folder, _listening(process, folder / "log"))
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listening(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        if found := LISTENING.search(log.read_text()):
            return found[1]
        time.sleep(0.05)
    raise RuntimeError(f"docker-registry does not start: {log.read_text()[-2000:]}")


class EcrFront:
    """Answers for AWS: ECR with the images of a registry, all else as moto does."""

    def __init__(self, images: Registry, moto: tuple[str, int]) -> None:
        self.images = images
        self.denied: set[str] = set()  # operations of ECR that are not allowed
        self.called: list[str] = []  # operations of ECR, in order
        self.token = TOKEN
        self._moto = moto
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def serving(self) -> Iterator[EcrFront]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, str, bytes]:
        """Return status, content type and body for a request."""
        operation = headers.get("X-Amz-Target", "").removeprefix(TARGET)
        if not headers.get("X-Amz-Target", "").startswith(TARGET):
            return self._ask_moto(path, headers, body)
        self.called.append(operation)
        if operation in self.denied:
            told = f"User: arn:aws:iam::123456789012:user/me is not authorized to perform: ecr:{operation}"
            return _json(400, {"__type": "AccessDeniedException", "message": told})
        if operation == "GetAuthorizationToken":
            data = {
                "authorizationToken": self.token,
                "expiresAt": time.time() + 43200,
                "proxyEndpoint": f"http://{self.images.host}",
            }
            return _json(200, {"authorizationData": [data]})
        status, kind, answered = self._ask_moto(path, headers, body)
        content = json.loads(answered)
        if operation == "DescribeImages" and content.get("__type", "").endswith("ImageNotFoundException"):
            return self._describe_image(json.loads(body)) or (status, kind, answered)
        for one in [content["repository"]] if "repository" in content else content.get("repositories", []):
            one["repositoryUri"] = f"{self.images.host}/{one['repositoryName']}"
        return _json(status, content)

    def _describe_image(self, asked: dict[str, Any]) -> tuple[int, str, bytes] | None:
        name, tag = asked["repositoryName"], asked["imageIds"][0]["imageTag"]
        found = self.images.manifest(name, tag)
        if found is None:
            return None
        detail = {
            "repositoryName": name,
            "imageTags": [tag],
            "imageDigest": found[0],
            "imageManifestMediaType": found[1],
        }
        return _json(200, {"imageDetails": [detail]})

    def _ask_moto(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection(*self._moto, timeout=30)
        try:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers.get("Content-Type", ""), answer.read()
        finally:
            connection.close()


def _json(status: int, content: dict[str, Any]) -> tuple[int, str, bytes]:
    return status, "application/x-amz-json-1.1", json.dumps(content).encode()


def _handler(front: EcrFront) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # all that ECR and STS are asked with
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, kind, content = front.answer(self.path, dict(self.headers), body)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: tests read the log of the registry."""

    return Handler


@contextmanager
def ecr(folder: Path) -> Iterator[EcrFront]:
    """Run all three."""
    from moto.server import ThreadedMotoServer

    with registry(folder) as images:
        moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        moto.start()
        try:
            url = "http://{}:{}/moto-api/reset".format(*moto.get_host_and_port())  # it remembers within a process
            urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10).close()
            with EcrFront(images, moto.get_host_and_port()).serving() as front:
                yield front
        finally:
            moto.stop()
