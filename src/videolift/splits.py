"""Who is trained on, who chooses the epoch, and who is tested: pure rules on groups and labels.

Nothing here depends on the order in which clips were listed or on a random generator whose stream may change: chance
comes from hashes of the seed and a group's name.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from videolift.errors import DataError
from videolift.settings import Split

TRAIN, VAL, TEST = "train", "val", "test"
SPLITS = (TRAIN, VAL, TEST)

Table = Mapping[str, Mapping[str, int]]  # group -> label -> clips

_NAMED = 5  # of a long list in a message
_ORDERS = 24  # orders of the groups that are tried; the best fit wins


def assign(
    groups: Sequence[str],
    labels: Sequence[str],
    given: Sequence[str | None],
    *,
    split: Split,
    test_share: float,
    val_share: float,
    seed: int,
    contents: Sequence[str | None] | None = None,
) -> list[str]:
    """Return ``train``, ``val`` or ``test`` for each clip.

    The group split and the validation set depend only on which clips belong to which group; the random split also on
    the order of the clips, so give them sorted. There is no ``val`` where groups are too few or too large for one. The
    random split trains on the only clip of a class, see :func:`classes_of_one_clip`. Clips of the same content are on
    the same side, except where the given lists say otherwise.

    Args:
        given: the split that the data set's own lists say; used by ``official`` only.
        contents: what only clips of the same bytes have in common; None for a clip of which it is not known.

    Raises:
        DataError: a class cannot be on both sides, or the given lists put a group on both.
    """
    contents = contents or [None] * len(groups)
    units = merged_groups(_numbers(len(groups)) if split is Split.random else groups, contents)
    if split is Split.official:
        sides = [side or TRAIN for side in given]
        _refuse_leaks(groups, sides)
        _refuse_untrained(labels, sides)
    else:
        table: Table = _table(units, labels)
        if split is Split.random:
            table = _testable(table, classes_of_one_clip(labels, contents))
        else:
            _refuse_undividable(table)
        chosen = _choose(table, test_share, f"{seed}/test", each_class=True)
        if chosen is None:
            raise DataError(
                f"data.split={split.value}: no division of these {len(table)} groups found that leaves every class a "
                "clip on both sides. Use data.split=random, or give the classes more groups."
            )
        sides = [TEST if unit in chosen else TRAIN for unit in units]
    if val_share > 0 and VAL not in sides:
        tries = [merged_groups(groups, contents), units]  # the second is another one where clips are divided
        _cut_validation(tries, labels, sides, val_share, seed)
    return sides


def merged_groups(groups: Sequence[str], contents: Sequence[str | None]) -> list[str]:
    """Return the group of each clip after groups with a content in common became one.

    Such a group has the first of their names, whatever the order of the clips.

    Args:
        contents: None for a clip of which it is not known.
    """
    joined: dict[str, str] = {}  # group -> one of the same that sorts before it

    def first_of(group: str) -> str:
        while group in joined:
            joined[group] = joined.get(joined[group], joined[group])  # a shorter way for next time
            group = joined[group]
        return group

    seen: dict[str, str] = {}
    for group, content in zip(groups, contents, strict=True):
        if content is not None:
            one, other = sorted((first_of(group), first_of(seen.setdefault(content, group))))
            if one != other:
                joined[other] = one
    return [first_of(group) for group in groups]


def classes_of_one_clip(labels: Sequence[str], contents: Sequence[str | None] | None = None) -> list[str]:
    """Return the classes that have one clip only, sorted: they can be trained on or tested, not both.

    Args:
        contents: as in :func:`assign`; copies of a clip count as one.
    """
    clips = merged_groups(_numbers(len(labels)), contents or [None] * len(labels))
    different = Counter(label for _, label in set(zip(clips, labels, strict=True)))
    return sorted(label for label, count in different.items() if count == 1)


def _numbers(count: int) -> list[str]:
    return [f"{index:09d}" for index in range(count)]


def leaking_groups(groups: Sequence[str], sides: Sequence[str]) -> list[str]:
    """Return the groups that have clips in more than one of train, val and test, sorted."""
    seen: dict[str, set[str]] = defaultdict(set)
    for group, side in zip(groups, sides, strict=True):
        seen[group].add(side)
    return sorted(group for group, found in seen.items() if len(found) > 1)


def leaking_clips(groups: Sequence[str], sides: Sequence[str]) -> int:
    """Return how many test clips have a group that also has training or validation clips."""
    known = {group for group, side in zip(groups, sides, strict=True) if side != TEST}
    return sum(side == TEST and group in known for group, side in zip(groups, sides, strict=True))


def leak_rate(groups: Sequence[str], sides: Sequence[str]) -> float:
    """Return the share of test clips whose group also has training or validation clips."""
    tested = sum(side == TEST for side in sides)
    return leaking_clips(groups, sides) / tested if tested else 0.0


def _refuse_leaks(groups: Sequence[str], sides: Sequence[str]) -> None:
    """Raise DataError when a group is in more than one of train, val and test."""
    leaking = leaking_groups(groups, sides)
    if leaking:
        pairs = set(zip(groups, sides, strict=True))
        found = [f"{g} in {' and '.join(side for side in SPLITS if (g, side) in pairs)}" for g in leaking[:_NAMED]]
        more = f" and {len(leaking) - _NAMED} more" if len(leaking) > _NAMED else ""
        raise DataError(
            "data.split=official: the given lists put the same group on more than one side "
            f"({', '.join(found)}{more}), so the test would be of what was learnt by heart. Mend the lists, use "
            "data.split=group, or accept the leak and have its rate reported with data.split=random."
        )


def _refuse_untrained(labels: Sequence[str], sides: Sequence[str]) -> None:
    trained = {label for label, side in zip(labels, sides, strict=True) if side == TRAIN}
    untrained = sorted(set(labels) - trained)
    if untrained:
        raise DataError(
            f"data.split=official: no training clips for {len(untrained)} of {len(set(labels))} classes "
            f"({', '.join(untrained[:_NAMED])}). Mend the lists, or use data.split=group."
        )
    if TEST not in sides:
        raise DataError("data.split=official: the lists name no test clip. Mend the lists, or use data.split=group.")


def _testable(table: Table, alone: Iterable[str]) -> Table:
    """Leave out the classes of one clip; raise DataError where none is left."""
    single = set(alone)
    left = {unit: counts for unit, counts in table.items() if not counts.keys() & single}
    if not left:
        raise DataError(
            "data.split=random: a class needs at least 2 clips of different content, one to train on and one to test; "
            "no class has them. Add clips."
        )
    return left


def _refuse_undividable(table: Table) -> None:
    spread = Counter(label for counts in table.values() for label in counts)
    single = sorted(label for label, count in spread.items() if count < 2)
    if not single:
        return
    named = ", ".join(single[:_NAMED]) + (f" and {len(single) - _NAMED} more" if len(single) > _NAMED else "")
    raise DataError(
        "data.split=group: a class needs at least 2 groups, one to train on and one to test; there is 1 of "
        f"{named}. Use data.split=random, or give the class more groups."
    )


def _cut_validation(
    tries: Sequence[Sequence[str]], labels: Sequence[str], sides: list[str], share: float, seed: int
) -> None:
    """Turn some of ``train`` into ``val``, by the first units of which that is possible."""
    train = [index for index, side in enumerate(sides) if side == TRAIN]
    for units in tries:
        table = _table([units[i] for i in train], [labels[i] for i in train])
        chosen = _choose(table, share, f"{seed}/val", each_class=False)
        if chosen:
            for index in train:
                if units[index] in chosen:
                    sides[index] = VAL
            return


def _table(groups: Iterable[str], labels: Iterable[str]) -> dict[str, Counter[str]]:
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for group, label in sorted(zip(groups, labels, strict=True)):  # so that sums below are rounded the same way
        table[group][label] += 1
    return table


def _choose(table: Table, share: float, seed: str, *, each_class: bool) -> set[str] | None:
    """Return groups that hold close to ``share`` of every class, never all of one; None when a class cannot have any.

    Exact division is a set-partition problem; a greedy pass over several hashed orders comes as near as the groups of a
    data set usually allow, in time linear in the number of groups.
    """
    totals: Counter[str] = Counter()
    for counts in table.values():
        totals.update(counts)
    perfect = sum((0.5 / count) ** 2 for count in totals.values())  # half a clip off in every class
    best: tuple[float, set[str]] | None = None
    for attempt in range(_ORDERS):
        tried = _greedy(table, totals, _shuffled(table, f"{seed}/{attempt}"), share, each_class=each_class)
        if tried is not None and (best is None or tried[0] < best[0] - 1e-12):
            best = tried
        if best is not None and best[0] <= perfect:
            break
    return None if best is None else best[1]


def _greedy(
    table: Table, totals: Mapping[str, int], order: Sequence[str], share: float, *, each_class: bool
) -> tuple[float, set[str]] | None:
    taken: Counter[str] = Counter()
    chosen: set[str] = set()

    def gain(group: str) -> float:
        """Return by how much the squared relative error of the shares falls when a group is taken."""
        return sum(
            (taken[c] / totals[c] - share) ** 2 - ((taken[c] + n) / totals[c] - share) ** 2
            for c, n in table[group].items()
        )

    def allowed(group: str) -> bool:
        return group not in chosen and all(taken[c] + n < totals[c] for c, n in table[group].items())

    def take(group: str) -> None:
        chosen.add(group)
        taken.update(table[group])

    for group in order:
        if allowed(group) and gain(group) > 1e-12:
            take(group)
    for label in sorted(totals) if each_class else ():
        if not taken[label]:
            open_ = [group for group in order if label in table[group] and allowed(group)]
            if not open_:
                return None
            take(max(open_, key=gain))
    return sum((taken[c] / totals[c] - share) ** 2 for c in totals), chosen


def _shuffled(names: Iterable[str], seed: str) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
