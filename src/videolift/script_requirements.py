"""A throw-away environment for what a user's script needs besides what is there; what is there is never changed.

It has no libraries of its own but sees those of the running interpreter, so that pip takes them for installed, and
what pip adds comes before them. Sources: the standard library's ``venv`` and ``site``; pip's option ``--python``.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable
from pathlib import Path

from videolift.errors import VideoliftError
from videolift.provenance import is_installed
from videolift.settings import Script

PACKAGE = Path(__file__).resolve().parent
HOOK = "_editable_impl_videolift"  # what Python imports at its start where this package is installed editable
REQUIREMENTS = "requirements.txt"
LINK = "videolift.pth"  # names the folders of libraries that are there
QUIET = ("--disable-pip-version-check", "--no-input", "--progress-bar=off")


def library_folders() -> list[str]:
    """Return the folders that the running interpreter has libraries in, but for its own and this package's."""
    own = {str(Path(place).resolve()) for place in sysconfig.get_paths().values()} - _site_packages()
    found = []
    for entry in sys.path:
        folder = Path(entry or os.curdir).resolve()
        inside = str(folder) in own or folder.name == "lib-dynload" or folder.suffix == ".zip"
        if folder.is_dir() and not inside and folder not in (PACKAGE, PACKAGE.parent):
            found.append(str(folder))
    return list(dict.fromkeys(found))


def _site_packages() -> set[str]:
    return {str(Path(sysconfig.get_path(name)).resolve()) for name in ("purelib", "platlib")}


def make_environment(folder: Path, requirements: Path, working: Path) -> Path:
    """Install what a requirement file names and is not there yet, and return the interpreter that sees it.

    Args:
        folder: of the environment, new.
        working: folder that relative paths in the file start from.

    Raises:
        VideoliftError: if pip cannot install it, or there is no pip at all.
    """
    venv.EnvBuilder(with_pip=False, symlinks=True, clear=True).create(folder)
    python = folder / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site_packages = folder / "lib" / version / "site-packages"
    lines = [f"import site; site.addsitedir({place!r})" for place in library_folders()]
    (site_packages / LINK).write_text("\n".join([*lines, ""]), encoding="utf-8")
    hide_package(site_packages)
    command = [*_pip(python), "install", *QUIET, "--requirement", str(requirements)]
    done = subprocess.run(
        command, cwd=working, env=inherited(of_venv=True), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.STDOUT, errors="replace", check=False,
    )  # fmt: skip
    told = [line for line in done.stdout.splitlines() if not line.startswith("Requirement already satisfied")]
    for line in told:
        print(f"pip: {line}", flush=True)
    if done.returncode:
        reason = next((line for line in told if line.startswith("ERROR")), f"exit code {done.returncode}")
        raise VideoliftError(
            f"{requirements.name}: pip could not install it: {reason}. It needs a network, which a container has with "
            "backend.network_isolation=false, or wheels that are sent along: script.source_dir with a folder of them, "
            "and `--no-index` and `--find-links FOLDER` in the file"
        )
    return python


def hide_package(folder: Path) -> bool:
    """Make a folder that hides this package from a Python that looks there first; return False where it needs none.

    A user's script does not see it on SageMaker either.
    """
    if importlib.util.find_spec(HOOK) is None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{HOOK}.py").touch()
    return True


def inherited(hiding: Path | None = None, *, of_venv: bool = False) -> dict[str, str]:
    """Return this process's environment for a user's Python, without what is set for us.

    Args:
        hiding: folder of :func:`hide_package`, not looked into where an environment of ours is run.
        of_venv: it is one that :func:`make_environment` made, which knows all folders of libraries by itself.
    """
    others = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" and not key.startswith("SM_")}
    first = [str(hiding)] if hiding is not None and hide_package(hiding) else []
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [*first, *(p for p in given if p and Path(p).resolve() != PACKAGE.parent)]
    return others if of_venv or not paths else {**others, "PYTHONPATH": os.pathsep.join(paths)}


def _pip(python: Path) -> list[str]:
    """Return a command that is pip for an environment, which has none of its own."""
    if is_installed("pip") and importlib.util.find_spec("pip") is not None:  # a module of its name may be another one
        return [sys.executable, "-m", "pip", "--python", str(python)]
    base = str(getattr(sys, "_base_executable", sys.executable))  # that a virtual environment was made from
    if base != sys.executable and _run([base, "-m", "pip", "--python", str(python), "--version"]):
        return [base, "-m", "pip", "--python", str(python)]
    if importlib.util.find_spec("ensurepip") is not None and _run([str(python), "-m", "ensurepip"]):
        return [str(python), "-m", "pip"]
    raise VideoliftError(
        f"{sys.executable}: has neither pip nor ensurepip to install requirements with; add one of them"
    )


def _run(command: Iterable[str]) -> bool:
    done = subprocess.run(
        [*command], env=inherited(of_venv=True), stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return done.returncode == 0


def requirements_of(source: Path, script: Script) -> Path | None:
    """Return the requirement file in a script's source, None where it has none."""
    beside = (source / str(script.path)).parent
    named = [source / script.requirements] if script.requirements else [beside / REQUIREMENTS, source / REQUIREMENTS]
    return next((file for file in named if file.is_file()), None)
