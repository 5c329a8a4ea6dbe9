"""The list of clips that everything else agrees on: classes, labels, groups, splits and checksums.

It is made once, before anything is divided among hosts, and travels with the plan.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from videolift.contents import copies_of, counted, differing, named
from videolift.errors import DataError, StorageError
from videolift.listing import some
from videolift.npz import row_digests
from videolift.settings import Conflicts, Data, Source, Split
from videolift.sources import Entry, list_clips
from videolift.splits import (
    SPLITS,
    TEST,
    TRAIN,
    VAL,
    assign,
    classes_of_one_clip,
    leak_rate,
    leaking_clips,
    merged_groups,
)

FORMAT = 1

_CLIP_TYPES = {"id": str, "label": int, "group": str, "split": str, "sha256": str, "size": int}


@dataclass(frozen=True)
class Clip:
    """One video, or one row of existing arrays.

    Args:
        id: posix path below ``data.root``, or ``row-000012``.
        label: index into the manifest's classes.
        group: clips of one group show the same scene, come from one recording, or are identical.
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
    """All clips of an experiment, sorted by id.

    Args:
        notes: what was left out, is not possible or not known.
        ungrouped: clips of which nothing tells the recording; what is said of groups is not the whole truth with any.
    """

    classes: tuple[str, ...]
    clips: tuple[Clip, ...]
    source: str
    notes: tuple[str, ...] = ()
    ungrouped: int = 0

    def to_json(self) -> str:
        """Return the manifest as text, one clip a line, the same text for the same manifest."""
        clips = ",\n".join(_line(asdict(clip)) for clip in self.clips)
        head = {"format": FORMAT, "source": self.source, "classes": self.classes, "notes": self.notes}
        head["ungrouped"] = self.ungrouped
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
        ungrouped: Any = document.get("ungrouped")
        if not wrong and ungrouped is None:  # an older one: the group of a clip without any is the clip itself
            ungrouped = sum(row["group"] == row["id"] for row in rows)
        if not wrong and (type(ungrouped) is not int or not 0 <= ungrouped <= len(rows)):
            wrong = [f"'ungrouped' must be from 0 to the number of clips, {len(rows)}"]
        if wrong:
            raise DataError(f"manifest: {'; '.join(wrong[:10])}. Make it again from the data.")
        return cls(
            classes=tuple(classes),
            clips=tuple(Clip(**row) for row in rows),
            source=str(document.get("source")),
            notes=tuple(map(str, document.get("notes", ()))),
            ungrouped=ungrouped,
        )

    @cached_property
    def digest(self) -> str:
        """Return the sha256 of everything but the notes."""
        return _sha256([self.source, self.classes, [asdict(clip) for clip in self.clips], self.ungrouped])

    @cached_property
    def data_digest(self) -> str:
        """Return the sha256 of what preprocessing depends on: classes, ids, checksums and labels."""
        return _sha256([self.classes, [(clip.id, clip.sha256, clip.label) for clip in self.clips]])

    @property
    def leak_rate(self) -> float | None:
        """Return the share of test clips whose group also has training or validation clips; None where unknown."""
        return None if self.ungrouped else leak_rate(*self._groups_and_sides())

    @property
    def leaking(self) -> int:
        """Return how many test clips are known to have a group that also has training or validation clips."""
        return leaking_clips(*self._groups_and_sides())

    def _groups_and_sides(self) -> tuple[list[str], list[str]]:
        return [clip.group for clip in self.clips], [clip.split for clip in self.clips]

    def counts(self, split: str) -> dict[str, int]:
        """Return how many clips of each class a split has, zeros included, in the order of the classes."""
        found = Counter(clip.label for clip in self.clips if clip.split == split)
        return {name: found[label] for label, name in enumerate(self.classes)}


@dataclass(frozen=True)
class _Read:
    """A clip whose bytes were looked at. Identical ones have the same ``content``; None where that is not known."""

    entry: Entry
    sha256: str
    content: str | None


def make_manifest(
    data: Data,
    seed: int,
    checksum: Callable[[Path], str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    content: Callable[[Path], str | None] | None = None,
    rows: Callable[[Path], Sequence[bytes]] = row_digests,
    divided: bool = True,
) -> Manifest:
    """List, check, divide and checksum the clips of a data source.

    Identical clips belong to one group; a clip without bytes is identical to none.

    Args:
        data: for the demo, with ``root`` set to where it was written.
        checksum: sha256 of a file, :func:`sha256_file` by default; a caller may remember.
        progress: called with (clips checksummed, clips in all).
        content: sha256 of a file, None where it is not known; by default what ``checksum`` returns.
        rows: sha256 of each row of an .npz file.
        divided: False for who divides the clips by themselves: all are ``train``, and no lists are needed.

    Raises:
        DataError: the data cannot be used as asked.
        StorageError: a file or folder cannot be read.
    """
    listing = list_clips(data if divided else replace(data, split=Split.group))
    divide = partial(_divide, data, seed) if divided else _undivided
    sides = divide(listing.entries)  # what names and labels rule out is reported before all files are read
    read = _read(listing.entries, checksum or sha256_file, progress, content, rows)
    clips, about = _without_conflicts(read, data)
    _refuse_lost_classes(listing.classes, clips)
    entries, contents = [clip.entry for clip in clips], [clip.content for clip in clips]
    copies = copies_of(contents)
    if divided and copies and data.split is not Split.official:
        about.append(f"{counted(copies)}: {named(copies, _ids(entries))}. Each set stays on one side of the split")
    if copies or len(clips) < len(read):
        try:
            sides = divide(entries, contents)
        except DataError as error:
            raise DataError("\n".join([str(error), *about])) from error
    if divided and data.split is Split.official and (torn := differing(copies, sides)):
        about.append(_given_leak(torn, entries, sides))
    index = {name: label for label, name in enumerate(listing.classes)}
    made = Manifest(
        listing.classes,
        tuple(
            Clip(clip.entry.id, index[clip.entry.label], group, side, clip.sha256, clip.entry.size)
            for clip, group, side in zip(clips, merged_groups(_groups(entries), contents), sides, strict=True)
        ),
        data.source.value,
        ungrouped=sum(entry.group is None for entry in entries),
    )
    notes = [*listing.notes, *about, *_unproven(clips), *(_about_split(made, contents, data) if divided else [])]
    return replace(made, notes=tuple(notes))


def _divide(data: Data, seed: int, entries: Sequence[Entry], contents: Sequence[str | None] | None = None) -> list[str]:
    return assign(
        _groups(entries),
        _labels(entries),
        [entry.given for entry in entries],
        split=data.split,
        test_share=data.test_share,
        val_share=data.val_share,
        seed=seed,
        contents=contents,
    )


def _undivided(entries: Sequence[Entry], contents: Sequence[str | None] | None = None) -> list[str]:
    return [TRAIN] * len(entries)


def _ids(entries: Sequence[Entry]) -> list[str]:
    return [entry.id for entry in entries]


def _labels(entries: Sequence[Entry]) -> list[str]:
    return [entry.label for entry in entries]


def _groups(entries: Sequence[Entry]) -> list[str]:
    """Return the group of each clip; one whose group is not known is its own."""
    return [entry.group or entry.id for entry in entries]


def _without_conflicts(read: Sequence[_Read], data: Data) -> tuple[list[_Read], list[str]]:
    """Return the clips without those whose content has several labels, where that is wanted, and notes about them."""
    entries = [clip.entry for clip in read]
    conflicts = differing(copies_of([clip.content for clip in read]), _labels(entries))
    if not conflicts:
        return list(read), []
    found = f"{counted(conflicts)} under several labels"
    which = named(conflicts, _ids(entries), _labels(entries))
    if data.split is Split.official:
        return list(read), [f"{found}: {which}. data.split=official is never changed, so they are used as they are"]
    if data.conflicts is Conflicts.fail:
        raise DataError(
            f"{data.root or data.csv or data.npz}: {found}: {which}. Remove the clips whose label is wrong or correct "
            "their labels, or set data.conflicts=drop to leave all of them out."
        )
    dropped = {index for indices in conflicts for index in indices}
    left = [clip for index, clip in enumerate(read) if index not in dropped]
    return left, [f"data.conflicts=drop leaves out {found}: {which}"]


def _refuse_lost_classes(classes: Sequence[str], clips: Sequence[_Read]) -> None:
    """Raise DataError where a class has lost all of its clips."""
    there = {clip.entry.label for clip in clips}
    if lost := [name for name in classes if name not in there]:
        raise DataError(
            f"data.conflicts=drop: leaves no clip of {some(lost)}: every clip there is identical to one with another "
            "label. Correct the labels, or leave the class out of the data."
        )


def _given_leak(copies: Sequence[tuple[int, ...]], entries: Sequence[Entry], sides: Sequence[str]) -> str:
    tested = sum(sides[index] == TEST for indices in copies for index in indices)
    return (
        f"data.split=official puts {counted(copies)} on several sides: {named(copies, _ids(entries), sides)}. A given "
        f"split is never changed; {tested} of these clips are test clips"
    )


def _unproven(clips: Sequence[_Read]) -> list[str]:
    unknown = sum(clip.content is None and clip.entry.size > 0 for clip in clips)
    if not unknown:
        return []
    return [
        f"whether {unknown} of {len(clips)} clips are identical to others is not known: there is no SHA-256 of them. "
        "S3 has one of objects that were uploaded with it, in one part"
    ]


def _about_split(manifest: Manifest, contents: Sequence[str | None], data: Data) -> list[str]:
    """Return what a person has to know of who is trained on and who is tested."""
    notes = []
    if data.val_share > 0 and all(clip.split != VAL for clip in manifest.clips):
        notes.append(
            f"no validation set: the training groups are too few or too large for data.val_share={data.val_share}, "
            "so it is treated as 0"
        )
    labels = [manifest.classes[clip.label] for clip in manifest.clips]
    if data.split is Split.random and (alone := classes_of_one_clip(labels, contents)):
        notes.append(_trained_on_only(alone))
    if manifest.ungrouped:
        notes.append(_ungrouped(manifest, data.source))
    elif data.split is Split.random and manifest.leak_rate:
        notes.append(
            f"data.split=random leaks: {manifest.leak_rate:.1%} of the test clips share a group with training clips; "
            "their accuracy is not that of unseen scenes (data.split=group is)"
        )
    return notes


def _ungrouped(manifest: Manifest, source: Source) -> str:
    how = {
        Source.manifest: "Fill the column group of data.csv, one name a recording",
        Source.npz: "An .npz cannot tell it; use the videos with data=manifest and a csv of path,label,group",
    }
    known = f" ({manifest.leaking} test clips certainly are)" if manifest.leaking else ""
    return (
        f"the groups of {manifest.ungrouped} of {len(manifest.clips)} clips are not known, so clips of one recording "
        f"may be on both sides of the split{known} and test_leak_rate is not reported. "
        + how.get(source, "Set data=manifest and data.csv=FILE, a csv of path,label,group with one group a recording")
    )


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


def _read(
    entries: Sequence[Entry],
    checksum: Callable[[Path], str],
    progress: Callable[[int, int], None] | None,
    content: Callable[[Path], str | None] | None,
    rows: Callable[[Path], Sequence[bytes]],
) -> list[_Read]:
    of_file: dict[Path, str] = {}  # rows of one file share it
    of_rows: dict[Path, Sequence[bytes]] = {}
    read = []
    for done, entry in enumerate(entries, start=1):
        try:
            if entry.path not in of_file:
                of_file[entry.path] = checksum(entry.path)
            if entry.row is not None and entry.path not in of_rows:
                of_rows[entry.path] = rows(entry.path)
        except OSError as error:
            raise StorageError(
                f"{entry.path}: cannot be read ({error.strerror}). Give this user permission to read it, or move "
                "the file out of data.root."
            ) from error
        digest, same = of_file[entry.path], None
        if entry.row is not None:
            digest, same = _sha256([digest, entry.row]), of_rows[entry.path][entry.row].hex()
        elif entry.size:
            same = content(entry.path) if content else digest
        read.append(_Read(entry, digest, same))
        if progress is not None:
            progress(done, len(entries))
    return read


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
