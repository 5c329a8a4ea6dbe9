"""Arrays on disk: parts of consecutive clips, an index that says how each clip came about, and their merge.

A part is an uncompressed ``.npz`` with

    X       uint8 (row, frame, height, width, channel), RGB or gray
    Y       int64 (row,), class index
    clip    text (row,), clip id
    window  int64 (row,), which of the clip's windows

Stored uncompressed, ``X`` can be mapped instead of read: training gathers any rows in any order with flat memory.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from videolift.errors import DataError, PartError
from videolift.npy import BadArray, arrays_of, map_array, read_header
from videolift.plan import from_plain, to_plain
from videolift.settings import CHANNELS, BadVideo, Preprocess

INDEX_FILE = "index.jsonl"
PART_BYTES = 32 << 20  # of X; bounds the memory of a writer
OPEN_PARTS = 256  # mapped at a time: each holds a file descriptor, of which a process has 1,024 by default
STRIDE_WINDOWS = 64  # of a video, assumed where preprocess.stride leaves their number open
CLIP_AXES = 5  # row, frame, height, width, channel
PART_CLIPS = 256  # at most, so that a killed run loses little
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a ZIP file can tell
UNIX = 3  # "version made by" in a ZIP file
FILE_MODE = 0o644 << 16

Pixels = npt.NDArray[np.uint8]


@dataclass
class Entry:
    """How one clip came about. ``rows`` of part ``part`` are its windows; none where it was left out."""

    clip: str
    label: int
    sha256: str
    frames: int = 0  # that the file can display
    asked: list[list[int]] = field(default_factory=list)  # frame indices, a list a window
    decoded: int = 0  # distinct frames decoded to get there
    method: str = ""  # how the reader went about it
    policy: str = ""  # short-video policy applied
    error: str | None = None
    part: int = 0
    start: int = 0  # first row in the part
    stop: int = 0


def frame_shape(p: Preprocess) -> tuple[int, int, int, int]:
    """Return (frame, height, width, channel)."""
    return p.depth, p.height, p.width, CHANNELS[p.color]


def clips_a_part(p: Preprocess) -> int:
    """Return how many clips a part holds: a function of the settings only, so that every host cuts alike."""
    windows = STRIDE_WINDOWS if p.stride else p.windows or 1
    bytes_a_clip = int(np.prod(frame_shape(p))) * windows
    return max(1, min(PART_CLIPS, PART_BYTES // bytes_a_clip))


def part_name(number: int) -> str:
    return f"part-{number:05d}.npz"


def write_part(folder: Path, number: int, shape: Sequence[int], clips: Iterable[tuple[Entry, Pixels]]) -> list[Entry]:
    """Write one part atomically and return its entries with their rows filled in."""
    entries, rows = [], []
    at = 0
    for entry, pixels in clips:
        entries.append(_placed(entry, number, at, at + len(pixels)))
        rows.append(pixels)
        at += len(pixels)
    x = np.concatenate(rows) if rows else np.empty((0, *shape), np.uint8)
    lengths = [e.stop - e.start for e in entries]
    arrays: dict[str, Any] = {
        "X": x,
        "Y": np.repeat(np.array([e.label for e in entries], np.int64), lengths),
        "clip": np.repeat(np.array([e.clip for e in entries], np.str_), lengths),
        "window": np.concatenate([np.arange(n, dtype=np.int64) for n in lengths] or [np.empty(0, np.int64)]),
    }
    write_npz(folder / part_name(number), arrays)
    return entries


def write_npz(file: Path, arrays: dict[str, Any]) -> None:
    """Write an uncompressed .npz atomically: after a crash the file is whole or not there.

    The same arrays give the same bytes with every Python, which numpy.savez does not: it asks for ZIP64, whose header
    fields differ between patch releases.

    Args:
        arrays: of numbers or text; each is written from where it lies, without a copy, where it is in C order.
    """
    temporary = file.with_suffix(".tmp")
    with temporary.open("wb") as f:
        with zipfile.ZipFile(f, "w", zipfile.ZIP_STORED) as archive:
            for name, value in arrays.items():
                _write_member(archive, f"{name}.npy", np.asarray(value, order="C"))
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(file)


def _write_member(archive: zipfile.ZipFile, name: str, array: npt.NDArray[Any]) -> None:
    header = io.BytesIO()
    npy.write_array_header_1_0(header, npy.header_data_from_array_1_0(array))
    info = zipfile.ZipInfo(name, ZIP_EPOCH)
    info.create_system, info.external_attr = UNIX, FILE_MODE
    info.file_size = len(header.getvalue()) + array.nbytes  # told beforehand: ZIP64 only for members that need it
    with archive.open(info, "w") as member:
        member.write(header.getvalue())
        member.write(array.reshape(-1).view(np.uint8).data)


def _placed(entry: Entry, part: int, start: int, stop: int) -> Entry:
    return from_plain(Entry, {**to_plain(entry), "part": part, "start": start, "stop": stop})


def write_index(file: Path, entries: Iterable[Entry]) -> None:
    """Write one JSON object a clip, atomically."""
    temporary = file.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as f:
        for entry in entries:
            f.write(json.dumps(to_plain(entry), ensure_ascii=True) + "\n")
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(file)


def read_index(file: Path) -> list[Entry]:
    """Raise PartError where the index is missing or damaged."""
    try:
        with file.open(encoding="utf-8") as lines:
            return [from_plain(Entry, json.loads(line)) for line in lines]
    except (OSError, json.JSONDecodeError) as error:
        raise PartError(
            f"{file}: not a readable index of arrays ({error}); delete the folder to make it again"
        ) from error


class HostParts:
    """The parts that one host has finished. Each has its index beside it, written last; without, it does not count."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def finished(self, number: int, clips: Sequence[str]) -> list[Entry] | None:
        """Return the entries of a part that was finished for exactly these clips, else None."""
        index = self._index(number)
        if not index.is_file() or not (self.folder / part_name(number)).is_file():
            return None
        entries = read_index(index)
        return entries if [e.clip for e in entries] == list(clips) else None

    def write(self, number: int, shape: Sequence[int], clips: Iterable[tuple[Entry, Pixels]]) -> list[Entry]:
        entries = write_part(self.folder, number, shape, clips)
        write_index(self._index(number), entries)
        return entries

    def drop_from(self, number: int) -> None:
        """Delete parts from a number on, which an earlier try with a larger share left."""
        for file in self.folder.glob("part-*.jsonl"):
            if int(file.stem.removeprefix("part-")) >= number:
                file.unlink()
                file.with_suffix(".npz").unlink(missing_ok=True)

    def entries(self) -> list[Entry]:
        return [e for file in sorted(self.folder.glob("part-*.jsonl")) for e in read_index(file)]

    def _index(self, number: int) -> Path:
        return (self.folder / part_name(number)).with_suffix(".jsonl")


class Rows:
    """Maps the parts of one folder; reads only what is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._maps: dict[int, Pixels] = {}  # the most recently used last

    def of(self, entry: Entry) -> Pixels:
        """Return uint8 (window, frame, height, width, channel)."""
        return self._part(entry.part, entry.stop)[entry.start : entry.stop]

    def gather(self, rows: npt.NDArray[np.int64]) -> Pixels:
        """Return uint8 (row, frame, height, width, channel) for rows given as (part, row in part), in that order."""
        out = np.empty((len(rows), *self._part(int(rows[0, 0])).shape[1:]), np.uint8)
        for number in np.unique(rows[:, 0]):
            chosen = rows[:, 0] == number
            out[chosen] = self._part(int(number), int(rows[chosen, 1].max()) + 1)[rows[chosen, 1]]
        return out

    def _part(self, number: int, count: int = 0) -> Pixels:
        """Return X of a part.

        Raises:
            PartError: if it cannot be read, is no array of clips, or has less than ``count`` rows, which its index has.
        """
        pixels = self._maps.pop(number, None)
        if pixels is None:
            if len(self._maps) == OPEN_PARTS:
                self._maps.pop(next(iter(self._maps)))
            pixels = map_member(self.folder / part_name(number), "X")
        if pixels.dtype != np.uint8 or pixels.ndim != CLIP_AXES or len(pixels) < count:
            raise PartError(
                f"{self.folder / part_name(number)}: array X is {pixels.shape} of {pixels.dtype}, not {count} or more "
                "rows of clips in uint8; delete the folder to make it again"
            )
        self._maps[number] = pixels
        return pixels


def map_member(file: Path, name: str) -> Pixels:
    """Map one array of an uncompressed .npz.

    Raises:
        PartError: if the file is missing, damaged, compressed or has no such array.
    """
    try:
        with arrays_of(file) as archive:
            header = read_header(archive, name)
        if header.offset is None:
            raise BadArray(f"array {name} is compressed, parts are not")
        return map_array(file, header)
    except (OSError, BadArray) as error:
        raise PartError(f"{file}: not a readable part ({error}); delete the folder to make it again") from error


def merge(folders: Sequence[Path], clips: Sequence[str], p: Preprocess, target: Path) -> list[Entry]:
    """Put the parts of all hosts into manifest order, re-cut them and write them to ``target``.

    Args:
        clips: ids of the manifest's clips, in its order.

    Raises:
        PartError: if a clip is missing, there twice, or not in the manifest, each named.
    """
    found: dict[str, tuple[Entry, Rows]] = {}
    duplicates = []
    for folder in folders:
        rows = Rows(folder)
        for entry in HostParts(folder).entries():
            if entry.clip in found:
                duplicates.append(entry.clip)
            found[entry.clip] = (entry, rows)
    wanted = set(clips)
    _refuse("missing from every host's parts", [c for c in clips if c not in found])
    _refuse("in the parts of more than one host", duplicates)
    _refuse("not in the manifest", [c for c in found if c not in wanted])
    target.mkdir(parents=True, exist_ok=True)
    size = clips_a_part(p)
    entries: list[Entry] = []
    for number, chunk in enumerate(chunks(clips, size)):
        pixels = ((entry, rows.of(entry)) for entry, rows in (found[c] for c in chunk))
        entries += write_part(target, number, frame_shape(p), pixels)
    write_index(target / INDEX_FILE, entries)
    return entries


def _refuse(what: str, clips: Sequence[str]) -> None:
    if clips:
        shown = ", ".join(clips[:5]) + (f" and {len(clips) - 5} more" if len(clips) > 5 else "")
        raise PartError(
            f"{len(clips)} clips are {what}: {shown}; delete the stage's folder in outputs/cache and run again"
        )


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def host_of(clip_index: int, host_count: int) -> int:
    """Return the host that owns a clip when the launcher deals clips out itself.

    The rule depends on the clip's place in the manifest only, so that any number of hosts, started in any order, agree
    without talking: 7 clips on 3 hosts are owned 0,1,2,0,1,2,0.

    Raises:
        ValueError: if ``clip_index`` is not in 0.. or ``host_count`` not in 1..
    """
    if clip_index < 0 or host_count < 1:
        raise ValueError(f"clip_index must be in 0.. and host_count in 1.., got {clip_index} and {host_count}")
    return clip_index % host_count


def refuse_too_many_bad(entries: Iterable[Entry], total: int, p: Preprocess) -> None:
    """Raise DataError where more videos are bad than the settings allow; one rule for fresh and for reused arrays."""
    bad = [e for e in entries if e.error]
    allowed = 0.0 if p.bad_video is BadVideo.fail else p.max_bad_share
    if len(bad) > allowed * total:
        shown = "\n".join(f"  {e.clip}: {e.error}" for e in bad[:5])
        raise DataError(
            f"{len(bad)} of {total} videos cannot be decoded, more than preprocess.max_bad_share={allowed:g} allows "
            f"(preprocess.bad_video={p.bad_video.value}):\n{shown}"
        )
