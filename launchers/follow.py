"""Follows one submitted stage: events go to display and tracker, output to a log, its end to the caller."""

from __future__ import annotations

import signal
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from launchers.base import Detached, HostEnd, Job, Stage
from launchers.config import OnInterrupt
from launchers.display import JobDisplay
from launchers.signals import pause
from videolift import errors, events
from videolift.entry import STOPPED_EXIT_CODE
from videolift.errors import StageError, Stopped, VideoliftError
from videolift.events import Event

TAIL_LINES = 30
SECOND_THOUGHT_S = 5.0  # in which a second Ctrl-C stops a job that the first one left to itself
SHOWN_CLIPS = 4  # as many as a few workers decode at a time
OWN_EXIT_CODES = {
    kind.exit_code
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, VideoliftError) and kind is not VideoliftError
}


def follow(
    job: Job,
    display: JobDisplay,
    log_file: Path,
    on_event: Callable[[Event], None],
    *,
    grace_s: float,
    on_interrupt: OnInterrupt,
    come_back: str,
    alone: Callable[[Stage], str],
) -> None:
    """Follow a job to its end.

    Ctrl-C asks the job to stop, which keeps what is finished; a second one kills it. One that lasts without us is left
    to itself at the first Ctrl-C, and asked to stop at a second one soon after it.

    Args:
        come_back: command that follows a lasting job again.
        alone: returns the command that runs a stage once more, to tell where it failed.

    Raises:
        StageError: if a host failed; the message says which one first, why, and what it printed last.
        Stopped: if the job was asked to stop.
        Detached: if it was left to itself.
    """
    said: dict[str, _Said] = defaultdict(_Said)
    interrupts = 0
    names = ", ".join(stage.name for stage in job.stages)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("a", encoding="utf-8") as log:
        lines = job.follow()
        while True:
            try:
                for host, line in lines:
                    event = events.parse(line)
                    if event is not None and event["type"] == "end":
                        if not event["exit_code"]:
                            said[host].done.add(str(event["stage"]))
                    elif event is None:
                        said[host].tail.append(line)
                        log.write(f"{host}: {line}\n")
                        log.flush()
                    elif event["type"] == "clip":
                        said[host].clips.append(str(event["clip"]))
                    else:
                        display.event(event)
                        on_event(event)
                break
            except KeyboardInterrupt:
                interrupts += 1
                detaches = job.lasting and on_interrupt is OnInterrupt.detach and interrupts == 1
                if detaches and not _second_thought(display):
                    raise Detached(f"the job goes on; come back with: {come_back}") from None
                display.say(
                    f"stopping {names}"
                    + ("" if job.lasting else "; Ctrl-C again does not wait for it to finish what it is doing")
                )
                job.stop(grace_s if interrupts == 1 else 0)
                lines = job.follow()
    ends = job.ends()
    # A failing host stops the others: their being stopped is not what happened.
    failed = [end for end in ends if end.exit_code not in (0, STOPPED_EXIT_CODE)]
    if interrupts or (not failed and any(end.exit_code for end in ends)):
        raise Stopped(f"{names} was stopped; the same command goes on from there")
    if failed:
        told = said[failed[0].host]
        stage = next((s for s in job.stages if s.plan.stage not in told.done), job.stages[-1])
        raise failure(stage, failed[0], told, log_file, alone(stage))


def _second_thought(display: JobDisplay) -> bool:
    try:
        display.say(f"leaving the job to itself; Ctrl-C within {SECOND_THOUGHT_S:.0f} s stops it instead")
        pause(SECOND_THOUGHT_S)
    except KeyboardInterrupt:
        return True
    return False


@dataclass
class _Said:
    """What one host told last."""

    done: set[str] = field(default_factory=set)  # stages
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    clips: deque[str] = field(default_factory=lambda: deque(maxlen=SHOWN_CLIPS))  # begun last


def failure(stage: Stage, end: HostEnd, said: _Said, log_file: Path, alone: str) -> StageError:
    """Return what to tell about a failed host: its own clear error, or all that helps to find a defect."""
    where = stage.name + (f" on {end.host}" if len(stage.hosts) > 1 and end.host in stage.hosts else "")
    if end.exit_code in OWN_EXIT_CODES and end.failure:
        error = StageError("\n".join([f"{where}: {end.failure}", *([end.remark] if end.remark else [])]))
        error.exit_code = end.exit_code
        return error
    lines = [f"{where} {_reason(end)}", *([end.remark] if end.remark else [])]
    if said.clips:
        lines.append(f"the clips begun last: {', '.join(said.clips)}")
    lines += [f"its last lines (all of them: {log_file}):", *(f"  {line}" for line in said.tail)]
    return StageError("\n".join([*lines, f"the same here: {alone}"]))


def _reason(end: HostEnd) -> str:
    if end.exit_code == -signal.SIGKILL:
        return "was killed (signal 9, exit code 137), most often because memory ran out"
    if end.exit_code < 0:
        return f"was killed by signal {-end.exit_code} ({signal.strsignal(-end.exit_code)})"
    return f"failed with exit code {end.exit_code}: {end.failure or 'no reason given'}"
