"""What determines a stage's result besides settings and data: our own source, and the libraries that make its bytes."""

from __future__ import annotations

import ast
import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGE = "videolift"
OF_SCRIPTS = ("script", "preprocess-script")  # stages that may do without the libraries below
MODULES = {"preprocess-script": "script"}  # that run a stage, where the name is another one
FOLDER = Path(__file__).parent

# Whose versions belong to a stage's id, by the module that runs it.
LIBRARIES = {
    "preprocess": ("av", "numpy", "opencv-python-headless"),
    "train": ("keras", "numpy", "tensorflow"),
    "evaluate": ("keras", "numpy", "tensorflow"),
    "visualize": ("keras", "matplotlib", "numpy", "tensorflow"),
    "predict": ("av", "keras", "numpy", "opencv-python-headless", "tensorflow"),
    "script": ("keras", "numpy", "tensorflow"),
    "preprocess-script": ("av", "numpy", "opencv-python-headless"),
}


def module_of(stage: str) -> str:
    """Return the name of the module of this package that runs a stage."""
    return MODULES.get(stage, stage)


def source_digest(module: str) -> str:
    """Return the SHA-256 of a module of this package and of all that it imports from this package, directly or not."""
    digest = hashlib.sha256()
    for name in sorted(imported_modules(module)):
        digest.update(name.encode() + b"\0" + (FOLDER / f"{name}.py").read_bytes() + b"\0")
    return digest.hexdigest()


def imported_modules(module: str) -> set[str]:
    """Return the names, without the package's, of a module and of what it imports from the package."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        path = FOLDER / f"{name}.py"
        waiting += [name for name in _imported_names(path.read_bytes()) if (FOLDER / f"{name}.py").is_file()]
    return found


@cache
def _imported_names(source: bytes) -> tuple[str, ...]:
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE}."):
            names.append(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            names += [a.name.split(".")[1] for a in node.names if a.name.startswith(f"{PACKAGE}.")]
    return tuple(names)


def library_versions(stage: str) -> dict[str, str]:
    """Return the versions of the libraries that make a stage's bytes, and the architecture, without importing them."""
    names = [name for name in LIBRARIES[stage] if stage not in OF_SCRIPTS or is_installed(name)]
    versions = {name: _version(name) for name in names}
    return {**versions, "machine": platform.machine()}


@cache
def _version(distribution: str) -> str:
    return metadata.version(distribution)


def is_installed(distribution: str) -> bool:
    """Tell whether a distribution is there, without importing it."""
    try:
        _version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
