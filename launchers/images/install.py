"""Installs what a base image lacks of a locked requirement file. Runs while an image is built: standard library only.

python3 install.py REQUIREMENTS --wheels FOLDER --target FOLDER
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

PYTHONS = ((3, 11), (3, 12))  # what the lock files were resolved for
# Distributions that hold the same modules: where one is installed, the others would overwrite or shadow it.
ALIASES = {
    "keras": ("keras-nightly",),
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python", "opencv"),
    "tensorflow": (
        *("tensorflow-cpu", "tensorflow-gpu", "tensorflow-intel", "intel-tensorflow", "tensorflow-rocm"),
        *("tf-nightly", "tf-nightly-cpu"),
    ),
}


def main() -> int:
    """Install, or say in one line why not."""
    parser = argparse.ArgumentParser(description="Install what this image lacks of a locked requirement file.")
    parser.add_argument("requirements", type=Path, help="lines NAME==VERSION with hashes")
    parser.add_argument("--wheels", type=Path, required=True, help="if this folder has wheels, the index is not asked")
    parser.add_argument("--target", type=Path, required=True, help="where to install")
    arguments = parser.parse_args()
    python = ".".join(map(str, sys.version_info[:2]))
    if sys.version_info[:2] not in PYTHONS:
        known = " or ".join(".".join(map(str, version)) for version in PYTHONS)
        return failed(f"this base image has Python {python}, the locked libraries are for {known}")
    wanted = read_requirements(arguments.requirements.read_text(encoding="utf-8"))
    found = installed()
    kept = {name: version for name in wanted if (version := version_of(name, found))}
    report_kept(kept, wanted)
    missing = [name for name in wanted if name not in kept]
    arguments.target.mkdir(parents=True, exist_ok=True)
    if not missing:
        return 0
    wheels = [file.name for file in arguments.wheels.glob("*.whl")]
    absent = [name for name in missing if wheels and not has_wheel(name, wanted[name], wheels)]
    if absent:
        return failed(f"no wheel of the locked version in {arguments.wheels}: {', '.join(absent)}")
    say(f"installing from {'wheels' if wheels else 'the package index'}: {', '.join(missing)}")
    lines = "\n".join(line for name in missing for line in wanted[name])
    code = pip_install(lines, arguments.target, arguments.wheels if wheels else None)
    if code:
        return failed(f"pip could not install them (Python {python}, {platform.machine()}); its reason is above")
    return 0


def read_requirements(text: str) -> dict[str, list[str]]:
    """Return the lines of a requirement file by distribution, which has several where markers choose between them."""
    found: dict[str, list[str]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        requirement = re.match(r"([\w.-]+)==", line)
        if requirement:
            found.setdefault(normalised(requirement[1]), []).append(line)
    return found


def versions_in(lines: Iterable[str]) -> list[str]:
    """Return the versions that lines of a requirement file ask for."""
    return [re.split(r"[\s;]", line.split("==", 1)[1], maxsplit=1)[0] for line in lines]


def normalised(name: str) -> str:
    """Return a distribution's name in the form that compares (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Return the versions of everything that is installed, by normalised name."""
    named = ((one.metadata["Name"], one.version) for one in metadata.distributions())
    return {normalised(name): version for name, version in named if name}


def version_of(name: str, found: dict[str, str]) -> str | None:
    """Return the installed version of a distribution or of one that stands for it."""
    return next((found[one] for one in (name, *ALIASES.get(name, ())) if one in found), None)


def has_wheel(name: str, lines: Iterable[str], wheels: Iterable[str]) -> bool:
    """Tell whether one of the versions that the lines ask for is among the wheels, whatever machine they are for."""
    wanted = {(name, version) for version in versions_in(lines)}
    return any((normalised(parts[0]), parts[1]) in wanted for parts in (wheel.split("-") for wheel in wheels))


def report_kept(kept: dict[str, str], wanted: dict[str, list[str]]) -> None:
    """Say what the base image has already, apart where it is another version than the locked one."""
    same = [f"{name} {version}" for name, version in kept.items() if version in versions_in(wanted[name])]
    other = [
        f"{name} {version} (locked: {' or '.join(versions_in(wanted[name]))})"
        for name, version in kept.items()
        if version not in versions_in(wanted[name])
    ]
    for text, names in (("kept from the base image", same), ("kept from the base image in its own version", other)):
        if names:
            say(f"{text}: {', '.join(names)}")


def pip_install(requirements: str, target: Path, wheels: Path | None) -> int:
    """Install lines of a requirement file into a folder; return pip's exit code."""
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    command += ["--target", str(target), "--requirement", "/dev/stdin"]
    command += ["--no-index", "--find-links", str(wheels)] if wheels else []
    # It is older than some pips, which refuse options that they do not know, but not variables.
    environment = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}
    return subprocess.run(command, input=requirements.encode(), env=environment, check=False).returncode


def say(text: str) -> None:
    print(f"videolift: {text}", flush=True)


def failed(reason: str) -> int:
    """Say why nothing was installed."""
    print(f"videolift: error: {reason}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
