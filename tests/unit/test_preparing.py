"""What a sweep over several backends can cost, and that it is known before anything is made ready."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from launchers.base import Backend, Described
from launchers.config import Backend as Settings
from launchers.config import Config
from launchers.outputs import Outputs
from launchers.preparing import Prepared, Wanted, costs, make_ready
from videolift.errors import ConfigError


class Priced:
    """A backend on which a stage has a price."""

    def __init__(self, price: float | None, stages: Wanted) -> None:
        self.price = price
        self.stages = stages

    def cost(self, stages: Mapping[str, Collection[str]]) -> Described | None:
        count = sum(len(ids) for ids in stages.values())
        if not count:
            return None
        return Described("cost", (), f"{count}", None if self.price is None else count * self.price)

    def make_ready(self, *_: Any, **__: Any) -> None:
        raise AssertionError("nothing is made ready that is too dear")


def runs(*backends: Priced, limits: Sequence[float | None] = (None,)) -> list[Prepared]:
    nothing = cast(Any, None)
    return [
        Prepared(Config(backend=Settings(max_cost=limit)), nothing, cast(Backend, backend), nothing, {}, nothing)
        for backend in backends
        for limit in limits
    ]


def wanted(of: Sequence[Prepared]) -> Wanted:
    return cast(Priced, of[0].backend).stages


SHARED: Wanted = {"preprocess": ["shared"]}


def test_what_several_backends_need_is_counted_once_where_it_is_dearest() -> None:
    cheap, dear = Priced(1, {**SHARED, "train": ["a", "b"]}), Priced(3, {**SHARED, "train": ["b", "c"]})
    assert [cost.usd for cost in costs(runs(cheap, dear), wanted)] == [1, 9]
    assert [cost.usd for cost in costs(runs(dear, cheap), wanted)] == [9, 1]
    assert [cost.usd for cost in costs(runs(Priced(0.1, SHARED), Priced(None, SHARED)), wanted)] == [None]
    assert [cost.usd for cost in costs(runs(Priced(1, SHARED), Priced(1, SHARED)), wanted)] == [1]


def test_a_limit_is_one_for_all_backends(tmp_path: Path) -> None:
    swept = runs(*(Priced(4, {"train": [name]}) for name in "abc"), limits=(10, 20))
    with pytest.raises(ConfigError, match=r"can cost 12\.00 USD, more than 10; .*fewer values or trials"):
        make_ready(swept, Outputs(tmp_path), Console(), wanted=wanted)
