"""Measure what several hosts do for preprocessing, phase by phase, on the emulator of SageMaker.

    python -m benchmarks.hosts [--hosts 1 2 4] [--copies 4] [--repeat 3] [--data FOLDER]

Every host decodes on one process (preprocess.workers=1), so that the number of hosts is all that differs. Videos lie
in the emulator's S3; numbers of hosts take turns, each run decodes anew, and times are medians. FOLDER holds videos
called as those of UCF-101, one folder a class; where it is not there, one is generated and sent under many names.

What these numbers are not: the emulator starts a host in milliseconds and keeps S3, all hosts and the launcher on this
machine, which share its processor; it fetches the inputs of hosts one after the other, and their outputs too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

from launchers.emulator.client import Emulator
from tests.emulators import BUCKET, Account
from tests.videos import write_video
from videolift import events

REPOSITORY = Path(__file__).resolve().parent.parent
GROUP = re.compile(r"_g(\d+)_")
GENERATED, GENERATED_FRAMES = 300, 250  # names and length of the one video, where there is no FOLDER
PHASES = {
    "start": "the service prepares the instances",
    "input": "the shares are brought to the hosts",
    "program": "Python starts and imports, up to the first clip of any host",
    "decoding": "up to the end of the slowest host",
    "output": "the parts are sent to S3",
    "noticing": "the launcher looks again (backend.poll_s=0.2)",
    "merging": "the parts are brought here and merged",
}


def seeds(folder: Path, scratch: Path) -> list[tuple[str, Path]]:
    """Return (class/name, file) of the videos to copy."""
    found = sorted(folder.glob("*/v_*.avi"))
    if found:
        return [(f"{file.parent.name}/{file.name}", file) for file in found]
    file = write_video(scratch, "xvid_gop12", frames=GENERATED_FRAMES)
    pairs = ((label, number) for number in range(1, GENERATED // 2 + 1) for label in ("One", "Two"))
    return [(f"{label}/v_{label}_g{number:02d}_c01{file.suffix}", file) for label, number in pairs]


def copies(videos: Sequence[tuple[str, Path]], count: int) -> Iterator[tuple[str, Path]]:
    """Yield every video ``count`` times, each time in other groups."""
    for number in range(count):
        for name, file in videos:
            group = int(GROUP.findall(name)[-1]) + 1000 * number
            yield GROUP.sub(f"_g{group:02d}_", name), file


def send(account: Account, videos: Sequence[tuple[str, Path]], count: int) -> str:
    """Put the videos into S3 and return where."""
    s3, prefix = account.s3, f"videos-{count}"
    with ThreadPoolExecutor(4) as pool:
        sent = [
            pool.submit(s3.put_object, Bucket=BUCKET, Key=f"{prefix}/{name}", Body=file.read_bytes())
            for name, file in copies(videos, count)
        ]
        for one in sent:
            one.result()
    return f"s3://{BUCKET}/{prefix}"


def measure(account: Account, root: str, hosts: int, turn: str, scratch: Path) -> dict[str, float]:
    """Preprocess once on so many hosts and return the seconds of every phase."""
    settings = [
        *("backend=remote", "backend.role=videolift-job", "backend.poll_s=0.2", f"backend.prefix={turn}"),
        *("data=ucf101", f"data.root={root}", "data.split=group", "preprocess.workers=1", "stages=[preprocess]"),
        *(f"backend.preprocess.instance_count={hosts}", f"outputs={scratch / turn}", "tracking=none"),
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | account.emulator.environment()
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "run.py"), *settings],
        cwd=scratch,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    (record,) = (json.loads(file.read_text()) for file in (scratch / turn / "runs").glob("*/run.json"))
    return phases_of(account, record["stages"][0], hosts)


def phases_of(account: Account, stage: dict[str, Any], hosts: int) -> dict[str, float]:
    """Return the seconds of every phase: from the service, its log of requests, the hosts' events and the run."""
    folder = Path(stage["folder"])
    told = [list(events.read(file)) for file in sorted(folder.glob("hosts/algo-*/processing/output/*/events-*.jsonl"))]
    if len(told) != hosts:
        raise SystemExit(f"{folder}: has the events of {len(told)} hosts, not of {hosts}")
    (service,) = folder.glob("hosts/service/processing/output/*/events-*.jsonl")
    name = next(event["value"] for event in events.read(service) if event.get("key") == "sagemaker.processing.job")
    job = account.describe("Processing", name)
    created, started, ended = (
        job[key].timestamp() for key in ("CreationTime", "ProcessingStartTime", "ProcessingEndTime")
    )
    by_service, by_launcher = (
        [call["time"] for call in account.emulator.calls(of_role=of_role) if call["service"] == "s3"]
        for of_role in (True, False)
    )
    moments = [
        created,
        min(time for time in by_service if time > created),
        started,
        min(event["time"] for host in told for event in host if event["type"] == "progress"),
        max(event["time"] for host in told for event in host if event["type"] == "end"),
        ended,
        min(time for time in by_launcher if time > ended),
        float(stage["ended"]),
    ]
    return {phase: after - before for phase, (before, after) in zip(PHASES, pairwise(moments), strict=True)}


def table(times: dict[int, list[dict[str, float]]]) -> str:
    """Return the median seconds of every phase and of their sum, one row a number of hosts."""
    head = ["hosts", *PHASES, "all"]
    rows = [head, ["---"] * len(head)]
    for hosts, turns in times.items():
        seconds = [statistics.median(turn[phase] for turn in turns) for phase in PHASES]
        whole = statistics.median(sum(turn.values()) for turn in turns)
        rows.append([str(hosts), *(f"{value:.1f}" for value in (*seconds, whole))])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hosts", description="Measure preprocessing on several hosts of the emulator."
    )
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 2, 4], help="numbers of hosts")
    parser.add_argument("--copies", type=int, default=4, help="of every video, under other names")
    parser.add_argument("--repeat", type=int, default=3, help="turns")
    parser.add_argument(
        "--data", type=Path, default=REPOSITORY / "../shared/data/surveillance", help="videos, called as UCF-101's"
    )
    options = parser.parse_args(arguments)
    times: dict[int, list[dict[str, float]]] = {hosts: [] for hosts in options.hosts}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        with Emulator(scratch / "emulator", hosts="namespaces") as emulator:
            account = Account(emulator)
            videos = seeds(options.data, scratch)
            root = send(account, videos, options.copies)
            for turn in range(options.repeat):
                for hosts in options.hosts:
                    times[hosts].append(measure(account, root, hosts, f"turn-{turn}-{hosts}", scratch))
    load = os.getloadavg()[0]
    print(f"{len(videos) * options.copies} videos, seconds, median of {options.repeat}; load average {load:.1f}\n")
    print(table(times))
    print()
    print("\n".join(f"{phase:<9} {what}" for phase, what in PHASES.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
