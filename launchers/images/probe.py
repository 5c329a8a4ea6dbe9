"""Tells what is in an image. Its text is what ``python3 -c`` runs there: standard library only, nothing of ours.

Its first argument is JSON: the distributions wanted, each with those that stand for it.
"""

# No `from __future__`: a Python too old for it should still say how old it is.
import json
import platform
import sys

OLDEST = (3, 11)  # what the stages are written for
PACKAGE = "videolift"


def main() -> None:
    """Print one line of JSON."""
    told: dict[str, object] = {"python": platform.python_version(), "machine": platform.machine()}
    if tuple(sys.version_info) >= OLDEST:
        told.update(content(json.loads(sys.argv[1])))
    print(json.dumps(told))


def content(wanted: "dict[str, list[str]]") -> "dict[str, object]":
    """Return the versions of distributions that are installed, and the digest of our package, None where it is not."""
    return {"versions": versions(wanted), "source": installed_source()}


def versions(wanted: "dict[str, list[str]]") -> "dict[str, str]":
    """Return the version of each distribution wanted, of the first that is installed under its names."""
    from importlib import metadata

    found: dict[str, str] = {}
    for name, others in wanted.items():
        for one in [name, *others]:
            try:
                found.setdefault(name, metadata.version(one))
            except metadata.PackageNotFoundError:
                continue
    return found


def installed_source() -> "str | None":
    """Return the digest of our package where it is installed, without importing it."""
    from importlib import util

    found = util.find_spec(PACKAGE)
    folders = list(found.submodule_search_locations or []) if found else []
    return source_of(folders[0]) if folders else None


def source_of(folder: str) -> str:
    """Return the SHA-256 of the paths and bytes of the modules of a package and of the packages in it."""
    import hashlib
    from pathlib import Path

    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


if __name__ == "__main__":
    main()
