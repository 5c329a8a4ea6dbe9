"""Which clips are the same, byte for byte, and how that is reported. A set of identical clips is a tuple of indices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from videolift.listing import shown

_NAMED = 5  # of a long list in a message


def copies_of(contents: Sequence[str | None]) -> list[tuple[int, ...]]:
    """Return the sets of identical clips, in the order of the first of each.

    Args:
        contents: what only clips of the same bytes have in common; None for a clip of which it is not known.
    """
    same: dict[str, list[int]] = defaultdict(list)
    for index, content in enumerate(contents):
        if content is not None:
            same[content].append(index)
    return [tuple(indices) for indices in same.values() if len(indices) > 1]


def differing(copies: Sequence[tuple[int, ...]], values: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the sets whose clips have several values: labels, or sides of the split."""
    return [indices for indices in copies if len({values[index] for index in indices}) > 1]


def counted(copies: Sequence[tuple[int, ...]]) -> str:
    """Return ``2 sets of identical clips (5 clips in all)``."""
    return f"{len(copies)} {'set' if len(copies) == 1 else 'sets'} of identical clips ({sum(map(len, copies))} in all)"


def named(copies: Sequence[tuple[int, ...]], ids: Sequence[str], values: Sequence[str] | None = None) -> str:
    """Return the first sets, each as ``a.avi = b.avi``, or as ``a.avi (Run) = b.avi (Jump)``, a clip for each value."""
    found = [_equation(indices, ids, values) for indices in copies[:_NAMED]]
    more = f"; and {len(copies) - _NAMED} more" if len(copies) > _NAMED else ""
    return "; ".join(found) + more


def _equation(indices: tuple[int, ...], ids: Sequence[str], values: Sequence[str] | None) -> str:
    one_each: dict[str, str] = {}
    for index in indices:
        name = shown(ids[index])
        one_each.setdefault(*((values[index], f"{name} ({shown(values[index])})") if values else (name, name)))
    first = list(one_each.values())[:_NAMED]
    more = len(indices) - len(first)
    return " = ".join(first) + (f" and {more} more" if more else "")
