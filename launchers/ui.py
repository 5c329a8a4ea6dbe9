"""Opens MLflow's own page on loopback over ``outputs/mlflow.db``: ``make ui``."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

from launchers.config import Tracking
from launchers.mlflow_store import tracking_uri

HOST = "127.0.0.1"


def main() -> None:
    parser = argparse.ArgumentParser(description="Open the MLflow UI over the runs recorded here.")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder of the runs (default: outputs)")
    parser.add_argument("--port", type=int, default=5000, help="on loopback (default: 5000)")
    arguments = parser.parse_args()
    if not _is_free(arguments.port):
        parser.error(f"port {arguments.port} is taken by another program; say make ui PORT=5001")
    outputs = arguments.outputs.resolve()
    outputs.mkdir(parents=True, exist_ok=True)
    store = ["--backend-store-uri", tracking_uri(Tracking(), outputs)]
    store += ["--default-artifact-root", str(outputs / "mlartifacts")]
    print(f"MLflow UI over {outputs}: http://{HOST}:{arguments.port} (Ctrl-C ends it)", flush=True)
    print("The page opens in its GenAI mode: the runs are under Model training.", flush=True)
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = ["mlflow", "server", *store, "--host", HOST, "--port", str(arguments.port)]
    os.execv(sys.executable, [sys.executable, "-m", *server])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    main()
