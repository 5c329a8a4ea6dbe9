"""The preprocess stage: this host's share of the videos becomes parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path

import numpy as np

from videolift.errors import ClipError
from videolift.events import tell_clip_begun
from videolift.job import Job
from videolift.manifest import Clip
from videolift.parts import Entry, HostParts, Pixels, chunks, clips_a_part, frame_shape, refuse_too_many_bad
from videolift.sampling import ShortVideoError
from videolift.settings import BadVideo, Preprocess, ShortVideo, Source
from videolift.sysmetrics import sampled
from videolift.video import is_given, read_clips
from videolift.workers import workers

PROGRESS_INTERVAL_S = 0.25

Read = Callable[[Clip], tuple[Entry, Pixels]]


def run(job: Job) -> None:
    """Decode this host's clips part by part; parts that an earlier try finished are kept."""
    p = job.plan.preprocess
    folder = job.workspace.channel("videos")
    share, read = _share_and_reader(job, folder)
    parts = HostParts(job.workspace.parts)
    counter = _Counter(job, len(share))
    # Rows of arrays are only copied: sending them between processes would cost more.
    count = p.workers if isinstance(read, partial) else 1
    with workers(count, read, "preprocess.workers", attrgetter("id")) as decode, sampled(job):
        for number, clips in enumerate(chunks(share, clips_a_part(p))):
            entries = parts.finished(number, [c.id for c in clips])
            if entries is None:
                entries = parts.write(number, frame_shape(p), counter.watched(decode(clips)))
            else:
                counter.kept(entries)
    parts.drop_from(-(-len(share) // clips_a_part(p)))
    counter.report()


def _share_and_reader(job: Job, folder: Path) -> tuple[list[Clip], Read]:
    """Return this host's share, which is what its channel holds, and how to read a clip of it."""
    if job.plan.data.source is Source.npz:
        from videolift.imported import ArrayReader  # the only source that is no video

        return list(job.manifest.clips), ArrayReader(folder, job.plan.data, job.plan.preprocess)
    share = [clip for clip in job.manifest.clips if is_given(folder / clip.id)]
    return share, partial(_read_aloud, job.workspace.host, folder, job.plan.preprocess)


def _read_aloud(host: str, folder: Path, p: Preprocess, clip: Clip) -> tuple[Entry, Pixels]:
    tell_clip_begun(host, clip.id)
    return read_clip(folder, p, clip)


def read_clip(folder: Path, p: Preprocess, clip: Clip) -> tuple[Entry, Pixels]:
    """Return a clip's entry and its pixels, uint8 (window, frame, height, width, channel).

    Where the policies allow to leave it out there are no pixels and the entry says why.

    Raises:
        ClipError: if the video cannot be used and the policies do not allow to leave it out.
    """
    entry = Entry(clip.id, clip.label, clip.sha256)
    nothing = np.empty((0, *frame_shape(p)), np.uint8)
    if _has_changed(folder / clip.id, clip):  # never left out: the id stands for the listed content
        raise ClipError("changed since it was listed; run the same command again to list it again", clip.id)
    try:
        reading = read_clips(folder / clip.id, p)
    except ShortVideoError as error:
        if p.short_video is ShortVideo.skip:
            entry.policy = "skip"
            return entry, nothing
        raise ClipError(error.reason, clip.id) from error
    except ClipError as error:
        if p.bad_video is BadVideo.skip:
            entry.error = error.reason
            return entry, nothing
        raise ClipError(_with_remedy(error.reason, p), clip.id) from error
    entry.frames, entry.asked, entry.decoded = reading.frame_count, reading.indices, reading.decoded
    entry.method, entry.policy = reading.method, reading.policy
    return entry, reading.clips


def _has_changed(file: Path, clip: Clip) -> bool:
    try:
        return file.stat().st_size != clip.size
    except OSError:  # told by what cannot open it
        return False


def _with_remedy(reason: str, p: Preprocess) -> str:
    limit = f"at most preprocess.max_bad_share={p.max_bad_share}"
    return f"{reason}. preprocess.bad_video=skip leaves such files out ({limit})"


class _Counter:
    """Counts clips, tells about them and enforces the limit of bad ones."""

    def __init__(self, job: Job, total: int) -> None:
        self._job = job
        self._total = total
        self._done = 0
        self._left_out: list[Entry] = []
        self._rows = 0
        self._told = 0.0

    def watched(self, clips: Iterable[tuple[Entry, Pixels]]) -> Iterator[tuple[Entry, Pixels]]:
        for entry, pixels in clips:
            self._job.stop.check()
            self._count(entry, len(pixels))
            yield entry, pixels

    def kept(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._count(entry, entry.stop - entry.start)

    def _count(self, entry: Entry, rows: int) -> None:
        self._done += 1
        self._rows += rows
        if entry.error:
            self._left_out.append(entry)
            self._job.events.clip_error(entry.clip, entry.error)
            refuse_too_many_bad(self._left_out, len(self._job.manifest.clips), self._job.plan.preprocess)
        if time.monotonic() - self._told > PROGRESS_INTERVAL_S or self._done == self._total:
            self._told = time.monotonic()
            failed = len(self._left_out)
            self._job.events.progress(self._done, self._total, unit="clips", failed=failed)

    def report(self) -> None:
        suffix = "" if len(self._job.workspace.hosts) == 1 else f"_{self._job.workspace.host}"
        values = {"clips": self._done, "samples": self._rows, "bad_videos": len(self._left_out)}
        self._job.events.metrics({f"{key}{suffix}": value for key, value in values.items()})
