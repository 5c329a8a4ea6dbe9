"""The program of every job: find the workspace, read the plan, run the stage, say why it failed.

python -m videolift.entry [train] [--root FOLDER] [--until-stdin-closes]
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import traceback
from pathlib import Path

from videolift.errors import Stopped, VideoliftError, as_expected
from videolift.events import Events
from videolift.job import Job, Stop, die_with, stop_when_stdin_closes
from videolift.manifest import Manifest
from videolift.plan import MANIFEST_FILE, SOURCE_FOLDER, read_plan
from videolift.workspace import CONTAINER_ROOT, Workspace, find_workspace

STAGES = ("preprocess", "train", "evaluate", "visualize")
STOPPED_EXIT_CODE = 128 + signal.SIGTERM
FAILURE_LIMIT = 1024  # characters that the service keeps


def main() -> int:
    parser = argparse.ArgumentParser(description="Run one stage inside a job.")
    parser.add_argument(
        "--root", type=Path, default=CONTAINER_ROOT, help="what stands for /opt/ml (default: %(default)s)"
    )
    parser.add_argument(
        "word", nargs="?", choices=("train",), help="what SageMaker calls a training image with; ignored"
    )
    parser.add_argument("--parent", type=int, help="process id of the launcher: stop when it is gone")
    parser.add_argument("--until-stdin-closes", action="store_true", help="stop at the end of stdin, as at SIGTERM")
    arguments = parser.parse_args()
    stop = Stop()
    stop.listen()
    if arguments.parent:
        die_with(arguments.parent, signal.SIGTERM)
    if arguments.until_stdin_closes:
        stop_when_stdin_closes()
    try:
        workspace = find_workspace(os.environ, arguments.root)
    except VideoliftError as error:  # there is no place for a failure file either
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    try:
        _run(workspace, stop)
    except Stopped as stopped:
        print(stopped, flush=True)
        return STOPPED_EXIT_CODE
    except Exception as error:
        expected = as_expected(error)
        reason = f"{type(expected or error).__name__}: {expected or error}"
        if expected is None:
            traceback.print_exc()
        else:
            print(reason, file=sys.stderr, flush=True)
        _write_failure(workspace.failure_file, reason)
        return expected.exit_code if expected else 1
    return 0


def _run(workspace: Workspace, stop: Stop) -> None:
    workspace.failure_file.unlink(missing_ok=True)  # of an earlier try
    workspace.create_results()
    orders = workspace.channel("plan")
    plan = read_plan(orders)
    manifest = Manifest.from_json((orders / MANIFEST_FILE).read_text(encoding="utf-8"))
    if manifest.digest != plan.manifest_digest:
        raise VideoliftError(
            f"{orders / MANIFEST_FILE}: is not the manifest that the plan was made for; plan the run again"
        )
    if plan.stage not in STAGES:
        raise VideoliftError(f"{orders}: no stage {plan.stage!r}; there are {', '.join(STAGES)}")
    if (orders / SOURCE_FOLDER).is_dir():
        sys.path.insert(0, str(orders / SOURCE_FOLDER))
    events = Events(workspace.events_file, workspace.host)
    try:
        importlib.import_module(f"videolift.{plan.stage}").run(Job(workspace, plan, manifest, events, stop))
    finally:
        events.close()


def _write_failure(file: Path, reason: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(reason[:FAILURE_LIMIT], encoding="utf-8")
    except OSError as error:  # a full disk must not hide the reason, which stderr already has
        print(f"{file}: could not be written ({error.strerror})", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
