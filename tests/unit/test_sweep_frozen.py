"""The copy of the program that a sweep runs from."""

import os
from pathlib import Path

import pytest

from launchers.sweeps.frozen import freeze, is_frozen


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "a repository"
    for name in (
        "run.py",
        "conf/config.yaml",
        "src/videolift/entry.py",
        "launchers/images/train.txt",
        "launchers/images/wheels/a.whl",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "launchers/images/wheels/.gitignore").write_text("*")
    return root


def copied(place: Path) -> set[str]:
    files = (file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file())
    return {name for name in files if not name.startswith(("provenance.json", "git.diff", "launchers/images/wheels/"))}


def test_the_program_is_copied_and_wheels_are_linked(root: Path, tmp_path: Path) -> None:
    place = freeze(root, tmp_path / "outputs")
    assert copied(place) == {"run.py", "conf/config.yaml", "src/videolift/entry.py", "launchers/images/train.txt"}
    assert is_frozen(place) and not is_frozen(root)
    wheels = place / "launchers/images/wheels"
    assert wheels.is_symlink() and sorted(file.name for file in wheels.iterdir()) == [".gitignore", "a.whl"]


def test_what_editors_and_caches_leave_is_not_part_of_the_program(root: Path, tmp_path: Path) -> None:
    place = freeze(root, tmp_path / "outputs")
    (root / "conf/.#config.yaml").symlink_to("me@laptop.4711:1732550000")  # as Emacs locks a file
    os.mkfifo(root / "conf/pipe")
    for name in ("conf/config.yaml~", "conf/.config.yaml.swp", "src/b.py.swp", "src/#b.py#", "src/__pycache__/b.pyc"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("of no meaning")
    assert freeze(root, tmp_path / "outputs") == place
    (root / "src/b.py").symlink_to(root / "run.py")
    with_link = freeze(root, tmp_path / "outputs")
    assert with_link != place and (with_link / "src/b.py").read_text() == "run.py"


def test_configurations_of_the_repository_are_copied_wherever_they_are(root: Path, tmp_path: Path) -> None:
    for name in ("my conf/inner/config.yaml", "my conf/model/mine.yaml", "my conf/videos.avi"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    outputs = tmp_path / "outputs"
    plain = freeze(root, outputs)
    mine = freeze(root, outputs, "./my conf")
    assert copied(mine) - copied(plain) == {"my conf/inner/config.yaml", "my conf/model/mine.yaml"}
    for other in ("conf", "conf/../conf", ".", "..", str(tmp_path), "pkg://somebodys.conf"):
        assert freeze(root, outputs, other) == plain
    (root / "my conf/model/mine.yaml").write_text("other")
    assert freeze(root, outputs, "my conf") != mine


def test_configurations_from_elsewhere_are_copied_too(root: Path, tmp_path: Path) -> None:
    further = tmp_path / "of my own"
    (further / "model").mkdir(parents=True)
    (further / "model/mine.yaml").write_text("epoch: 1")
    (further / "notes.txt").write_text("no configuration")
    outputs = tmp_path / "outputs"
    plain = freeze(root, outputs)
    mine = freeze(root, outputs, config_dir=str(further))
    assert copied(mine) - copied(plain) == {"config-dir/model/mine.yaml"}
    (further / "model/mine.yaml").write_text("epoch: 2")
    assert freeze(root, outputs, config_dir=str(further)) != mine
