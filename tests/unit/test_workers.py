"""A worker that dies is named together with what it read."""

from __future__ import annotations

import faulthandler
import os
import signal

import pytest

from videolift.errors import StageError
from videolift.workers import workers


def work(item: str) -> str:
    if item.startswith("SIG"):
        faulthandler.disable()  # pytest's own
        os.kill(os.getpid(), getattr(signal, item))
    return item.upper()


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (
            "SIGSEGV",
            "a worker process was killed by SIGSEGV while it read <SIGSEGV>: a decoder crashed. Leave the file",
        ),
        (
            "SIGKILL",
            "a worker process was killed while it read <SIGKILL>, most often because memory ran out; use fewer",
        ),
    ],
)
def test_what_a_worker_read_when_it_died_is_named(item: str, told: str) -> None:
    with pytest.raises(StageError) as raised:
        read(["a", "b"], ["c", item, "d"])
    assert str(raised.value).startswith(told)


def read(*lists: list[str]) -> None:
    with workers(2, work, "preprocess.workers", "<{}>".format) as mapped:
        for items in lists:
            assert list(mapped(items)) == [item.upper() for item in items]
