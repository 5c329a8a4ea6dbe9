"""Opens MLflow's own page on loopback over ``outputs/mlflow.db``: ``make ui``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from launchers.config import Tracking
from launchers.mlflow_store import tracking_uri


def main() -> None:
    parser = argparse.ArgumentParser(description="Open the MLflow UI over the runs recorded here.")
    parser.add_argument(
        "--outputs", type=Path, default=Path("outputs"), help="folder of the runs (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=5000, help="on loopback (default: %(default)s)")
    arguments = parser.parse_args()
    outputs = arguments.outputs.resolve()
    outputs.mkdir(parents=True, exist_ok=True)
    command = ["mlflow", "server", "--backend-store-uri", tracking_uri(Tracking(), outputs)]
    command += [
        "--default-artifact-root",
        str(outputs / "mlartifacts"),
        "--host",
        "127.0.0.1",
        "--port",
        str(arguments.port),
    ]
    print(f"MLflow UI over {outputs}: http://127.0.0.1:{arguments.port}  (Ctrl-C ends it)", flush=True)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.execv(sys.executable, [sys.executable, "-m", *command])


if __name__ == "__main__":
    main()
