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
CACHES = "__pycache__"
OF_EDITORS = ("*~", "*.swp", "#*#")  # backups, and what is not saved yet
DIGEST_LENGTH = 12  # hex digits
FOLDER = "code"  # below outputs
FURTHER = "config-dir"  # in the copy: the folder of configurations that lies outside of the program


def is_frozen(root: Path) -> bool:
    """Tell whether a copy of the program is one of ours."""
    return (root / provenance.TAGS_FILE).is_file()


def freeze(root: Path, outputs: Path, config_path: str = "conf", config_dir: str | None = None) -> Path:
    """Copy the program, unless this very version was copied before, and return where it is.

    Args:
        root: absolute.
        config_path: what Hydra is given as ``--config-path``; copied, too, where it is a folder of the repository.
        config_dir: what Hydra is given as ``--config-dir``; its configurations are copied wherever it is.

    Raises:
        OSError: if it cannot be written.
    """
    paths = dict.fromkeys([*_files(root), *_configurations(root, config_path)])
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    if config_dir is not None:
        further = Path(config_dir).absolute()
        inside = (path for path in _below(further, further) if path.suffix == ".yaml")
        files |= {f"{FURTHER}/{path.relative_to(further).as_posix()}": path.read_bytes() for path in inside}
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
    further = ["--config-dir", str(place / FURTHER)] if (place / FURTHER).is_dir() else []  # the last one counts
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *_options(), str(place / "run.py"), *argv, *further])


def _options() -> list[str]:
    """Return what the interpreter itself was told: -X, -W and the like."""
    own = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv)]
    return own if all(word.startswith("-") and word not in {"-c", "-m"} for word in own) else []


def _files(root: Path) -> Iterator[Path]:
    for part in PARTS:
        if (root / part).is_file():
            yield root / part
        else:
            yield from _below(root / part, root)


def _configurations(root: Path, config_path: str) -> Iterator[Path]:
    """Yield the files of a folder of ours that configurations are read from."""
    folder = Path(os.path.abspath(root / config_path))  # noqa: PTH100 - resolves .., and no links
    if not config_path.startswith("pkg://") and folder != root and folder.is_relative_to(root):
        yield from (file for file in _below(folder, root) if file.suffix == ".yaml")


def _below(top: Path, root: Path) -> Iterator[Path]:
    """Yield the files of a folder, in the same order everywhere, without what editors and caches leave."""
    for folder, folders, names in os.walk(top):
        inside = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name != CACHES and (inside / name).relative_to(root) != LINKED
        )
        files = (inside / name for name in sorted(names) if not name.startswith("."))
        yield from (file for file in files if file.is_file() and not any(map(file.match, OF_EDITORS)))
