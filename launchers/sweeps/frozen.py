"""The program as it was when a sweep began: copied to ``outputs/code/<digest>/`` and run from there.

What is edited while a sweep runs, or between two of its sessions, then changes nothing in it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from launchers import provenance

PARTS = ("run.py", "conf", "src", "launchers")
LINKED = Path("launchers/images/wheels")  # may hold gigabytes; an image's id does not depend on them
LEFT_OUT = {"__pycache__", ".mypy_cache", ".ruff_cache"}
DIGEST_LENGTH = 12  # hex digits
FOLDER = "code"  # below outputs


def is_frozen(root: Path) -> bool:
    """Tell whether a copy of the program is one of ours."""
    return (root / provenance.TAGS_FILE).is_file()


def freeze(root: Path, outputs: Path) -> Path:
    """Copy the program, unless this very version was copied before, and return where it is.

    Raises:
        OSError: if it cannot be written.
    """
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in _files(root)}
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    place = outputs / FOLDER / digest.hexdigest()[:DIGEST_LENGTH]
    if place.is_dir():
        return place
    partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
    for name, content in files.items():
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).write_bytes(content)
    if (root / LINKED).is_dir():
        (partial / LINKED).symlink_to((root / LINKED).resolve())
    provenance.capture(partial, root)
    try:
        partial.rename(place)
    except OSError:  # another process was quicker
        shutil.rmtree(partial)
        if not place.is_dir():
            raise
    return place


def run_from(place: Path, argv: Sequence[str]) -> None:
    """Go on as the program that lies in a folder; does not return."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *_options(), str(place / "run.py"), *argv])


def _options() -> list[str]:
    """Return what the interpreter itself was told: -X, -W and the like."""
    own = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv)]
    return own if all(word.startswith("-") and word not in {"-c", "-m"} for word in own) else []


def _files(root: Path) -> Iterator[Path]:
    for part in PARTS:
        if (root / part).is_file():
            yield root / part
            continue
        for folder, folders, names in os.walk(root / part):
            inside = Path(folder)
            folders[:] = sorted(f for f in folders if f not in LEFT_OUT and (inside / f).relative_to(root) != LINKED)
            yield from (inside / name for name in sorted(names))
