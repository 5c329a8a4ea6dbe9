from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from videolift.parts import PART_BYTES, Entry, HostParts, Pixels, Rows, chunks, clips_a_part, frame_shape, merge
from videolift.settings import Preprocess

BIG = Preprocess(depth=16, height=64, width=64)  # 64 KiB a clip


def clip(name: str) -> tuple[Entry, Pixels]:
    return Entry(name, 0, ""), np.zeros((1, *frame_shape(BIG)), np.uint8)


def peak_bytes(clips: list[str], folder: Path) -> int:
    def made(names: list[str]) -> Iterator[tuple[Entry, Pixels]]:
        yield from map(clip, names)

    tracemalloc.start()
    parts = HostParts(folder / "host")
    for number, names in enumerate(chunks(clips, clips_a_part(BIG))):
        parts.write(number, frame_shape(BIG), made(list(names)))
    entries = merge([folder / "host"], clips, BIG, folder / "merged")
    rows = Rows(folder / "merged")
    for entry in entries:
        rows.gather(np.array([[entry.part, entry.start]]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_is_flat_in_the_size_of_the_data_set(tmp_path: Path) -> None:
    names = [f"c{n:05d}" for n in range(3000)]
    small = peak_bytes(names[:600], tmp_path / "small")
    large = peak_bytes(names, tmp_path / "large")  # 190 MB of pixels
    assert large < small + 8e6  # the index alone grows
    assert large < 4 * PART_BYTES
