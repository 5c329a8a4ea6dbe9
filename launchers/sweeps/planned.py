"""What a sweep would do: every child prepared, what they share, what is there already, and what it can cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from launchers.compose import Job, in_jobs
from launchers.config import Config
from launchers.machine import usable_cores
from launchers.outputs import Outputs
from launchers.planning import finished_stages, refuse_missing_inputs, to_compute, unknown_stages
from launchers.preparing import Prepared, Preparing, Wanted, to_be_computed
from launchers.sweeps.shown import PlannedRow, SharedStage
from videolift.errors import ConfigError, VideoliftError

if TYPE_CHECKING:
    from launchers.sweeps.record import SweepRecord

COMMON = ("action", "outputs", "sweep", "tracking")  # settings that a sweep has once
ON_THIS_MACHINE = ("local", "sagemaker-local")


def refuse_differences(jobs: Sequence[Job]) -> None:
    """Raise ConfigError where children differ in what a sweep has once, or are not to be followed."""
    first = jobs[0].config
    for job in jobs:
        for key in COMMON:
            if getattr(job.config, key) != getattr(first, key):
                raise ConfigError(f"{key}: all children of a sweep have the same; sweep over something else")
        if not job.config.backend.wait:
            raise ConfigError(
                "backend.wait: a sweep is followed; leave it out (Ctrl-C leaves jobs running, the same command goes on)"
            )
    if first.sweep.threads is not None and first.backend.name not in ON_THIS_MACHINE:
        raise ConfigError("sweep.threads: is for children on this machine; leave it out")


def with_threads(config: Config) -> Config:
    """Return a child's settings with its share of the cores, the same for every child."""
    sweep = config.sweep
    if sweep.threads is None and sweep.parallel > 1 and config.backend.name in ON_THIS_MACHINE:
        sweep = replace(sweep, threads=max(1, usable_cores() // sweep.parallel))
    return replace(config, sweep=sweep)


def prepare_all(jobs: Sequence[Job], preparing: Preparing, outputs: Outputs) -> list[Prepared]:
    """Prepare every child.

    Raises:
        VideoliftError: tells what is wrong with any of them; of the class of the first.
    """
    prepared: list[Prepared] = []
    problems: dict[str, list[str]] = {}
    first: VideoliftError | None = None
    for job in jobs:
        try:
            one = preparing.prepare(with_threads(job.config))
            refuse_missing_inputs(one.planned, one.config.stages, outputs.cache, one.backend)
            prepared.append(one)
        except VideoliftError as error:
            first = first or error
            problems.setdefault(str(error), []).append(job.label)
    if first is not None:
        lines = [text + in_jobs(labels, len(jobs)) for text, labels in problems.items()]
        raise type(first)("\n".join(lines))
    return prepared


def of_trials(runs: Sequence[Prepared], edges: Sequence[Prepared], trials: int, outputs: Outputs) -> Wanted:
    """Return the most stages that trials of a sampler compute, which make their ids as they go.

    Args:
        runs: those of the edges that are asked about.
        edges: trials at the edges of what is chosen from; a stage that is the same for all is so for every trial.
    """
    found = to_be_computed(runs, outputs)
    alike = {name for name in found if len({run.planned[name].id for run in edges}) == 1}
    return {
        stage: ids if stage in alike else [f"{stage} {n} of {trials}" for n in range(trials * _most_of(stage, runs))]
        for stage, ids in found.items()
    }


def _most_of(stage: str, runs: Sequence[Prepared]) -> int:
    """Return how many stages of a kind one of some runs has at most: more than one where it trains an ensemble."""
    return max(sum(one.stage == stage for one in run.planned.values()) for run in runs)


@dataclass(frozen=True)
class Overview:
    """What the table before a sweep shows."""

    rows: list[PlannedRow]
    shared: list[SharedStage]


def overview(jobs: Sequence[Job], runs: Sequence[Prepared], outputs: Outputs, record: SweepRecord | None) -> Overview:
    """Return what would happen to every child, and to what they share."""
    first_of: dict[str, int] = {}
    users: dict[tuple[str, str], list[int]] = {}
    finished_ids: set[str] = set()
    unknown_ids: set[str] = set()
    rows = []
    for number, (job, run) in enumerate(zip(jobs, runs, strict=True)):
        finished = finished_stages(run.planned, outputs.cache, run.backend)
        unknown = unknown_stages(run.planned, outputs.cache, run.backend)
        unknown_ids |= {run.planned[name].id for name in unknown}
        states = {}
        for name in run.config.stages:
            stage = run.planned[name].id
            users.setdefault((name, stage), []).append(number)
            earlier = first_of.setdefault(stage, number)
            if name in finished:
                finished_ids.add(stage)
                states[name] = "cached"
            elif earlier != number:
                states[name] = f"shared with #{earlier}"
            else:
                states[name] = "unknown" if name in unknown else "would run"
        for one in to_compute(run.planned, run.config.stages, ()):
            if one.is_member:  # what trains it may be the whole of another child's training
                users.setdefault((one.stage, one.id), []).append(number)
                first_of.setdefault(one.id, number)
                finished_ids |= {one.id} if one.name in finished else set()
        state = record.children[number].state.value if record and number < len(record.children) else "waiting"
        rows.append(PlannedRow(number, job.label, states, state, job.parameters))
    shared = [
        SharedStage(name, stage, numbers, stage in finished_ids, stage in unknown_ids)
        for (name, stage), numbers in users.items()
        if len(numbers) > 1
    ]
    return Overview(rows, shared)
