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
from videolift.listing import some
from videolift.plan import SOURCE_FOLDER
from videolift.script_arguments import filled, hyperparameters, words_of
from videolift.script_files import (
    ELSEWHERE,
    ENVIRONMENT,
    GIVEN,
    LINKS,
    MODEL,
    WORK,
    collect,
    files_of,
    keep_model,
    remember,
    work_folder,
)
from videolift.script_output import Line, Lines, Numbers
from videolift.script_requirements import inherited, make_environment, requirements_of
from videolift.script_secrets import Mask, masking, values_of
from videolift.settings import Script
from videolift.sysmetrics import sampled
from videolift.workspace import Kind

PROGRAMS = (b"#!", b"\x7fELF")  # what a file begins with that can be started
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
    work, output, model = work_folder(space), space.output / GIVEN, model_folder(job)
    collect(space)  # of a try that was killed
    for folder in (output, model, space.checkpoints, space.scratch):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(space.channel("plan") / SOURCE_FOLDER, work)
    _allow_programs(work)
    python, given = Path(sys.executable), inherited(space.scratch / "hiding")
    if (file := requirements_of(work, script)) is not None:
        job.events.message(f"installing what {file.name} names")
        python, given = make_environment(space.scratch / ENVIRONMENT, file, file.parent), inherited(of_venv=True)
    job.stop.check()
    secrets = values_of(script.secrets, job.secrets, space.scratch)
    words = filled(words_of(script.args), {**places(job, work), **secrets})
    given |= {"PYTHONUNBUFFERED": "1", **variables(job, work, words), **secrets}
    remember(space)
    ended = _Child(job, [str(python), str(script.path), *words], work, given, masking(secrets.values())).follow()
    _collect(job, finished=not (ended.code or job.stop.requested))
    if ended.code and not job.stop.requested and space.kind is Kind.training:
        keep_model(space)
    _announce(job)
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


def _collect(job: Job, *, finished: bool) -> None:
    """Bring together what the script wrote, and tell what of it lies at another place than the script knows."""
    found = collect(job.workspace, finished=finished)
    if found.elsewhere:
        job.events.message(f"kept in {ELSEWHERE}/, as written beside the places for results: {some(found.elsewhere)}")
    if found.links:
        job.events.message(f"listed in {LINKS}, as links to what the script did not write: {some(found.links)}")


def _announce(job: Job) -> None:
    """Tell which files are artifacts."""
    space = job.workspace
    host = "" if len(space.hosts) == 1 else f"/{space.host}"
    for name in (name for name in (SCRIPT_LOG, LINKS) if (space.output / name).is_file()):
        job.events.artifact(name, host.lstrip("/"))
    folders = {GIVEN: "output", WORK: "work", ELSEWHERE: ELSEWHERE, MODEL: "model"}
    files = [(top, name, size) for top in folders for name, size in files_of(space.output / top).items()]
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
