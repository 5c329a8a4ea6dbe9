"""The list of clips that everything else agrees on: classes, labels, groups, splits and checksums.

It is made once, before anything is divided among hosts, and travels with the plan.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from videolift.errors import DataError, StorageError
from videolift.listing import some
from videolift.settings import Data, Split
from videolift.sources import Entry, list_clips
from videolift.splits import SPLITS, VAL, assign, classes_of_one_clip, leak_rate

FORMAT = 1

_CLIP_TYPES = {"id": str, "label": int, "group": str, "split": str, "sha256": str, "size": int}


@dataclass(frozen=True)
class Clip:
    """One video, or one row of existing arrays.

    Args:
        id: posix path below ``data.root``, or ``row-000012``.
        label: index into the manifest's classes.
        group: clips of one group show the same scene or come from one recording.
        split: train, val or test.
        sha256: of the file's bytes; for a row, of the file's checksum and the row's number.
        size: bytes.
    """

    id: str
    label: int
    group: str
    split: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """All clips of an experiment, sorted by id. ``notes`` tell what was left out or not possible."""

    classes: tuple[str, ...]
    clips: tuple[Clip, ...]
    source: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the manifest as text, one clip a line, the same text for the same manifest."""
        clips = ",\n".join(_line(asdict(clip)) for clip in self.clips)
        head = {"format": FORMAT, "source": self.source, "classes": self.classes, "notes": self.notes}
        lines = [f"{_line(key)}: {_line(value)}," for key, value in head.items()]
        return "\n".join(["{", *lines, '"clips": [', clips, "]", "}", ""])

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read what :meth:`to_json` wrote.

        Raises:
            DataError: it is not a manifest, or one that contradicts itself.
        """
        try:
            document = json.loads(text)
        except ValueError as error:
            raise DataError(f"manifest: not JSON ({error}). Make it again from the data.") from error
        return cls._checked(document)

    @classmethod
    def _checked(cls, document: Any) -> Manifest:
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            found = document.get("format") if isinstance(document, dict) else type(document).__name__
            raise DataError(f"manifest: expected format {FORMAT}, found {found}. Make it again from the data.")
        classes: Any = document.get("classes")
        rows: Any = document.get("clips")
        wrong = _head_problems(classes, rows) or _clip_problems(classes, rows)
        if wrong:
            raise DataError(f"manifest: {'; '.join(wrong[:10])}. Make it again from the data.")
        return cls(
            classes=tuple(classes),
            clips=tuple(Clip(**row) for row in rows),
            source=str(document.get("source")),
            notes=tuple(map(str, document.get("notes", ()))),
        )

    @cached_property
    def digest(self) -> str:
        """Return the sha256 of everything but the notes."""
        return _sha256([self.source, self.classes, [asdict(clip) for clip in self.clips]])

    @cached_property
    def data_digest(self) -> str:
        """Return the sha256 of what preprocessing depends on: classes, ids, checksums and labels."""
        return _sha256([self.classes, [(clip.id, clip.sha256, clip.label) for clip in self.clips]])

    @property
    def leak_rate(self) -> float:
        """Return the share of test clips whose group also has training or validation clips."""
        return leak_rate([clip.group for clip in self.clips], [clip.split for clip in self.clips])

    def counts(self, split: str) -> dict[str, int]:
        """Return how many clips of each class a split has, zeros included, in the order of the classes."""
        found = Counter(clip.label for clip in self.clips if clip.split == split)
        return {name: found[label] for label, name in enumerate(self.classes)}


def make_manifest(
    data: Data,
    seed: int,
    checksum: Callable[[Path], str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """List, check, divide and checksum the clips of a data source.

    Args:
        data: for the demo, with ``root`` set to where it was written.
        checksum: sha256 of a file, :func:`sha256_file` by default; a caller may remember.
        progress: called with (clips checksummed, clips in all).

    Raises:
        DataError: the data cannot be used as asked.
        StorageError: a file or folder cannot be read.
    """
    listing = list_clips(data)
    sides = assign(
        [entry.group for entry in listing.entries],
        [entry.label for entry in listing.entries],
        [entry.given for entry in listing.entries],
        split=data.split,
        test_share=data.test_share,
        val_share=data.val_share,
        seed=seed,
    )
    notes = list(listing.notes)
    if data.val_share > 0 and VAL not in sides:
        notes.append(
            f"no validation set: the training groups are too few or too large for data.val_share={data.val_share}, "
            "so it is treated as 0"
        )
    if data.split is Split.random and (alone := classes_of_one_clip([entry.label for entry in listing.entries])):
        notes.append(_trained_on_only(alone))
    if data.split is Split.random and (rate := leak_rate([e.group for e in listing.entries], sides)):
        notes.append(
            f"data.split=random leaks: {rate:.1%} of the test clips share a group with training clips; their accuracy "
            "is not that of unseen scenes (data.split=group is)"
        )
    sums = _checksums(listing.entries, checksum or sha256_file, progress)
    index = {name: label for label, name in enumerate(listing.classes)}
    clips = tuple(
        Clip(entry.id, index[entry.label], entry.group, side, digest, entry.size)
        for entry, side, digest in zip(listing.entries, sides, sums, strict=True)
    )
    return Manifest(listing.classes, clips, data.source.value, tuple(notes))


def _trained_on_only(classes: Sequence[str]) -> str:
    one = len(classes) == 1
    return (
        f"data.split=random: {'1 class has' if one else f'{len(classes)} classes have'} one clip only "
        f"({some(classes)}), which {'is' if one else 'are'} trained on and not tested"
    )


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksums(
    entries: tuple[Entry, ...], checksum: Callable[[Path], str], progress: Callable[[int, int], None] | None
) -> list[str]:
    of_file: dict[Path, str] = {}  # rows of one file share it
    sums = []
    for done, entry in enumerate(entries, start=1):
        if entry.path not in of_file:
            try:
                of_file[entry.path] = checksum(entry.path)
            except OSError as error:
                raise StorageError(
                    f"{entry.path}: cannot be read ({error.strerror}). Give this user permission to read it, or move "
                    "the file out of data.root."
                ) from error
        digest = of_file[entry.path]
        sums.append(digest if entry.row is None else _sha256([digest, entry.row]))
        if progress is not None:
            progress(done, len(entries))
    return sums


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()


def _head_problems(classes: Any, rows: Any) -> list[str]:
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        return ["'classes' must be a list of names"]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return ["'clips' must be a list of objects"]
    return [] if len(set(classes)) == len(classes) else ["a class is named twice"]


def _clip_problems(classes: list[str], rows: list[dict[str, Any]]) -> list[str]:
    found = []
    last = ""
    for number, row in enumerate(rows):
        if set(row) != set(_CLIP_TYPES) or any(type(row[key]) is not kind for key, kind in _CLIP_TYPES.items()):
            found.append(f"clip {number} must have {', '.join(_CLIP_TYPES)} and nothing else")
            continue
        if row["id"] <= last:
            found.append(f"{row['id']!r} is not after {last!r}; ids must be sorted and each there once")
        if not 0 <= row["label"] < len(classes):
            found.append(f"{row['id']!r} has label {row['label']}, but there are {len(classes)} classes")
        if row["split"] not in SPLITS:
            found.append(f"{row['id']!r} has split {row['split']!r}, not one of {', '.join(SPLITS)}")
        last = row["id"]
    return found
