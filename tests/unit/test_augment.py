"""How training clips are changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from launchers.compose import compose
from launchers.config import Config, problems
from videolift.augment import augmented, change, mirror_images
from videolift.parts import Entry, Rows, write_part
from videolift.samples import Samples
from videolift.settings import Augment, Preprocess

SHAPE = (6, 12, 16, 3)
ALL = Augment(flip=True, crop=0.5, time_jitter=2, brightness=0.2, contrast=0.3, saturation=0.5)


def clip_of(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SHAPE, np.uint8)


def changed(augment: Augment, seed: int) -> np.ndarray:
    return change(clip_of(), augment, np.random.default_rng(seed))


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    clips = [(Entry(f"{n}", n % 2, ""), clip_of(n)[None]) for n in range(8)]
    write_part(tmp_path, 0, SHAPE, clips)
    rows = np.array([(0, n) for n in range(8)], np.int64)
    return Samples(Rows(tmp_path), rows, np.arange(8) % 2, [str(n) for n in range(8)], 2)


def test_without_augmentation_nothing_changes(samples: Samples) -> None:
    assert augmented(samples, Augment(), 0, 1) is samples
    np.testing.assert_array_equal(changed(Augment(), 0), clip_of())


def test_a_sample_is_the_same_whenever_it_is_read_and_another_one_in_every_epoch(samples: Samples) -> None:
    first = augmented(samples, ALL, 0, 1)
    whole = first.read(np.arange(8))
    assert whole.dtype == np.uint8 and whole.shape == (8, *SHAPE)
    np.testing.assert_array_equal(first.read(np.array([5, 2])), whole[[5, 2]])  # as another host would read them
    for other in (augmented(samples, ALL, 0, 2), augmented(samples, ALL, 1, 1)):
        assert not any(np.array_equal(a, b) for a, b in zip(other.read(np.arange(8)), whole, strict=True))
    (batch, labels), *_ = first.batches(4, np.array([7, 1, 0, 3]))
    np.testing.assert_array_equal(batch, whole[[7, 1, 0, 3]])
    np.testing.assert_array_equal(labels.argmax(axis=1), [1, 1, 0, 1])


def test_flip_mirrors_half_of_the_clips() -> None:
    seen = [changed(Augment(flip=True), seed) for seed in range(200)]
    mirrored = [np.array_equal(clip, clip_of()[:, :, ::-1]) for clip in seen]
    assert all(m or np.array_equal(clip, clip_of()) for m, clip in zip(mirrored, seen, strict=True))
    assert 70 < sum(mirrored) < 130


def test_time_jitter_repeats_frames_at_the_edges() -> None:
    frames = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((6, 4, 4, 1), np.uint8)
    found = {
        tuple(change(frames, Augment(time_jitter=2), np.random.default_rng(seed))[:, 0, 0, 0]) for seed in range(60)
    }
    assert found == {
        (0, 0, 0, 1, 2, 3),
        (0, 0, 1, 2, 3, 4),
        (0, 1, 2, 3, 4, 5),
        (1, 2, 3, 4, 5, 5),
        (2, 3, 4, 5, 5, 5),
    }


def test_crop_takes_a_window_of_all_frames() -> None:
    rows, columns = np.mgrid[0:12, 0:16].astype(np.uint8)
    clip = np.broadcast_to(np.stack([rows, columns, rows], axis=-1), SHAPE)
    for seed in range(30):
        seen = change(clip, Augment(crop=0.5), np.random.default_rng(seed))
        assert (seen == seen[0]).all()
        for axis, size in ((0, 12), (1, 16)):
            line = seen[0, ..., axis].take(0, axis=1 - axis).astype(int)
            assert (np.diff(line) >= 0).all() and line[-1] - line[0] + 1 >= size // 2 and line[0] >= 0


def test_colours_stay_within_what_was_asked() -> None:
    gray = np.full(SHAPE, 100, np.uint8)
    levels = {int(change(gray, Augment(brightness=0.2), np.random.default_rng(n)).max()) for n in range(100)}
    assert min(levels) >= 100 - 51 and max(levels) <= 100 + 51 and len(levels) > 20
    np.testing.assert_array_equal(change(gray, Augment(contrast=0.5), np.random.default_rng(1)), gray)
    np.testing.assert_array_equal(change(gray, Augment(saturation=0.5), np.random.default_rng(1)), gray)
    red = np.zeros(SHAPE, np.uint8)
    red[..., 0] = 200
    assert change(red, Augment(saturation=0.9), np.random.default_rng(2)).std() != red.std()


def test_switching_one_change_on_leaves_the_others_as_they_were() -> None:
    only = changed(Augment(flip=True), 3)
    np.testing.assert_array_equal(changed(Augment(flip=True, time_jitter=1), 3)[1:-1].shape, only[1:-1].shape)
    both = [changed(replace(Augment(time_jitter=1), flip=flip), 3) for flip in (False, True)]
    assert np.array_equal(both[1], both[0]) == np.array_equal(only, clip_of())


@pytest.mark.parametrize(
    ("classes", "pairs"),
    [
        (["PanLeft", "PanRight", "Zoom"], [("PanLeft", "PanRight"), ("PanRight", "PanLeft")]),
        (["LeftHook", "Jab"], []),
        (["向左", "向右"], [("向右", "向左")]),
        (["Fight", "NoFight"], []),
    ],
)
def test_classes_that_mirror_each_other_are_found_by_their_names(
    classes: list[str], pairs: list[tuple[str, str]]
) -> None:
    found = mirror_images(classes)
    assert {frozenset(pair) for pair in found} == {frozenset(pair) for pair in pairs}


def test_what_cannot_be_is_told() -> None:
    wrong = Augment(crop=1, time_jitter=10, brightness=-0.1, saturation=0.5)
    assert [line.split(":")[0] for line in problems(Config(augment=wrong))] == [
        *("augment.crop", "augment.brightness", "augment.time_jitter", "augment.saturation")
    ]
    assert problems(Config(augment=replace(ALL, time_jitter=9), preprocess=Preprocess(color=True))) == []
    assert compose(["augment=light"]).augment == Augment(crop=0.2, time_jitter=1, brightness=0.1, contrast=0.2)
