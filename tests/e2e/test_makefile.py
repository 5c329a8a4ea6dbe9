"""Every target of the Makefile starts where nothing is known but PATH and HOME.

Here are those that take seconds. CI runs `lint` and `test` so, test_remote_documents `remote-demo`, and what needs an
environment of its own is in unit/test_environment.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from launchers import environment
from tests.containers import skip_without
from tests.mlflow_server import free_port
from tests.runs import REPOSITORY
from tests.waiting import HANG_S, wait_until

CLEAN = {name: os.environ[name] for name in ("PATH", "HOME")}


@pytest.fixture(scope="module", autouse=True)
def own_environment() -> None:
    """Leave out what would change an environment that these tests run in, or say nothing of it."""
    ours = Path(sys.prefix) == environment.VENV and environment.is_ours()
    current = ours and environment.read_marker() == environment.description()
    skip_without(
        None if current else f"{sys.prefix} is not what `make setup` makes of this checkout now; run that first"
    )


def make(*words: str, folder: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(command, cwd=folder, env=CLEAN, capture_output=True, text=True, check=True)


def lines(target: str) -> list[list[str]]:
    """Return the commands of a target."""
    words = map(shlex.split, make("--dry-run", target).stdout.splitlines())
    return [command for command in words if command[0].startswith(".venv/")]


def in_clean_environment(command: list[str]) -> str:
    done = subprocess.run(command, cwd=REPOSITORY, env=CLEAN, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_target_for_people_is_in_the_help() -> None:
    shown = re.findall(r"^([a-z-]+) ", make("help").stdout, re.MULTILINE)
    assert shown == [
        *(
            "setup",
            "run",
            "remote-demo",
            "ui",
            "lint",
            "test",
            "test-remote",
            "test-containers",
            "bench",
            "lock",
            "clean",
        ),
    ]


def test_setup_has_nothing_to_do() -> None:
    assert make("setup").stdout == ""


def test_the_ui_answers(tmp_path: Path) -> None:
    port = free_port()
    command = ["make", "ui", f"OUTPUTS={tmp_path}", f"PORT={port}"]
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            wait_until(lambda: process.poll() is not None or answers(f"http://127.0.0.1:{port}/"), "the UI")
            assert process.poll() is None, process.communicate()[0]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=HANG_S) as page:
            return "MLflow" in page.read().decode()
    except OSError:
        return False


def test_a_run_is_planned(tmp_path: Path) -> None:
    (command,) = lines("run")
    for side in ("a", "b"):
        for number in range(4):
            (tmp_path / side).mkdir(exist_ok=True)
            (tmp_path / side / f"{number}.avi").write_text(f"{side}{number}")
    settings = ["action=plan", "data=folder", f"data.root={tmp_path}", f"outputs={tmp_path / 'outputs'}"]
    assert "train" in in_clean_environment([*command, *settings])


@pytest.mark.parametrize("target", ["bench", "test-unit", "test-containers"])
def test_the_programs_of_a_target_start(target: str) -> None:
    for command in lines(target):
        assert "usage" in in_clean_environment([*command, "--help"])


def test_the_emulator_of_the_demo_starts() -> None:
    (command,) = lines("remote-demo")
    assert "usage" in in_clean_environment([*command[: command.index("--")], "--help"])


def test_format_formats(tmp_path: Path) -> None:
    (tmp_path / "launchers").mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "launchers/environment.py"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(environment.VENV)
    (tmp_path / "odd.py").write_text("import sys\nimport os\nprint( os,sys )\n")
    make("format", folder=tmp_path)
    assert (tmp_path / "odd.py").read_text() == "import os\nimport sys\n\nprint(os, sys)\n"
