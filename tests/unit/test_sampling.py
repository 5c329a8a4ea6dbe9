from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videolift.errors import DataError
from videolift.sampling import ShortVideoError, clip_indices
from videolift.settings import Preprocess, Sampling, ShortVideo

counts = st.integers(1, 5000)
depths = st.integers(1, 64)
intervals = st.integers(1, 20)


def interval(depth: int, step: int, **more: int) -> Preprocess:
    return Preprocess(depth=depth, interval=step, **more)  # type: ignore[arg-type]


@given(n=counts, depth=depths)
def test_uniform_takes_the_frames_that_the_original_scripts_seek_to(n: int, depth: int) -> None:
    sought = [int(x * float(n) / depth) for x in range(depth)]
    assert clip_indices(n, Preprocess(depth=depth)).indices == [sought]


@given(n=counts, depth=depths)
def test_head_takes_the_first_frames(n: int, depth: int) -> None:
    (frames,) = clip_indices(n, Preprocess(depth=depth, sampling=Sampling.head)).indices
    assert frames[: min(n, depth)] == list(range(min(n, depth)))


@given(
    n=counts,
    depth=depths,
    step=intervals,
    policy=st.sampled_from([ShortVideo.pad, ShortVideo.loop]),
    sampling=st.sampled_from(Sampling),
)
def test_every_clip_has_depth_frames_that_exist(
    n: int, depth: int, step: int, policy: ShortVideo, sampling: Sampling
) -> None:
    p = Preprocess(depth=depth, sampling=sampling, short_video=policy)
    if sampling is Sampling.interval:
        p.interval, p.windows = step, 7
    choice = clip_indices(n, p)
    assert choice.indices
    assert all(len(clip) == depth and min(clip) >= 0 and max(clip) < n for clip in choice.indices)


@given(n=counts, depth=depths, step=intervals, windows=st.integers(1, 30))
def test_windows_spread_from_the_first_to_the_last_place_and_never_repeat(
    n: int, depth: int, step: int, windows: int
) -> None:
    clips = clip_indices(n, interval(depth, step, windows=windows)).indices
    starts = [clip[0] for clip in clips]
    last = n - ((depth - 1) * step + 1)
    assert starts == sorted(set(starts))
    assert len(starts) == min(windows, max(last, 0) + 1)
    if windows > 1 and last >= 0:
        assert (starts[0], starts[-1]) == (0, last)


@given(n=counts, depth=depths, step=intervals, stride=st.integers(1, 50))
def test_stride_starts_a_clip_wherever_one_fits(n: int, depth: int, step: int, stride: int) -> None:
    span = (depth - 1) * step + 1
    clips = clip_indices(n, interval(depth, step, stride=stride)).indices
    if n >= span:
        assert clips == [list(range(s, s + span, step)) for s in range(0, n - span + 1, stride)]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [(ShortVideo.pad, [0, 2, 4, 4, 4]), (ShortVideo.loop, [0, 2, 4, 1, 3])],
)
def test_a_short_video_is_padded_or_looped(policy: ShortVideo, expected: list[int]) -> None:
    choice = clip_indices(5, Preprocess(depth=5, interval=2, windows=3, short_video=policy))
    assert (choice.indices, choice.policy) == ([expected], policy.value)


@pytest.mark.parametrize("policy", [ShortVideo.pad, ShortVideo.loop])
def test_uniform_stretches_a_short_video_as_the_original_scripts_do(policy: ShortVideo) -> None:
    choice = clip_indices(2, Preprocess(depth=5, short_video=policy))
    assert (choice.indices, choice.policy) == ([[0, 0, 0, 1, 1]], "stretch")


def test_a_video_that_is_just_long_enough_needs_no_policy() -> None:
    assert clip_indices(9, Preprocess(depth=5, interval=2)).policy == ""
    assert clip_indices(5, Preprocess(depth=5)).policy == ""


@pytest.mark.parametrize("policy", [ShortVideo.skip, ShortVideo.fail])
@pytest.mark.parametrize("sampling", Sampling)
def test_a_short_video_is_refused_with_the_numbers_and_a_remedy(policy: ShortVideo, sampling: Sampling) -> None:
    p = Preprocess(depth=10, sampling=sampling, short_video=policy)
    if sampling is Sampling.interval:
        p.interval = 1
    with pytest.raises(ShortVideoError, match=r"has 9 frames.*depth=10.*needs 10.*short_video=pad") as raised:
        clip_indices(9, p)
    assert isinstance(raised.value, DataError)
