"""What ``stages=[predict] run=ID`` prepares: the finished run's model, and the videos that it is to classify.

Nothing of the run is planned anew and its data are not looked at: they may be gone, and our source may be another one.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from glob import escape, glob
from pathlib import Path
from typing import TYPE_CHECKING

from launchers.base import Backend, Stage, host_names
from launchers.cache import StageFolder
from launchers.checksums import Checksums, open_checksums
from launchers.config import PREDICT, Action, Config
from launchers.outputs import Outputs
from launchers.planning import PlannedStage, stage_id
from launchers.preparing import FindBackend, Prepared
from launchers.records import MODEL_OF_TAG, RunFolder, RunRecord, StageRecord, Status
from videolift.errors import SHORTAGES, ConfigError, DataError, PartError
from videolift.files import PREDICTIONS_FILE
from videolift.listing import files_below, refuse_not_utf8
from videolift.listing import shown as shown_name
from videolift.manifest import Clip, Manifest
from videolift.plan import Plan, from_plain
from videolift.provenance import module_of, source_digest
from videolift.settings import Data, Source
from videolift.workspace import Kind

if TYPE_CHECKING:
    from rich.console import Console

TEST = "test"  # the split of what is only looked at
UNREADABLE = "unreadable"  # stands for the checksum of a file that cannot be read, which its row will tell


def prepare(config: Config, outputs: Outputs, console: Console, find_backend: FindBackend) -> Prepared:
    """Find the model and the videos, and plan the stage.

    Raises:
        ConfigError: if the run has no finished training, its model is nowhere, or the backend cannot run the stage.
        DataError: if there are no such videos, or names that are not UTF-8.
        StorageError: if a folder cannot be listed.
    """
    again = config.action is Action.resume  # then the run is that of the prediction
    record = outputs.run(str(config.tags[MODEL_OF_TAG] if again else config.run)).load()
    train = _trained(record)
    wanted = absolute_input(str(config.predict.input), Path.cwd())
    root, names = find_videos(wanted, Path(str(config.data.root)) if again else Path.cwd())
    with open_checksums(outputs.checksums) as checksums:
        clips = tuple(clip_of(root, name, checksums) for name in names)
    manifest = Manifest(tuple(record.data["classes"]), clips, PREDICT)
    earlier = from_plain(Config, record.config)
    data = Data(Source.folder, root=str(root))
    config = replace(
        config,
        run=config.run if again else None,
        name=config.name or f"{PREDICT}-{record.name}",
        tags={**config.tags, MODEL_OF_TAG: record.id},
        seed=earlier.seed,
        data=data,
        preprocess=earlier.preprocess,
        model=earlier.model,
        predict=replace(config.predict, input=wanted),
    )
    backend = find_backend(config, outputs, [PREDICT])
    found = outputs.cache.finished(train.id) or backend.origin(train.id) or backend.unknown_origin(train.id)
    if found is None:
        raise ConfigError(
            f"run: the model of {record.id} is not in {outputs.cache.folder / train.id} any more, nor where "
            f"backend={config.backend.name} would look for it; train it again"
        )
    backend.settle([PREDICT], console)
    plan = partial(plan_prediction, train)
    return Prepared(config, data, backend, manifest, plan(config, backend, manifest), plan)


def _trained(record: RunRecord) -> StageRecord:
    found = next((s for s in record.stages if s.name == "train" and s.status is Status.FINISHED), None)
    if found is None:
        raise ConfigError(f"run: {record.id} has no finished training; choose another run, or action=resume run=...")
    return found


def plan_prediction(
    train: StageRecord, config: Config, backend: Backend, manifest: Manifest
) -> dict[str, PlannedStage]:
    """Return the stage, after the training that its model is from."""
    determinants = {
        "source": source_digest(module_of(PREDICT)),
        "libraries": backend.libraries(PREDICT),
        "inputs": {"train": train.id},
        "settings": {"top": config.predict.top},
        "manifest": manifest.digest,
    }
    plan = Plan(
        stage=PREDICT,
        id=stage_id(PREDICT, determinants),
        data=config.data,
        preprocess=config.preprocess,
        model=config.model,
        predict=config.predict,
        seed=config.seed,
        manifest_digest=manifest.digest,
        system_interval_s=config.tracking.sampled_every_s,
    )
    hosts = host_names(config.backend.predict.instance_count)
    trained = PlannedStage("train", train.id, replace(plan, stage="train", id=train.id), ("algo-1",))
    return {"train": trained, PREDICT: PlannedStage(PREDICT, plan.id, plan, hosts, needs=("train",))}


def absolute_input(wanted: str, here: Path) -> str:
    """Return ``predict.input`` as it is in every folder; signs of patterns that ``here`` has mean nothing."""
    typed = os.path.expanduser(wanted)  # noqa: PTH111 - a pattern is no path
    if Path(typed).is_absolute() or (here / typed).exists():
        return str(here / typed)
    return os.path.join(escape(str(here)), typed)  # noqa: PTH118


def find_videos(wanted: str, here: Path) -> tuple[Path, list[str]]:
    """Return a folder and the videos in it that are meant, as posix paths below it, sorted.

    Links to files and folders are followed. What is no file, as a link that leads nowhere, is there too: its row tells.

    Args:
        wanted: a file, a folder (all files below it), or a pattern of glob's; absolute.
        here: the folder where they are all below, if they are.

    Raises:
        DataError: if there are none, or names are not UTF-8.
        StorageError: if a folder cannot be listed.
    """
    place = Path(wanted)
    if place.is_dir():
        files = [place / name for name, _ in files_below(place, closed=True)]
    elif place.exists():
        files = [place]
    else:
        found = map(Path, glob(wanted, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        files = [file for file in found if not file.is_dir()]
    if not files:
        raise DataError(f"predict.input: there is no file, and no folder with files, {place}; check the pattern")
    absolute = [Path(os.path.abspath(file)) for file in files]  # noqa: PTH100 - resolves .., and no links
    root = here if all(file.is_relative_to(here) for file in absolute) else Path(os.path.commonpath(absolute))
    root = root if root.is_dir() else root.parent
    names = sorted(file.relative_to(root).as_posix() for file in absolute)
    refuse_not_utf8(names, f"predict.input={shown_name(wanted)}")
    return root, names


def clip_of(root: Path, name: str, checksums: Checksums) -> Clip:
    """Return what stands for a video whose label nobody knows: it has that of the first class, which nothing reads."""
    file = root / name
    try:
        if file.is_file():  # the checksum of a pipe would be waited for
            return Clip(name, 0, name, TEST, checksums.of(file), file.stat().st_size)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
    return Clip(name, 0, name, TEST, UNREADABLE, 0)


def merge(stage: Stage, manifest: Manifest) -> tuple[Path, int]:
    """Write the rows of all hosts, in the manifest's order, into the first host's table; return it and the errors.

    Raises:
        PartError: if a video has no row, or more than one.
        DataError: if no video could be read.
    """
    tables = [stage.workspace(host, {}).output / PREDICTIONS_FILE for host in stage.hosts]
    head: list[str] = []
    rows: dict[str, list[str]] = {}
    for table in tables:
        head, *lines = _lines(table)
        for line in lines:
            if line[0] in rows and rows[line[0]] != line:
                raise PartError(f"{table}: {line[0]} is in the table of another host, too; run the same command again")
            rows[line[0]] = line
    wanted = [clip.id for clip in manifest.clips]
    if missing := [name for name in wanted if name not in rows]:
        raise PartError(f"{stage.folder.path}: {len(missing)} videos have no row, the first is {missing[0]}")
    with tables[0].open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *(rows[name] for name in wanted)])
    failed = [rows[name] for name in wanted if rows[name][-1]]
    if len(failed) == len(wanted):
        raise DataError(f"none of {len(wanted)} videos can be read, the first one is {failed[0][0]}: {failed[0][-1]}")
    return tables[0], len(failed)


def keep_table(record: RunRecord, folder: RunFolder) -> None:
    """Copy the table to where people look for what a run gave."""
    stage = next(stage for stage in record.stages if stage.name == PREDICT)
    table = StageFolder(Path(stage.folder), Kind.processing).first.output / PREDICTIONS_FILE
    shutil.copyfile(table, folder.path / PREDICTIONS_FILE)


def _lines(table: Path) -> Iterator[list[str]]:
    with table.open(encoding="utf-8", newline="") as file:
        yield from csv.reader(file)


def shown(table: Path, most: int) -> tuple[list[list[str]], int, int]:
    """Return the head and the first rows of a table of predictions, how many more there are, and how many errors.

    Of every video it is the best class with its probability, the second one, and what was wrong with the file.
    """
    head, *rows = _lines(table)
    wanted = [name for name in ("path", "class", "probability", "class_2", "probability_2") if name in head]
    failed = sum(bool(row[-1]) for row in rows)
    columns = [head.index(name) for name in wanted] + ([len(head) - 1] if failed else [])
    return [[line[column] for column in columns] for line in (head, *rows[:most])], max(0, len(rows) - most), failed
