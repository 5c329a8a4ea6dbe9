from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from launchers import provenance


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "a repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "tracked.txt").write_text("one\n")
    git(folder, "add", "tracked.txt")
    git(folder, "-c", "user.name=me", "-c", "user.email=me@example.org", "commit", "--quiet", "-m", "first")
    return folder


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True).stdout


def test_a_clean_commit_has_no_diff(repository: Path, tmp_path: Path) -> None:
    (repository / "token.txt").write_text("hush-hush")  # not tracked
    provenance.capture(tmp_path / "run", repository)
    tags = provenance.captured_tags(tmp_path / "run")
    assert tags["mlflow.source.git.commit"] == git(repository, "rev-parse", "HEAD").strip()
    assert tags["videolift.git.dirty"] == "false"
    assert not (tmp_path / "run" / "git.diff").exists()


def test_changes_are_kept_as_a_diff_of_tracked_files(repository: Path, tmp_path: Path) -> None:
    (repository / "tracked.txt").write_text("two\nhttps://me:hush-hush@example.org/\n")
    (repository / "token.txt").write_text("hush-hush")
    provenance.capture(tmp_path / "run", repository)
    diff = (tmp_path / "run" / "git.diff").read_text()
    assert provenance.captured_tags(tmp_path / "run")["videolift.git.dirty"] == "true"
    assert "+two" in diff
    assert "https://***@example.org/" in diff
    assert "hush-hush" not in diff


def test_a_huge_diff_is_cut_visibly(repository: Path) -> None:
    (repository / "tracked.txt").write_text("x\n" * provenance.MAX_DIFF)
    diff = provenance.git_diff(repository)
    assert len(diff) < provenance.MAX_DIFF + 200
    assert "cut here: the diff has" in diff


def test_outside_a_repository_there_is_no_commit(tmp_path: Path) -> None:
    provenance.capture(tmp_path / "run", tmp_path)
    tags = provenance.captured_tags(tmp_path / "run")
    assert "mlflow.source.git.commit" not in tags
    assert tags["videolift.version.python"]
