"""Identical clips: always on one side of a split that is made here, never under two labels, and only reported where
the split is given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launchers.report import split_text
from videolift.errors import DataError
from videolift.manifest import Manifest, make_manifest, sha256_file
from videolift.settings import Conflicts, Data, Source, Split
from videolift.splits import TEST, TRAIN, VAL, assign, leak_rate, leaking_groups, merged_groups

CLASSES = ("A", "B", "C")
# What these data sets were divided into before contents were compared: t(r)ain, v(a)l, t(e)st.
BEFORE = {
    ("ucf101", Split.group, 0): "eerrrrrreeeraarrreeerrrrrrerraaarerrrrrreerrrarr",
    ("ucf101", Split.group, 7): "rreeerrraaareerrrrrrerrrrrarreeerreerrrraarrrerr",
    ("ucf101", Split.random, 0): "rrrreerererraarrreerrrrrrrreraearrrrrrerrrreeare",
    ("ucf101", Split.random, 7): "rrrrearrrerraererrrrreaerrrrreaerrrraaeererrrerr",
    ("folder", Split.group, 0): "rrerrraererrerrrerarrrererrrarerrerr",
    ("folder", Split.random, 0): "rrrrreaererrarrreeerrrrrrrreaeerrrrr",
    ("manifest", Split.official, 0): "eeaaeerrrrrreeaaeerrrrrreeaaeerrrrrr",
    ("manifest", Split.group, 0): "rreeaarrrrrrrreeaarrrrrrrreeaarrrrrr",
    ("manifest", Split.random, 0): "rrrrreaererrrrrreeearrrrrrrereearrrr",
    ("npz", Split.group, 0): "rrrrrrreaarrererrreerrae",
    ("npz", Split.random, 0): "arrreereaerrrrrrreerrrar",
}


def write(root: Path, contents: Mapping[str, str]) -> Path:
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def folder(root: Path, changes: Mapping[str, str] | None = None, clips: int = 8, **how: object) -> Data:
    """Write A/0.mp4 to C/7.mp4, all different but for the changes, whose names tell no groups."""
    usual = {f"{label}/{number}.mp4": f"{label} {number}" for label in CLASSES for number in range(clips)}
    return replace(Data(Source.folder, str(write(root, {**usual, **(changes or {})}))), **how)


def listed(root: Path, rows: list[tuple[str, str, str, str, str]], **how: object) -> Data:
    """Write a csv of (path, label, group, split) and, of the fifth, the files."""
    write(root, {path: content for path, *_, content in rows})
    lines = [",".join(("path", "label", "group", "split")), *(",".join(row[:4]) for row in rows)]
    write(root, {"clips.csv": "\n".join(lines)})
    return replace(Data(Source.manifest, csv=str(root / "clips.csv")), **how)


def sides(manifest: Manifest) -> dict[str, str]:
    return {clip.id: clip.split for clip in manifest.clips}


def notes(manifest: Manifest) -> str:
    return "\n".join(manifest.notes)


def of_source(root: Path, source: str) -> Data:
    rng = range(12)
    if source == "ucf101":
        names = [
            f"C{c}/v_C{c}_g{g:02d}_c{k:02d}.avi"
            for c in range(3)
            for g in range(1, 9)
            for k in range(1, 2 + (g + c) % 3)
        ]
        return Data(Source.ucf101, str(write(root, {name: Path(name).name for name in names})))
    if source == "npz":
        x = np.arange(24 * 2 * 8 * 8, dtype=np.float32).reshape(24, 2, 8, 8, 1)
        np.savez(root / "a.npz", X=x, Y=np.arange(24) % 3)
        return Data(Source.npz, npz=str(root / "a.npz"))
    rows = [
        (f"C{c}/{k}.mp4", f"C{c}", f"take{k // 2}", "test" if k < 4 else "train", f"{c} {k}")
        for c in range(3)
        for k in rng
    ]
    data = listed(root, rows)
    return Data(Source.folder, str(root)) if source == "folder" else replace(data, root=str(root))


@pytest.mark.parametrize(("source", "split", "seed"), BEFORE)
def test_data_without_identical_clips_is_divided_as_ever(tmp_path: Path, source: str, split: Split, seed: int) -> None:
    made = make_manifest(replace(of_source(tmp_path, source), split=split), seed)
    assert "".join(clip.split[1] for clip in made.clips) == BEFORE[source, split, seed]


# Rules


@st.composite
def data_sets(draw: st.DrawFn) -> list[tuple[str, str, str | None]]:
    """Return (group, label, content) of clips; every class has groups of its own, so that a division always exists."""
    classes = draw(st.integers(2, 4))
    one = st.tuples(st.integers(0, 12), st.integers(0, classes - 1), st.none() | st.integers(0, 6))
    clips = draw(st.lists(one, max_size=60))
    own = [(f"own{c}{part}", f"class{c}", f"own{c}{part}") for c in range(classes) for part in "abc"]
    return own + [(f"g{g}", f"class{c}", None if n is None else f"class{c}-{n}") for g, c, n in clips]


def divide(clips: list[tuple[str, str, str | None]], split: Split, seed: int, val_share: float = 0.3) -> list[str]:
    groups, labels, contents = (list(column) for column in zip(*clips, strict=True))
    given = [None] * len(clips)
    shares = {"test_share": 0.3, "val_share": val_share}
    return assign(groups, labels, given, split=split, seed=seed, contents=contents, **shares)


def torn(clips: list[tuple[str, str, str | None]], sides: list[str]) -> list[str]:
    known = [(content, side) for (*_, content), side in zip(clips, sides, strict=True) if content is not None]
    return leaking_groups([content for content, _ in known], [side for _, side in known])


@settings(deadline=None)
@given(data_sets(), st.integers(0, 99), st.sampled_from([Split.group, Split.random]))
def test_no_content_is_ever_on_two_sides(clips: list[tuple[str, str, str | None]], seed: int, split: Split) -> None:
    found = divide(clips, split, seed)
    assert torn(clips, found) == []
    if split is Split.group:
        groups, contents = [group for group, *_ in clips], [content for *_, content in clips]
        assert leaking_groups(groups, found) == []
        assert leak_rate(merged_groups(groups, contents), found) == 0


@settings(deadline=None)
@given(data_sets(), st.integers(0, 99), st.randoms())
def test_the_order_of_the_clips_does_not_matter(
    clips: list[tuple[str, str, str | None]], seed: int, random: object
) -> None:
    def by_clip(order: list[int]) -> dict[int, tuple[str, str]]:
        given = [clips[index] for index in order]
        groups = merged_groups([group for group, *_ in given], [content for *_, content in given])
        return dict(zip(order, zip(groups, divide(given, Split.group, seed), strict=True), strict=True))

    straight = list(range(len(clips)))
    shuffled = straight.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert by_clip(shuffled) == by_clip(straight)


def test_groups_are_joined_over_any_number_of_contents() -> None:
    groups = ["d", "b", "c", "b", "a", "x", "y"]
    assert merged_groups(groups, ["1", "1", "2", "2", "3", None, None]) == ["b", "b", "b", "b", "a", "x", "y"]
    chain = [f"{number // 2 + number % 2:06d}" for number in range(40_000)]  # each content joins a group to the next
    assert set(merged_groups(chain, [f"{number // 2}" for number in range(40_000)])) == {"000000"}


def test_given_lists_are_taken_as_they_are_and_only_the_validation_set_keeps_copies_together() -> None:
    clips = [(f"g{n}", f"class{n % 2}", f"{n // 4}-{n % 2}") for n in range(40)]  # pairs of groups with one content
    groups, labels, contents = (list(column) for column in zip(*clips, strict=True))
    lists = [TEST if n % 3 == 0 else TRAIN for n in range(40)]
    how = {"split": Split.official, "test_share": 0.25, "contents": contents}
    assert assign(groups, labels, lists, val_share=0, seed=0, **how) == lists
    for seed in range(9):
        found = assign(groups, labels, lists, val_share=0.3, seed=seed, **how)
        assert [side == TEST for side in found] == [side == TEST for side in lists] and VAL in found
        learnt = [index for index, side in enumerate(found) if side != TEST]
        assert leaking_groups([contents[i] for i in learnt], [found[i] for i in learnt]) == []


def test_a_class_of_copies_alone_cannot_be_tested_by_the_random_split() -> None:
    clips = [*((f"{n}", "Many", f"{n}") for n in range(8)), ("x", "Copied", "same"), ("y", "Copied", "same")]
    assert all(divide(clips, Split.random, seed)[-2:] == [TRAIN, TRAIN] for seed in range(9))
    with pytest.raises(DataError, match=r"at least 2 clips of different content.*no class has them"):
        divide(clips[-2:], Split.random, 0)


# Manifests


@pytest.mark.parametrize("split", [Split.group, Split.random])
def test_copies_stay_together_whatever_their_names(tmp_path: Path, split: Split) -> None:
    data = folder(tmp_path, {"A/1.mp4": "same", "A/5.mp4": "same", "B/0.mp4": "also", "B/7.mp4": "also"}, split=split)
    for seed in range(20):
        made = make_manifest(data, seed)
        found = sides(made)
        assert found["A/1.mp4"] == found["A/5.mp4"] and found["B/0.mp4"] == found["B/7.mp4"]
        assert {clip.id: clip.group for clip in made.clips}["A/5.mp4"] == "A/1.mp4"
    assert "2 sets of identical clips (4 in all): A/1.mp4 = A/5.mp4; B/0.mp4 = B/7.mp4." in notes(made)


def test_groups_that_hold_one_recording_are_one(tmp_path: Path) -> None:
    names = [f"{c}/v_{c}_g{g:02d}_c{k}.avi" for c in CLASSES for g in range(1, 9) for k in (1, 2)]
    contents = {name: name for name in names} | {"A/v_A_g03_c2.avi": "same", "A/v_A_g05_c1.avi": "same"}
    for seed in range(20):
        made = make_manifest(Data(Source.ucf101, str(write(tmp_path, contents))), seed)
        assert len({clip.split for clip in made.clips if "_g03_" in clip.id or "_g05_" in clip.id}) == 1
        assert {clip.group for clip in made.clips} == {f"g{g:02d}" for g in (1, 2, 3, 4, 6, 7, 8)}
        assert made.leak_rate == 0
    random = make_manifest(Data(Source.ucf101, str(tmp_path), split=Split.random), 0)
    assert random.leak_rate == leak_rate([c.group for c in random.clips], [c.split for c in random.clips]) > 0


def test_why_groups_became_too_few_is_said(tmp_path: Path) -> None:
    data = folder(tmp_path, {"A/0.mp4": "same", "A/1.mp4": "same"}, clips=2)
    with pytest.raises(DataError, match=r"at least 2 groups.*there is 1 of A.*\n.*A/0\.mp4 = A/1\.mp4"):
        make_manifest(data, 0)


def test_a_class_of_copies_is_noted(tmp_path: Path) -> None:
    data = folder(tmp_path, {"Z/0.mp4": "same", "Z/1.mp4": "same"}, split=Split.random)
    assert "1 class has one clip only (Z), which is trained on and not tested" in notes(make_manifest(data, 0))


@pytest.mark.parametrize("split", [Split.group, Split.random])
def test_identical_clips_under_two_labels_stop_the_run_with_all_their_names(tmp_path: Path, split: Split) -> None:
    changes = {"A/1.mp4": "same", "B/2.mp4": "same", "B/3.mp4": "same", "A/0.mp4": "x", "C/0.mp4": "x", "A/7.mp4": "x"}
    with pytest.raises(DataError) as error:
        make_manifest(folder(tmp_path, changes, split=split), 0)
    found = str(error.value)
    assert found.startswith(f"{tmp_path}: 2 sets of identical clips (6 in all) under several labels: ")
    assert "A/0.mp4 (A) = C/0.mp4 (C) and 1 more; A/1.mp4 (A) = B/2.mp4 (B) and 1 more." in found
    assert "data.conflicts=drop" in found


def test_of_many_conflicts_a_handful_is_named_and_all_are_counted(tmp_path: Path) -> None:
    changes = {f"{label}/{number}.mp4": f"{number}" for label in "AB" for number in range(8)}
    with pytest.raises(DataError, match=r"8 sets of identical clips \(16 in all\).*A/4\.mp4 \(A\) = B.*; and 3 more"):
        make_manifest(folder(tmp_path, changes), 0)


def test_conflicts_can_be_left_out(tmp_path: Path) -> None:
    changes = {"A/1.mp4": "same", "B/2.mp4": "same", "B/3.mp4": "same", "C/0.mp4": "fine", "C/1.mp4": "fine"}
    made = make_manifest(folder(tmp_path, changes, conflicts=Conflicts.drop), 0)
    assert sides(make_manifest(folder(tmp_path / "all"), 0)).keys() - sides(made) == {"A/1.mp4", "B/2.mp4", "B/3.mp4"}
    assert "data.conflicts=drop leaves out 1 set of identical clips (3 in all)" in notes(made)
    assert "A/1.mp4 (A) = B/2.mp4 (B) and 1 more" in notes(made)
    assert sides(made)["C/0.mp4"] == sides(made)["C/1.mp4"]


def test_what_is_left_is_divided_as_if_the_rest_had_never_been_there(tmp_path: Path) -> None:
    changes = {"A/1.mp4": "same", "B/2.mp4": "same"}
    data = folder(tmp_path, changes, conflicts=Conflicts.drop)
    dropped = make_manifest(data, 3)
    for name in changes:
        (tmp_path / name).unlink()
    assert make_manifest(data, 3).digest == dropped.digest


def test_a_class_that_loses_all_of_its_clips_is_named(tmp_path: Path) -> None:
    changes = {"Z/0.mp4": "A 1", "Z/1.mp4": "B 1"}
    with pytest.raises(DataError, match=r"data\.conflicts=drop: leaves no clip of Z"):
        make_manifest(folder(tmp_path, changes, conflicts=Conflicts.drop), 0)


def test_files_without_a_byte_are_identical_to_nothing(tmp_path: Path) -> None:
    made = make_manifest(folder(tmp_path, {"A/1.mp4": "", "A/2.mp4": "", "B/1.mp4": ""}), 0)
    assert len({clip.group for clip in made.clips}) == len(made.clips) == 24
    assert "identical" not in notes(made)


def test_rows_of_arrays_are_compared_by_their_pixels(tmp_path: Path) -> None:
    x = np.arange(24 * 2 * 8 * 8, dtype=np.float32).reshape(24, 2, 8, 8, 1)
    x[21] = x[0]
    y = np.arange(24) % 3
    kinds = {"rows": x, "columns": np.asfortranarray(x), "packed": x}
    for name, kind in kinds.items():
        (np.savez_compressed if name == "packed" else np.savez)(tmp_path / f"{name}.npz", X=kind, Y=y)
        for split in (Split.group, Split.random):
            for seed in range(6):
                data = Data(Source.npz, npz=str(tmp_path / f"{name}.npz"), axes="videolift", split=split)
                found = sides(make_manifest(data, seed))
                assert found["row-000000"] == found["row-000021"]
    x[1] = x[3]
    np.savez(tmp_path / "a.npz", X=x, Y=y)
    with pytest.raises(DataError, match=r"a\.npz: 1 set.*row-000001 \(1\) = row-000003 \(0\)"):
        make_manifest(Data(Source.npz, npz=str(tmp_path / "a.npz")), 0)


# Given splits


def given_rows(group: str = "") -> list[tuple[str, str, str, str, str]]:
    return [
        (f"{label}{n}.mp4", label, group and f"{group}{label}{n}", "test" if n < 3 else "train", f"{label} {n}")
        for label in CLASSES
        for n in range(10)
    ]


def test_a_given_split_is_never_changed_and_its_leak_is_counted_and_named(tmp_path: Path) -> None:
    rows = given_rows("take")
    rows[0] = (*rows[0][:4], "A 5")
    rows[1] = (*rows[1][:4], "A 5")
    rows[12] = (*rows[12][:4], "A 7")  # B2, test, as A7, train: under two labels, too
    made = make_manifest(listed(tmp_path, rows, split=Split.official, val_share=0.0), 0)
    assert sides(made) == {path: split for path, _, _, split, _ in rows}
    said = notes(made)
    assert (
        "puts 2 sets of identical clips (5 in all) on several sides: A0.mp4 (test) = A5.mp4 (train) and 1 more" in said
    )
    assert "3 of these clips are test clips" in said
    assert "1 set of identical clips (2 in all) under several labels: A7.mp4 (A) = B2.mp4 (B)" in said
    assert made.leak_rate == pytest.approx(3 / 9)
    assert "33.3% of the test clips share a group with training clips" in split_text(made, Split.official)


def test_lists_of_ucf101_are_not_changed_either(tmp_path: Path) -> None:
    names = [f"{c}/v_{c}_g{g:02d}_c01.avi" for c in CLASSES for g in range(1, 7)]
    write(tmp_path, {name: name for name in names} | {"A/v_A_g01_c01.avi": "same", "A/v_A_g06_c01.avi": "same"})
    write(tmp_path, {"classInd.txt": "".join(f"{n} {c}\n" for n, c in enumerate(CLASSES, start=1))})
    for split, groups in (("test", "12"), ("train", "3456")):
        write(tmp_path, {f"{split}list01.txt": "".join(f"{name}\n" for name in names if name[-9] in groups)})
    made = make_manifest(Data(Source.ucf101, str(tmp_path), split=Split.official, val_share=0), 0)
    assert {clip.id for clip in made.clips if clip.split == TEST} == {n for n in names if "_g01" in n or "_g02" in n}
    assert "A/v_A_g01_c01.avi (test) = A/v_A_g06_c01.avi (train)" in notes(made)
    assert made.leak_rate == pytest.approx(3 / 6)  # all of g01 is of the recording that g06 is of


def test_a_given_split_of_unknown_groups_has_no_leak_rate_but_a_count(tmp_path: Path) -> None:
    rows = given_rows()
    rows[0] = (*rows[0][:4], "A 5")
    made = make_manifest(listed(tmp_path, rows, split=Split.official, val_share=0.0), 0)
    assert made.leak_rate is None and made.leaking == 1
    assert "A0.mp4 (test) = A5.mp4 (train)" in notes(made)
    assert "1 test clips share a group with training clips; the groups of 30 of 30 clips are not known" in split_text(
        made, Split.official
    )


def test_a_validation_set_cut_from_given_training_clips_keeps_copies_together(tmp_path: Path) -> None:
    rows = given_rows()
    rows[5] = (*rows[5][:4], rows[9][4])
    for seed in range(20):
        found = sides(make_manifest(listed(tmp_path, rows, split=Split.official, val_share=0.4), seed))
        assert VAL in found.values() and found["A5.mp4"] == found["A9.mp4"]


# What is not known


@pytest.mark.parametrize("split", [Split.group, Split.random])
def test_where_groups_are_not_known_there_is_no_leak_rate(tmp_path: Path, split: Split) -> None:
    made = make_manifest(folder(tmp_path, split=split), 0)
    assert made.leak_rate is None and made.ungrouped == 24
    assert "the groups of 24 of 24 clips are not known, so clips of one recording may be on both sides" in notes(made)
    assert "data=manifest" in notes(made) and "path,label,group" in notes(made)
    assert "clips of one recording may be on both sides" in split_text(made, split)
    assert Manifest.from_json(made.to_json()) == made


def test_groups_that_are_known_in_part_are_not_known(tmp_path: Path) -> None:
    rows = [
        (path, label, "" if n % 3 else f"g{n}", "", content)
        for n, (path, label, *_, content) in enumerate(given_rows())
    ]
    made = make_manifest(listed(tmp_path, rows), 0)
    assert made.leak_rate is None and made.ungrouped == 20
    assert "the groups of 20 of 30 clips are not known" in notes(made) and "column group" in notes(made)


@pytest.mark.parametrize("source", ["ucf101", "manifest"])
def test_where_groups_are_known_the_leak_rate_is(tmp_path: Path, source: str) -> None:
    data = of_source(tmp_path, source)
    made = make_manifest(data, 0)
    assert made.leak_rate == 0 and made.ungrouped == 0 and "not known" not in notes(made)
    assert split_text(made, Split.group).endswith(" test")
    random = make_manifest(replace(data, split=Split.random), 0)
    assert random.leak_rate is not None and f"{random.leak_rate:.1%} of the test clips share a group" in notes(random)


def test_class_folders_of_names_as_ucf101s_tell_the_groups(tmp_path: Path) -> None:
    of_source(tmp_path, "ucf101")
    assert make_manifest(Data(Source.folder, str(tmp_path)), 0).leak_rate == 0


def test_rows_of_arrays_tell_no_groups(tmp_path: Path) -> None:
    made = make_manifest(of_source(tmp_path, "npz"), 0)
    assert made.leak_rate is None and "An .npz cannot tell it" in notes(made)


def test_a_manifest_that_was_made_before_groups_were_counted_can_be_read(tmp_path: Path) -> None:
    for made in (make_manifest(folder(tmp_path / "a"), 0), make_manifest(of_source(tmp_path / "b", "ucf101"), 0)):
        document = json.loads(made.to_json())
        del document["ungrouped"]
        assert Manifest.from_json(json.dumps(document)) == made


def test_only_a_sha256_proves_that_clips_are_identical(tmp_path: Path) -> None:
    data = folder(tmp_path, {"A/1.mp4": "same", "B/2.mp4": "same", "A/3.mp4": "copy", "A/4.mp4": "copy"})
    known = {tmp_path / "A/3.mp4", tmp_path / "A/4.mp4"}
    made = make_manifest(data, 0, content=lambda path: sha256_file(path) if path in known else None)
    assert "1 set of identical clips (2 in all): A/3.mp4 = A/4.mp4" in notes(made)
    assert "whether 22 of 24 clips are identical to others is not known" in notes(made)


# Who divides by themselves


def test_clips_that_are_not_divided_are_compared_all_the_same(tmp_path: Path) -> None:
    data = folder(tmp_path, {"A/1.mp4": "same", "A/2.mp4": "same"}, split=Split.random)
    made = make_manifest(data, 0, divided=False)
    assert set(sides(made).values()) == {TRAIN} and made.notes == ()
    write(tmp_path, {"B/1.mp4": "same"})
    with pytest.raises(DataError, match=r"A/1\.mp4 \(A\) = B/1\.mp4 \(B\) and 1 more"):
        make_manifest(data, 0, divided=False)
    rows = [*given_rows(), ("x.mp4", "A", "", "train", "same"), ("y.mp4", "B", "", "train", "same")]
    official = make_manifest(listed(tmp_path / "csv", rows, split=Split.official), 0, divided=False)
    assert len(official.clips) == 32 and "x.mp4 (A) = y.mp4 (B)" in notes(official)
