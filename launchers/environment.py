"""Makes .venv what the lock file says, and never touches an environment that somebody else made.

    python launchers/environment.py setup | clean | uv

Runs before anything is installed, so it needs the standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV, OWN_UV = ROOT / ".venv", ROOT / ".uv"
PYTHON = VENV / "bin" / "python"
MARKER = VENV / ".ready"  # tells what an environment of ours was made from; empty while it is made
LOCK, PROJECT = ROOT / "requirements.lock", ROOT / "pyproject.toml"
PYTHONS = ("3.11", "3.12")  # as in pyproject.toml, which an older Python cannot read
UV = "uv>=0.9,<1"


class SetupError(Exception):
    """An environment that cannot be made or used. The message says what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Make or remove the environment of this checkout.")
    parser.add_argument("action", choices=("setup", "clean", "uv", "missing"))
    parser.add_argument("--any-python", action="store_true", help="keep an environment that another Python made")
    arguments = parser.parse_args()
    try:
        if arguments.action == "setup":
            setup(any_python=arguments.any_python)
        elif arguments.action == "clean":
            clean()
        else:
            print(find_uv() if arguments.action == "uv" else "\n".join(missing()))
    except SetupError as error:
        print(f"make: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return int(error.returncode) or 1
    return 0


def setup(*, any_python: bool) -> None:
    """Make the environment again if it is ours and the record in it does not fit."""
    if not is_ours():
        use_as_it_is()
        return
    wanted, recorded = description(), read_marker()
    if any_python and recorded.get("python") in PYTHONS:
        wanted["python"] = recorded["python"]
    if (reason := stale(recorded, wanted)) is not None:
        print(f"make: {reason}", flush=True)
        make_environment()
        wanted["python"] = version()  # it is made with this one, whatever was recorded
    elif recorded != wanted:
        install_project()
    else:
        return
    MARKER.write_text(json.dumps(wanted, indent=1), encoding="utf-8")


def clean() -> None:
    """Remove what was installed here by :func:`setup`."""
    shutil.rmtree(OWN_UV, ignore_errors=True)
    if is_ours():
        shutil.rmtree(VENV, ignore_errors=True)
    else:
        print(f"make: {whose()}, and stays.")


def is_ours() -> bool:
    """Tell whether .venv is a folder that :func:`setup` made, or there is nothing that could be lost."""
    if VENV.is_symlink() or not VENV.is_dir():
        return not os.path.lexists(VENV)
    return MARKER.is_file() or not any(VENV.iterdir())


def whose() -> str:
    """Return a sentence's beginning about an environment that is not ours."""
    if VENV.is_symlink():
        return f"{VENV} is a link to {Path(os.readlink(VENV))}"  # noqa: PTH115 - resolves nothing on any version
    return f"{VENV} was not made by make"


def use_as_it_is() -> None:
    """Check that an environment of somebody else's has what is needed.

    Raises:
        SetupError: if it has not.
    """
    remedy = f"Add that, or move {VENV} away: make then makes an environment of its own"
    if not PYTHON.exists():
        raise SetupError(f"{whose()}, and has no bin/python. {remedy}.")
    found = subprocess.run([str(PYTHON), __file__, "missing"], stdout=subprocess.PIPE, text=True, check=True).stdout
    if found.strip():
        raise SetupError(f"{whose()}, and lacks {', '.join(found.split())}. {remedy}.")
    print(f"make: {whose()}; it is used as it is and never changed.", flush=True)


def missing() -> list[str]:
    """Return the names of what the project needs and the running Python has not."""
    if version() not in PYTHONS:
        return ["/".join(f"python{one}" for one in PYTHONS)]
    import tomllib

    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))
    groups = (project["project"]["dependencies"], *(project["dependency-groups"][name] for name in ("launch", "dev")))
    lines = [
        line for group in groups for line in group if ";" not in line
    ]  # what has a marker is not for every machine
    return [name for line in lines if not is_installed(name := re.split(r"[^\w.-]", line)[0])]


def is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def description() -> dict[str, str]:
    """Return what decides whether an environment fits: digests, the Python, and the place that it leads to."""
    return {
        "lock": hashlib.sha256(LOCK.read_bytes()).hexdigest(),
        "python": version(),
        "checkout": str(ROOT),
        "project": hashlib.sha256(PROJECT.read_bytes()).hexdigest(),
    }


def version() -> str:
    return "{}.{}".format(*sys.version_info)


def read_marker() -> dict[str, str]:
    try:
        found = json.loads(MARKER.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def stale(recorded: dict[str, str], wanted: dict[str, str]) -> str | None:
    """Return why an environment has to be made again, None if it has not."""
    if not recorded:
        return "making .venv from requirements.lock"
    if recorded.get("lock") != wanted["lock"]:
        return "requirements.lock has changed: making .venv again"
    if recorded.get("checkout") != wanted["checkout"]:
        return f"this checkout was at {recorded.get('checkout')}: making .venv again"
    if recorded.get("python") != wanted["python"]:
        return f"Python {wanted['python']} is asked for, not {recorded.get('python')}: making .venv again"
    return None if PYTHON.exists() else "the Python of .venv is gone: making .venv again"


def make_environment() -> None:
    """Install what the lock file names into an empty .venv, and the project.

    Raises:
        SetupError: if this Python is none that the project runs on.
    """
    if version() not in PYTHONS:
        raise SetupError(
            f"{sys.executable} is Python {version()}; videolift runs on {' and '.join(PYTHONS)}. "
            f"Set PYTHON: make setup PYTHON=python{PYTHONS[0]}"
        )
    uv = find_uv()
    VENV.mkdir(exist_ok=True)
    MARKER.write_text("", encoding="utf-8")  # first: what is left by a stop in between is known as ours
    for child in VENV.iterdir():
        if child != MARKER:
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
    run(uv, "venv", "--quiet", "--allow-existing", "--python", base_python(), str(VENV))
    # Modules are compiled at once: with PYTHONDONTWRITEBYTECODE every process would compile TensorFlow anew, for 5 s.
    run(*installer(uv), "--compile-bytecode", "--require-hashes", "--requirements", str(LOCK))
    install_project()


def install_project() -> None:
    """Make `videolift` and `launchers` importable in .venv, from where they lie, with nothing that is fetched."""
    run(*installer(find_uv()), "--no-deps", "--no-build-isolation", "--offline", "--editable", str(ROOT))


def installer(uv: str) -> list[str]:
    return [uv, "pip", "install", "--quiet", "--python", str(PYTHON)]


def find_uv() -> str:
    """Return uv, which pip fetches into a folder of its own where the machine has none."""
    if (found := shutil.which("uv")) is not None:
        return found
    own = OWN_UV / "bin" / "uv"
    if not own.exists():
        run(base_python(), "-m", "venv", str(OWN_UV))
        run(str(OWN_UV / "bin" / "python"), "-m", "pip", "install", "--quiet", UV)
    return str(own)


def base_python() -> str:
    """Return the Python that the running one was made from: that of an active .venv goes away with it."""
    return str(getattr(sys, "_base_executable", sys.executable))


def run(*command: str) -> None:
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True)


if __name__ == "__main__":
    sys.exit(main())
