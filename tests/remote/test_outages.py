"""A look-up in S3 that fails: what is finished there is not computed again, and a plan says what it does not know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launchers.emulator.client import Emulator
from tests import runs

PREPROCESS = "stages=[preprocess]"
ELSEWHERE = "outputs=elsewhere"  # as on another machine
LOOK_UP = {"operation": "GetObject"}
FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("error", {"status": 403, "code": "AccessDenied"}, "s3:GetObject is not allowed"),
    ("error", {"status": 502, "code": ""}, "(502)"),
    ("expired", {}, "have expired"),
]


@pytest.fixture(autouse=True)
def whole(emulator: Emulator) -> Iterator[None]:
    yield
    emulator.clear_faults()


def test_what_is_finished_is_not_computed_again_in_an_outage(
    tmp_path: Path, quick: list[str], emulator: Emulator
) -> None:
    settings = [*quick, PREPROCESS]
    runs.run(*settings, cwd=tmp_path)
    before = len(emulator.calls())
    for kind, details, reason in FAULTS:
        emulator.fault(kind, **LOOK_UP, **details)
        stopped = runs.run(*settings, ELSEWHERE, cwd=tmp_path, code=1)
        assert "is finished in S3 is not known, so it is not computed" in stopped.err and reason in stopped.err
        assert "Traceback" not in stopped.err
        emulator.clear_faults()
    kind, details, reason = FAULTS[0]
    emulator.fault(kind, **LOOK_UP, **details)
    planned = runs.run(*settings, ELSEWHERE, "action=plan", cwd=tmp_path)
    assert "would run, unless it is finished in S3" in planned.out
    assert "note: what is finished in S3 is not known: " in planned.out and reason in planned.out
    emulator.clear_faults()
    assert "preprocess: cached, computed by" in runs.run(*settings, ELSEWHERE, cwd=tmp_path).out
    assert not [call for call in emulator.calls()[before:] if call["operation"].startswith("Create")]


def test_a_creation_in_an_outage_makes_one_job(tmp_path: Path, quick: list[str], emulator: Emulator) -> None:
    before = len(emulator.calls())
    emulator.fault("error", operation="CreateProcessingJob", status=503, code="", times=1)
    ended = runs.run(*quick, PREPROCESS, cwd=tmp_path)
    assert "looking for job videolift-preprocess-" in ended.out
    made = [call for call in emulator.calls()[before:] if call["operation"] == "CreateProcessingJob"]
    assert [call["status"] for call in made] == [503, 200]
    assert len({call["resource"] for call in made}) == 1
