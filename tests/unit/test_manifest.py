from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from videolift.errors import DataError, StorageError
from videolift.manifest import Clip, Manifest, make_manifest, sha256_file
from videolift.settings import Data, Source, Split

NAMES = ["a.mp4", "b 'q\".mp4", "new\nline.mp4", "ü线\u2028.mp4"]


def write_clips(root: Path, classes: int = 3, groups: int = 12, names: tuple[str, ...] = ("c01",)) -> Data:
    for label in range(classes):
        folder = root / f"Class{label}"
        folder.mkdir(parents=True)
        for group in range(1, groups + 1):
            for name in names:
                stem = f"v_Class{label}_g{group:02d}_{name}"
                (folder / f"{stem}.avi").write_text(stem)
    return Data(source=Source.ucf101, root=str(root))


def rows_of(values: Iterable[int]) -> np.ndarray:
    """Return an X whose rows are the same where their values are."""
    return np.array([np.full((2, 8, 8, 1), value, np.uint8) for value in values])


@pytest.fixture
def made() -> Manifest:
    clips = tuple(
        Clip(name, i % 2, f"g{i}", ("train", "test", "val", "train")[i], "ab", i) for i, name in enumerate(NAMES)
    )
    return Manifest(("Jump", "Run"), clips, "folder", ("a remark",))


def test_manifest_of_real_files(tmp_path):
    manifest = make_manifest(write_clips(tmp_path), seed=0)
    clip = manifest.clips[0]
    assert clip.id == "Class0/v_Class0_g01_c01.avi"
    assert (clip.sha256, clip.size) == (sha256_file(tmp_path / clip.id), (tmp_path / clip.id).stat().st_size)
    assert [c.id for c in manifest.clips] == sorted(c.id for c in manifest.clips)
    assert manifest.counts("test") == {"Class0": 3, "Class1": 3, "Class2": 3}
    assert manifest.counts("val") == {"Class0": 1, "Class1": 1, "Class2": 1}
    assert manifest.leak_rate == 0
    assert manifest.notes == ()


def test_the_same_text_for_the_same_data_wherever_it_lies(tmp_path):
    first = make_manifest(write_clips(tmp_path / "here"), seed=3).to_json()
    assert make_manifest(write_clips(tmp_path / "or there"), seed=3).to_json() == first


def test_text_and_back_with_any_file_name(made):
    assert Manifest.from_json(made.to_json()) == made


def test_text_has_one_clip_a_line(made):
    changed = replace(made, clips=(*made.clips[:2], replace(made.clips[2], split="train"), made.clips[3]))
    before, after = made.to_json().split("\n"), changed.to_json().split("\n")
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


def test_digest_covers_all_but_the_notes(made):
    clip = made.clips[0]
    others = [
        replace(made, source="prefix"),
        replace(made, classes=("Jump", "Walk")),
        *(
            replace(made, clips=(replace(clip, **{key: value}), *made.clips[1:]))
            for key, value in {"label": 1, "group": "g9", "split": "val", "sha256": "cd", "size": 9, "id": "A"}.items()
        ),
        replace(made, ungrouped=1),
    ]
    assert len({made.digest, *(other.digest for other in others)}) == len(others) + 1
    assert replace(made, notes=()).digest == made.digest


def test_data_digest_covers_what_preprocessing_depends_on_only(tmp_path):
    data = write_clips(tmp_path, names=("c01", "c02"))
    made = [make_manifest(replace(data, split=split), seed=s) for split in (Split.group, Split.random) for s in (0, 1)]
    assert len({manifest.digest for manifest in made}) == 4
    assert len({manifest.data_digest for manifest in made}) == 1
    (tmp_path / "Class1/v_Class1_g05_c01.avi").write_text("changed")
    assert make_manifest(data, seed=0).data_digest != made[0].data_digest


def test_random_split_reports_its_leak(tmp_path):
    manifest = make_manifest(replace(write_clips(tmp_path, names=("c01", "c02", "c03")), split=Split.random), seed=0)
    assert manifest.leak_rate == 1
    assert "100.0%" in manifest.notes[0]


@pytest.mark.parametrize(
    ("alone", "said"),
    [
        (["Alone"], "1 class has one clip only (Alone), which is trained on and not tested"),
        (["A", "B"], "2 classes have one clip only (A, B), which are trained on and not tested"),
    ],
)
def test_random_split_notes_classes_that_cannot_be_tested(tmp_path, alone, said):
    data = write_clips(tmp_path)
    for label in alone:
        (tmp_path / label).mkdir()
        (tmp_path / label / f"v_{label}_g01_c01.avi").write_text(label)
    manifest = make_manifest(replace(data, split=Split.random), seed=0)
    assert f"data.split=random: {said}" in manifest.notes
    assert {c.split for c in manifest.clips if manifest.classes[c.label] in alone} == {"train"}
    with pytest.raises(DataError, match=r"at least 2 groups.*data\.split=random"):
        make_manifest(data, seed=0)


def test_impossible_validation_set_is_noted(tmp_path):
    manifest = make_manifest(write_clips(tmp_path, groups=2), seed=0)
    assert sum(manifest.counts("val").values()) == 0
    assert "data.val_share=0.15" in manifest.notes[0]


def test_checksum_and_progress_are_the_callers(tmp_path):
    data = write_clips(tmp_path, classes=2, groups=4)
    asked: list[Path] = []
    steps: list[tuple[int, int]] = []
    manifest = make_manifest(
        data, 0, lambda path: asked.append(path) or f"of {path}", lambda done, total: steps.append((done, total))
    )
    assert [clip.sha256 for clip in manifest.clips] == [f"of {tmp_path / clip.id}" for clip in manifest.clips]
    assert asked == [tmp_path / clip.id for clip in manifest.clips]
    assert steps == [(done, 8) for done in range(1, 9)]


def test_file_that_cannot_be_read_is_named(tmp_path):
    data = write_clips(tmp_path, classes=2, groups=4)

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    with pytest.raises(StorageError, match=r"v_Class0_g01_c01\.avi: cannot be read \(Permission denied\)"):
        make_manifest(data, 0, refuse)


def test_file_that_goes_away_meanwhile_is_named(tmp_path):
    data = write_clips(tmp_path, classes=2, groups=4)
    last = tmp_path / "Class1/v_Class1_g04_c01.avi"
    with pytest.raises(StorageError, match=r"v_Class1_g04_c01\.avi: cannot be read \(No such file"):
        make_manifest(data, 0, progress=lambda done, _: last.unlink() if done == 1 else None)


def test_rows_of_arrays_have_their_own_checksums_but_the_file_is_read_once(tmp_path):
    np.savez(tmp_path / "a.npz", X=rows_of(range(8)), Y=np.arange(8) % 2)
    read: list[Path] = []
    data = Data(source=Source.npz, npz=str(tmp_path / "a.npz"), val_share=0)
    manifest = make_manifest(data, 0, lambda path: read.append(path) or sha256_file(path))
    assert read == [tmp_path / "a.npz"]
    assert len({clip.sha256 for clip in manifest.clips}) == len({clip.group for clip in manifest.clips}) == 8
    assert manifest.clips[7].id == "row-000007"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "expected format 1, found 99"),
        ({"classes": None}, "'classes' must be a list"),
        ({"classes": ["Run", "Run"]}, "a class is named twice"),
        ({"clips": {}}, "'clips' must be a list"),
        ({"ungrouped": 5}, "'ungrouped' must be from 0 to the number of clips, 4"),
        ({"ungrouped": True}, "'ungrouped' must be from 0"),
        ({"clips": [{"id": "a"}]}, "clip 0 must have id, label, group, split, sha256, size"),
    ],
)
def test_damaged_manifests_are_refused(made, change, message):
    with pytest.raises(DataError, match=message):
        Manifest.from_json(json.dumps(json.loads(made.to_json()) | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, "has label 2, but there are 2 classes"),
        ({"label": True}, "clip 1 must have"),
        ({"split": "tset"}, "has split 'tset'"),
        ({"id": "a.mp4"}, "'a.mp4' is not after 'a.mp4'"),
    ],
)
def test_clips_that_contradict_the_manifest_are_refused(made, change, message):
    document = json.loads(made.to_json())
    document["clips"][1] |= change
    with pytest.raises(DataError, match=message):
        Manifest.from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_text_that_is_no_manifest_is_refused(text):
    with pytest.raises(DataError, match="Make it again"):
        Manifest.from_json(text)
