"""Embedded demo data: short videos of six camera motions over the same scenes.

``python -m videolift.demo FOLDER`` writes them. Names follow UCF-101. A group is a scene, an endless texture that every
class looks at, and a clip starts anywhere on it, turned by any angle. So frame t of every class has the same
distribution, for every t, and what tells classes apart is motion only.
"""

from __future__ import annotations

import errno
import sys
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import cast

import av
import numpy as np
import numpy.typing as npt

from videolift.errors import StorageError, VideoliftError

# Camera velocity: right and down in pixels a frame, roll in radians a frame. What is seen moves the other way. A roll
# moves pixels half way out from the centre about as fast as the pans do.
MOTIONS = {
    "PanLeft": (-1.0, 0.0, 0.0),
    "PanRight": (1.0, 0.0, 0.0),
    "TiltDown": (0.0, 1.0, 0.0),
    "TiltUp": (0.0, -1.0, 0.0),
    "RollLeft": (0.0, 0.0, -1.0 / 24),
    "RollRight": (0.0, 0.0, 1.0 / 24),
}
GROUPS = 12
CLIPS = 4  # of each class and group
WIDTH, HEIGHT, FRAMES = 96, 72, 30
RATE = 15  # frames a second

_SPEED = (1.3, 2.2)  # slowest and fastest clip, times MOTIONS
_FINE = 4  # texture points a pixel, so that taking the nearest one is smooth enough and equally sharp in every pose
_SIDE = 256 * _FINE  # texture points until it repeats; a power of two
_BLOB = (4.5, 7.5)  # standard deviation of a scene's smoothing, in pixels

# Constant quantizers, since x264's macroblock tree gives pictures as small as these other bytes from run to run.
_ENCODERS = {
    ".avi": ("mpeg4", "yuv420p", "XVID", {"qmin": "3", "qmax": "3", "g": "12"}),
    ".mp4": ("libx264", "yuv420p", None, {"qp": "23", "preset": "veryfast"}),
}

UInt8 = npt.NDArray[np.uint8]


def write_demo(
    root: Path, progress: Callable[[int, int], None] | None = None, *, groups: int = GROUPS, clips: int = CLIPS
) -> None:
    """Write the demo videos into ``root``, all or nothing; do nothing where they are already.

    Args:
        progress: called with (clips written, clips in all).

    Raises:
        StorageError: ``root`` holds something else, or cannot be written.
    """
    names = [_name(*place) for place in product(MOTIONS, range(1, groups + 1), range(1, clips + 1))]
    try:
        if root.is_dir() and any(root.iterdir()):
            if all((root / name).is_file() for name in names):
                return
            raise StorageError(
                f"{root}: holds something else than the demo data. Name a new folder, or remove this one."
            )
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as folder:
            made = Path(folder) / "made"
            for done in _write_all(made, groups, clips):
                if progress is not None:
                    progress(done, len(names))
            _publish(made, root)
    except OSError as error:
        raise StorageError(
            f"{root}: cannot be written ({error.strerror}). Free space or choose another folder."
        ) from error


def _publish(made: Path, root: Path) -> None:
    try:
        made.rename(root)
    except OSError as error:  # another process was faster; what it published is complete
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _name(label: str, group: int, clip: int) -> str:
    suffix = ".avi" if clip % 2 else ".mp4"  # both in every class and scene
    return f"{label}/v_{label}_g{group:02d}_c{clip:02d}{suffix}"


def _write_all(folder: Path, groups: int, clips: int) -> Iterator[int]:
    """Yield how many clips are written after each one."""
    done = 0
    for label in MOTIONS:
        (folder / label).mkdir(parents=True)
    for group in range(1, groups + 1):
        scene = _scene(np.random.default_rng((0, group)))
        for (kind, label), clip in product(enumerate(MOTIONS, start=1), range(1, clips + 1)):
            chance = np.random.default_rng((kind, group, clip))
            _encode(folder / _name(label, group, clip), _clip(scene, MOTIONS[label], chance))
            done += 1
            yield done


def _scene(chance: np.random.Generator) -> UInt8:
    """Return an endless coloured texture, uint8 (row, column, channel), RGB: smooth noise between two colours."""
    frequency = np.fft.fftfreq(_SIDE, 1 / _FINE)  # cycles a pixel
    blob = chance.uniform(*_BLOB)
    keep = np.exp(-2 * (np.pi * blob) ** 2 * (frequency[:, None] ** 2 + frequency[None, : _SIDE // 2 + 1] ** 2))
    noise = np.fft.irfft2(np.fft.rfft2(chance.standard_normal((_SIDE, _SIDE))) * keep, s=(_SIDE, _SIDE))
    blend = 1 / (1 + np.exp(-4 * noise / noise.std()))
    dark, light = chance.uniform(0, 90, 3), chance.uniform(165, 255, 3)
    return np.asarray(dark + blend[..., None] * (light - dark)).astype(np.uint8)


def _clip(scene: UInt8, motion: tuple[float, float, float], chance: np.random.Generator) -> Iterator[UInt8]:
    """Yield the frames that a camera sees from a random pose on, uint8 (height, width, channel), RGB."""
    x, y = chance.uniform(0, _SIDE / _FINE, 2)
    angle = chance.uniform(0, 2 * np.pi)
    right, down, turn = chance.uniform(*_SPEED) * np.array(motion)
    columns = np.arange(WIDTH) - (WIDTH - 1) / 2
    rows = np.arange(HEIGHT)[:, None] - (HEIGHT - 1) / 2
    for _ in range(FRAMES):
        cos, sin = np.cos(angle), np.sin(angle)
        seen_x = np.floor((x + cos * columns - sin * rows) * _FINE).astype(np.int64) % _SIDE
        seen_y = np.floor((y + sin * columns + cos * rows) * _FINE).astype(np.int64) % _SIDE
        yield scene[seen_y, seen_x]
        x, y, angle = x + cos * right - sin * down, y + sin * right + cos * down, angle + turn


def _encode(path: Path, frames: Iterator[UInt8]) -> None:
    codec, pixels, tag, options = _ENCODERS[path.suffix]
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = cast(av.VideoStream, container.add_stream(codec, rate=RATE, options=options))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.codec_context.thread_count = 1  # more would make the bytes depend on the machine
        if tag:
            stream.codec_context.codec_tag = tag
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _report(done: int, total: int) -> None:
    if done % 36 == 0 or done == total:
        print(f"demo data: {done}/{total} clips", flush=True)


def _main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m videolift.demo FOLDER", file=sys.stderr)
        return 2
    try:
        write_demo(Path(arguments[0]), _report)
    except VideoliftError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
