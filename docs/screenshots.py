"""Makes the pictures of MLflow's UI in this folder: python docs/screenshots.py [OUTPUTS] [FOLDER]

OUTPUTS (default: outputs) holds the runs; the newest finished one is shown. Needs chromium and chromedriver.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "src")]

from launchers.config import Tracking  # noqa: E402
from launchers.mlflow_store import tracking_uri  # noqa: E402
from launchers.records import RunFolder, Status  # noqa: E402
from tests.browser import browser  # noqa: E402
from tests.mlflow_server import mlflow_server  # noqa: E402
from tests.mlflow_ui import take_screenshots  # noqa: E402


def main(outputs: Path, folder: Path) -> None:
    records = [RunFolder(file.parent).load() for file in (outputs / "runs").glob("*/run.json")]
    finished = [record for record in records if record.status is Status.FINISHED and record.synced]
    if not finished:
        sys.exit(f"{outputs}: no finished run to show; say make run first")
    newest = max(finished, key=lambda record: record.created)
    tracking = Tracking()
    with tempfile.TemporaryDirectory() as scratch:
        server = mlflow_server(tracking_uri(tracking, outputs), Path(scratch) / "log.txt")
        with server as running, browser(Path(scratch) / "profile") as page:
            for picture in take_screenshots(page, running.uri, tracking.experiment, newest.name, folder):
                print(picture)


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    main(*given, *[Path("outputs"), REPOSITORY / "docs" / "pictures"][len(given) :])
