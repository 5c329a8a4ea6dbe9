"""Sweeps are planned: what makes their identity, and what their children share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from launchers.compose import Job
from launchers.config import PREPROCESS_SCRIPT, SCRIPT, Config
from launchers.outputs import Outputs
from launchers.planning import PlannedStage, plan_stages
from launchers.preparing import Prepared
from launchers.sweeps.identity import parts_of
from launchers.sweeps.planned import overview
from videolift.manifest import Clip, Manifest
from videolift.plan import Plan
from videolift.provenance import library_versions
from videolift.settings import Model, Precision

MANIFEST = Manifest(("a",), (Clip("a/1.avi", 0, "g1", "train", "00", 5),), "folder")


class Here:
    """A backend that knows its libraries, and of nothing that is finished elsewhere."""

    def libraries(self, stage: str) -> dict[str, str]:
        return library_versions(stage)

    def origin(self, stage_id: str) -> str | None:
        return None

    def unknown_origin(self, stage_id: str) -> str | None:
        return None


def prepared(config: Config, planned: dict[str, PlannedStage] | None = None) -> Prepared:
    planned = planned or plan_stages(config, MANIFEST, Precision.float32, library_versions)
    return Prepared(config, config.data, cast(Any, Here()), MANIFEST, planned, cast(Any, None))


def ensembles(*members: int) -> list[Prepared]:
    return [prepared(Config(model=Model(members=count), stages=["preprocess", "train"])) for count in members]


def jobs(runs: Sequence[Prepared]) -> list[Job]:
    return [Job(f"members={run.config.model.members}", run.config, (), {}) for run in runs]


def test_the_source_of_a_sweep_is_that_of_its_stages_whatever_they_are_called() -> None:
    alone, both, larger = ensembles(1), ensembles(1, 2), ensembles(3)
    assert parts_of(alone)["source"] == parts_of(larger)["source"]
    assert parts_of(alone)["settings"] != parts_of(both)["settings"] != parts_of(larger)["settings"]
    other = replace(both[1], backend=cast(Any, Other()))
    assert parts_of([other])["source"] != parts_of(both)["source"]


class Other(Here):
    """A backend that trains with another Keras."""

    def libraries(self, stage: str) -> dict[str, str]:
        return {**super().libraries(stage), "keras": "0"} if stage == "train" else super().libraries(stage)


@pytest.mark.parametrize("stage", [SCRIPT, PREPROCESS_SCRIPT])
def test_a_sweep_of_a_script_has_the_source_that_runs_it(stage: str) -> None:
    planned = PlannedStage(stage, f"{stage}-1", Plan(stage, f"{stage}-1"), ("algo-1",), {"mine.py": b"print(1)"})
    edited = replace(planned, builder={"mine.py": b"print(2)"})
    one, other = (parts_of([prepared(Config(), {stage: found})]) for found in (planned, edited))
    assert one["source"] != other["source"]


def test_members_that_are_the_whole_of_another_child_are_shared(tmp_path: Path) -> None:
    runs = ensembles(1, 2, 3)
    found = overview(jobs(runs), runs, Outputs(tmp_path), None)
    trained = {stage.id: stage.children for stage in found.shared if stage.name == "train"}
    first, second = (runs[2].planned[name].id for name in ("train-1", "train-2"))
    assert trained == {first: [0, 1, 2], second: [1, 2]}
    assert [row.stages["train"] for row in found.rows] == ["would run"] * 3  # each averages others
    again = [runs[2], runs[0]]  # a member comes first
    assert overview(jobs(again), again, Outputs(tmp_path), None).rows[1].stages["train"] == "shared with #0"
