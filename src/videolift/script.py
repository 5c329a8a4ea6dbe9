"""The stage of a user's own script: it runs as it is, in a copy of its folder, and finds what SageMaker gives scripts.

Source of the variables: the README of sagemaker-training, AWS's toolkit for training containers. A processing job has
none on the service; here a script finds them in both kinds of job.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from videolift.errors import Stopped, VideoliftError
from videolift.events import PREFIX
from videolift.files import SCRIPT_LOG
from videolift.gpus import gpus
from videolift.job import Job, die_with
from videolift.plan import SOURCE_FOLDER
from videolift.script_arguments import filled, hyperparameters, words_of
from videolift.script_output import Line, Lines, Numbers
from videolift.script_requirements import inherited, make_environment
from videolift.script_secrets import Mask, masking, values_of
from videolift.settings import Script
from videolift.sysmetrics import sampled
from videolift.workspace import TRAINING_OUTPUT, Kind

REQUIREMENTS = "requirements.txt"
GIVEN, WORK = "files", "work"  # in the output folder: what it wrote to SM_OUTPUT_DATA_DIR, and beside itself
MODEL = "model"  # in the output folder of a processing job, which has no other place for one
PROGRAMS = (b"#!", b"\x7fELF")  # what a file begins with that can be started
NOT_COLLECTED = ("__pycache__", ".ipynb_checkpoints")
MAX_COLLECTED = 1 << 30  # bytes of what it wrote beside itself
MAX_LOGGED = 100 << 20  # bytes of a file that becomes an artifact
MAX_ARTIFACTS = 500
MAX_LOG = 64 << 20  # characters
REDRAWN_INTERVAL_S = 5.0  # between two lines of a progress bar that are passed on
POLL_S = 0.2
DRAIN_S = 2.0  # that processes which a script left behind may go on writing
PIECE = 1 << 16  # bytes


def run(job: Job) -> None:
    """Run the script, follow what it prints, and bring together what it wrote."""
    script, space = job.plan.script, job.workspace
    work, output, model = space.scratch / "work", space.output / GIVEN, model_folder(job)
    for left in (space.scratch, output, space.output / WORK, model):  # of an earlier try
        shutil.rmtree(left, ignore_errors=True) if left != space.model else _empty(left)
    for folder in (output, model, space.checkpoints):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(space.channel("plan") / SOURCE_FOLDER, work)
    _allow_programs(work)
    python, given = Path(sys.executable), inherited()
    if (file := requirements_of(work, script)) is not None:
        job.events.message(f"installing what {file.name} names")
        python, given = make_environment(space.scratch / "venv", file, file.parent), inherited(of_venv=True)
    job.stop.check()
    secrets = values_of(script.secrets, job.secrets, space.scratch)
    words = filled(words_of(script.args), {**places(job, work), **secrets})
    given |= {"PYTHONUNBUFFERED": "1", **variables(job, work, words), **secrets}
    before = _files(work)
    ended = _Child(job, [str(python), str(script.path), *words], work, given, masking(secrets.values())).follow()
    _collect(job, before)
    _announce(job)
    shutil.rmtree(space.scratch, ignore_errors=True)
    if job.stop.requested:
        raise Stopped(f"{script.path} was asked to stop, and ended with exit code {ended.code}")
    if ended.code:
        raise VideoliftError(_reason(script, ended))


def _allow_programs(folder: Path) -> None:
    """Let programs and scripts of a project be started: S3 keeps no permissions."""
    for file in (one for one in folder.rglob("*") if one.is_file()):
        with file.open("rb") as content:
            if content.read(4).startswith(PROGRAMS):
                file.chmod(file.stat().st_mode | 0o111)


def model_folder(job: Job) -> Path:
    """Return where the script puts a model."""
    space = job.workspace
    return space.model if space.kind is Kind.training else space.output / MODEL


def requirements_of(source: Path, script: Script) -> Path | None:
    """Return the requirement file in a script's source, None where it has none."""
    beside = (source / str(script.path)).parent
    named = [source / script.requirements] if script.requirements else [beside / REQUIREMENTS, source / REQUIREMENTS]
    return next((file for file in named if file.is_file()), None)


def places(job: Job, work: Path) -> dict[str, str]:
    """Return what each placeholder in the arguments stands for."""
    space, script = job.workspace, job.plan.script
    channels = {name: str(space.channel(name)) for name in script.channels}
    by_content = {content: channels[name] for name, content in reversed(script.channels.items())}
    return {
        **{name: by_content[name] for name in ("videos", "arrays") if name in by_content},
        "model_dir": str(model_folder(job)),
        "output_dir": str(space.output / GIVEN),
        "checkpoint_dir": str(space.checkpoints),
        "source_dir": str(work),
        "seed": str(job.plan.seed),
        **channels,
    }


def variables(job: Job, work: Path, words: Sequence[str]) -> dict[str, str]:
    """Return the variables that SageMaker's training toolkit sets."""
    space, script = job.workspace, job.plan.script
    channels = {name: str(space.channel(name)) for name in sorted(script.channels)}
    own = hyperparameters(words)
    resources = {"current_host": space.host, "hosts": list(space.hosts)}
    return {
        "SM_MODEL_DIR": str(model_folder(job)),
        "SM_OUTPUT_DATA_DIR": str(space.output / GIVEN),
        "SM_OUTPUT_DIR": str(space.root / "output"),
        "SM_INPUT_DIR": str(space.root / "input"),
        "SM_INPUT_CONFIG_DIR": str(space.root / "input" / "config"),
        "SM_MODULE_DIR": str(work),
        "SM_MODULE_NAME": Path(str(script.path)).stem,
        "SM_USER_ENTRY_POINT": str(script.path),
        "SM_USER_ARGS": json.dumps(list(words)),
        "SM_HPS": json.dumps(own),
        **{f"SM_HP_{name.upper()}": v if isinstance(v, str) else json.dumps(v) for name, v in own.items()},
        "SM_CURRENT_HOST": space.host,
        "SM_HOSTS": json.dumps(list(space.hosts)),
        "SM_RESOURCE_CONFIG": json.dumps(resources),
        "SM_NUM_CPUS": str(os.cpu_count() or 1),
        "SM_NUM_GPUS": str(len(gpus("index"))),
        "SM_CHANNELS": json.dumps(list(channels)),
        **{f"SM_CHANNEL_{name.upper()}": folder for name, folder in channels.items()},
    }


@dataclass(frozen=True)
class _Ended:
    """How a script ended."""

    code: int  # negative: killed by that signal
    last: str  # line that it printed


class _Child:
    """A script under way."""

    def __init__(self, job: Job, command: list[str], work: Path, given: Mapping[str, str], mask: Mask) -> None:
        self._job = job
        self._numbers = Numbers(job.plan.script.metrics)
        self._lines = Lines(mask)
        self._last: deque[str] = deque(maxlen=1)
        self._passed_on = 0.0
        self._log_left = MAX_LOG
        print(f"runs {job.plan.script.path}", flush=True)  # without its arguments, which may hold a password
        self._process = subprocess.Popen(
            command,
            cwd=work,
            env=given,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that what it leaves behind can be ended with it
            preexec_fn=partial(die_with, os.getpid(), signal.SIGKILL),  # noqa: PLW1509 - there is no other thread yet
        )

    def follow(self) -> _Ended:
        """Pass on what it prints until it has ended."""
        job, process = self._job, self._process
        job.stop.pass_on = process
        if job.stop.requested:  # it came before there was somebody to pass it on to
            process.send_signal(signal.SIGTERM)
        with (job.workspace.output / SCRIPT_LOG).open("w", encoding="utf-8") as log, sampled(job):
            for line in self._read():
                self._pass_on(line)
                if self._log_left > 0 and not line.redrawn:
                    self._log_left -= log.write(f"{line.text}\n")
        for problem in self._numbers.unmet():
            job.events.message(problem, "warning")
        job.stop.pass_on = None
        return _Ended(process.wait(), self._last[0] if self._last else "")

    def _read(self) -> Iterator[Line]:
        assert self._process.stdout is not None
        until = None
        with self._process.stdout as pipe:
            while True:
                if self._process.poll() is not None:
                    until = until or time.monotonic() + DRAIN_S
                if select.select([pipe], [], [], POLL_S)[0]:
                    content = os.read(pipe.fileno(), PIECE)
                    if not content:
                        break
                    yield from self._lines.feed(content)
                elif until is not None:
                    break  # what it left behind holds the pipe, and is silent
                if until is not None and time.monotonic() > until:
                    break
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        yield from self._lines.end()

    def _pass_on(self, line: Line) -> None:
        found, numbers = self._numbers.read(line.text), self._numbers
        for metric in found:
            self._job.events.metric(metric.key, metric.value, metric.step)
        if found and numbers.epoch is not None and 0 < numbers.epoch <= numbers.epochs:
            self._job.events.progress(numbers.epoch, numbers.epochs, unit="epochs")
        now = time.monotonic()
        if line.redrawn or numbers.in_progress:
            if now - self._passed_on < REDRAWN_INTERVAL_S:
                return
            self._passed_on = now
        else:
            self._last.append(line.text)
        told = f" {line.text}" if line.text.startswith(PREFIX) else line.text  # what it prints is no event of ours
        sys.stdout.write(f"{told}\n")
        sys.stdout.flush()


def _reason(script: Script, ended: _Ended) -> str:
    if ended.code < 0:
        number = -ended.code
        why = ", most often because memory ran out" if number == signal.SIGKILL else ""
        return f"{script.path} was killed by signal {number} ({signal.strsignal(number)}){why}"
    return f"{script.path} ended with exit code {ended.code}: {ended.last or 'it printed nothing'}"


def _empty(folder: Path) -> None:
    """Remove what is in a folder that may be a mount point itself."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return (bytes, time of change) of every file below a folder, by its path there."""
    found = {}
    for file in sorted(folder.rglob("*")):
        relative = file.relative_to(folder)
        if file.is_file() and not file.is_symlink() and not set(relative.parts) & set(NOT_COLLECTED):
            status = file.stat()
            found[relative.as_posix()] = (status.st_size, status.st_mtime_ns)
    return found


def _collect(job: Job, before: Mapping[str, tuple[int, int]]) -> None:
    """Move what the script wrote beside itself, and where the service would take it from, to the other results."""
    space = job.workspace
    work, left_bytes, left_out = space.scratch / "work", MAX_COLLECTED, []
    for name, state in _files(work).items():
        if before.get(name) == state:
            continue
        if state[0] > left_bytes:
            left_out.append(name)
            continue
        left_bytes -= state[0]
        target = space.output / WORK / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(work / name, target)  # the service may have mounted them apart
    if left_out:
        job.events.message(
            f"{len(left_out)} files that the script wrote beside itself are left behind, since all are more than "
            f"{MAX_COLLECTED >> 20} MB: {', '.join(left_out[:3])}; let it write to {{output_dir}} or {{model_dir}}",
            "warning",
        )
    top = space.root / TRAINING_OUTPUT
    if space.kind is Kind.training and top.is_dir():  # a script may know this place by itself
        known = {GIVEN, WORK, SCRIPT_LOG, space.output.name}
        for entry in top.iterdir():
            target = space.output / GIVEN / entry.name
            if entry.name not in known and not entry.name.startswith("events-") and not target.exists():
                shutil.move(entry, target)


def _announce(job: Job) -> None:
    """Tell which files are artifacts."""
    space = job.workspace
    host = "" if len(space.hosts) == 1 else f"/{space.host}"
    job.events.artifact(SCRIPT_LOG, host.lstrip("/"))
    folders = {GIVEN: "output", WORK: "work", **({MODEL: "model"} if space.kind is Kind.processing else {})}
    files = [(top, name, size) for top in folders for name, (size, _) in _files(space.output / top).items()]
    large = [name for _, name, size in files if size > MAX_LOGGED]
    fitting = [(top, name) for top, name, size in files if size <= MAX_LOGGED]
    for top, name in fitting[:MAX_ARTIFACTS]:
        folder = f"{folders[top]}{host}/{Path(name).parent.as_posix()}".removesuffix("/.")
        job.events.artifact(f"{top}/{name}", folder)
    if large or len(fitting) > MAX_ARTIFACTS:
        job.events.message(
            f"of {len(files)} files that the script wrote, {len(fitting[:MAX_ARTIFACTS])} become artifacts: at most "
            f"{MAX_ARTIFACTS}, none above {MAX_LOGGED >> 20} MB; all are in the stage's folder",
            "warning",
        )
