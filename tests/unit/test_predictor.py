"""How a trained model is asked; without one."""

from __future__ import annotations

from typing import Any

import numpy as np

from videolift.errors import StageError, as_expected
from videolift.predictor import WINDOWS_A_BATCH, Predictor
from videolift.settings import Preprocess


def test_windows_of_a_long_video_go_through_the_network_a_few_at_a_time() -> None:
    sizes = []

    def network(clips: Any, *, training: bool) -> Any:
        assert not training
        sizes.append(len(clips))
        bright = clips.reshape(len(clips), -1).mean(axis=1) / 255
        return np.stack([bright, 1 - bright], axis=1)

    numbers = np.random.default_rng(0)
    counts = (1, 2 * WINDOWS_A_BATCH + 5, 3, WINDOWS_A_BATCH)
    videos = [numbers.integers(0, 256, (count, 4, 8, 8, 1), np.uint8) for count in counts]
    found = Predictor(network, ["light", "dark"], Preprocess()).probabilities(videos)  # type: ignore[arg-type]
    assert sizes == [WINDOWS_A_BATCH] * 3 + [sum(counts) - 3 * WINDOWS_A_BATCH]
    light = [clips.mean() / 255 for clips in videos]
    np.testing.assert_allclose(found, np.stack([light, 1 - np.array(light)], axis=1), rtol=1e-6)


def test_memory_that_ran_out_is_told_as_such() -> None:
    told = as_expected(MemoryError("Unable to allocate 34 GiB"))
    assert isinstance(told, StageError) and "use fewer workers" in str(told) and "34 GiB" in str(told)
