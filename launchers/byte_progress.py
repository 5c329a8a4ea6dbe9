"""How far sending, fetching or copying is: one line that moves on a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

TELL_INTERVAL_S = 5.0


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 50_000 else f"{count / 1e3:.1f} kB"


@contextmanager
def shown_bytes(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far it is: one line that moves on a terminal, else a line now and then."""
    started = told = time.monotonic()
    total_bytes = 0
    with console.status(what) as status:

        def progress(done: int, total: int) -> None:
            nonlocal told, total_bytes
            total_bytes = total
            text = f"{what}: {megabytes(done)} of {megabytes(total)}"
            if console.is_terminal:
                status.update(text)
            elif time.monotonic() - told > TELL_INTERVAL_S:
                told = time.monotonic()
                console.print(text, soft_wrap=True)

        yield progress
    console.print(f"{what}: {megabytes(total_bytes)} in {time.monotonic() - started:.1f} s", soft_wrap=True)
