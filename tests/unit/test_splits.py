from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videolift.errors import DataError
from videolift.settings import Split
from videolift.splits import SPLITS, TEST, TRAIN, VAL, assign, classes_of_one_clip, leak_rate, leaking_groups

ONE_GROUP_PER_CLASS = [("g1", "Run"), ("g1", "Run"), ("g2", "Jump"), ("g3", "Jump")]


def divide(clips, split=Split.group, given=None, test_share=0.25, val_share=0.15, seed=0):
    groups, labels = zip(*clips, strict=True)
    given = given or [None] * len(clips)
    return assign(groups, labels, given, split=split, test_share=test_share, val_share=val_share, seed=seed)


def grid(classes, groups, clips):
    return [(f"g{g:02d}", f"class{c}") for c in range(classes) for g in range(groups) for _ in range(clips)]


def share(clips, sides, side, label):
    own = [s for (_, name), s in zip(clips, sides, strict=True) if name == label]
    return own.count(side) / len(own)


# Every class has groups of its own besides the shared ones, so that a division always exists.
@st.composite
def data_sets(draw):
    classes = draw(st.integers(2, 5))
    clips = draw(st.lists(st.tuples(st.integers(0, 20), st.integers(0, classes - 1)), max_size=120))
    own = [(f"own{c}{part}", f"class{c}") for c in range(classes) for part in "abc"]
    return own + [(f"g{g}", f"class{c}") for g, c in clips]


@given(data_sets(), st.integers(0, 99), st.floats(0.1, 0.6), st.floats(0, 0.5))
def test_group_split_never_leaks_and_every_class_is_trained_and_tested(clips, seed, test_share, val_share):
    sides = divide(clips, seed=seed, test_share=test_share, val_share=val_share)
    assert leaking_groups([g for g, _ in clips], sides) == []
    for label in {label for _, label in clips}:
        found = {s for (_, name), s in zip(clips, sides, strict=True) if name == label}
        assert found >= {TRAIN, TEST}


@given(data_sets(), st.integers(0, 99), st.randoms())
def test_group_split_does_not_depend_on_the_order_of_the_clips(clips, seed, random):
    straight = Counter(zip(clips, divide(clips, seed=seed), strict=True))
    shuffled = clips.copy()
    random.shuffle(shuffled)
    assert Counter(zip(shuffled, divide(shuffled, seed=seed), strict=True)) == straight


@given(st.integers(2, 6), st.integers(8, 30), st.integers(1, 5), st.integers(0, 999))
def test_group_split_comes_within_one_group_of_the_shares(classes, groups, clips, seed):
    data = grid(classes, groups, clips)
    sides = divide(data, seed=seed, test_share=0.25, val_share=0.2)
    for label in {label for _, label in data}:
        assert share(data, sides, TEST, label) == pytest.approx(0.25, abs=1 / groups)
        assert share(data, sides, VAL, label) == pytest.approx(0.75 * 0.2, abs=1 / groups)


def test_uneven_groups_still_come_close_to_the_share():
    clips = [(f"g{g}", f"class{c}") for c in range(4) for g in range(24) for _ in range(1 + (7 * g + 3 * c) % 11)]
    for seed in range(5):
        sides = divide(clips, seed=seed)
        assert all(share(clips, sides, TEST, f"class{c}") == pytest.approx(0.25, abs=0.06) for c in range(4))


def test_seeds_give_different_splits_and_the_same_seed_the_same():
    clips = grid(3, 20, 2)
    tested = {tuple(divide(clips, seed=seed)) for seed in range(8)}
    assert len(tested) == 8
    assert divide(clips, seed=5) == divide(clips, seed=5)


def test_a_known_split_stays_what_it_was():
    sides = divide(grid(2, 12, 1), seed=0)
    assert [g for g, s in zip(range(12), sides, strict=False) if s == TEST] == [0, 6, 8]
    assert [g for g, s in zip(range(12), sides, strict=False) if s == VAL] == [7]


def test_thousands_of_videos_that_are_their_own_group_are_stratified():
    clips = [(f"video{c}-{i}", f"class{c}") for c in range(101) for i in range(40)]
    sides = divide(clips)
    assert all(share(clips, sides, TEST, f"class{c}") == 0.25 for c in range(101))


@given(data_sets(), st.integers(0, 99))
def test_random_split_cuts_every_class_by_clips(clips, seed):
    sides = divide(clips, split=Split.random, seed=seed, test_share=0.25)
    for label, total in Counter(label for _, label in clips).items():
        assert share(clips, sides, TEST, label) * total == pytest.approx(0.25 * total, abs=1)
        assert share(clips, sides, TRAIN, label) > 0


def test_random_split_leaks_and_says_how_much():
    clips = grid(2, 5, 8)
    sides = divide(clips, split=Split.random)
    assert leak_rate([g for g, _ in clips], sides) == 1.0
    assert leak_rate(["a", "a", "b", "c"], [TRAIN, TEST, TEST, TEST]) == pytest.approx(1 / 3)


def test_validation_of_the_random_split_keeps_groups_apart_from_training_where_it_can():
    clips = grid(2, 12, 6)
    sides = divide(clips, split=Split.random)
    learnt = [(g, s) for (g, _), s in zip(clips, sides, strict=True) if s != TEST]
    assert VAL in sides
    assert leaking_groups([g for g, _ in learnt], [s for _, s in learnt]) == []


def test_validation_of_the_random_split_falls_back_to_clips():
    assert VAL in divide(grid(2, 1, 20), split=Split.random)


@pytest.mark.parametrize("groups", [2, 3])
def test_too_few_groups_for_a_validation_set_leave_it_empty(groups):
    sides = divide(grid(2, groups, 4), test_share=0.4, val_share=0.05)
    assert set(sides) == {TRAIN, TEST}


def test_validation_may_lack_a_class_but_never_empties_one_of_training():
    clips = [*[(f"a{i}", "Many") for i in range(20)], ("b1", "Few"), ("b2", "Few")]
    sides = divide(clips)
    assert share(clips, sides, VAL, "Few") == 0
    assert share(clips, sides, TRAIN, "Few") == 0.5
    assert share(clips, sides, VAL, "Many") > 0


def test_no_validation_when_none_is_asked():
    assert VAL not in divide(grid(3, 20, 2), val_share=0)


def test_class_with_one_group_is_named_with_the_remedy():
    with pytest.raises(DataError, match=r"at least 2 groups.*there is 1 of Run.*data\.split=random"):
        divide(ONE_GROUP_PER_CLASS)


@given(data_sets(), st.integers(0, 99), st.integers(1, 3))
def test_random_split_trains_on_the_only_clip_of_a_class_and_divides_the_rest(clips, seed, alone):
    data = [*clips, *((f"alone{n}", f"alone{n}") for n in range(alone))]
    sides = divide(data, split=Split.random, seed=seed, val_share=0)
    assert sides == [*divide(clips, split=Split.random, seed=seed, val_share=0), *[TRAIN] * alone]
    assert classes_of_one_clip([label for _, label in data]) == [f"alone{n}" for n in range(alone)]


def test_the_only_clip_of_a_class_is_not_taken_for_validation():
    clips = [*grid(2, 10, 2), ("a", "Alone")]
    assert all(divide(clips, split=Split.random, val_share=0.5, seed=seed)[-1] == TRAIN for seed in range(9))


def test_random_split_without_any_class_of_two_clips_is_refused():
    with pytest.raises(DataError, match=r"at least 2 clips.*no class has them"):
        divide([("a", "Run"), ("b", "Jump")], split=Split.random)


def test_groups_that_cannot_be_divided_are_refused():
    clips = [("x", "A"), ("y", "A"), ("x", "B"), ("z", "B"), ("y", "C"), ("z", "C")]  # a triangle needs two sides
    with pytest.raises(DataError, match=r"no division.*data\.split=random"):
        divide(clips)


def test_official_split_is_taken_as_given_and_validation_cut_from_training():
    clips = grid(2, 12, 2)
    lists = [TEST if g in ("g00", "g01", "g02") else TRAIN for g, _ in clips]
    sides = divide(clips, split=Split.official, given=lists, val_share=0.2)
    assert [s == TEST for s in sides] == [s == TEST for s in lists]
    assert VAL in sides
    assert leaking_groups([g for g, _ in clips], sides) == []


def test_given_validation_set_is_not_cut_again():
    clips = grid(2, 6, 1)
    lists = [{"g00": TEST, "g01": VAL}.get(g, TRAIN) for g, _ in clips]
    assert divide(clips, split=Split.official, given=lists, val_share=0.5) == lists


@pytest.mark.parametrize("side", [TEST, VAL])
def test_given_lists_that_leak_are_refused_by_group(side):
    clips = grid(2, 4, 2)
    lists = [TEST if g == "g00" else TRAIN for g, _ in clips]
    lists[clips.index(("g03", "class1"))] = side
    with pytest.raises(DataError, match=rf"g03 in train and {side}.*data\.split=group.*data\.split=random"):
        divide(clips, split=Split.official, given=lists)


def test_given_lists_without_training_or_test_clips_are_refused():
    clips = [("a", "Run"), ("b", "Run"), ("c", "Jump")]
    with pytest.raises(DataError, match=r"no training clips for 1 of 2 classes \(Jump\)"):
        divide(clips, split=Split.official, given=[TRAIN, TEST, TEST])
    with pytest.raises(DataError, match="no test clip"):
        divide(clips, split=Split.official, given=[TRAIN] * 3)


def test_only_the_three_splits_are_ever_assigned():
    assert set(divide(grid(4, 15, 3))) == set(SPLITS)
