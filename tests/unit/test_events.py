from __future__ import annotations

import io
import select
import threading
from pathlib import Path

import pytest

from videolift.events import PREFIX, Events, parse, read, tell_clip_begun


def test_stdout_and_file_tell_the_same(tmp_path: Path) -> None:
    stream = io.StringIO()
    events = Events(tmp_path / "events.jsonl", "algo-1", stream)
    events.metric("loss", 0.5, step=3)
    events.progress(1, 2, unit="clips", failed=1)
    events.artifact("a.png", "pictures")
    events.clip_error("字\n.avi", "no frames")
    events.close()
    from_stream = [parse(line) for line in stream.getvalue().splitlines()]
    assert from_stream == list(read(tmp_path / "events.jsonl"))
    assert [e["type"] for e in from_stream if e] == ["metric", "progress", "artifact", "clip_error"]
    assert from_stream[0] and (from_stream[0]["value"], from_stream[0]["step"]) == (0.5, 3)


def test_that_a_clip_is_begun_is_told_on_stdout_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tell_clip_begun("algo-2", "字\n.avi")
    tell_clip_begun("algo-2", "a" * select.PIPE_BUF)  # could be torn by another process
    (line,) = capfd.readouterr().out.splitlines()
    event = parse(line)
    assert event is not None
    assert (event["type"], event["clip"], event["host"]) == ("clip", "字\n.avi", "algo-2")


def test_other_output_is_no_event() -> None:
    for line in ("", "Epoch 1/3", PREFIX, PREFIX + "{", PREFIX + "[1]", PREFIX + "{}"):
        assert parse(line) is None


def test_a_line_torn_by_a_kill_is_dropped_and_what_follows_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text('{"type": "tag", "n": 1}\n{"type": "ta')
    assert [e["n"] for e in read(file)] == [1]
    events = Events(file, "algo-1", io.StringIO())
    events.message("again")
    events.close()
    assert [e["type"] for e in read(file)] == ["tag", "message"]


def test_threads_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    events = Events(tmp_path / "e.jsonl", "algo-1", io.StringIO())
    threads = [
        threading.Thread(target=lambda n=n: [events.metric(f"k{n}", i, i) for i in range(200)]) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events.close()
    assert len(list(read(tmp_path / "e.jsonl"))) == 800
