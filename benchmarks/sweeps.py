"""Measure what a sweep costs besides its trainings: planning, tracking and memory, for more and more children.

    python -m benchmarks.sweeps [--children 50 100 200] [--parallel 4] [--models]

The real command (`python run.py -m`) runs on the demo data, each number of children in a process of its own and in
outputs of its own, recorded in MLflow (sqlite). Only the stages after preprocessing are not computed: they say at once
what a training of 10 epochs says, and leave files as it does. Preprocessing, which all children share, is in the cache.
With --models each child's model is recorded as well.

A time is that of the clock or of the processor, whichever is less, so that what else the machine does does not count.
Planning goes up to the first child; it includes importing MLflow and making its tables, which all sweeps do once.

Exit code 1 if planning a child of the largest sweep takes more than 1.5 times as long as one of the smallest, if one
more child adds more than 1.5 times as much at the end as at the beginning, or if memory grows by more than a fifth
while the last three quarters of a sweep's children run.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from launchers import preparing
from launchers.base import HostEnd, Stage
from launchers.cache import Cache
from launchers.config import Config
from launchers.local import LocalBackend
from launchers.sweeps import frozen
from videolift.events import Events
from videolift.files import CLASSES_FILE, EVALUATION_FILE, HISTORY_FILE, MODEL_FILE, SETTINGS_FILE

if TYPE_CHECKING:
    from launchers.base import Job

REPOSITORY = Path(__file__).resolve().parent.parent
EPOCHS = 10
STEPS = 20  # batches an epoch
LONGER, LARGER = 1.5, 1.2  # what is too much, as a ratio
FAKE_MODEL = b"\0" * 1_000_000  # about what a small network takes
PAGE = os.sysconf("SC_PAGE_SIZE")
MB = 1e6


@dataclass(frozen=True)
class Measured:
    """One sweep. Memory is what its process holds (RSS), in bytes."""

    children: int
    finished: int
    planning_s: float  # from the command line to the first child
    running_s: float  # from there to the end of the last one, its tables and pictures
    at_start: int
    at_quarter: int  # when a quarter of the children have begun
    at_end: int

    @property
    def planning_a_child(self) -> float:
        return self.planning_s / self.children

    @property
    def growth(self) -> float:
        return self.at_end / self.at_quarter


@dataclass(frozen=True)
class Moment:
    """How far a sweep is."""

    clock: float  # seconds
    processor: float  # seconds, of all threads
    memory: int  # bytes

    @classmethod
    def now(cls) -> Moment:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return cls(time.monotonic(), time.process_time(), pages * PAGE)

    def since(self, earlier: Moment) -> float:
        """Return the seconds of the clock or of the processor, whichever is less."""
        return min(self.clock - earlier.clock, self.processor - earlier.processor)


class Instant:
    """A stage that is over at once."""

    lasting = False
    finished: Sequence[Stage] = ()

    def __init__(self, stage: Stage) -> None:
        self.stages = [stage]

    def follow(self) -> Iterator[tuple[str, str]]:
        (stage,) = self.stages
        space = stage.workspace(stage.hosts[0], {})
        space.create_results()
        stream = io.StringIO()
        with closing(Events(space.events_file, space.host, stream, stage=stage.plan.stage)) as events:
            if stage.plan.stage == "train":
                _train(events, stage, space.model)
            elif stage.plan.stage == "evaluate":
                events.metrics({"test_accuracy": _accuracy(stage, EPOCHS), "test_loss": 0.5})
            name = {"train": HISTORY_FILE, "evaluate": EVALUATION_FILE}.get(stage.plan.stage, "picture.png")
            (space.output / name).write_bytes(b"0" * 10_000)
            events.artifact(name, stage.plan.stage)
            events.end(0)
        for line in stream.getvalue().splitlines():
            yield space.host, line

    def stop(self, grace_s: float) -> None:
        """Nothing runs any more."""

    def ends(self) -> list[HostEnd]:
        return [HostEnd(host, 0, "") for host in self.stages[0].hosts]

    def close(self) -> None:
        """Nothing is left."""


def _train(events: Events, stage: Stage, model: Path) -> None:
    for epoch in range(1, EPOCHS + 1):
        accuracy = _accuracy(stage, epoch)
        values = {"accuracy": accuracy, "loss": 1 - accuracy, "val_accuracy": accuracy, "val_loss": 1 - accuracy}
        events.metrics(values, step=epoch)
        events.metrics({f"system/train/{key}": 50.0 for key in ("cpu_percentage", "memory_megabytes")}, step=epoch)
        events.progress(epoch * STEPS, EPOCHS * STEPS, unit="batches")
    events.metric("chosen_epoch", EPOCHS)
    (model / MODEL_FILE).write_bytes(FAKE_MODEL)
    (model / CLASSES_FILE).write_text("a\nb\n", encoding="utf-8")
    (model / SETTINGS_FILE).write_text("{}", encoding="utf-8")


def _accuracy(stage: Stage, epoch: int) -> float:
    """Return a number that differs between children."""
    return int(stage.plan.id[-4:], 16) / 0xFFFF * epoch / EPOCHS


class Stub(LocalBackend):
    """Computes nothing; notes when trainings begin."""

    began: list[Moment]

    def __init__(self, config: Config, cache: Cache) -> None:
        super().__init__(config.backend, cache, config.sweep.threads)

    def submit(self, stages: Sequence[Stage], console: object) -> Job:
        (stage,) = stages
        if stage.plan.stage == "preprocess":
            raise SystemExit("preprocessing should be in the cache")
        if stage.plan.stage == "train":
            self.began.append(Moment.now())
        return Instant(stage)


def overrides(children: int, parallel: int, outputs: Path, *, models: bool) -> list[str]:
    rates = ",".join(f"{1e-4 * (number + 1):.4f}" for number in range(children // 2))
    return [
        "-m",
        f"model.learning_rate={rates}",
        "model.dropout=true,false",
        f"model.epoch={EPOCHS}",
        f"sweep.parallel={parallel}",
        f"tracking.log_model={str(models).lower()}",
        f"outputs={outputs}",
    ]


def run_here(children: int, parallel: int, outputs: Path, *, models: bool) -> Measured:
    """Run a sweep in this process, and say what it took."""
    run = importlib.import_module("run")  # beside launchers
    for name in ("launchers.experiment", "launchers.sweeps.session", "hydra.main"):  # are not the sweep's to pay for
        importlib.import_module(name)
    Stub.began = []
    preparing.BACKENDS["local"] = Stub
    started = Moment.now()
    code = run.main(overrides(children, parallel, outputs, models=models))
    ended = Moment.now()
    if code != 0 or not Stub.began:
        raise SystemExit(f"the sweep of {children} children ended with {code}")
    (file,) = (outputs / "sweeps").glob("*/sweep.json")
    states = [child["state"] for child in json.loads(file.read_text(encoding="utf-8"))["children"]]
    first = Stub.began[0]
    return Measured(
        children=children,
        finished=states.count("finished"),
        planning_s=first.since(started),
        running_s=ended.since(first),
        at_start=first.memory,
        at_quarter=Stub.began[len(Stub.began) // 4].memory,
        at_end=ended.memory,
    )


def run_apart(place: Path, arguments: Sequence[str], scratch: Path) -> None:
    """Run something of the program that was copied to a folder, in a process of its own."""
    folders = (place, place / "src", place / "launchers" / "plugins")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    with (scratch / "log.txt").open("w+", encoding="utf-8") as log:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=scratch, env=environment, stdout=log, stderr=log, check=False
        )
        if done.returncode:
            log.seek(0)
            raise SystemExit(log.read()[-5000:])


def measure(place: Path, warm: Path, scratch: Path, children: int, parallel: int, *, models: bool) -> Measured:
    outputs = scratch / f"outputs-{children}"
    shutil.copytree(warm, outputs, symlinks=True)
    result = scratch / f"{children}.json"
    options = ["--children", str(children), "--parallel", str(parallel), *(["--models"] if models else [])]
    run_apart(place, [str(Path(__file__)), *options, "--outputs", str(outputs), "--result", str(result)], scratch)
    shutil.rmtree(outputs)
    return Measured(**json.loads(result.read_text(encoding="utf-8")))


def warmed(place: Path, scratch: Path) -> Path:
    """Return outputs with the demo data and their arrays."""
    warm = scratch / "warm"
    arguments = ["stages=[preprocess]", "tracking=none", f"outputs={warm}"]
    run_apart(place, [str(place / "run.py"), *arguments], scratch)
    shutil.rmtree(warm / "runs")
    return warm


def table(found: Sequence[Measured]) -> str:
    head = ["children", "planning s", "a child ms", "running s", "a child ms", "MB at start", "at 25 %", "at the end"]
    rows = [head, ["---"] * len(head)]
    for one in found:
        seconds = (one.planning_s, one.planning_a_child * 1000, one.running_s, one.running_s / one.children * 1000)
        sizes = (one.at_start, one.at_quarter, one.at_end)
        times = [f"{value:.0f}" if place % 2 else f"{value:.1f}" for place, value in enumerate(seconds)]
        rows.append([str(one.children), *times, *(f"{size / MB:.0f}" for size in sizes)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )


def verdicts(found: Sequence[Measured]) -> Iterator[tuple[str, bool]]:
    """Yield what was asked, and whether it holds."""
    for one in found:
        yield f"{one.finished} of {one.children} children are finished", one.finished == one.children
        yield f"memory with {one.children} children, at the end to 25 %: {one.growth:.2f}", one.growth <= LARGER
    if len(found) > 1:
        least, most = found[0], found[-1]
        ratio = most.planning_a_child / least.planning_a_child
        yield f"planning a child, of {most.children} to of {least.children}: {ratio:.2f}", ratio <= LONGER
    added = [added_by_one(less, more) for less, more in pairwise(found)]
    if len(added) > 1:
        ratio = added[-1] / added[0]
        yield f"what one more child adds to planning, at the end to at the beginning: {ratio:.2f}", ratio <= LONGER


def added_by_one(less: Measured, more: Measured) -> float:
    """Return the seconds of planning that each further child adds."""
    return (more.planning_s - less.planning_s) / (more.children - less.children)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweeps", description="Measure planning, tracking and memory of sweeps."
    )
    parser.add_argument("--children", type=int, nargs="+", default=[50, 100, 200], help="of each sweep, even numbers")
    parser.add_argument("--parallel", type=int, default=4, help="children at a time")
    parser.add_argument("--models", action="store_true", help="record a model for each child")
    parser.add_argument("--outputs", type=Path, help=argparse.SUPPRESS)  # of one sweep, to run it here
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)  # file for what it took
    options = parser.parse_args(arguments)
    if options.result is not None:
        found = run_here(options.children[0], options.parallel, options.outputs, models=options.models)
        options.result.write_text(json.dumps(asdict(found)), encoding="utf-8")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        place = frozen.freeze(REPOSITORY, scratch)
        warm = warmed(place, scratch)
        sweeps = [
            measure(place, warm, scratch, count, options.parallel, models=options.models)
            for count in sorted(options.children)
        ]
    print(f"{options.parallel} children at a time, trainings of no time; load average {os.getloadavg()[0]:.1f}\n")
    print(table(sweeps))
    print()
    for less, more in pairwise(sweeps):
        each = added_by_one(less, more) * 1000
        print(f"from {less.children} to {more.children} children, each adds {each:.0f} ms of planning")
    held = []
    for text, holds in verdicts(sweeps):
        held.append(holds)
        print(f"{text}{'' if holds else '  TOO MUCH'}")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
