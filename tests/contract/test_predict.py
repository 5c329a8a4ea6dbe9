"""A finished run's model classifies videos that it has never seen."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

from tests import runs
from tests.videos import title_in_gbk

PREDICT = "stages=[predict]"


def table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_model_says_of_videos_what_it_said_when_it_was_tested(
    tmp_path: Path, quick: list[str], backend: str, backend_settings: list[str], videos: Path
) -> None:
    data = tmp_path / "训练"
    files = sorted(one for one in videos.rglob("*.*") if one.is_file())
    for number, video in enumerate(files):  # names that do not tell the groups
        (data / video.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(video, data / video.parent.name / f"{number}{video.suffix}")
    title_in_gbk(next(data.rglob("*.avi")))  # not UTF-8, and the video decodes as well
    settings = [f"data.root={data}" if one.startswith("data.root=") else one for one in quick]
    ended = runs.run(
        *settings, "stages=[preprocess,train,evaluate]", "preprocess.windows=2", "preprocess.interval=2", cwd=tmp_path
    )
    (trained,) = runs.records(tmp_path)
    told = runs.metrics(trained, "evaluate")
    assert ("test_accuracy", 0) in told and ("test_leak_rate", 0) not in told
    assert "the groups of 24 of 24 clips are not known" in ended.out[ended.out.index("test accuracy") - 400 :]
    inbox = tmp_path / "收件 [1]"
    data.rename(inbox)  # nobody needs them where they were
    (inbox / "broken.mp4").write_bytes(b"no video")
    (inbox / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{next(inbox.rglob('*.avi')).relative_to(inbox)}'\n")
    (inbox / ".hidden").write_text("no video either")
    asked = [PREDICT, f"run={trained['id']}", "predict.input=收件 [1]", "predict.top=3", "tracking=none"]
    asked += [f"backend={backend}", *backend_settings, "backend.predict.instance_count=2"]
    ended = runs.run(*asked, cwd=tmp_path)
    assert "2 of 26 files cannot be read" in ended.out and "收件 [1]/broken.mp4" in ended.out
    assert "predict: cannot read 收件 [1]/list.mp4: is text, not a video" in ended.out
    record = runs.records(tmp_path)[-1]
    assert record["status"] == "FINISHED" and record["tags"]["videolift.model_of"] == trained["id"]
    rows = table(tmp_path / "outputs" / "runs" / record["id"] / "predictions.csv")
    wanted = sorted(f.relative_to(tmp_path).as_posix() for f in inbox.rglob("*") if f.is_file() and f.name != ".hidden")
    assert [row["path"] for row in rows] == wanted
    broken = [row for row in rows if row["path"].endswith(("broken.mp4", "list.mp4"))]
    assert len(broken) == 2 and all(row["error"] and not row["class"] for row in broken)
    assert all(float(row["probability"]) >= float(row["probability_2"]) > 0 for row in rows if row not in broken)
    # The same clips, read from the videos and not from arrays.
    found = {row["path"].partition("/")[2]: row for row in rows}
    tested = table(Path(runs.stage(trained, "evaluate")["folder"]) / "hosts/algo-1/output/data/predictions.csv")
    assert tested
    for row in tested:
        assert found[row["clip"]]["class"] == row["predicted"]
        assert abs(float(found[row["clip"]]["probability"]) - float(row["probability"])) < 1e-5
    again = runs.run(*asked, cwd=tmp_path)
    assert f"predict: cached, computed by {record['id']}" in again.out
    (tmp_path / "elsewhere").mkdir()
    resumed = [f"run={record['id']}", "outputs=../outputs", "tracking=none"]
    again = runs.run("action=resume", *resumed, cwd=tmp_path / "elsewhere")
    assert "predict: cached" in again.out and "2 of 26 files cannot be read" in again.out


def test_what_cannot_be_asked_of_a_model_is_told_at_once(tmp_path: Path, quick: list[str]) -> None:
    ended = runs.run(*quick, "stages=[train,predict]", cwd=tmp_path, code=2)
    assert "stages: predict goes alone" in ended.err and "run: predict needs the id of a run" in ended.err
    assert "predict.input: which videos?" in ended.err
    ended = runs.run(PREDICT, "run=nobody", "predict.input=x", "model.epoch=3", cwd=tmp_path, code=2)
    assert "model.epoch: an existing run keeps its own settings" in ended.err
    ended = runs.run(PREDICT, "run=nobody", "predict.input=x", "tracking.register=x", cwd=tmp_path, code=2)
    assert "tracking.register: is for what the stage train makes" in ended.err
    ended = runs.run(PREDICT, "run=nobody", "predict.input=x", cwd=tmp_path, code=2)
    assert "no run 'nobody'" in ended.err
