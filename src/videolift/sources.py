"""What clips a data source has: their paths, labels, groups and, where its lists say so, splits.

A group number gNN of a UCF-101 file name counts across classes: the official lists of UCF-101 test on g01-g07, g08-g14
and g15-g21 of every class, and data sets that borrow the rule let a camera keep its number in all classes. So ``g01``
is one group, whatever the class.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from videolift.errors import ConfigError, DataError, StorageError
from videolift.listing import (
    UCF_STEM,
    Entry,
    Listing,
    count,
    group_of,
    lines_of,
    refuse_lines,
    root_of,
    shown,
    some,
    sorted_listing,
    text_of,
    videos,
)
from videolift.npz import list_rows, npz_shape, resolve_axes
from videolift.settings import Data, Source, Split
from videolift.splits import SPLITS

__all__ = ["Entry", "Listing", "list_clips", "npz_shape", "resolve_axes", "root_of"]

_LISTED = re.compile(r"(?P<label>[^/\\]+)[/\\](?P<file>.+?)(?:\s+(?P<index>\d+))?")
_SPLIT_FOLDERS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def list_clips(data: Data) -> Listing:
    """List what ``data`` describes, reduced to the first ``data.nclass`` classes.

    Raises:
        DataError: nothing is found, or something that does not fit the source's rule.
        StorageError: a folder or file cannot be read.
    """
    try:
        listing = _SOURCES[data.source](data)
    except OSError as error:
        raise StorageError(
            f"{error.filename}: cannot be read ({error.strerror}). Check the disk and this user's permissions."
        ) from error
    for label in listing.classes:
        if label.splitlines() != [label]:
            raise DataError(f"class {label!r}: a class name must be one line, as in classes.txt. Rename the class.")
    classes = _kept_classes(listing.classes, data)
    kept = set(classes)
    entries = sorted((entry for entry in listing.entries if entry.label in kept), key=lambda entry: entry.id)
    return Listing(classes, tuple(entries), listing.notes)


def _kept_classes(found: Sequence[str], data: Data) -> tuple[str, ...]:
    if data.nclass is not None and data.nclass > len(found):
        raise ConfigError(
            f"data.nclass={data.nclass}: the data has {len(found)} classes only ({some(found)}). Ask for fewer."
        )
    if len(found) < 2:
        raise DataError(
            f"data={data.source.value}: one class only ({some(found)}); a classifier needs two or more. Check that "
            "data.root is the folder above the class folders and that data= names the right rule."
        )
    return tuple(found[: data.nclass])


def _ucf101(data: Data) -> Listing:
    entries, misfits = [], []
    by_stem: dict[str, list[Entry]] = {}
    for entry in videos(data):
        path = PurePosixPath(entry.id)
        match, folder = UCF_STEM.fullmatch(path.stem), path.parent.name
        # UCF-101 itself has HandstandPushups/v_HandStandPushups_g01_c01.avi; its lists spell as the folder does.
        if match is None or (folder and folder.casefold() != match["label"].casefold()):
            misfits.append(entry.id)
            continue
        entries.append(replace(entry, label=folder or match["label"], group=group_of(entry.id)))
        by_stem.setdefault(path.stem, []).append(entries[-1])
    if misfits:
        raise DataError(
            f"data.root={root_of(data)}: {count(misfits, 'file')} not named <Class>/v_<Class>_gNN_cNN.avi: "
            f"{some(misfits)}. Rename or move them, or use data=folder (class folders) or data=manifest (a csv)."
        )
    twice = sorted(entry.id for same in by_stem.values() if len(same) > 1 for entry in same)
    if twice:
        raise DataError(
            f"data.root={root_of(data)}: the same clip is there more than once: {some(twice)}. Remove the copies, or "
            "point data.root at one of the folders."
        )
    if data.source is Source.ucf101 and data.split is Split.official:
        return _official(data, {stem: same[0] for stem, same in by_stem.items()})
    return sorted_listing(entries)


def _official(data: Data, on_disk: dict[str, Entry]) -> Listing:
    folder = _list_folder(data)
    classes = _class_index(folder / "classInd.txt")
    kept = set(_kept_classes(sorted(classes), data))
    wrong: list[str] = []
    missing: list[str] = []
    used: dict[str, str] = {}  # stem -> file:line
    entries = []
    for split in ("train", "test"):
        for where, line in lines_of(folder / f"{split}list{data.list:02d}.txt", f"data.list={data.list}"):
            match = _LISTED.fullmatch(line)
            problem = _line_problem(line, match, classes, used)
            if match is None or problem:
                wrong.append(f"{where}: {problem}")
                continue
            stem = PurePosixPath(match["file"]).stem
            used[stem] = where
            if match["label"] in kept and stem in on_disk:
                entries.append(replace(on_disk[stem], label=match["label"], given=split))
            elif match["label"] in kept:
                missing.append(f"{match['label']}/{match['file']}")
    refuse_lines(wrong, "Mend the lists, or use data.split=group.")
    if missing:
        raise DataError(
            f"data.root={root_of(data)}: {count(missing, 'video')} missing that list {data.list} in {folder} names: "
            f"{some(missing)}. Complete the data, keep fewer classes (data.nclass), or use data.split=group."
        )
    rest = [entry.id for stem, entry in on_disk.items() if stem not in used]
    note = f"{count(rest, 'clip')} in neither list {data.list} of {folder} and left out: {some(rest)}"
    return sorted_listing(entries, [note] if rest else [])


def _line_problem(line: str, match: re.Match[str] | None, classes: dict[str, int], used: dict[str, str]) -> str:
    """Return what is wrong with a line of an official list, or nothing."""
    named = UCF_STEM.fullmatch(PurePosixPath(match["file"]).stem) if match else None
    if match is None or named is None:
        return f"not Class/v_Class_gNN_cNN.avi: {line!r}"
    if match["label"] not in classes:
        return f"class {match['label']!r} is not in classInd.txt"
    if named["label"].casefold() != match["label"].casefold():
        return f"{match['file']!r} is not of class {match['label']!r}"
    if match["index"] and int(match["index"]) != classes[match["label"]]:
        return f"says {match['index']}, classInd.txt says {classes[match['label']]}"
    if named.string in used:
        return f"{line!r} is in {used[named.string]} already"
    return ""


def _list_folder(data: Data) -> Path:
    root = root_of(data)
    places = (
        [Path(data.lists).expanduser()]
        if data.lists
        else [root, root / "ucfTrainTestlist", root.parent / "ucfTrainTestlist"]
    )
    for place in places:
        if (place / "classInd.txt").is_file():
            return place
    raise DataError(
        f"data.split=official: no classInd.txt in {', '.join(map(str, places))}. Say data.lists=FOLDER where "
        "classInd.txt, trainlist01.txt and testlist01.txt are, or use data.split=group."
    )


def _class_index(path: Path) -> dict[str, int]:
    classes: dict[str, int] = {}
    wrong = []
    for where, line in lines_of(path, "data.lists"):
        number, _, name = line.partition(" ")
        if not number.isdecimal() or not name.strip() or name.strip() in classes:
            wrong.append(f"{where}: not a new 'number Class': {line!r}")
        else:
            classes[name.strip()] = int(number)
    refuse_lines(wrong, "Mend the file, or use data.split=group.")
    return classes


def _folder(data: Data) -> Listing:
    root = root_of(data)
    entries = [replace(entry, label=entry.id.split("/")[0]) for entry in videos(data)]
    inside = [entry for entry in entries if "/" in entry.id]
    stray = [entry.id for entry in entries if "/" not in entry.id]
    if not inside:
        raise DataError(
            f"data.root={root}: {count(stray, 'video')} there but no class folders (root/<class>/*.mp4). Use "
            "data=prefix if the class is in the file name (Music_01.mp4), or data=manifest with a csv."
        )
    found = {entry.label for entry in inside}
    if {name.casefold() for name in found} <= _SPLIT_FOLDERS:
        raise DataError(
            f"data.root={root}: its folders ({', '.join(sorted(found))}) look like splits, not classes. Point "
            "data.root at one of them, or keep the division with data=manifest and a csv of path,label,split."
        )
    notes = [f"{count(stray, 'video')} in no class folder of {root} and left out: {some(stray)}"] if stray else []
    return sorted_listing(inside, notes)


def _prefix(data: Data) -> Listing:
    entries = [replace(entry, label=PurePosixPath(entry.id).stem.partition("_")[0]) for entry in videos(data)]
    misfits = [entry.id for entry in entries if not entry.label or "_" not in PurePosixPath(entry.id).stem]
    if misfits:
        raise DataError(
            f"data.root={root_of(data)}: {count(misfits, 'file')} not named <Class>_....mp4: {some(misfits)}. Rename "
            "or move them, or use data=folder or data=manifest."
        )
    return sorted_listing(entries)


def _manifest(data: Data) -> Listing:
    path = Path(data.csv or "").expanduser()
    rows = csv.DictReader(io.StringIO(text_of(path, "data.csv"), newline=""), skipinitialspace=True)
    columns = [name.strip() for name in rows.fieldnames or ()]
    rows.fieldnames = columns
    lacking = [
        name for name in ("path", "label", *(["split"] if data.split is Split.official else [])) if name not in columns
    ]
    if lacking:
        needed = "; split is what data.split=official reads (or use data.split=group)" if "split" in lacking else ""
        raise DataError(
            f"{path}:1: no column {' and no column '.join(lacking)}; it has {', '.join(columns) or 'nothing'}. The "
            f"first line must be path,label with group and split where known{needed}."
        )
    wrong: list[str] = []
    entries: dict[str, Entry] = {}
    try:
        for row in rows:
            entry = _row_entry(row, data, f"{path}:{rows.line_num}", wrong)
            if entry is not None and entry.id in entries:
                wrong.append(f"{path}:{rows.line_num}: {shown(entry.id)} is there already")
            elif entry is not None:
                entries[entry.id] = entry
    except csv.Error as error:
        wrong.append(f"{path}:{rows.line_num}: {error}")
    refuse_lines(wrong, "Mend the csv; paths are relative to data.root (by default the csv's folder).")
    if not entries:
        raise DataError(f"{path}: lists no videos. Write one path,label a line below the first.")
    ignored = sorted(set(columns) - {"path", "label", "group", "split"})
    return sorted_listing(entries.values(), [f"{path}: columns not used: {', '.join(ignored)}"] if ignored else [])


def _row_entry(row: dict[str, Any], data: Data, where: str, wrong: list[str]) -> Entry | None:
    """Return a csv row's entry; what is wrong with it is added to ``wrong``."""
    text, label = (row.get("path") or ""), (row.get("label") or "").strip()
    split = (row.get("split") or "").strip() or None
    found = []
    if None in row:
        found.append("more fields than the first line names; put a path with commas in double quotes")
    if not text.strip() or not label:
        found.append(f"empty {'label' if text.strip() else 'path'}")
    if split not in (None, *SPLITS) or (split is None and data.split is Split.official):
        found.append(f"split is {split or 'empty'}, must be one of {', '.join(SPLITS)}")
    root, path = root_of(data), PurePosixPath(text)
    if path.is_absolute() and path.is_relative_to(root.absolute().as_posix()):
        path = path.relative_to(root.absolute().as_posix())
    if path.is_absolute() or ".." in path.parts:
        found.append(f"{shown(text)} is outside data.root={root}")
    elif text.strip() and not (root / path).is_file():
        found.append(f"no file {shown(text)} in {root}")
    wrong += [f"{where}: {problem}" for problem in found]
    if found:
        return None
    clip_id = path.as_posix()
    group = (row.get("group") or "").strip() or group_of(clip_id)
    return Entry(clip_id, label, group, root / path, (root / path).stat().st_size, split)


_SOURCES: dict[Source, Callable[[Data], Listing]] = {
    Source.demo: _ucf101,
    Source.ucf101: _ucf101,
    Source.folder: _folder,
    Source.prefix: _prefix,
    Source.manifest: _manifest,
    Source.npz: list_rows,
}
