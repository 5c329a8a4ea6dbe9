"""The predict stage: this host's share of the videos is classified by a trained model."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import attrgetter
from pathlib import Path

from videolift.errors import ClipError
from videolift.files import PREDICTIONS_FILE
from videolift.job import Job
from videolift.manifest import Clip
from videolift.predictor import Clips, load_predictor, trained_settings
from videolift.settings import Preprocess
from videolift.sysmetrics import sampled
from videolift.video import is_given, read_clips
from videolift.workers import workers

VIDEOS_A_BATCH = 16
PROGRESS_INTERVAL_S = 0.25


@dataclass(frozen=True)
class Read:
    """A video that was read, or why it could not be."""

    clip: str
    clips: Clips | None = None  # uint8 (window, frame, height, width, channel)
    error: str = ""


def run(job: Job) -> None:
    """Write a row a video into ``predictions.csv``; one that cannot be read has its error there."""
    folder, model = job.workspace.channel("videos"), job.workspace.channel("model")
    share = [clip for clip in job.manifest.clips if is_given(folder / clip.id)]
    settings = job.plan.predict
    file = job.workspace.output / PREDICTIONS_FILE
    with (
        workers(
            settings.workers, partial(_read, folder, trained_settings(model)), "predict.workers", attrgetter("id")
        ) as read,
        sampled(job),
        file.open("w", encoding="utf-8", newline="") as table,
    ):
        predictor = load_predictor(model)  # only now: processes are not forked from one that has threads
        top = min(settings.top, len(predictor.classes))
        writer = csv.writer(table)
        writer.writerow(columns(top))
        done, failed, told = 0, 0, 0.0
        for batch in _batches(read(share)):
            job.stop.check()
            clips = [one.clips for one in batch if one.clips is not None]
            found = iter(predictor.probabilities(clips)) if clips else iter(())
            for one in batch:
                ranked = predictor.ranked(next(found))[:top] if one.clips is not None else []
                writer.writerow(row(one.clip, ranked, one.error, top))
                if one.error:
                    failed += 1
                    job.events.clip_error(one.clip, one.error)
            done += len(batch)
            if time.monotonic() - told > PROGRESS_INTERVAL_S or done == len(share):
                told = time.monotonic()
                job.events.progress(done, len(share), unit="videos", failed=failed)
    suffix = "" if len(job.workspace.hosts) == 1 else f"_{job.workspace.host}"
    job.events.metrics({f"videos{suffix}": done, f"unreadable{suffix}": failed})
    if job.workspace.host == job.workspace.hosts[0]:
        job.events.artifact(PREDICTIONS_FILE, "predictions")  # with the rows of all hosts, once they are merged


def columns(top: int) -> list[str]:
    """Return the head of the table: the best class, then the others, each beside its probability."""
    others = [f"{name}_{n}" for n in range(2, top + 1) for name in ("class", "probability")]
    return ["path", "class", "probability", *others, "error"]


def row(path: str, ranked: Sequence[tuple[str, float]], error: str, top: int) -> list[str]:
    """Return a video's line of the table.

    Args:
        ranked: classes with their probabilities, best first; none for a video that could not be read.
    """
    cells = [cell for name, probability in ranked for cell in (name, f"{probability:.6f}")]
    return [path, *(cells or [""] * (2 * top)), error]


def _read(folder: Path, p: Preprocess, clip: Clip) -> Read:
    """Read a video as those were read that the model was trained on."""
    try:
        return Read(clip.id, read_clips(folder / clip.id, p).clips)
    except ClipError as error:
        return Read(clip.id, error=error.reason)


def _batches(videos: Iterator[Read]) -> Iterator[list[Read]]:
    while batch := list(islice(videos, VIDEOS_A_BATCH)):
        yield batch
