"""Training and test samples: rows of the merged arrays, by split, in an order that is a function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from videolift.manifest import Manifest
from videolift.parts import INDEX_FILE, Pixels, Rows, read_index

Batch = tuple[Pixels, npt.NDArray[np.float32]]
Change = Callable[[Pixels, npt.NDArray[np.int64]], Pixels]  # of clips, by their samples' numbers
Slice = tuple[Pixels, npt.NDArray[np.float32], npt.NDArray[np.float32], np.float32]


@dataclass(frozen=True)
class Samples:
    """The samples of one split.

    ``rows`` int64 (sample, 2): part and row in it. ``labels`` int64 (sample,): class index. ``clips``: a clip id each.
    """

    source: Rows
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    clips: list[str]
    classes: int
    change: Change | None = None  # of what is read

    def __len__(self) -> int:
        return len(self.rows)

    def steps(self, batch: int) -> int:
        return -(-len(self) // batch)

    def read(self, numbers: npt.NDArray[np.int64]) -> Pixels:
        """Return uint8 (sample, frame, height, width, channel)."""
        clips = self.source.gather(self.rows[numbers])
        return clips if self.change is None else self.change(clips, numbers)

    def batches(self, batch: int, order: npt.NDArray[np.int64] | None = None) -> Iterator[Batch]:
        """Yield uint8 (sample, frame, height, width, channel) and one-hot float32 (sample, class)."""
        order = np.arange(len(self)) if order is None else order
        one_hot = np.eye(self.classes, dtype=np.float32)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            yield self.read(chosen), one_hot[self.labels[chosen]]

    def slices(
        self, batch: int, replicas: range, count: int, order: npt.NDArray[np.int64] | None = None
    ) -> Iterator[tuple[Slice, ...]]:
        """Yield what each of some replicas computes of a batch, batch by batch.

        A slice is clips and labels as in :meth:`batches`, float32 weights (sample,), and the number of samples in the
        whole batch. All slices are of one size; what a replica has no sample for is a repeated one of weight 0.

        Args:
            replicas: their numbers, of ``count``.
        """
        order = np.arange(len(self)) if order is None else order
        one_hot = np.eye(self.classes, dtype=np.float32)
        slots = slots_of(batch, count)
        for start in range(0, len(order), batch):
            whole = order[start : start + batch]
            found = []
            for replica in replicas:
                own = whole[slice_of(len(whole), replica, count)]
                chosen = np.resize(own if len(own) else whole, slots)
                weights = (np.arange(slots) < len(own)).astype(np.float32)
                clips, labels = self.read(chosen), one_hot[self.labels[chosen]]
                found.append((clips, labels, weights, np.float32(len(whole))))
            yield tuple(found)


def slots_of(batch: int, replicas: int) -> int:
    """Return how many samples of a batch a replica computes at most."""
    return -(-batch // replicas)


def slice_of(size: int, replica: int, replicas: int) -> slice:
    """Return the rows of a batch that a replica computes: all replicas' are the batch, and sizes differ by one at most.

    7 rows on 3 replicas are 2, 2, 3; 1 row on 3 replicas is 0, 0, 1.
    """
    return slice(size * replica // replicas, size * (replica + 1) // replicas)


def load_samples(arrays: Path, manifest: Manifest) -> dict[str, Samples]:
    """Return the samples of every split ("train", "val", "test"); a split without any is there and empty."""
    source = Rows(arrays)
    split_of = {clip.id: clip.split for clip in manifest.clips}
    found: dict[str, list[tuple[int, int, int, str]]] = {"train": [], "val": [], "test": []}
    for entry in read_index(arrays / INDEX_FILE):
        split = split_of.get(entry.clip)
        if split in found:
            found[split] += [(entry.part, row, entry.label, entry.clip) for row in range(entry.start, entry.stop)]
    return {
        split: Samples(
            source,
            np.array([s[:2] for s in samples], np.int64).reshape(-1, 2),
            np.array([s[2] for s in samples], np.int64),
            [s[3] for s in samples],
            len(manifest.classes),
        )
        for split, samples in found.items()
    }


def shuffled(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order of an epoch's samples: the same for the same seed and epoch, whatever ran before."""
    return np.random.default_rng([seed, epoch]).permutation(count)
