"""Makes the pictures of MLflow's UI in this folder: python -m docs.screenshots [OUTPUTS] [FOLDER]

OUTPUTS (default: outputs) holds the runs; the newest finished one is shown, and the newest sweep that has a best child.
Needs chromium and chromedriver.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from launchers.config import Tracking
from launchers.mlflow_store import tracking_uri
from launchers.records import RunFolder, RunRecord, Status
from launchers.sweeps.record import SweepFolder, SweepRecord
from launchers.sweeps.shown import short_label
from tests.browser import browser
from tests.mlflow_server import mlflow_server
from tests.mlflow_ui import take_screenshots, take_sweep_screenshots


def main(outputs: Path, folder: Path) -> None:
    run, sweep = newest_run(outputs), newest_sweep(outputs)
    if run is None and sweep is None:
        sys.exit(f"{outputs}: no finished run and no sweep to show; say make run first")
    with tempfile.TemporaryDirectory() as scratch:
        server = mlflow_server(tracking_uri(Tracking(), outputs), Path(scratch) / "log.txt")
        with server as running, browser(Path(scratch) / "profile") as page:
            pictures = []
            if run is not None:
                pictures += take_screenshots(page, running.uri, Tracking().experiment, run.name, folder)
            if sweep is not None and sweep.best is not None:
                shown = (sweep.experiment, sweep.name, short_label(sweep.best, sweep.parameters))
                pictures += take_sweep_screenshots(page, running.uri, *shown, folder)
            print(*pictures, sep="\n")


def newest_run(outputs: Path) -> RunRecord | None:
    """Return the newest finished run that is not part of a sweep: those are folded away."""
    records = [RunFolder(file.parent).load() for file in (outputs / "runs").glob("*/run.json")]
    shown = [r for r in records if r.status is Status.FINISHED and r.synced and r.parent is None]
    return max(shown, key=lambda record: record.created, default=None)


def newest_sweep(outputs: Path) -> SweepRecord | None:
    sweeps = [SweepFolder(file.parent).load() for file in (outputs / "sweeps").glob("*/sweep.json")]
    shown = [sweep for sweep in sweeps if sweep.mlflow_run is not None and sweep.best is not None]
    return max(shown, key=lambda sweep: sweep.created, default=None)


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    main(*given, *[Path("outputs"), Path(__file__).parent / "pictures"][len(given) :])
