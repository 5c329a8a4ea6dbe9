"""Frames of videos as arrays.

python frames.py --videos videos --output frames      # a .npz for each video
"""

import argparse
import os

import cv2
import numpy as np

SUFFIXES = (".avi", ".mp4", ".mov", ".mkv")


def videos_of(folder):
    """Return (path, class) of each video; its folder is its class."""
    found = []
    for parent, _, names in sorted(os.walk(folder)):
        found += [(os.path.join(parent, n), os.path.basename(parent)) for n in sorted(names) if n.endswith(SUFFIXES)]
    return found


def read_clip(path, depth, size, color):
    """Return depth frames of a video, evenly spread: (depth, size, size, 3 or 1), 0..1."""
    capture = cv2.VideoCapture(path)
    frames = []
    while True:
        there, frame = capture.read()
        if not there:
            break
        frame = cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA)
        frames.append(frame if color else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)[..., np.newaxis])
    capture.release()
    if not frames:
        raise ValueError("no frames in " + path)
    wanted = [int(i * len(frames) / depth) for i in range(depth)]
    return np.stack([frames[i] for i in wanted]).astype("float32") / 255


def add_arguments(parser):
    parser.add_argument("--depth", type=int, default=10)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--color", action="store_true")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--videos", required=True)
    parser.add_argument("--output", required=True)
    add_arguments(parser)
    args = parser.parse_args()
    todo = videos_of(args.videos)
    for number, (path, label) in enumerate(todo, start=1):
        folder = os.path.join(args.output, label)
        os.makedirs(folder, exist_ok=True)
        name = os.path.splitext(os.path.basename(path))[0]
        np.savez(os.path.join(folder, name + ".npz"), x=read_clip(path, args.depth, args.size, args.color))
        print("\r%d/%d videos" % (number, len(todo)), end="")
    print()
