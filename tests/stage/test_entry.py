"""The program of a job, as a container starts it: real processes that preprocess real videos."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import psutil
import pytest

from tests.waiting import HANG_S
from videolift import events
from videolift.demo import write_demo
from videolift.entry import STOPPED_EXIT_CODE
from videolift.events import Event
from videolift.manifest import Manifest, make_manifest
from videolift.plan import MANIFEST_FILE, Plan
from videolift.settings import Data, Preprocess, Source
from videolift.workspace import Kind, Workspace

SOURCE = Path(events.__file__).parent.parent
QUICK = {"depth": 4, "height": 16, "width": 16}
SLOW = {"depth": 16, "height": 1200, "width": 1600}  # parts of one clip, about a tenth of a second each


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    write_demo(root, groups=4, clips=2)
    return root


@pytest.fixture(scope="module")
def manifest(videos: Path) -> Manifest:
    return make_manifest(Data(Source.demo, str(videos)), seed=0)


def lay_out(root: Path, videos: Path, manifest: Manifest, settings: dict[str, int], workers: int) -> Workspace:
    plan = root / "plan"
    plan.mkdir()
    preprocess = Preprocess(workers=workers, **settings)  # type: ignore[arg-type]
    Plan("preprocess", "id", preprocess=preprocess, manifest_digest=manifest.digest).write(plan)
    (plan / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    space = Workspace(Kind.processing, root / "job", "algo-1", ("algo-1",), {"plan": plan, "videos": videos})
    space.lay_out()
    return space


def start(space: Workspace, *arguments: str, stdin: int = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "videolift.entry", "--root", str(space.root), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.Popen(
        command, env=environment, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_a_clip(output: IO[str] | None) -> None:
    assert output is not None
    assert any((event := events.parse(line)) and event["type"] == "clip" for line in output), "no clip was begun"


def told(output: str) -> list[Event]:
    """Return the events, all lines being whole ones."""
    found = [events.parse(line) for line in output.splitlines()]
    assert None not in found, output
    return [event for event in found if event]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stage_stops_when_its_stdin_closes(tmp_path: Path, videos: Path, manifest: Manifest, workers: int) -> None:
    process = start(lay_out(tmp_path, videos, manifest, SLOW, workers), "--until-stdin-closes")
    wait_for_a_clip(process.stdout)
    children = psutil.Process(process.pid).children(recursive=True)
    output, _ = process.communicate(timeout=HANG_S)  # closes stdin
    assert process.returncode == STOPPED_EXIT_CODE, output
    assert "asked to stop; what is finished is kept" in output
    assert psutil.wait_procs(children, timeout=HANG_S)[1] == []


def test_a_stdin_that_has_ended_already_stops_it_too(tmp_path: Path, videos: Path, manifest: Manifest) -> None:
    space = lay_out(tmp_path, videos, manifest, SLOW, 1)
    process = start(space, "--until-stdin-closes", stdin=subprocess.DEVNULL)
    output, _ = process.communicate(timeout=HANG_S)
    assert process.returncode == STOPPED_EXIT_CODE, output


@pytest.mark.parametrize("workers", [1, 2])
def test_an_open_stdin_leaves_it_alone_and_no_process_is_left(
    tmp_path: Path, videos: Path, manifest: Manifest, workers: int
) -> None:
    space = lay_out(tmp_path, videos, manifest, QUICK, workers)
    process = start(space, "train", "--until-stdin-closes")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("anything\n")
    process.stdin.flush()
    output = process.stdout.read()  # ends when the last process has closed it; stdin is still open
    assert process.wait(timeout=HANG_S) == 0, output
    process.communicate()
    begun = [event["clip"] for event in told(output) if event["type"] == "clip"]
    assert sorted(begun) == [clip.id for clip in manifest.clips]
    assert {event["type"] for event in told(output)} == {"clip", "progress", "metric", "end"}
    assert {event["type"] for event in events.read(space.events_file)} == {"progress", "metric", "end"}
    assert [e["exit_code"] for e in told(output) if e["type"] == "end"] == [0]
    assert {event["stage"] for event in told(output)} == {"preprocess"}


def test_a_killed_stage_takes_its_watcher_with_it(tmp_path: Path, videos: Path, manifest: Manifest) -> None:
    process = start(lay_out(tmp_path, videos, manifest, SLOW, 1), "--until-stdin-closes")
    wait_for_a_clip(process.stdout)
    (watcher,) = psutil.Process(process.pid).children()
    process.kill()
    assert psutil.wait_procs([watcher], timeout=HANG_S)[1] == []
    process.communicate()
    assert process.returncode == -signal.SIGKILL
