from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests import runs
from tests.under_way import UnderWay
from tests.waiting import HANG_S

ONLY = "stages=[preprocess]"
# Parts of one clip each and one worker: there is something to keep whenever an interruption comes.
SIZE = ("preprocess.height=1200", "preprocess.width=1600", "preprocess.depth=16")
SLOW = (ONLY, "preprocess.workers=1", *SIZE)


def wait_for_parts(process: subprocess.Popen[str], cwd: Path, under_way: UnderWay, count: int) -> list[Path]:
    while process.poll() is None:
        found = under_way.files(cwd, "preprocess", "parts/*.jsonl")
        if len(found) >= count:
            return found
        time.sleep(0.005)
    raise AssertionError(f"ended before part {count}: {runs.wait(process).text}")


def test_1_2_and_7_hosts_give_byte_identical_arrays(tmp_path: Path, quick: list[str]) -> None:
    merged = []
    # 3 clips a part, so that merging cuts across the hosts' parts.
    size = ("preprocess.height=600", "preprocess.width=600", "preprocess.depth=8", "preprocess.color=true")
    for hosts in (1, 2, 7):
        cwd = tmp_path / str(hosts)
        cwd.mkdir()
        runs.run(*quick, *size, ONLY, f"backend.preprocess.instance_count={hosts}", cwd=cwd)
        record = runs.records(cwd)[0]
        assert len(list((Path(record["stages"][0]["folder"]) / "hosts").glob("algo-*"))) == hosts
        merged.append(runs.arrays(record))
    assert len(merged[0]) == 8 + 1
    assert merged[0] == merged[1] == merged[2]


def test_more_hosts_than_clips_is_fine(tmp_path: Path, quick: list[str]) -> None:
    runs.run(*quick, ONLY, "data.nclass=2", "backend.preprocess.instance_count=9", cwd=tmp_path)
    assert len(json.loads(runs.arrays(runs.records(tmp_path)[0])["index.jsonl"].splitlines()[0])["asked"][0]) == 4


def test_killed_at_any_moment_and_run_again_it_continues_and_gives_the_same_bytes(
    tmp_path: Path, quick: list[str], under_way: UnderWay
) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    straight.mkdir()
    killed.mkdir()
    slow = [*quick, *SLOW]
    runs.run(*slow, cwd=straight)
    process = runs.start(*slow, cwd=killed)
    first = wait_for_parts(process, killed, under_way, 1)[0]
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    runs.wait(process)
    kept = first.stat().st_mtime_ns
    _, alive = psutil.wait_procs(children, timeout=HANG_S)
    assert not alive, "the stage outlived its launcher"
    assert not list((killed / "outputs" / "cache").glob("*/finished.json"))
    again = runs.start(*slow, cwd=killed)
    wait_for_parts(again, killed, under_way, 4)
    assert first.stat().st_mtime_ns == kept, "a finished part was made again"
    assert runs.wait(again).code == 0
    before, after = runs.records(straight)[0], runs.records(killed)
    assert runs.arrays(before) == runs.arrays(after[-1])
    assert len(after) == 1, "the run of the killed launcher was not reopened"
    assert after[0]["status"] == "FINISHED"


def test_stopped_on_one_host_it_goes_on_with_three(tmp_path: Path, quick: list[str], under_way: UnderWay) -> None:
    process = runs.start(*quick, *SLOW, cwd=tmp_path)
    wait_for_parts(process, tmp_path, under_way, 12)
    process.kill()
    runs.wait(process)
    runs.run(*quick, *SLOW, "backend.preprocess.instance_count=3", cwd=tmp_path)
    assert len(json.loads(runs.arrays(runs.records(tmp_path)[-1])["index.jsonl"].splitlines()[0])["asked"][0]) == 16


def test_the_host_that_failed_is_told_and_not_that_the_others_were_stopped(
    tmp_path: Path, quick: list[str], videos: Path
) -> None:
    root = tmp_path / "videos"
    shutil.copytree(videos, root)
    (root / "PanLeft" / "v_PanLeft_g01_c00.avi").write_text("this is no video")
    settings = [*quick, ONLY, *SIZE, f"data.root={root}", "backend.preprocess.instance_count=2"]
    failed = runs.run(*settings, cwd=tmp_path, code=3)
    assert "preprocess on algo-1: ClipError: PanLeft/v_PanLeft_g01_c00.avi" in failed.err
    assert runs.records(tmp_path)[0]["status"] == "FAILED"


def test_a_killed_worker_is_a_clear_error_and_no_hang(tmp_path: Path, quick: list[str], under_way: UnderWay) -> None:
    process = runs.start(*quick, ONLY, "preprocess.workers=2", *SIZE, cwd=tmp_path)
    wait_for_parts(process, tmp_path, under_way, 1)
    (entry,) = under_way.processes(process.pid)
    entry.children()[-1].kill()
    ended = runs.wait(process)
    assert ended.code == 5, ended.text
    assert "a worker process was killed" in ended.err


def test_a_bad_video_stops_the_run_by_name_and_may_be_left_out(tmp_path: Path, quick: list[str], videos: Path) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    for folder in videos.iterdir():
        (root / folder.name).mkdir()
        for file in folder.iterdir():
            (root / folder.name / file.name).symlink_to(file)
    bad = next(iter(sorted(root.iterdir()))) / "v_Bad_g01_c09.avi"
    bad.write_text("this is no video")
    settings = [*quick, ONLY, f"data.root={root}"]
    failed = runs.run(*settings, cwd=tmp_path, code=3)
    assert "v_Bad_g01_c09.avi" in failed.err
    assert "preprocess.bad_video=skip" in failed.err
    assert "Traceback" not in failed.text
    assert not list((tmp_path / "outputs" / "cache").glob("*/finished.json"))
    allowed = runs.run(*settings, "preprocess.bad_video=skip", cwd=tmp_path)
    assert "left out" in allowed.text
    index = [json.loads(line) for line in runs.arrays(runs.records(tmp_path)[-1])["index.jsonl"].splitlines()]
    errors = {e["clip"]: e["error"] for e in index if e["error"]}
    assert list(errors) == [f"{bad.parent.name}/{bad.name}"]
    # The arrays are there now, but a stricter limit holds for them too.
    strict = runs.run(*settings, "preprocess.bad_video=skip", "preprocess.max_bad_share=0.01", cwd=tmp_path, code=3)
    assert "1 of 25 videos" in strict.err


@pytest.mark.parametrize("policy", ["skip", "fail"])
def test_a_depth_larger_than_any_video_is_one_clear_error(tmp_path: Path, quick: list[str], policy: str) -> None:
    ended = runs.run(*quick, ONLY, "preprocess.depth=500", f"preprocess.short_video={policy}", cwd=tmp_path, code=3)
    assert "preprocess.short_video=pad" in ended.err or "preprocess.depth" in ended.err
    assert "Traceback" not in ended.text
    assert not list((tmp_path / "outputs" / "cache").glob("*/finished.json"))


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(
    tmp_path: Path, quick: list[str], under_way: UnderWay
) -> None:
    slow = [*quick, *SLOW]
    process = runs.start(*slow, cwd=tmp_path)
    wait_for_parts(process, tmp_path, under_way, 1)
    process.send_signal(signal.SIGINT)
    ended = runs.wait(process)
    assert ended.code == 130, ended.text
    assert "same command goes on" in ended.text
    assert "Traceback" not in ended.text
    assert runs.records(tmp_path)[0]["status"] == "KILLED"
    again = runs.run(*slow, cwd=tmp_path)
    assert "goes on with run" in again.out
    assert [r["status"] for r in runs.records(tmp_path)] == ["FINISHED"]
