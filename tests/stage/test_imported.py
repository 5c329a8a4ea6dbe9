from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import runs

RNG = np.random.default_rng(0)
CLIPS = RNG.integers(0, 256, (12, 5, 8, 8, 1), np.uint8)  # (clip, frame, height, width, channel)
LABELS = np.arange(12) % 3


def imported(tmp_path: Path, *settings: str, code: int = 0) -> np.ndarray | runs.Ended:  # type: ignore[type-arg]
    ended = runs.run(
        "data=npz",
        f"data.npz={tmp_path / 'my arrays.npz'}",
        "stages=[preprocess]",
        "tracking=none",
        *settings,
        cwd=tmp_path,
        code=code,
    )
    if code:
        return ended
    folder = Path(runs.stage(runs.records(tmp_path)[-1], "preprocess")["folder"]) / "arrays"
    with np.load(folder / "part-00000.npz") as part:
        np.testing.assert_array_equal(part["Y"], LABELS)
        return np.asarray(part["X"])


@pytest.mark.parametrize(
    "kind", ["ours", "original", "original gray without channel", "original float one-hot", "scaled", "compressed"]
)
def test_existing_arrays_become_parts(tmp_path: Path, kind: str) -> None:
    original = np.moveaxis(CLIPS, 1, 3)  # (clip, height, width, frame, channel)
    x, y = {
        "ours": (CLIPS, LABELS),
        "original": (original, LABELS),
        "original gray without channel": (original[..., 0], LABELS),
        "original float one-hot": (original.astype(np.float32), np.eye(3, dtype=np.float32)[LABELS]),
        "scaled": (original.astype(np.float32) / 255, LABELS),
        "compressed": (CLIPS, LABELS),
    }[kind]
    save = np.savez_compressed if kind == "compressed" else np.savez
    save(tmp_path / "my arrays.npz", X=x, Y=y)
    np.testing.assert_array_equal(imported(tmp_path), CLIPS)


def test_a_value_that_is_no_number_is_refused(tmp_path: Path) -> None:
    x = CLIPS.astype(np.float32)
    x[3, 0, 0, 0] = np.nan
    np.savez(tmp_path / "my arrays.npz", X=x, Y=LABELS)
    ended = imported(tmp_path, code=3)
    assert isinstance(ended, runs.Ended)
    assert "values from nan" in ended.err


def test_values_that_are_no_pixels_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "my arrays.npz", X=CLIPS.astype(np.float32) * 2 - 100, Y=LABELS)
    ended = imported(tmp_path, code=3)
    assert isinstance(ended, runs.Ended)
    assert "pixels must be 0..255" in ended.err and "Traceback" not in ended.text


def test_arrays_that_do_not_fit_the_model_are_told_before_any_work(tmp_path: Path) -> None:
    np.savez(tmp_path / "my arrays.npz", X=CLIPS[:, :1], Y=LABELS)
    ended = imported(tmp_path, "data.axes=videolift", code=2)
    assert isinstance(ended, runs.Ended)
    assert "needs at least 2 frames, got 1" in ended.err
