"""A job on SageMaker as the launcher follows it: its lines, its states, its end, its results."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launchers import script_channels
from launchers.base import HostEnd, LostTouch, Stage
from launchers.cache import HANDLE, StageFolder
from launchers.config import SCRIPT
from launchers.image import PURPOSES
from launchers.remote import partition, state
from launchers.remote.archive import extract
from launchers.remote.aws import Aws, AwsError, is_transient
from launchers.remote.download import download_file, download_prefix
from launchers.remote.s3 import MISSING, Location, exists
from launchers.remote.state import State
from launchers.remote.watch import LONGEST_BACK_OFF_S, Watch, Watched
from launchers.signals import pause
from videolift.entry import SIGNALLED, STOPPED_EXIT_CODE
from videolift.errors import StageError, VideoliftError
from videolift.events import PREFIX, Event, Events, parse, read
from videolift.workspace import Kind

SERVICE = "service"  # what stands in place of a host for what SageMaker itself says
FETCHED = ".fetched-"  # begins the name of a folder beside it, until all has arrived
QUIET_S = 10.0  # without a line, after which an ended job is taken to have said everything
UNKNOWN_EXIT_CODE = 1
STOP_AGAIN_S = (2.0, 5.0, 15.0)  # pauses between tries to stop a job, each of which has tries of botocore's own
FETCH_AGAIN_S = 2.0  # pause before the second try to fetch results, doubled up to LONGEST_BACK_OFF_S


@dataclass(frozen=True)
class Handle:
    """What is kept of a job so that any later run finds it."""

    job: str
    kind: Kind
    region: str
    account: str
    stages: dict[str, str]  # name -> id

    def save(self, folders: Sequence[StageFolder]) -> None:
        """Write it, whole or not at all."""
        text = json.dumps({**vars(self), "kind": self.kind.value})
        for folder in folders:
            temporary = folder.path / f"{HANDLE}.{os.getpid()}.tmp"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(folder.path / HANDLE)

    @property
    def stop_command(self) -> str:
        """Return what a person types to stop it."""
        word = self.kind.value
        return f"aws sagemaker stop-{word}-job --{word}-job-name {self.job} --region {self.region}"


def read_handle(folder: Path) -> Handle | None:
    """Return the job that computes the stage of a folder, None where there is none."""
    try:
        text = (folder / HANDLE).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    found = json.loads(text)
    return Handle(**{**found, "kind": Kind(found["kind"])})


class RemoteJob:
    """Stages that run as one job on SageMaker."""

    lasting = True

    def __init__(self, aws: Aws, watch: Watch, handle: Handle, stages: Sequence[Stage]) -> None:
        self.stages: list[Stage] = list(stages)
        self.finished: list[Stage] = []
        self._aws = aws
        self._handle = handle
        self._watch = watch
        self._watched = Watched(handle.kind, handle.job)
        self._client = aws.client("sagemaker")
        self._state: State | None = None
        self._told_steps = 0
        self._ends: dict[tuple[str, str], Event] = {}  # by host and stage
        self._collected = False
        self._stopped = False  # by us

    def follow(self) -> Iterator[tuple[str, str]]:
        with self._watch.following(self._watched):
            while self._state is None or not self._state.ended:
                yield from self._new()
            yield from self._rest()
        if self._state.status == state.COMPLETED and not self._collected:
            yield self._say("bringing the results back")
            yield from self._collect_patiently(self._state)

    def _collect_patiently(self, found: State) -> Iterator[tuple[str, str]]:
        """Bring the results back, however long the service does not answer; yields what keeps it from it."""
        wait_s = FETCH_AGAIN_S
        for stage in (one for one in self.stages if script_channels.is_of_script(one)):
            script_channels.set_aside(stage.folder)  # once: files of a broken download are no earlier try's
        while not self._collected:
            try:
                self._collect(found)
            except AwsError as error:
                if not is_transient(error):
                    raise self._not_collected(error) from error
                yield self._say(f"{error}; the job is completed, trying again in {wait_s:.0f} s", "warning")
                pause(wait_s)
                wait_s = min(2 * wait_s, LONGEST_BACK_OFF_S)

    def _not_collected(self, error: AwsError) -> VideoliftError:
        """Return what to tell where the results of a completed job cannot be fetched."""
        if error.code == MISSING:
            self._forget(self.stages)
            return StageError(
                f"the job is completed, but its results are gone: {error}; the same command computes anew"
            )
        files = " and ".join(str(stage.folder.path / HANDLE) for stage in self.stages)
        return LostTouch(
            f"the job is completed, but its results cannot be fetched: {error}\n  (without {files} it is computed anew)"
        )

    def _rest(self) -> Iterator[tuple[str, str]]:
        """Yield what comes late: lines reach CloudWatch some seconds after they were printed."""
        assert self._state is not None
        heard = time.monotonic()
        while self._state.has_run:
            was_all = self._all_said()
            told = False
            for line in self._new():
                told = True
                yield line
            if told:
                heard = time.monotonic()
            elif was_all or time.monotonic() - heard > QUIET_S:
                return

    def _all_said(self) -> bool:
        """Tell whether every host said how it ended; where something failed, one with a reason of its own is enough."""
        assert self._state is not None
        if any(event["exit_code"] not in (0, STOPPED_EXIT_CODE) for event in self._ends.values()):
            return True
        if self._state.status == "Failed":
            return False
        last = self.stages[-1].plan.stage
        told = {host for host, stage in self._ends if stage == last or host != self._state.hosts[0]}
        return told >= set(self._state.hosts)

    def _new(self) -> Iterator[tuple[str, str]]:
        """Yield what the next look finds; a service that does not answer for a while is asked again later."""
        watched = self._watched
        self._watch.wait(watched)
        trouble = watched.own_trouble or watched.trouble
        if watched.unknown:
            raise LostTouch(f"{self._handle.job}: SageMaker knows no such job in {self._aws.region}")
        if watched.state is not None:
            yield from self._told(watched.state)
        lines = watched.log.lines
        while lines:  # one that was not taken comes again: whoever takes may be interrupted
            host, line = lines[0]
            self._note(host, line)
            yield host, line
            lines.popleft()
        if trouble is not None and is_transient(trouble):
            text = f"{trouble}; the job goes on, trying again in {self._watch.wait_s:.0f} s"
            yield self._say(text, "warning")
        elif isinstance(trouble, AwsError):
            raise LostTouch(f"{trouble}; the job goes on") from trouble
        elif trouble is not None:
            raise trouble

    def _told(self, found: State) -> Iterator[tuple[str, str]]:
        if self._state is None:
            yield from self._introduce(found)
        # Of the step under way nothing is known but that it has begun, which the end of the one before tells.
        steps = found.steps if found.ended else found.steps[:-1]
        for step in steps[self._told_steps :]:
            took = f" ({(step.ended - step.started).total_seconds():.0f} s)" if step.ended else ""
            why = f": {step.message}" if step.message else ""
            yield self._say(f"{step.name}{took}{why}")
        self._told_steps = max(self._told_steps, len(steps))
        self._state = found

    def _introduce(self, found: State) -> Iterator[tuple[str, str]]:
        kind, links = self._handle.kind, self._links()
        yield self._say(f"job {self._handle.job} on {found.instances} x {found.instance_type}")
        if links["console"]:
            yield self._say(str(links["console"]))
        for key, value in {"arn": found.arn, **links}.items():
            if value:
                yield self._event("tag", key=f"sagemaker.{kind.value}.{key}", value=value)

    def _links(self) -> dict[str, str | None]:
        """Return where the console shows the job; nowhere in a partition without a public one."""
        region, kind, job = self._aws.region, self._handle.kind, self._handle.job
        return {"console": partition.job_link(region, kind, job), "logs": partition.logs_link(region, kind, job)}

    def _note(self, host: str, line: str) -> None:
        event = parse(line)
        if event is not None and event["type"] == "end":
            self._ends[host, str(event["stage"])] = event

    def _say(self, text: str, level: str = "info") -> tuple[str, str]:
        return self._event("message", text=text, level=level)

    def _event(self, kind: str, **fields: Any) -> tuple[str, str]:
        event = {"type": kind, "stage": "", **fields, "time": time.time(), "host": SERVICE}
        return SERVICE, f"{PREFIX}{json.dumps(event)}"

    def stop(self, grace_s: float) -> None:
        self._stopped = True
        state.stop(self._client, self._handle.kind, self._handle.job)

    def ends(self) -> list[HostEnd]:
        found = self._state
        assert found is not None and found.ended
        bad = sorted((e for e in self._ends.values() if e["exit_code"]), key=lambda e: float(e["time"]))
        told = [self._end(str(e["host"]), int(e["exit_code"]), str(e["reason"])) for e in bad]
        if found.status == state.COMPLETED:
            return told
        if found.status == "Stopped" and (ran_out := self._ran_out(found)):
            return [HostEnd(SERVICE, StageError.exit_code, *ran_out)]
        if found.status == "Stopped":
            return [HostEnd(host, STOPPED_EXIT_CODE, "") for host in found.hosts]
        failed = [end for end in told if end.exit_code != STOPPED_EXIT_CODE]
        return [self._with_place(end, found) for end in failed or [self._as_told_by_the_service(found)]]

    def _with_place(self, end: HostEnd, found: State) -> HostEnd:
        """Name what the service keeps of a script that failed."""
        if found.kind is not Kind.training or not script_channels.is_of_script(self.stages[0]):
            return end
        kept = f"what the script wrote until then: {Location.parse(found.output).uri}/output.tar.gz"
        return replace(end, remark="\n".join(filter(None, [end.remark, kept])))

    def _ran_out(self, found: State) -> tuple[str, str] | None:
        """Return (reason, remedy) where the service stopped the job because its time was over."""
        key = self._purpose
        if found.kind is Kind.training:
            limits = {"MaxRuntimeExceeded": "max_run_s", "MaxWaitTimeExceeded": "max_wait_s"}
            setting = next((limits[step.name] for step in found.steps if step.name in limits), None)
        else:
            ran_out = (found.run_s or 0) >= self._aws.settings.resources(key).max_run_s
            setting = "max_run_s" if not self._stopped and ran_out else None
        if setting is None:
            return None
        return f"the service stopped it: backend.{key}.{setting} was over", f"raise backend.{key}.{setting}"

    @property
    def _purpose(self) -> str:
        return PURPOSES[next(iter(self._handle.stages))]

    def _as_told_by_the_service(self, found: State) -> HostEnd:
        reason = found.message or found.failure
        if found.exit_code is None:  # no host failed
            return HostEnd(SERVICE, StageError.exit_code, reason, _remedy(found.failure))
        told = {host for host, _ in self._ends}
        silent = [host for host in found.hosts if host not in told]  # a host that was killed could say nothing
        return self._end([*silent, *found.hosts][0], found.exit_code or UNKNOWN_EXIT_CODE, reason)

    def _end(self, host: str, code: int, reason: str) -> HostEnd:
        if code <= SIGNALLED or code == STOPPED_EXIT_CODE:
            return HostEnd(host, code, reason)
        larger = f"choose a larger backend.{self._purpose}.instance_type" if code == SIGNALLED + signal.SIGKILL else ""
        return HostEnd(host, SIGNALLED - code, reason, larger)

    def _collect(self, found: State) -> None:
        """Bring the results into the stages' folders, in place of what an earlier try left there."""
        s3, output = self._aws.client("s3"), Location.parse(found.output)
        if found.kind is Kind.processing:
            (stage,) = self.stages
            self.stages = [replace(stage, hosts=found.hosts)]
            for host in found.hosts:
                folder = self.stages[0].workspace(host, {}).output
                names = download_prefix(s3, output / host, folder).names
                for file in (f for f in folder.rglob("*") if f.is_file()):
                    if file.relative_to(folder).as_posix() not in names:
                        file.unlink()
        else:
            self._unpack(s3, output)
        self._note_service(found)
        self._find_finished()
        self._collected = True

    def _unpack(self, s3: Any, output: Location) -> None:
        for left in self.stages[0].folder.path.glob(f"{FETCHED}*"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=self.stages[0].folder.path, prefix=FETCHED) as name:
            folder = Path(name)
            trained = [stage.folder.first for stage in self.stages if stage.plan.stage in ("train", SCRIPT)]
            there = ["output"] if exists(s3, output / "output.tar.gz") else []
            for archive in [*there, *(["model"] if trained else [])]:
                file = folder / f"{archive}.tar.gz"
                download_file(s3, output / file.name, file)
                extract(file, folder / archive)
            # AWS's page has the content of output/data at the top; the SDK's own local mode has data/ above it.
            top = folder / "output" / "data" if (folder / "output" / "data").is_dir() else folder / "output"
            for stage in self.stages:
                first, *others = stage.hosts
                _put(top / stage.plan.stage, stage.folder.workspace(first).output)
                for host in others:
                    _put(top / f"{stage.plan.stage}-{host}", stage.folder.workspace(host).output)
            for space in trained:
                _put(folder / "model", space.model)

    def _note_service(self, found: State) -> None:
        """Keep what the service says of the job with what the hosts say, so that it is recorded whenever they are."""
        first = self.stages[0]
        output = first.folder.workspace(SERVICE).output
        file = output / f"events-{SERVICE}.jsonl"
        file.unlink(missing_ok=True)
        kind, region, job = found.kind.value, self._aws.region, self._handle.job
        with (
            Path(os.devnull).open("w") as nowhere,
            closing(Events(file, SERVICE, nowhere, stage=first.plan.stage)) as events,
        ):
            events.tag(f"sagemaker.{kind}.job", job)
            events.tag(f"sagemaker.{kind}.arn", found.arn)
            events.tag(f"sagemaker.{kind}.instances", f"{found.instances} x {found.instance_type}")
            place = Location.parse(found.output)
            links = {**self._links(), "output": partition.s3_link(region, place.bucket, place.key)}
            for key, link in links.items():
                if link:
                    events.tag(f"sagemaker.{kind}.{key}", link)
            for step in found.steps:
                if step.ended:
                    events.metric(f"sagemaker/{kind}/{step.name}_s", (step.ended - step.started).total_seconds())
            if found.billable_s is not None:
                events.metric(f"sagemaker/{kind}/billable_s", found.billable_s * found.instances)
            if found.run_s and found.billable_s is not None and found.billable_s < found.run_s:
                events.metric(f"sagemaker/{kind}/spot_saving", 1 - found.billable_s / found.run_s)

    def _find_finished(self) -> None:
        for stage in self.stages:
            spaces = [stage.workspace(host, {}) for host in stage.hosts]
            files = {space.events_file for space in spaces} | set(stage.folder.first.output.glob("events-*.jsonl"))
            for event in (e for file in files for e in read(file) if e["type"] == "end"):
                self._ends[str(event["host"]), stage.plan.stage] = event
            bad = [e for (_, name), e in self._ends.items() if name == stage.plan.stage and e["exit_code"]]
            if bad:
                return
            if not any(name == stage.plan.stage for _, name in self._ends):
                raise StageError(
                    f"{self._handle.job}: is completed, but its output has nothing of {stage.plan.stage}; see "
                    f"{self._state.output if self._state else 'S3'}. Without {stage.folder.path / HANDLE} it is "
                    "computed anew"
                )
            self.finished.append(stage)

    def close(self) -> None:
        """Leave nothing running, and forget the job where no other run can get anything from it.

        That of a finished stage is kept: its results may still have to be put to use, and it says whose they are.

        Raises:
            LostTouch: if it cannot be stopped.
        """
        found = self._state
        if found is None or not found.ended:
            self._stop_patiently()
        elif found.status != state.COMPLETED or self._collected:
            finished = {stage.plan.id for stage in self.finished}
            self._forget([stage for stage in self.stages if stage.plan.id not in finished])

    def _stop_patiently(self) -> None:
        """Stop it, although the service may not answer for a while: it is billed until then."""
        for wait_s in (*STOP_AGAIN_S, None):
            try:
                self.stop(0)
                return
            except AwsError as error:
                if wait_s is None or not is_transient(error):
                    raise LostTouch(
                        f"job {self._handle.job} could not be stopped, goes on and is billed: {error}\n"
                        f"  stop it with: {self._handle.stop_command}"
                    ) from error
                pause(wait_s)

    def forget(self) -> None:
        """Keep nothing of a job that was never made."""
        self._forget(self.stages)

    def _forget(self, stages: Sequence[Stage]) -> None:
        for stage in stages:
            (stage.folder.path / HANDLE).unlink(missing_ok=True)


def _put(fetched: Path, place: Path) -> None:
    """Put a folder that was fetched, which may be missing, in the place of what an earlier try left there."""
    shutil.rmtree(place, ignore_errors=True)
    if fetched.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        fetched.replace(place)


def _remedy(failure: str) -> str:
    """Return what to do about a failure that is the service's, where that is known."""
    if failure.startswith("CapacityError"):
        return "AWS has no such instances to spare now: try again later, another instance_type, region or zone"
    if "ResourceLimitExceeded" in failure:
        return "ask for a higher quota of this instance type in the Service Quotas console"
    return ""
