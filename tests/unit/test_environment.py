"""What `make` does with environments: the real Makefile in a folder of its own, with a uv that only remembers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.runs import REPOSITORY

# Makes what makes an environment one, and remembers its own arguments.
UV = """#!/bin/sh
echo "$*" >> "$HOME/uv.txt"
for last; do :; done
case "$1" in venv) mkdir -p "$last/bin" "$last/lib"; ln -sf {python} "$last/bin/python";; esac
test ! -e "$HOME/fails"
"""


@dataclass
class Checkout:
    """The files of the repository that `make setup` reads."""

    root: Path
    home: Path

    def make(self, *words: str, code: int = 0) -> str:
        """Run make with nothing of our environment, and return what it said."""
        environment = {"PATH": f"{self.home}/bin:{os.environ['PATH']}", "HOME": str(self.home)}
        done = subprocess.run(
            ["make", "--no-print-directory", *words], cwd=self.root, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert (done.returncode != 0) == (code != 0), done.stdout + done.stderr
        return done.stdout + done.stderr

    def uv(self) -> list[str]:
        """Return what uv was called for since this was asked last."""
        log = self.home / "uv.txt"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [" ".join(line.split()[:2]) if line.startswith("pip") else line.split()[0] for line in lines]

    @property
    def venv(self) -> Path:
        return self.root / ".venv"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path / "a checkout's 目录", tmp_path / "home")
    copy_to(made.root)
    (made.home / "bin").mkdir(parents=True)
    program(made.home / "bin/uv", UV.format(python=sys.executable))
    return made


def copy_to(root: Path) -> None:
    (root / "launchers").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "launchers/environment.py"):
        shutil.copy(REPOSITORY / name, root / name)
    (root / "requirements.lock").write_text("numpy==2.4.0\n")


def program(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


NEW = ["venv", "pip install", "pip install"]  # the libraries, and the project


def test_an_environment_is_made_once_whatever_the_times_of_files_are(checkout: Checkout) -> None:
    assert "making .venv" in checkout.make("setup")
    assert checkout.uv() == NEW
    os.utime(checkout.root / "requirements.lock", (2**33, 2**33))
    assert checkout.make("setup") == ""
    assert checkout.uv() == []


def test_the_project_is_installed_by_what_the_lock_file_names(checkout: Checkout) -> None:
    checkout.make("setup")
    libraries, project = (checkout.home / "uv.txt").read_text().splitlines()[1:]
    assert "--require-hashes" in libraries.split()
    assert {"--no-deps", "--no-build-isolation", "--offline", "--editable"} <= set(project.split())
    lock = (REPOSITORY / "requirements.lock").read_text()
    assert re.search(r"^hatchling==", lock, re.MULTILINE) and re.search(r"^editables==", lock, re.MULTILINE)


def test_another_lock_file_makes_it_again_and_what_is_older_goes(checkout: Checkout) -> None:
    checkout.make("setup")
    checkout.uv()
    (checkout.venv / "lib" / "old.py").touch()
    lock = checkout.root / "requirements.lock"
    times = lock.stat()
    lock.write_text("numpy==2.4.1\n")
    os.utime(lock, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a checkout of an older commit may leave it
    assert "requirements.lock has changed" in checkout.make("setup")
    assert checkout.uv() == NEW and not (checkout.venv / "lib" / "old.py").exists()


def test_other_metadata_of_the_project_installs_only_that_again(checkout: Checkout) -> None:
    checkout.make("setup")
    checkout.uv()
    with (checkout.root / "pyproject.toml").open("a") as file:
        file.write("# a comment\n")
    assert checkout.make("setup") == ""
    assert checkout.uv() == ["pip install"]


def test_a_checkout_that_was_moved_or_copied_gets_an_environment_that_leads_to_it(checkout: Checkout) -> None:
    checkout.make("setup")
    checkout.uv()
    copy = Checkout(checkout.root.parent / "copy", checkout.home)
    shutil.copytree(checkout.root, copy.root, symlinks=True)
    assert f"this checkout was at {checkout.root}" in copy.make("setup")
    assert copy.uv() == NEW
    assert checkout.make("setup") == ""
    checkout.root.rename(checkout.root.with_name("moved"))
    assert "this checkout was at" in Checkout(checkout.root.with_name("moved"), checkout.home).make("setup")


def test_a_checkout_that_is_reached_through_a_link_is_the_same(checkout: Checkout) -> None:
    checkout.make("setup")
    link = checkout.root.parent / "link"
    link.symlink_to(checkout.root)
    assert Checkout(link, checkout.home).make("setup") == ""


def test_another_python_counts_only_where_it_is_asked_for(checkout: Checkout) -> None:
    checkout.make("setup")
    checkout.uv()
    marker = checkout.venv / ".ready"
    other = "3.12" if sys.version_info[:2] == (3, 11) else "3.11"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "python": other}))
    assert checkout.make("setup") == ""
    assert f"not {other}" in checkout.make("setup", f"PYTHON={sys.executable}")
    assert checkout.uv() == NEW


def test_the_python_of_an_environment_that_is_gone_is_replaced(checkout: Checkout) -> None:
    checkout.make("setup")
    (checkout.venv / "bin" / "python").unlink()
    (checkout.venv / "bin" / "python").symlink_to("/nowhere/python3")
    assert "the Python of .venv is gone" in checkout.make("setup")


def test_what_an_interrupted_setup_left_is_made_again(checkout: Checkout) -> None:
    (checkout.home / "fails").touch()
    checkout.make("setup", code=2)
    (checkout.home / "fails").unlink()
    checkout.uv()
    checkout.make("setup")
    assert checkout.uv() == NEW
    assert checkout.make("setup") == ""


def test_an_environment_of_the_earlier_makefile_is_ours(checkout: Checkout) -> None:
    checkout.venv.mkdir()
    (checkout.venv / ".ready").touch()
    checkout.make("setup")
    assert checkout.uv() == NEW


def complete(folder: Path) -> Path:
    """Make an environment that has all that is needed: it runs the Python of these tests."""
    (folder / "bin").mkdir(parents=True)
    program(folder / "bin" / "python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / ".ready").touch()  # as one has that make made elsewhere
    return folder


def tree(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def test_a_linked_environment_is_used_and_never_changed(checkout: Checkout, tmp_path: Path) -> None:
    other = complete(tmp_path / "other" / ".venv")
    before = tree(other)
    checkout.venv.symlink_to(other)
    said = checkout.make("setup")
    assert f"is a link to {other}; it is used as it is and never changed" in said
    (checkout.root / "requirements.lock").write_text("numpy==2.4.1\n")
    assert checkout.make("setup") == said
    assert "stays" in checkout.make("clean")
    assert checkout.venv.is_symlink() and tree(other) == before and checkout.uv() == []


def test_an_environment_that_somebody_made_by_hand_is_never_changed(checkout: Checkout) -> None:
    (complete(checkout.venv) / ".ready").unlink()
    before = tree(checkout.venv)
    assert "was not made by make; it is used as it is" in checkout.make("setup")
    assert "stays" in checkout.make("clean")
    assert tree(checkout.venv) == before and checkout.uv() == []


def test_from_such_an_environment_this_checkout_is_run(checkout: Checkout, tmp_path: Path) -> None:
    checkout.venv.symlink_to(complete(tmp_path / "other"))
    for name in ("src/videolift", "launchers"):
        (checkout.root / name).mkdir(parents=True, exist_ok=True)
        (checkout.root / name / "__init__.py").touch()
    (checkout.root / "launchers" / "ui.py").write_text("import videolift\nprint('of', videolift.__file__)\n")
    assert f"of {checkout.root}/src/videolift/__init__.py" in checkout.make("ui")


@pytest.mark.parametrize("lacking", ["a Python", "libraries", "all"])
def test_what_such_an_environment_lacks_is_named(checkout: Checkout, tmp_path: Path, lacking: str) -> None:
    other = complete(tmp_path / "other")
    if lacking == "a Python":
        (other / "bin" / "python").unlink()
    elif lacking == "libraries":  # those of a Python without its own
        program(other / "bin" / "python", f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    checkout.venv.symlink_to(tmp_path / "nowhere" if lacking == "all" else other)
    said = checkout.make("setup", code=2)
    assert ("lacks av, keras" if lacking == "libraries" else "has no bin/python") in said
    assert f"move {checkout.venv} away: make then makes an environment of its own" in said
    assert checkout.uv() == []


def test_clean_removes_what_make_made(checkout: Checkout) -> None:
    checkout.make("setup")
    checkout.make("clean")
    assert not checkout.venv.exists()


def test_a_python_that_is_too_old_is_named(checkout: Checkout) -> None:
    text = (checkout.root / "launchers/environment.py").read_text()
    (checkout.root / "launchers/environment.py").write_text(
        text.replace('PYTHONS = ("3.11", "3.12")', 'PYTHONS = ("3.9",)')
    )
    assert "videolift runs on 3.9. Set PYTHON: make setup PYTHON=python3.9" in checkout.make("setup", code=2)
    assert not checkout.venv.exists() and checkout.uv() == []


def test_the_pythons_are_those_of_the_project() -> None:
    assert 'requires-python = ">=3.11,<3.13"' in (REPOSITORY / "pyproject.toml").read_text()
    assert 'PYTHONS = ("3.11", "3.12")' in (REPOSITORY / "launchers/environment.py").read_text()


# pytest that remembers what it was to test, and fails where the name says so.
PYTEST = '#!/bin/sh\necho "$*" >> "$HOME/tiers.txt"\ncase "$*" in *stage*|*docker*) exit 1;; esac\n'


def test_all_tiers_run_and_those_that_failed_are_listed(checkout: Checkout) -> None:
    checkout.make("setup")
    program(checkout.venv / "bin" / "pytest", PYTEST)
    assert "make: tests failed in: stage containers" in checkout.make("test", code=2)
    ran = (checkout.home / "tiers.txt").read_text().splitlines()
    assert [line.split()[0].removeprefix("tests/") for line in ran] == [
        *("unit", "stage", "contract", "sweeps", "e2e", "remote", "contract", "contract"),
    ]
    program(checkout.venv / "bin" / "pytest", "#!/bin/sh\n")
    assert "failed" not in checkout.make("test")


def test_the_lock_file_is_resolved_with_what_builds_the_project(checkout: Checkout) -> None:
    checkout.make("lock")
    first, *images = (checkout.home / "uv.txt").read_text().splitlines()
    assert {f"pyproject.toml:{group}" for group in ("launch", "build", "dev")} <= set(first.split())
    assert len(images) == 3
