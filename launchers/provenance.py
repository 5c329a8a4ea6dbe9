"""Where a run came from: git commit and diff, host, library versions. Captured at its start, recorded when possible."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shutil
import socket
import subprocess
from importlib import metadata
from pathlib import Path

from launchers.redaction import redacted_text
from launchers.repository import ROOT

LIBRARIES = ("av", "hydra-core", "keras", "mlflow", "numpy", "opencv-python-headless", "tensorflow", "videolift")
TAGS_FILE = "provenance.json"
DIFF_FILE = "git.diff"
MAX_DIFF = 1_000_000  # characters
GIT_TIMEOUT_S = 10


def capture(folder: Path, repository: Path = ROOT) -> None:
    """Write ``provenance.json`` (tags) and, where tracked files were changed, ``git.diff`` into a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if (repository / TAGS_FILE).is_file():  # a copy, which knows where it comes from
        for name in (TAGS_FILE, DIFF_FILE):
            if (repository / name).is_file():
                shutil.copyfile(repository / name, folder / name)
        return
    text = json.dumps({**git_tags(repository), **machine_tags()}, indent=1, ensure_ascii=False)
    (folder / TAGS_FILE).write_text(text, encoding="utf-8")
    diff = git_diff(repository)
    if diff:
        (folder / DIFF_FILE).write_text(diff, encoding="utf-8")
    else:
        (folder / DIFF_FILE).unlink(missing_ok=True)


def captured_tags(folder: Path) -> dict[str, str]:
    """Return the tags that :func:`capture` wrote, none where it never ran."""
    file = folder / TAGS_FILE
    tags: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return tags


def git_tags(repository: Path) -> dict[str, str]:
    """Return commit, branch and whether tracked files were changed; nothing outside a git repository."""
    commit = _git(repository, "rev-parse", "HEAD").strip()
    if not commit:
        return {}
    changed = _git(repository, "status", "--porcelain", "--untracked-files=no").strip()
    return {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": _git(repository, "rev-parse", "--abbrev-ref", "HEAD").strip(),
        "videolift.git.dirty": "true" if changed else "false",
    }


def git_diff(repository: Path) -> str:
    """Return the changes to tracked files, without addresses' credentials, cut visibly where they are long."""
    # No untracked files: people keep secrets in them. No external diff or text converter: they run programs.
    diff = redacted_text(_git(repository, "diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv"))
    if len(diff) <= MAX_DIFF:
        return diff
    return f"{diff[:MAX_DIFF]}\n... cut here: the diff has {len(diff)} characters\n"


def machine_tags() -> dict[str, str]:
    """Return who ran it, where, and with which libraries."""
    tags = {
        "mlflow.user": _user(),
        "videolift.host": socket.gethostname(),
        "videolift.platform": platform.platform(),
        "videolift.cpus": str(os.cpu_count()),
        "videolift.version.python": platform.python_version(),
    }
    return {**tags, **{f"videolift.version.{name}": version for name, version in versions(LIBRARIES).items()}}


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those distributions that are installed, importing none."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # a laptop that only launches remote jobs has no TensorFlow
    return found


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without an entry in passwd
        return str(os.getuid())


def _git(repository: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repository), *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        answer = subprocess.run(
            command, capture_output=True, timeout=GIT_TIMEOUT_S, check=False, env=environment, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""  # no git, or a repository on a disk that does not answer: the run goes on without
    return answer.stdout.decode("utf-8", "replace") if answer.returncode == 0 else ""
