"""Measure how fast the frames of a clip are decoded, beside the other ways to get them.

    python -m benchmarks.decode [--repeat 7] [--data FOLDER]

All sides take turns, each in a process of its own so that none slows another (decord leaves threads behind), on files
that are written here and on those of FOLDER where it exists; all return 10 frames of 32x32 pixels in gray. All decode
on one thread but the original, which leaves that to OpenCV. A turn's time is that of the clock or of the processor,
whichever is less, so that neither what else the machine does nor threads that wait count. Times are medians, ratios
medians of the ratios within a turn. Two worker processes are compared by the clock, and judged on an idle machine only.
Exit code 1 if a ratio misses its target or videolift returns a wrong frame.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from tests.videos import BENCHMARKED, Image, read_barcode, write_video
from videolift.packets import order_of, runs
from videolift.reader_pyav import demux, opened, shrinker
from videolift.sampling import clip_indices
from videolift.settings import Preprocess, Resize
from videolift.video import read_clips

Clip = list[Image]  # of (height, width), gray

CLIP = Preprocess(depth=10, height=32, width=32, resize=Resize.linear)
FRAMES = 250  # of a generated video
ORIGINAL, GRAB, PYAV, DECORD, OURS, LIMIT = "original", "grab", "pyav", "decord", "videolift", "limit"
SIDES = (ORIGINAL, GRAB, PYAV, DECORD, OURS, LIMIT)
UNCERTAINTY = 0.05  # of a ratio, on a machine that does other things as well

# The time of another side over videolift's. In a long video most packets can be left out; in a short clip nearly all
# are needed, and finding that out must not cost more than it saves. The limit knows beforehand which are needed.
LONG = {ORIGINAL: 5.0, GRAB: 1.2, DECORD: 1.0, LIMIT: 0.75}
SHORT_GROUPS = {DECORD: 1.0, LIMIT: 0.75}
TARGETS = {
    "xvid_gop300_packed": LONG,
    "h264_gop250": LONG,
    "xvid_gop12": SHORT_GROUPS,
    "h264_gop12_open": SHORT_GROUPS,
    "ucf101_clips": {ORIGINAL: 5.0, GRAB: 1.6, DECORD: 1.8, LIMIT: 0.75},
    "surveillance": {GRAB: 1.0, DECORD: 1.0, LIMIT: 0.75},
}
IDLE = 0.5  # runnable processes in the last minute
TWO_WORKERS = 1.7  # the second process must bring at least this, or something is shared that should not be


def choose(frame_count: int) -> list[int]:
    """Return the wanted frames: the rule of the original scripts."""
    return clip_indices(frame_count, CLIP).indices[0]


def small(frame: Any) -> Image:
    """Shrink a frame as the original scripts do."""
    return np.asarray(cv2.cvtColor(cv2.resize(frame, (CLIP.width, CLIP.height)), cv2.COLOR_BGR2GRAY), np.uint8)


def capture_of(path: Path) -> cv2.VideoCapture:
    """Open a video with OpenCV for decoding on one thread."""
    return cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])


def original(path: Path) -> Clip:
    """Seek to each frame, as 3DCNN's scripts do: with as many threads as OpenCV takes."""
    capture = cv2.VideoCapture(str(path))
    n = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    clip = []
    for x in range(CLIP.depth):
        capture.set(cv2.CAP_PROP_POS_FRAMES, x * n / CLIP.depth)
        clip.append(small(capture.read()[1]))
    return clip


def grab(path: Path) -> Clip:
    """Decode up to the last wanted frame with OpenCV, convert the wanted ones."""
    capture = capture_of(path)
    wanted = choose(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    clip = []
    for index in range(wanted[-1] + 1):
        capture.grab()
        if index in wanted:
            clip.append(small(capture.retrieve()[1]))
    return clip


def pyav(path: Path) -> Clip:
    """Decode up to the last wanted frame with PyAV, let it shrink the wanted ones."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        wanted = choose(stream.frames)
        clip: Clip = []
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                gray = frame.to_ndarray(width=CLIP.width, height=CLIP.height, format="gray")
                clip.append(np.asarray(gray, np.uint8))
            if index == wanted[-1]:
                break
    return clip


def decord(path: Path) -> Clip:
    """Ask decord for the wanted frames."""
    import decord as package  # in its own process only

    package.logging.set_level(package.logging.QUIET)
    video = package.VideoReader(str(path), ctx=package.cpu(0), num_threads=1)
    frames = video.get_batch(choose(len(video))).asnumpy()
    return [small(frame[..., ::-1]) for frame in frames]


def videolift(path: Path) -> Clip:
    """Read a clip as a preprocessing stage does."""
    return list(read_clips(path, CLIP).clips[0, ..., 0])


def limit(path: Path, plan: list[list[int]], wanted: set[int]) -> Clip:
    """Open, read, decode exactly the packets of the plan, and shrink: no thought about which."""
    with opened(path) as (container, stream):
        shrunk = shrinker(stream, CLIP)
        packets = list(demux(container, stream))
        clip = []
        for run in plan:
            frames = []
            for i in run:
                packets[i].pts = i
                frames += stream.codec_context.decode(packets[i])
            frames += stream.codec_context.decode(None)
            stream.codec_context.flush_buffers()
            clip += [shrunk(frame)[..., 0] for frame in frames if frame.pts in wanted]
    return clip


READS = {ORIGINAL: original, GRAB: grab, PYAV: pyav, DECORD: decord, OURS: videolift}


def limit_of(path: Path) -> Callable[[], Clip]:
    """Find out, untimed, which packets a video's clip needs."""
    with opened(path) as (container, stream):
        order = order_of(demux(container, stream), stream.codec_context)
    if order is None:
        raise SystemExit(f"{path}: the order of this video is not told from its packets; no limit to compare with")
    frames = choose(len(order.display))
    return partial(limit, path, runs(order, frames), {order.display[frame] for frame in frames})


@dataclass
class Result:
    """One kind of video."""

    kind: str
    times: dict[str, list[float]]  # side -> seconds for all videos, one a turn
    wrong: dict[str, int | None]  # side -> frames that are not the ones asked for; None where that cannot be told
    videos: int

    def milliseconds(self, side: str) -> float:
        """Return the median time a video."""
        return 1000 * statistics.median(self.times[side]) / self.videos

    def ratio(self, side: str) -> float:
        """Return how many times as long as videolift a side takes."""
        return statistics.median(a / b for a, b in zip(self.times[side], self.times[OURS], strict=True))


def run(reads: Sequence[Callable[[], Clip]]) -> list[Clip]:
    """Let one side read all videos."""
    return [read() for read in reads]


def timed(reads: Sequence[Callable[[], Clip]]) -> float:
    """Return the seconds that one side takes for all videos."""
    clock, processor = time.perf_counter(), time.process_time()
    run(reads)
    return min(time.perf_counter() - clock, time.process_time() - processor)


def measure(
    kind: str, paths: Sequence[Path], repeat: int, barcodes: list[int] | None, pools: dict[str, Pool]
) -> Result:
    """Let all sides take turns on all videos."""
    reads: dict[str, list[Callable[[], Clip]]] = {
        side: [partial(read, path) for path in paths] for side, read in READS.items()
    }
    reads[LIMIT] = [limit_of(path) for path in paths]
    clips = {side: pools[side].apply(run, (reads[side],)) for side in SIDES}  # untimed: warms caches, too
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(repeat):
        for side in SIDES:
            times[side].append(pools[side].apply(timed, (reads[side],)))
    wrong = {side: count_wrong(clips[side], clips[ORIGINAL], barcodes, side) for side in SIDES}
    return Result(kind, times, wrong, len(paths))


def count_wrong(clips: list[Clip], reference: list[Clip], barcodes: list[int] | None, side: str) -> int | None:
    """Count wrong frames: by barcode, else against the original's pixels for those sides that convert as it does."""
    if barcodes is not None:
        return sum(read_barcode(image) != code for clip in clips for image, code in zip(clip, barcodes, strict=True))
    if side in (PYAV, DECORD):
        return None
    pairs = ((a, b) for ours, theirs in zip(clips, reference, strict=True) for a, b in zip(ours, theirs, strict=True))
    return sum(not np.array_equal(a, b) for a, b in pairs)


def read_all(paths: list[Path]) -> None:
    for path in paths:
        read_clips(path, CLIP)


def two_workers(paths: list[Path], repeat: int) -> float:
    """Return how many times as fast two forked processes read the videos as one does."""
    context = multiprocessing.get_context("fork")
    ratios = []
    for _ in range(repeat):
        seconds = []
        for workers in (1, 2):
            start = time.perf_counter()
            with context.Pool(workers) as pool:
                pool.map(read_all, [[path] for path in paths], chunksize=4)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def table(results: Sequence[Result]) -> str:
    """Return milliseconds a video, the ratio to videolift's, and wrong frames, one row a kind."""
    rows = [["", *SIDES], ["---", *("---" for _ in SIDES)]]
    for result in results:
        cells = []
        for side in SIDES:
            wrong = result.wrong[side]
            note = f", {wrong} wrong" if wrong else ""
            cells.append(f"{result.milliseconds(side):.2f} ({result.ratio(side):.2f}x{note})")
        rows.append([f"{result.kind} ({result.videos})", *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows
    )


def misses(results: Sequence[Result], two: float | None) -> list[str]:
    """Return the targets that were not met."""
    found = [
        f"{result.kind}: {result.ratio(side):.2f} of {side}, target {target}"
        for result in results
        for side, target in TARGETS[result.kind].items()
        if result.ratio(side) < target * (1 - UNCERTAINTY)
    ]
    found += [f"{r.kind}: {r.wrong[OURS]} wrong frames by videolift" for r in results if r.wrong[OURS]]
    if two is not None and two < TWO_WORKERS * (1 - UNCERTAINTY):
        found.append(f"two workers: {two:.2f} of one, target {TWO_WORKERS}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decode", description="Measure how fast clips are decoded."
    )
    parser.add_argument("--repeat", type=int, default=7, help="turns; at least 5 for a median worth its name")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "../shared/data", help="real videos")
    options: Any = parser.parse_args(arguments)
    context = multiprocessing.get_context("fork")  # nothing here has started a thread yet
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        kinds = {kind: [write_video(Path(folder), kind, frames=FRAMES)] * 3 for kind in BENCHMARKED}
        for name, step in (("ucf101_clips", 1), ("surveillance", 5)):
            if found := sorted((options.data / name).glob("*/*.avi"))[::step]:
                kinds[name] = found
        idle = os.getloadavg()[0] < IDLE
        two = two_workers([path for paths in kinds.values() for path in paths] * 2, options.repeat)
        pools = {side: stack.enter_context(context.Pool(1)) for side in SIDES}
        results = [
            measure(kind, paths, options.repeat, choose(FRAMES) if kind in BENCHMARKED else None, pools)
            for kind, paths in kinds.items()
        ]
    print("milliseconds a video (time over videolift's)\n")
    print(table(results))
    print(
        f"\ntwo worker processes: {two:.2f} times as fast as one{'' if idle else ' (not judged: the machine is busy)'}"
    )
    missed = misses(results, two if idle else None)
    print("\n".join(["", "targets missed:", *missed]) if missed else "\nall targets met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
