"""What a script is given where there is no room for a copy, what is refused then, and what an earlier try left."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console

from launchers.base import Dealt, Stage
from launchers.cache import Cache, StageFolder
from launchers.config import Backend
from launchers.local import LocalBackend
from launchers.planning import PlannedStage, prepare_stage
from launchers.script_channels import clear, lay_out
from launchers.scripting import Channel
from videolift import copies
from videolift.errors import DataError, StorageError
from videolift.manifest import Manifest
from videolift.plan import Plan
from videolift.settings import Data, Script

NOTHING = Manifest((), (), "script")
CHANGES: dict[str, Callable[[Path], object]] = {
    "append": lambda file: file.write_text("mine, and more"),
    "content": lambda file: file.write_text("MINE"),
    "mode": lambda file: file.chmod(0o400),
    "time": lambda file: os.utime(file, (0, 0)),
    "gone": lambda file: file.unlink(),
}


class Usage(NamedTuple):
    """What shutil.disk_usage returns."""

    total: int
    used: int
    free: int


def has_no_clones(*_: object) -> None:
    raise OSError(errno.EOPNOTSUPP, "no clones")


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 0))
    monkeypatch.setattr(copies.fcntl, "ioctl", has_no_clones)  # whatever the file system of the tests is


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "a.txt").write_text("mine")
    (tmp_path / "data" / "b.txt").write_text("too")
    return tmp_path / "data"


def stage_of(tmp_path: Path, data: Path, script: str = "") -> Stage:
    """Return a stage of a script with one channel, as a run prepares it."""
    settings = Script(path="s.py", args="{train} {output_dir}", channels={"train": "folder"})
    plan = Plan("script", "script-1", script=settings, manifest_digest=NOTHING.digest)
    channel = Channel("train", "folder", "", data, ("b.txt", "deep/a.txt"))
    planned = PlannedStage("script", plan.id, plan, ("algo-1",), {"s.py": script.encode()}, (channel,))
    return prepare_stage(planned, Cache(tmp_path / "cache").partial(plan.id), NOTHING, Data(), {})


def run(stage: Stage) -> str:
    """Run a stage as backend=local does, and return what was told."""
    console = Console(file=StringIO(), width=10_000)
    job = LocalBackend(Backend(), Cache(stage.folder.path.parent)).submit([stage], console)
    try:
        lines = [line for _, line in job.follow()]
        assert not any(end.exit_code for end in job.ends()), lines
    finally:
        job.close()
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_a_script_is_given_copies_that_are_gone_after_it(tmp_path: Path, data: Path) -> None:
    script = "import sys, pathlib\npathlib.Path(sys.argv[1], 'b.txt').write_text('its own')\n"
    stage = stage_of(tmp_path, data, script)
    run(stage)
    assert (data / "b.txt").read_text() == "too"
    space = stage.folder.first
    assert not any(space.inputs.iterdir())
    assert (space.output / "elsewhere/input/data/train/b.txt").read_text() == "its own"


def test_copies_keep_the_time_of_change(tmp_path: Path, data: Path) -> None:
    os.utime(data / "b.txt", ns=(5, 5))
    (data / "b.txt").chmod(0o400)
    space = lay_out(stage_of(tmp_path, data), Console(quiet=True)).spaces["algo-1"]
    file = space.channel("train") / "b.txt"
    assert file.stat().st_mtime_ns == 5 and not file.is_symlink() and not file.samefile(data / "b.txt")
    assert os.access(file, os.W_OK) and file.stat().st_mode & 0o200


@pytest.mark.usefixtures("no_room")
def test_without_room_a_script_may_read_links(tmp_path: Path, data: Path) -> None:
    script = "import sys, pathlib\nassert pathlib.Path(sys.argv[1], 'deep', 'a.txt').read_text() == 'mine'\n"
    told = run(stage_of(tmp_path, data, script))
    assert "script.channels.train: no room for a copy of" in told and "the run fails if it changes them" in told


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize("how", CHANGES)
def test_without_room_a_script_that_changes_the_users_files_fails_with_their_names(
    tmp_path: Path, data: Path, how: str
) -> None:
    file = data / "deep" / "a.txt"
    before = file.stat()
    given = lay_out(stage_of(tmp_path, data), Console(quiet=True))
    assert given.originals is not None
    given.originals.refuse_changes("")
    CHANGES[how](given.spaces["algo-1"].inputs / "train" / "deep" / "a.txt" if how != "gone" else file)
    if how == "content":  # which neither size nor time tell
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match=r"the script has changed your own files: .*/deep/a\.txt\. ") as error:
        given.originals.refuse_changes("it ended with exit code 1")
    assert "b.txt" not in str(error.value) and "it ended with exit code 1" in str(error.value)


@pytest.mark.usefixtures("no_room")
def test_such_a_run_fails_although_the_script_does_not(tmp_path: Path, data: Path) -> None:
    script = "import sys, pathlib\npathlib.Path(sys.argv[1], 'b.txt').open('r+').write('X')\n"
    with pytest.raises(DataError, match=r"script\.channels\.train: the script has changed your own files: .*b\.txt"):
        run(stage_of(tmp_path, data, script))


@pytest.mark.usefixtures("no_room")
def test_without_room_a_container_is_shown_them_read_only(tmp_path: Path, data: Path) -> None:
    given = lay_out(stage_of(tmp_path, data), Console(quiet=True), mounted=True)
    space = given.spaces["algo-1"]
    assert given.originals is None and not any((space.inputs / "train").iterdir())
    assert space.channel("train") != space.inputs / "train"  # what is mounted, which the container does not own
    assert (space.channel("train") / "b.txt").read_text() == "too"
    assert space.channel("plan") == space.inputs / "plan"


@pytest.mark.parametrize(("number", "told"), [(errno.ENOSPC, "became full"), (errno.EACCES, "cannot be copied")])
def test_a_copy_that_fails_is_told_and_leaves_nothing(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, number: int, told: str
) -> None:
    def fail(source: Path, target: Path) -> None:
        target.write_text("half")
        raise OSError(number, os.strerror(number), str(target))

    monkeypatch.setattr(copies.fcntl, "ioctl", has_no_clones)
    monkeypatch.setattr(shutil, "copyfile", fail)
    stage = stage_of(tmp_path, data)
    with pytest.raises(StorageError, match=rf"script\.channels\.\w+: .*{told}"):
        lay_out(stage, Console(quiet=True))
    assert not [file for file in stage.folder.path.glob("hosts/**/*") if file.is_file()]


def test_what_an_earlier_try_wrote_is_set_aside(tmp_path: Path, data: Path) -> None:
    stage = stage_of(tmp_path, data)
    space = lay_out(stage, Console(quiet=True)).spaces["algo-1"]
    for folder in (space.output / "files", space.output / "model", space.model, space.checkpoints):
        folder.mkdir(exist_ok=True)
        (folder / "x").write_text(folder.name)
    script = "import sys, pathlib\npathlib.Path(sys.argv[2], 'x').write_text('second')\n"
    stage = stage_of(tmp_path, data, script)
    told = run(stage)
    aside = stage.folder.path / "earlier" / "1"
    assert f"what an earlier try of script wrote is kept in {aside}" in told
    found = {file.relative_to(aside).as_posix(): file.read_text() for file in aside.rglob("*") if file.is_file()}
    assert found == {
        f"algo-1/{place}/x": place.rpartition("/")[2] for place in ("output/data/files", "output/data/model", "model")
    }
    assert (space.output / "files" / "x").read_text() == "second" and (space.checkpoints / "x").is_file()


def test_what_a_killed_job_wrote_is_kept_and_its_copies_go(tmp_path: Path, data: Path) -> None:
    from videolift.script_files import remember

    stage = stage_of(tmp_path, data)
    space = lay_out(stage, Console(quiet=True)).spaces["algo-1"]
    (space.scratch / "work").mkdir(parents=True)
    remember(space)
    (space.scratch / "work" / "epoch_1").write_text("weights")
    (space.channel("train") / "labels.cache").write_text("cache")
    (space.channel("train") / "deep").chmod(0)  # a script may close what it was given
    (space.inputs / "link").symlink_to(data)
    clear(stage.folder)
    assert (space.output / "work" / "epoch_1").read_text() == "weights"
    assert (space.output / "elsewhere/input/data/train/labels.cache").read_text() == "cache"
    assert not any(space.inputs.iterdir()) and not space.scratch.exists() and (data / "b.txt").is_file()


def test_an_earlier_try_survives_a_result_that_is_fetched_or_replaced(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    (cache.partial("script-1") / "earlier" / "1").mkdir(parents=True)
    (cache.partial("script-1") / "earlier" / "1" / "x").write_text("first")
    (cache.partial("script-1") / "hosts").mkdir()
    assert [entry.name for entry in cache.emptied("script-1").iterdir()] == ["earlier"]
    cache.path("script-1").mkdir()  # a finished one, whose marker somebody removed
    (cache.path("script-1") / "y").write_text("second")
    final = cache.finish("script-1", "run")
    assert (final / "earlier" / "1" / "x").read_text() == "first" and (final / "earlier" / "2" / "y").is_file()


def test_each_of_several_hosts_has_its_own_copy(tmp_path: Path, data: Path) -> None:
    stage = stage_of(tmp_path, data)
    stage.hosts = ("algo-1", "algo-2")
    stage.dealt["train"] = dict.fromkeys(stage.hosts, Dealt(data, ("b.txt",), whole=False))
    stage.folder = StageFolder(stage.folder.path, stage.kind)
    first, second = lay_out(stage, Console(quiet=True)).spaces.values()
    (first.channel("train") / "b.txt").write_text("first")
    assert (second.channel("train") / "b.txt").read_text() == (data / "b.txt").read_text() == "too"
