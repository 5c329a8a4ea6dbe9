from __future__ import annotations

from pathlib import Path

from tests import runs
from tests.sweeps.sweeps import TRAIN, records, states, trained


def test_children_at_a_time_in_containers_are_those_of_processes(
    quick: list[str], videos: Path, tmp_path: Path
) -> None:
    here, contained = tmp_path / "here", tmp_path / "contained"
    swept = ["-m", TRAIN, "model=cnn2d", "model.epoch=1", "model.learning_rate=1e-2,1e-3", "sweep.parallel=2"]
    for cwd, where in ((here, ["backend=local"]), (contained, [])):
        cwd.mkdir()
        settings = [s for s in quick if not (where and s.startswith("backend"))]
        runs.run(*settings, *swept, "sweep.threads=1", *where, cwd=cwd)
    one, other = records(here)[0], records(contained)[0]
    assert states(one) == states(other) == ["finished"] * 2
    for child, same in zip(one.children, other.children, strict=True):
        assert trained(here, child) == trained(contained, same)
    cached = [runs.stage(record, "preprocess")["cached"] for record in runs.records(contained)]
    assert sorted(cached) == [False, True]
