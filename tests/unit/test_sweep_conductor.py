"""Which children begin when, with stages that take no time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from launchers.base import Detached
from launchers.cache import Cache
from launchers.config import OnFailure
from launchers.preparing import Prepared
from launchers.sweeps.conductor import Conductor
from launchers.sweeps.record import Child, State
from launchers.sweeps.source import Grid, Ready
from tests.waiting import HANG_S
from videolift.errors import StageError, StorageError


def ready(number: int, **stages: str) -> Ready:
    """Return a child of some stages, name=id."""
    planned = {name: SimpleNamespace(stage=name, id=stage) for name, stage in stages.items()}
    prepared = SimpleNamespace(config=SimpleNamespace(stages=list(stages)), planned=planned)
    return Ready(Child(number, f"seed={number}", {"seed": str(number)}, str(number), []), cast(Prepared, prepared))


class Stages:
    """Computes stages, some of which fail."""

    def __init__(self, folder: Path, failing: dict[str, Exception] | None = None) -> None:
        self.cache = Cache(folder)
        self.computed: list[str] = []
        self._failing = failing or {}

    def run(self, child: Ready) -> None:
        for stage in child.prepared.planned.values():
            if self.cache.finished(stage.id) is None:
                self.computed.append(stage.id)
                if stage.id in self._failing:
                    raise self._failing[stage.id]
                self.cache.finish(stage.id, "run")


def conduct(
    stages: Stages,
    children: list[Ready],
    *,
    parallel: int,
    on_failure: str = "continue",
    changed: Callable[[Child], None] = lambda child: None,
    run: Callable[[Ready], None] | None = None,
) -> list[State]:
    knobs: dict[str, Any] = {"parallel": parallel, "on_failure": OnFailure[on_failure]}
    Conductor(stages.cache, run or stages.run, changed, lambda running: None, **knobs).conduct(Grid(children))
    return [child.child.state for child in children]


@pytest.mark.parametrize("parallel", [1, 2, 5])
def test_a_shared_stage_that_fails_fails_once_for_all_that_need_it(parallel: int, tmp_path: Path) -> None:
    stages = Stages(tmp_path, {"p1": StageError("broken video")})
    children = [ready(n, preprocess=f"p{1 + (n == 3)}", train=f"t{n}") for n in range(5)]
    states = conduct(stages, children, parallel=parallel)
    assert states == [State.failed] * 3 + [State.finished, State.failed]
    assert sorted(stages.computed) == ["p1", "p2", "t3"]
    assert children[4].child.error == "needs a stage that failed in #0"
    assert children[4].child.exit_code == StageError.exit_code


def test_what_is_no_fault_of_a_stage_is_no_reason_to_give_it_up(tmp_path: Path) -> None:
    stages = Stages(tmp_path, {"t0": StorageError("the disk is full")})
    children = [ready(0, train="t0"), ready(1, train="t0")]
    assert conduct(stages, children, parallel=1) == [State.failed] * 2
    assert stages.computed == ["t0", "t0"]


@pytest.mark.parametrize("parallel", [2, 4])
def test_a_shared_stage_is_computed_once_before_its_dependants(parallel: int, tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    children = [ready(n, preprocess="p", train=f"t{n}") for n in range(6)]
    assert conduct(stages, children, parallel=parallel) == [State.finished] * 6
    assert stages.computed[0] == "p" and len(stages.computed) == 7


def test_no_more_run_at_a_time_than_asked_for_and_those_that_need_not_wait_go_first(tmp_path: Path) -> None:
    stages, most, now = Stages(tmp_path), 0, 0
    lock, both = threading.Lock(), threading.Barrier(2, timeout=HANG_S)

    def run(child: Ready) -> None:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        if child.child.number in (0, 2):  # they meet: child 1 waits for what 0 computes
            both.wait()
        stages.run(child)
        with lock:
            now -= 1

    children = [
        ready(0, preprocess="p"),
        ready(1, preprocess="p", train="t"),
        ready(2, preprocess="q"),
        ready(3, a="b"),
    ]
    assert conduct(stages, children, parallel=2, run=run) == [State.finished] * 4
    assert most == 2


def test_after_a_failure_none_begins_where_that_is_asked_for(tmp_path: Path) -> None:
    stages = Stages(tmp_path, {"t1": StageError("no")})
    children = [ready(n, train=f"t{n}") for n in range(4)]
    states = conduct(stages, children, parallel=1, on_failure="stop")
    assert states == [State.finished, State.failed, State.waiting, State.waiting]


def test_after_touch_is_lost_with_one_none_begins(tmp_path: Path) -> None:
    stages = Stages(tmp_path, {"t0": Detached("the credentials have expired; the job goes on")})
    assert conduct(stages, [ready(n, train=f"t{n}") for n in range(2)], parallel=1) == [State.detached, State.waiting]


def test_nothing_goes_on_when_the_sweep_cannot_be_recorded(tmp_path: Path) -> None:
    ended: list[int] = []

    def run(child: Ready) -> None:
        try:
            while True:
                time.sleep(0.01)
        finally:
            ended.append(child.child.number)

    def changed(child: Child) -> None:
        if child.number == 1:
            raise OSError("no space left")

    children = [ready(n, train=f"t{n}") for n in range(2)]
    with pytest.raises(OSError, match="no space left"):
        conduct(Stages(tmp_path), children, parallel=2, run=run, changed=changed)
    assert ended == [0]
    assert children[0].child.state is State.stopped
