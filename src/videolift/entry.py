"""The program of every job: find the workspace, read the plan, run the stage, say why it failed.

python -m videolift.entry [train] [--root FOLDER] [--until-stdin-closes]

A job may run several stages one after the other: then its ``plan`` channel has a folder a stage, and each stage is a
process of its own, so that none finds what another left in TensorFlow.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from videolift.cluster import leader_of
from videolift.errors import Stopped, VideoliftError, as_expected
from videolift.events import Events
from videolift.job import Job, Stop, die_with, stop_when_stdin_closes
from videolift.manifest import Manifest
from videolift.plan import MANIFEST_FILE, PLAN_FILE, SOURCE_FOLDER, Plan, read_plan
from videolift.provenance import module_of
from videolift.script_secrets import given_on_stdin
from videolift.workspace import CONTAINER_ROOT, Workspace, find_workspace

STAGES = ("preprocess", "train", "evaluate", "visualize", "predict", "script", "preprocess-script")
ON_ALL_HOSTS = ("train", "script")  # of the stages of a training job
SIGNALLED = 128  # a shell's exit code for a process that a signal ended is this and the signal's number
STOPPED_EXIT_CODE = SIGNALLED + signal.SIGTERM
FAILURE_LIMIT = 1024  # characters that the service keeps


def main() -> int:
    parser = argparse.ArgumentParser(description="Run one stage inside a job.")
    parser.add_argument(
        "--root", type=Path, default=CONTAINER_ROOT, help="what stands for /opt/ml (default: %(default)s)"
    )
    parser.add_argument(
        "word", nargs="?", choices=("train",), help="what SageMaker calls a training image with; ignored"
    )
    parser.add_argument("--stage", choices=STAGES, help="of a job of several stages: run this one only")
    parser.add_argument("--parent", type=int, help="process id of the launcher: stop when it is gone")
    parser.add_argument("--until-stdin-closes", action="store_true", help="stop at the end of stdin, as at SIGTERM")
    parser.add_argument("--secrets-from-stdin", action="store_true", help="read a script's secrets, a line of JSON")
    arguments = parser.parse_args()
    stop = Stop()
    stop.listen()
    if arguments.parent:
        die_with(arguments.parent, signal.SIGTERM)
    secrets = given_on_stdin() if arguments.secrets_from_stdin else {}
    if arguments.until_stdin_closes:
        stop_when_stdin_closes()
    try:
        workspace = find_workspace(os.environ, arguments.root)
    except VideoliftError as error:  # there is no place for a failure file either
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    try:
        stages = _stages_of(workspace)
        if stages and arguments.stage is None:
            return _run_each(workspace, stages, stop)
        return _run_one(_of_stage(workspace, stages, arguments.stage) if stages else workspace, stop, secrets)
    except Exception as error:
        return _told(workspace, error)


def _told(workspace: Workspace, error: Exception) -> int:
    """Say why nothing could be run, and return the exit code."""
    expected = as_expected(error)
    reason = f"{type(expected or error).__name__}: {expected or error}"
    if expected is None:
        traceback.print_exc()
    else:
        print(reason, file=sys.stderr, flush=True)
    _write_failure(workspace.failure_file, reason)
    return expected.exit_code if expected else 1


def _stages_of(workspace: Workspace) -> list[str]:
    """Return the stages that share the job, in order; none where the job is for one."""
    orders = workspace.channel("plan")
    return [] if (orders / PLAN_FILE).is_file() else [name for name in STAGES if (orders / name / PLAN_FILE).is_file()]


def _run_each(workspace: Workspace, stages: list[str], stop: Stop) -> int:
    """Run the stages one after the other; those that only look at a training run on the first host.

    A stage after training that fails ends the job, but does not fail it: the service keeps the model of a job only that
    does not fail, and how a stage ended is told by its events.
    """
    leads = workspace.host == leader_of(workspace.hosts)
    command = [sys.executable, "-m", "videolift.entry", "--root", str(workspace.root), "--parent", str(os.getpid())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for name in stages:
        if not leads and name not in ON_ALL_HOSTS:
            continue
        if stop.requested:
            return STOPPED_EXIT_CODE
        with subprocess.Popen([*command, "--stage", name], env=environment, stdin=subprocess.DEVNULL) as process:
            stop.pass_on = process
            if stop.requested:  # it came before there was somebody to pass it on to
                process.send_signal(signal.SIGTERM)
            code = process.wait()
        stop.pass_on = None
        if code < 0:
            code = _told_of_kill(workspace.of_stage(name), name, -code)
        if code:
            if name == "train" or "train" not in stages or stop.requested:
                return code
            # The service keeps the model of a job that succeeds; what failed is told by the events.
            workspace.failure_file.unlink(missing_ok=True)
            return 0
    return 0


def _told_of_kill(workspace: Workspace, stage: str, number: int) -> int:
    """Tell how a stage ended that could not tell it itself, and return its exit code as a shell would."""
    code = SIGNALLED + number
    events = Events(workspace.events_file, workspace.host, stage=stage)
    events.end(code)
    events.close()
    return code


def _of_stage(workspace: Workspace, stages: list[str], stage: str) -> Workspace:
    """Return the workspace of one of several stages: its plan, its output, and what the stages before it gave."""
    channels = {**workspace.channels, "plan": workspace.channel("plan") / stage}
    if "train" in stages and stage != "train":
        channels |= {"model": workspace.model, "training": workspace.of_stage("train").output}
    if "evaluate" in stages and stage != "evaluate":
        channels["evaluation"] = workspace.of_stage("evaluate").output
    return replace(workspace.of_stage(stage), channels=channels)


def _run_one(workspace: Workspace, stop: Stop, secrets: Mapping[str, str]) -> int:
    """Run a stage, say how it ended, and return the exit code."""
    workspace.failure_file.unlink(missing_ok=True)  # of an earlier try
    workspace.create_results()
    plan = read_plan(workspace.channel("plan"))
    events = Events(workspace.events_file, workspace.host, stage=plan.stage)
    code, reason = 0, ""
    try:
        _run(workspace, plan, events, stop, secrets)
    except Stopped as stopped:
        print(stopped, flush=True)
        code = STOPPED_EXIT_CODE
    except Exception as error:
        code, reason = _told(workspace, error), f"{type(error).__name__}: {error}"
    try:
        events.end(code, reason[:FAILURE_LIMIT])
    finally:
        events.close()
    return code


def _run(workspace: Workspace, plan: Plan, events: Events, stop: Stop, secrets: Mapping[str, str]) -> None:
    orders = workspace.channel("plan")
    manifest = Manifest.from_json((orders / MANIFEST_FILE).read_text(encoding="utf-8"))
    if manifest.digest != plan.manifest_digest:
        raise VideoliftError(
            f"{orders / MANIFEST_FILE}: is not the manifest that the plan was made for; plan the run again"
        )
    if plan.stage not in STAGES:
        raise VideoliftError(f"{orders}: no stage {plan.stage!r}; there are {', '.join(STAGES)}")
    module = module_of(plan.stage)
    if (orders / SOURCE_FOLDER).is_dir() and module != "script":
        sys.path.insert(0, str(orders / SOURCE_FOLDER))
    importlib.import_module(f"videolift.{module}").run(Job(workspace, plan, manifest, events, stop, secrets))


def _write_failure(file: Path, reason: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(reason[:FAILURE_LIMIT], encoding="utf-8")
    except OSError as error:  # a full disk must not hide the reason, which stderr already has
        print(f"{file}: could not be written ({error.strerror})", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
