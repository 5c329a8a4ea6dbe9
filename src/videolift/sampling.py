"""Which frames of a video make a clip: the rule, and what happens to a video that is too short for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from videolift.errors import ClipError
from videolift.settings import Preprocess, Sampling, ShortVideo, resolved_sampling


class ShortVideoError(ClipError):
    """A video has fewer frames than a clip needs, and ``preprocess.short_video`` is skip or fail."""


@dataclass(frozen=True)
class Choice:
    """The frames asked of one video."""

    indices: list[list[int]]  # one list of depth frame indices, in display order from 0, for each clip
    policy: str = ""  # what a short video needed: stretch, pad or loop; empty where nothing was


def clip_indices(frame_count: int, preprocess: Preprocess) -> Choice:
    """Choose the frames of every clip of a video that displays ``frame_count`` (at least 1) frames.

    Raises:
        ShortVideoError: if the video is too short and the policy for short videos is not to bend the rule.
    """
    p = preprocess
    sampling = resolved_sampling(p)
    step = p.interval or 1
    span = p.depth if sampling is not Sampling.interval else (p.depth - 1) * step + 1
    if frame_count < span and p.short_video in (ShortVideo.skip, ShortVideo.fail):
        raise ShortVideoError(_too_short(frame_count, span, p, sampling))
    if sampling is Sampling.uniform:
        # The original scripts seek to the float x * n / depth, which OpenCV truncates: the same frame, without floats.
        frames = [x * frame_count // p.depth for x in range(p.depth)]
        return Choice([frames], "stretch" if frame_count < span else "")
    if frame_count < span:
        bend = _bend(p.short_video, frame_count)
        return Choice([[bend(x * step) for x in range(p.depth)]], p.short_video.value)
    starts = _starts(frame_count - span, p) if sampling is Sampling.interval else [0]
    return Choice([list(range(start, start + span, step)) for start in starts])


def _starts(last: int, p: Preprocess) -> list[int]:
    if p.stride is not None:
        return list(range(0, last + 1, p.stride))
    if p.windows is None or p.windows == 1:
        return [0]
    gaps = p.windows - 1
    return sorted({i * last // gaps for i in range(p.windows)})


def _bend(policy: ShortVideo, frame_count: int) -> Callable[[int], int]:
    if policy is ShortVideo.loop:
        return lambda index: index % frame_count
    return lambda index: min(index, frame_count - 1)


def _too_short(frame_count: int, span: int, p: Preprocess, sampling: Sampling) -> str:
    rule = f"preprocess.depth={p.depth}"
    if sampling is Sampling.interval:
        rule += f" preprocess.interval={p.interval}"
    return (
        f"the video has {frame_count} frame{'s' if frame_count != 1 else ''}, {rule} needs {span}; "
        "use preprocess.short_video=pad or loop, or lower the number of frames that a clip needs"
    )
