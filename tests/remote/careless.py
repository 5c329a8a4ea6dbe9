"""A user whose shell and files are full of secrets, and two runs of theirs that several modules look at."""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from launchers.emulator.client import Emulator
from tests import runs
from tests.guarded import Guard
from tests.mlflow_server import MlflowServer

ACCESS_KEY, MISTAKEN = "AKIACARELESS00000000", "AKIAMISTAKEN00000000"  # no secrets: they tell whose calls are whose
PREFIX = "videolift/careless"  # docs/iam is for what is below videolift/
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "canary1secretaccesskey",
    "AWS_SESSION_TOKEN": "canary2sessiontoken",
    "DATABASE_PASSWORD": "canary3databasepassword",
    "profile": "canary4secretofaprofile",
    "tracking": "canary5trackingpassword",
    "script": "canary6/secret of a script",
}
USER = "tracker"
IN_SHELL = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "DATABASE_PASSWORD")


def forms() -> dict[str, bytes]:
    """Return the secrets as they may show: as they are, and as HTTP sends the one of a tracking server."""
    login = base64.b64encode(f"{USER}:{SECRETS['tracking']}".encode())
    return {**{name: secret.encode() for name, secret in SECRETS.items()}, "tracking, sent": login}


class Careless:
    """A user with a home, a folder to work in, temporary files, and a tracking server with a password."""

    def __init__(self, folder: Path, settings: Sequence[str], access_key: str = ACCESS_KEY) -> None:
        self.cwd, self.store, self._home, self.temporary = (
            folder / name for name in ("work", "mlflow", "home", "temporary")
        )
        for place in (self.cwd, self.store, self._home / ".aws", self.temporary):
            place.mkdir(parents=True)
        self._access_key = access_key
        secret = f"aws_access_key_id = {access_key}\naws_secret_access_key = {SECRETS['profile']}\n"
        (self._home / ".aws" / "credentials").write_text(f"[default]\n{secret}[other]\n{secret}")
        self.guard = Guard(folder / "refused", loopback=True)
        self.settings = [one for one in settings if not one.startswith(("backend.prefix=", "tracking="))]
        self.settings.append(f"backend.prefix={PREFIX}")
        self.told: list[str] = []  # all that was printed

    def server(self) -> MlflowServer:
        """Return a tracking server that is not started yet."""
        return MlflowServer(f"sqlite:///{self.store / 'db'}", self.store / "artifacts", self.store / "log")

    @staticmethod
    def tracking(address: str) -> str:
        with_password = address.replace("://", f"://{USER}:{SECRETS['tracking']}@")
        return f"tracking.uri={with_password}"

    def variables(self) -> dict[str, str]:
        return {
            **{name: SECRETS[name] for name in IN_SHELL},
            **self.guard.variables,
            "AWS_ACCESS_KEY_ID": self._access_key,
            "AWS_SHARED_CREDENTIALS_FILE": str(self._home / ".aws" / "credentials"),
            "HOME": str(self._home),
            "TMPDIR": str(self.temporary),
        }

    def run(self, *more: str, code: int = 0, **variables: str) -> runs.Ended:
        ended = runs.run(*self.settings, *more, cwd=self.cwd, code=code, **{**self.variables(), **variables})
        self.told.append(ended.text)
        return ended


@dataclass(frozen=True)
class Day:
    """A whole run, and one that failed for a bad video."""

    user: Careless
    whole: runs.Ended
    failed: runs.Ended
    jobs: tuple[str, ...]
    started: float  # seconds since 1970
    ended: float


_days: dict[Path, Day] = {}  # by the emulator's root


def a_day(emulator: Emulator, settings: Sequence[str], videos: Path, folders: pytest.TempPathFactory) -> Day:
    """Return what a user did on an emulator, done when it is first asked for."""
    if emulator.root not in _days:
        user = Careless(folders.mktemp("careless"), settings)
        bad = folders.mktemp("bad") / "videos"
        shutil.copytree(videos, bad)
        (bad / "PanLeft" / "v_PanLeft_g01_c00.avi").write_text("this is no video")
        before, started = set(job_names(emulator)), time.time()
        server = user.server()
        with ExitStack() as stack:
            stack.callback(server.stop)
            server.start()
            whole = user.run("model.epoch=1", user.tracking(server.uri))
            failed = user.run("stages=[preprocess]", f"data.root={bad}", user.tracking(server.uri), code=3)
        jobs = tuple(name for name in job_names(emulator) if name not in before)
        _days[emulator.root] = Day(user, whole, failed, jobs, started, time.time())
    return _days[emulator.root]


def job_names(emulator: Emulator) -> list[str]:
    return sorted(folder.name for folder in (emulator.root / "jobs").glob("*") if folder.is_dir())
