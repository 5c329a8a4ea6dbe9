"""The seed chooses the test set and the validation set, each by itself."""

from __future__ import annotations

import pytest

from videolift.settings import Split
from videolift.splits import TEST, TRAIN, VAL, assign

SEEDS = range(6)
GROUPS = [f"g{group:02d}" for group in range(24) for _ in range(2)]
LABELS = ["Run", "Jump"] * 24


def chosen(side: str, split: Split, seed: int) -> frozenset[str]:
    given = [TEST if group < "g06" else TRAIN for group in GROUPS] if split is Split.official else [None] * len(GROUPS)
    sides = assign(GROUPS, LABELS, given, split=split, test_share=0.25, val_share=0.2, seed=seed)
    return frozenset(f"{group} {label}" for group, label, one in zip(GROUPS, LABELS, sides, strict=True) if one == side)


@pytest.mark.parametrize("split", [Split.group, Split.random])
def test_the_test_set_follows_the_seed(split: Split) -> None:
    assert len({chosen(TEST, split, seed) for seed in SEEDS}) == len(SEEDS)


def test_the_validation_set_of_given_lists_follows_the_seed() -> None:
    assert len({chosen(TEST, Split.official, seed) for seed in SEEDS}) == 1
    assert len({chosen(VAL, Split.official, seed) for seed in SEEDS}) == len(SEEDS)
