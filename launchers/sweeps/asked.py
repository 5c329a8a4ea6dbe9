"""What a sweep's command asks for: every child checked and prepared, before anything is begun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launchers import report
from launchers.base import Described
from launchers.compose import Checked, Job, Sources
from launchers.config import Config
from launchers.outputs import Outputs
from launchers.preparing import Prepared, Preparing, Wanted, costs, to_be_computed
from launchers.sweeps import earlier, planned
from launchers.sweeps.record import DONE, SweepRecord, folder_of
from launchers.sweeps.shown import print_plan
from launchers.sweeps.space import describe

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Asked:
    """What a command asks for, checked and prepared."""

    checked: Checked
    typed: Sequence[str]  # overrides, as they were
    sources: Sources
    outputs: Outputs
    preparing: Preparing
    jobs: list[Job]  # all children; of a sampler, what its trials have in common
    runs: list[Prepared]  # of the jobs
    edges: list[Prepared]  # trials at the edges of what a sampler chooses from

    @property
    def config(self) -> Config:
        return self.jobs[0].config

    def wanted(self, runs: Sequence[Prepared]) -> Wanted:
        """Return the stages that have to be computed for runs of one backend."""
        if self.checked.space is None:
            return to_be_computed(runs, self.outputs)
        return planned.of_trials(runs, self.edges, self.config.sweep.trials, self.outputs)

    def print_plan(self, console: Console, record: SweepRecord) -> None:
        """Print the table before a sweep."""
        title = f"sweep {record.id}: {record.name}"
        space = self.checked.space
        if not self.checked.is_grid and space is None:
            console.print(f"{title}: children as Hydra's sweeper chooses them, each checked when it is", soft_wrap=True)
            return
        if space is None:
            found = planned.overview(self.jobs, self.runs, self.outputs, record)
            print_plan(console, title, found.rows, found.shared, costs(self.runs, self.wanted))
            return
        sweep = self.config.sweep
        done = f", {record.count(*DONE)} of them done" if record.children else ""
        words = f"{sweep.trials} trials{done}, {sweep.parallel} at a time; {sweep.better.value} {sweep.metric} over"
        report.print_described(console, [Described(title, describe(space), words)])
        for note in space.notes:
            console.print(f"note: {note}", style="yellow", soft_wrap=True)
        report.print_described(console, costs(self.edges, self.wanted))


def prepare(checked: Checked, typed: Sequence[str], sources: Sources, console: Console) -> Asked:
    """Prepare everything that a command asks for.

    Raises:
        VideoliftError: tells everything that is wrong with any child.
    """
    planned.refuse_differences([*checked.jobs, *checked.corners])
    outputs = Outputs(Path(checked.jobs[0].config.outputs).expanduser().resolve())
    preparing = Preparing(outputs, console)
    kept = earlier.as_it_was(outputs)
    jobs, corners = (earlier.with_kept_builders(found, kept) for found in (checked.jobs, checked.corners))
    runs = planned.prepare_all(jobs, preparing, outputs)
    edges = planned.prepare_all(corners, preparing, outputs)
    return Asked(checked, typed, sources, outputs, preparing, jobs, runs, edges)


def plan_only(asked: Asked, console: Console) -> None:
    """Print what a sweep would do."""
    wanted = earlier.new_record(asked.checked, asked.jobs, asked.runs, asked.typed, code="")
    folder = folder_of(asked.outputs.root, wanted.id)
    asked.print_plan(console, folder.load() if folder.record_file.is_file() else wanted)
