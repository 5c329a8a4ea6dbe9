"""Write a file a video, and a summary; prints nothing but where it is."""

import argparse
import json
import pathlib

import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("videos")
parser.add_argument("-o", "--out", required=True)
parser.add_argument("--bins", type=int, nargs="+", default=[256])
args = parser.parse_args()
out = pathlib.Path(args.out)
done = []
for file in sorted(p for p in pathlib.Path(args.videos).rglob("*") if p.suffix in (".avi", ".mp4")):
    content = np.frombuffer(file.read_bytes(), np.uint8)
    counts = [np.histogram(content, bins)[0] for bins in args.bins]
    target = out / file.parent.name / f"{file.stem}.npz"
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez(target, *counts)
    done.append(file.name)
print(f"wrote {len(done)} files")
pathlib.Path("done.json").write_text(json.dumps(done))
