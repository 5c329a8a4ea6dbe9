"""The seam between what runs children and what chooses them: a grid knows all of them, a sampler learns from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from launchers.preparing import Prepared
from launchers.sweeps.record import DONE, Child
from videolift.events import Event


@dataclass
class Ready:
    """A child that can be started."""

    child: Child
    prepared: Prepared


class Source(Protocol):
    """Where the children of a sweep come from."""

    def next(self) -> Ready | None:
        """Return the next child to be run, None where none is left or can be chosen before one that runs has ended."""

    def watch(self, child: Child, event: Event) -> None:
        """Take note of what a child says while it runs; called from threads of their own.

        Raises:
            launchers.base.Pruned: if it should not go on.
        """

    def ended(self, child: Child) -> None:
        """Take note of how a child ended: its state, value and epoch are filled in."""


class Grid:
    """Children that are all known; those that are done already are left out."""

    def __init__(self, children: Sequence[Ready]) -> None:
        self._left = [ready for ready in reversed(children) if ready.child.state not in DONE]

    def next(self) -> Ready | None:
        return self._left.pop() if self._left else None

    def watch(self, child: Child, event: Event) -> None:
        """Nothing that a child says stops it."""

    def ended(self, child: Child) -> None:
        """Nothing follows from how a child ended."""
