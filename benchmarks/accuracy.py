"""Accuracy on a UCF-style folder: trains every model with every seed and prints the table that docs/results.md shows.

    python -m benchmarks.accuracy ../shared/data/motion6 --models cnn3d cnn2d -- model.epoch=60

Everything after ``--`` goes to run.py. The test split is read once a training, at its end; nothing is chosen by it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="UCF-style data set with official lists")
    parser.add_argument("--models", nargs="+", default=["cnn3d"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--list", type=int, default=1, help="official list (default: %(default)s)")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    argv = [*sys.argv[1:], "--"]
    cut = argv.index("--")
    arguments = parser.parse_args(argv[:cut], argparse.Namespace(settings=argv[cut + 1 : -1]))
    print("| data | model | seed | test accuracy | videos | epoch taken | time |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for model in arguments.models:
        found = [measure(arguments, model, seed) for seed in arguments.seeds]
        if len(found) > 1:
            mean, spread = statistics.mean(found), statistics.stdev(found)
            print(f"| {arguments.folder.name} | {model} | mean of {len(found)} | **{mean:.3f}** ± {spread:.3f} | | | |")
    shown = shlex.join(arguments.settings)
    print(
        f"\n`python run.py data=ucf101 data.root={arguments.folder.name} data.list={arguments.list} "
        f"model=MODEL seed=SEED {shown}`"
    )
    return 0


def measure(arguments: argparse.Namespace, model: str, seed: int) -> float:
    """Train once, print a row and return the accuracy on whole test videos."""
    outputs = arguments.outputs.resolve()
    before = set((outputs / "runs").glob("*"))
    settings = [
        "data=ucf101",
        f"data.root={arguments.folder.resolve()}",
        f"data.list={arguments.list}",
        f"model={model}",
        f"seed={seed}",
        f"outputs={outputs}",
        *arguments.settings,
    ]
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, str(REPOSITORY / "run.py"), *settings],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise SystemExit(f"{ended.stdout}\n{ended.stderr}")
    (run,) = set((outputs / "runs").glob("*")) - before
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    evaluation = read_evaluation(record)
    accuracy = float(evaluation["metrics"]["test_video_accuracy"])
    cached = " (cached)" if any(s["cached"] for s in record["stages"] if s["name"] == "train") else ""
    print(
        f"| {arguments.folder.name} | {model} | {seed} | {accuracy:.3f} | {evaluation['videos']} | "
        f"{evaluation['epoch']} ({evaluation['epoch_chosen_by']}) | {time.monotonic() - started:.0f} s{cached} |",
        flush=True,
    )
    return accuracy


def read_evaluation(record: dict[str, Any]) -> dict[str, Any]:
    folder = next(Path(s["folder"]) for s in record["stages"] if s["name"] == "evaluate")
    text = (folder / "hosts" / "algo-1" / "output" / "data" / "evaluation.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


if __name__ == "__main__":
    sys.exit(main())
