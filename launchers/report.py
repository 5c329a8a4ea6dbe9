"""What is printed about a plan and about a finished run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launchers.base import Described
from launchers.cache import StageFolder
from launchers.config import PREDICT, Config, Tracking
from launchers.outputs import Outputs
from launchers.parity import Table as Parity
from launchers.planning import KINDS, PlannedStage, finished_stages, unknown_stages
from launchers.predicting import shown as shown_predictions
from launchers.preparing import Prepared
from launchers.records import RunRecord, StageRecord, stage_of
from launchers.redaction import redacted_text
from launchers.scripting import results
from launchers.sweeps.measured import last_values
from videolift.files import ALL_MEMBERS, EVALUATION_FILE, PREDICTIONS_FILE
from videolift.manifest import Manifest
from videolift.parts import clips_a_part, frame_shape
from videolift.settings import Preprocess, Split, resolved_sampling
from videolift.workspace import Kind

SPLITS = ("train", "val", "test")
SHOWN_PREDICTIONS = 20  # rows
SHOWN_METRICS = 8  # of a script


def print_plan(console: Console, prepared: Prepared, outputs: Outputs) -> None:
    """Print what would run: data, stages with their ids and inputs, and what is finished already."""
    config = prepared.config
    if config.script.path is not None:
        _print_script(console, prepared)
    else:
        _print_data(console, prepared)
    finished = finished_stages(prepared.planned, outputs.cache, prepared.backend)
    unknown = unknown_stages(prepared.planned, outputs.cache, prepared.backend)
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "id", "hosts", "from", "state"):
        table.add_column(column)
    for name, stage in prepared.planned.items():
        state = _state(stage, config, finished, name in unknown)
        table.add_row(*map(Text, (name, stage.id, str(len(stage.hosts)), _inputs_text(stage, config), state)))
    console.print(table, soft_wrap=True)
    for reason in dict.fromkeys(unknown.values()):
        console.print(f"note: what is finished in S3 is not known: {reason}", style="yellow", soft_wrap=True)


def _state(stage: PlannedStage, config: Config, finished: Mapping[str, str], is_unknown: bool) -> str:
    """Return what a plan says of a stage."""
    if stage.name in finished:
        return f"cached (computed by {finished[stage.name]})"
    if stage.stage not in config.stages:
        return "not in stages; whether it is finished is not known" if is_unknown else "missing: not in stages"
    if stage.is_member and stage.stage in finished:
        return f"not needed: {stage.stage} is finished"
    return "would run, unless it is finished in S3" if is_unknown else "would run"


def _inputs_text(stage: PlannedStage, config: Config) -> str:
    if stage.channels:
        return ", ".join(channel.name for channel in stage.channels)
    return _shortened(stage.needs) or str(config.data.root or config.data.csv or config.data.npz)


def _shortened(names: Sequence[str]) -> str:
    """Return names of stages, of an ensemble's members the first and the last."""
    members = [name for name in names if stage_of(name) != name]
    others = [name for name in names if name not in members]
    return ", ".join([*others, *([f"{members[0]} to {members[-1]}"] if members else [])])


def _print_script(console: Console, prepared: Prepared) -> None:
    script, stage = prepared.config.script, list(prepared.planned.values())[-1]
    sent = sum(len(content) for content in stage.builder.values())
    console.print(f"script    {redacted_text(f'{stage.plan.script.path} {script.args}').strip()}", soft_wrap=True)
    noun = "file" if len(stage.builder) == 1 else "files"
    console.print(f"source    {len(stage.builder)} {noun}, {sent / 1e3:.1f} kB", soft_wrap=True)
    for channel in stage.channels:
        what = script.channels[channel.name] if channel.holds in ("folder", "s3") else channel.holds
        many = f", {len(channel.names)} files" if channel.names else ""
        shared = ", divided among the hosts" if channel.shared and len(stage.hosts) > 1 else ""
        console.print(f"channel   {channel.name}: {redacted_text(what)}{many}{shared}", soft_wrap=True)


def _print_data(console: Console, prepared: Prepared) -> None:
    config, manifest = prepared.config, prepared.manifest
    megabytes = sum(clip.size for clip in manifest.clips) / 1e6
    console.print(
        f"data      {manifest.source}: {len(manifest.clips)} clips of {len(manifest.classes)} classes, "
        f"{megabytes:.1f} MB"
    )
    if manifest.source != PREDICT:
        console.print(f"split     {split_text(manifest, config.data.split)}")
        console.print(_arrays_text(config.preprocess, len(manifest.clips)), highlight=False)


def _arrays_text(p: Preprocess, clips: int) -> str:
    size = clips * (p.windows or 1) * math.prod(frame_shape(p))
    return (
        f"arrays    uint8 {frame_shape(p)} a clip, {resolved_sampling(p).value} sampling, about {size / 1e6:.1f} MB in "
        f"parts of {clips_a_part(p)} clips"
    )


def print_described(console: Console, described: Sequence[Described]) -> None:
    """Print what a backend would ask for."""
    for part in described:
        console.print()
        console.print(Text(part.title, style="bold"))
        console.print(part.text, soft_wrap=True, highlight=False, markup=False)
        _print_table(console, part.rows)


def print_parity(console: Console, parity: Parity) -> None:
    """Print versions in the images against those here."""
    _print_table(console, parity)


def _print_table(console: Console, lines: Sequence[Sequence[str]]) -> None:
    """Print rows below their head, which comes first."""
    head, *rows = lines
    table = Table(box=None, pad_edge=False)
    for column in head:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table, soft_wrap=True)


def split_text(manifest: Manifest, split: Split) -> str:
    counts = ", ".join(f"{sum(manifest.counts(name).values())} {name}" for name in SPLITS)
    return f"{split.value}: {counts}{_leak_text(manifest)}"


def _leak_text(manifest: Manifest) -> str:
    rate = manifest.leak_rate
    if rate is not None:
        return f", {rate:.1%} of the test clips share a group with training clips" if rate else ""
    known = f", {manifest.leaking} test clips share a group with training clips" if manifest.leaking else ""
    return (
        f"{known}; the groups of {manifest.ungrouped} of {len(manifest.clips)} clips are not known: clips of one "
        "recording may be on both sides"
    )


def print_summary(
    console: Console, record: RunRecord, prepared: Prepared, outputs: Outputs, open_with: str | None
) -> None:
    """Print the table that a run ends with."""
    rows = (
        [*_script_rows(record, prepared)]
        if prepared.config.script.path is not None
        else [
            ("clips", str(len(prepared.manifest.clips))),
            ("classes", str(len(prepared.manifest.classes))),
            ("split", split_text(prepared.manifest, prepared.config.data.split)),
            *_accuracy_rows(record),
        ]
    )
    rows += [
        ("stages", ", ".join(f"{s.name}{' (cached)' if s.cached else ''}" for s in record.stages)),
        ("run", _from_here(outputs.run(record.id).path)),
    ]
    if open_with:
        rows.append(("open", open_with))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print()
    console.print(table)


def _script_rows(record: RunRecord, prepared: Prepared) -> list[tuple[str, str]]:
    """Return what a script was, the numbers that it printed last, and where its results lie."""
    script, stage = prepared.config.script, record.stages[-1]
    rows = [("script", redacted_text(f"{Path(str(script.path)).name} {script.args}").strip())]
    told = last_values(stage)
    steps = {step for step, _ in told.values()}
    numbers = "  ".join(f"{key} {value:.4g}" for key, (_, value) in list(told.items())[:SHOWN_METRICS])
    if told:
        rows.append(("metrics", numbers + (f"  (step {steps.pop()})" if len(steps) == 1 else "")))
    places = results(Path(stage.folder), KINDS[stage_of(stage.name)])
    return [*rows, *((what, _from_here(place)) for what, place in places)]


def print_predictions(console: Console, record: RunRecord, outputs: Outputs, open_with: str | None) -> None:
    """Print the first rows of what a model says of videos, and where the others are."""
    file = outputs.run(record.id).path / PREDICTIONS_FILE
    lines, more, failed = shown_predictions(file, SHOWN_PREDICTIONS)
    console.print()
    _print_table(console, lines)
    if more:
        console.print(f"... {more} more")
    if failed:
        total = len(lines) - 1 + more
        console.print(f"{failed} of {total} files cannot be read, the table says why", style="yellow")
    console.print(f"\ntable  {_from_here(file)}", soft_wrap=True)
    console.print(f"run    {_from_here(outputs.run(record.id).path)}", soft_wrap=True)
    if open_with:
        console.print(f"open   {open_with}", soft_wrap=True)


def print_registered(console: Console, record: RunRecord, tracking: Tracking) -> None:
    """Print which version of a registered model a run's became, where that was wanted and came about."""
    if tracking.register is not None and record.synced and record.registered is not None:
        console.print(f"registered {record.registered}", soft_wrap=True)


def _from_here(path: Path) -> str:
    """Return a path as one would type it here: relative where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _accuracy_rows(record: RunRecord) -> list[tuple[str, str]]:
    found = read_evaluation(record)
    if found is None:
        return []
    metrics = found["metrics"]
    rows = [("test accuracy", f"{metrics['test_accuracy']:.3f} on {found['samples']} samples")]
    if found["videos"] != found["samples"]:
        rows.append(("", f"{metrics['test_video_accuracy']:.3f} on {found['videos']} whole videos"))
    if found["epoch_chosen_by"] == ALL_MEMBERS:
        rows.append(("members", str(found["epoch"])))
    else:
        how = "lowest validation loss" if found["epoch_chosen_by"] == "best" else "last"
        rows.append(("epoch", f"{found['epoch']} ({how})"))
    return rows


def read_evaluation(record: RunRecord) -> dict[str, Any] | None:
    """Return the evaluation of a run, None where it has none."""
    stage = _stage(record, "evaluate")
    file = StageFolder(Path(stage.folder), Kind.training).first.output / EVALUATION_FILE if stage else None
    if file is None or not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _stage(record: RunRecord, name: str) -> StageRecord | None:
    return next((stage for stage in record.stages if stage.name == name), None)
