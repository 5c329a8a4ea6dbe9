"""Whether there are credentials, and whom that question is put to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from launchers.config import Backend
from launchers.remote.aws import Aws, has_metadata_service
from tests.remote_side import forget_aws
from videolift.errors import ConfigError


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_aws(monkeypatch)


class _Metadata(BaseHTTPRequestHandler):
    """The Instance Metadata Service, version 2, of an instance with a role: "Use IMDS" in the EC2 user guide."""

    def do_PUT(self) -> None:
        self._answer("token")

    def do_GET(self) -> None:
        role = self.path.endswith("/security-credentials/")
        keys = {"AccessKeyId": "AKIAOFTHEINSTANCE", "SecretAccessKey": "secret", "Token": "token"}
        self._answer("role" if role else json.dumps({**keys, "Code": "Success", "Expiration": "2099-01-01T00:00:00Z"}))

    def _answer(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def metadata_service() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Metadata) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_where_a_metadata_service_is_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    aws = Aws(Backend(region="us-east-1"))
    assert not aws.has_credentials()
    with metadata_service() as address:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", address)
        here = Aws(Backend(region="us-east-1"))
        assert here.has_credentials()
        assert here.session.get_credentials().access_key == "AKIAOFTHEINSTANCE"


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("devices/virtual/dmi/id/board_asset_tag", "i-0af01c0123456789a\n", True),
        ("devices/virtual/dmi/id/board_asset_tag", "Default string\n", False),
        ("hypervisor/uuid", "ec2e1916-9099-7caf-fd21-012345abcdef\n", True),
        ("hypervisor/uuid", "45e12aec-dcd1-b213-94ed-012345abcdef\n", False),
        ("elsewhere", "i-0af01c0123456789a", False),
    ],
)
def test_an_instance_of_ec2_is_known_by_its_files(tmp_path: Path, file: str, content: str, expected: bool) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(content)
    assert has_metadata_service(tmp_path) is expected


def test_credentials_of_the_shell_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert Aws(Backend(region="us-east-1")).has_credentials()


def test_a_profile_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"backend\.profile: .*\(nobodys\) could not be found"):
        Aws(Backend(region="us-east-1", profile="nobodys")).has_credentials()
