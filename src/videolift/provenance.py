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
    """Return the SHA-256 of a module of this package and of all that it imports from this package, directly or not.

    Args:
        module: dotted name below the package.
    """
    digest = hashlib.sha256()
    for name in sorted(imported_modules(module)):
        digest.update(name.encode() + b"\0" + _file_of(name).read_bytes() + b"\0")
    return digest.hexdigest()


def imported_modules(module: str) -> set[str]:
    """Return the dotted names below the package of a module, of its imports from the package, and of their packages.

    The package itself is ``""``. Imports inside functions and for type checkers count.
    """
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        path = _file_of(name)
        package = name if path.name == "__init__.py" else _parent(name)
        wanted = _imported_names(path.read_bytes(), package)
        waiting += [_parent(name), *(one for one in wanted if _file_of(one).is_file())]
    return found


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _file_of(name: str) -> Path:
    place = FOLDER.joinpath(*name.split(".")) if name else FOLDER
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


@cache
def _imported_names(source: bytes, package: str) -> tuple[str, ...]:
    """Return the dotted names below the package that a module may import; some are of functions and classes.

    Args:
        package: dotted name of the module's own package, which relative imports start from.
    """
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return tuple(name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(f"{PACKAGE}."))


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = [PACKAGE, *(package.split(".") if package else [])]
    return ".".join([*parts[: len(parts) + 1 - node.level], *([node.module] if node.module else [])])


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
