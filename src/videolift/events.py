"""What a job tells the outside: one JSON object a line, to a file and, prefixed, to stdout.

A launcher follows stdout (a pipe, ``docker logs``, CloudWatch) and reconciles with the file when the job ends. Every
event has ``type``, ``time`` (Unix seconds), ``host`` and ``stage``; by type there are also

    metric      key, value (number), step; a repeated (key, step) replaces the earlier value
    progress    done, total, failed, unit; the newest one counts
    artifact    path (below the job's output folder), folder (where a tracking server shows it)
    clip_error  clip, error
    tag         key, value (text)
    message     text, level (info | warning)
    end         exit_code, reason: how the stage ended on this host; what a service says may not tell which host failed
    clip        clip: its decoding begins. On stdout only, and only of use while the job runs: after it was killed for
                memory, the newest ones say which videos were being decoded
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

PREFIX = "::videolift::"

STDOUT = 1  # file descriptor

Event = dict[str, Any]


class Events:
    """Writes the events of one host of one job. Safe to call from several threads.

    Args:
        file: is appended to, so that a resumed job keeps what the killed one said.
    """

    def __init__(self, file: Path, host: str, stream: TextIO | None = None, *, stage: str = "") -> None:
        self.host = host
        self.stage = stage
        self._stream = stream if stream is not None else sys.stdout
        self._lock = threading.Lock()
        file.parent.mkdir(parents=True, exist_ok=True)
        _drop_torn_line(file)
        self._file = file.open("a", encoding="utf-8")

    def metric(self, key: str, value: float, step: int = 0) -> None:
        self._write("metric", key=key, value=float(value), step=step)

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        for key, value in values.items():
            self.metric(key, value, step)

    def progress(self, done: int, total: int, *, unit: str, failed: int = 0) -> None:
        self._write("progress", done=done, total=total, unit=unit, failed=failed)

    def artifact(self, path: str, folder: str = "") -> None:
        """Announce a file that lies at ``path`` below the job's output folder."""
        self._write("artifact", path=path, folder=folder)

    def clip_error(self, clip: str, error: str) -> None:
        self._write("clip_error", clip=clip, error=error)

    def tag(self, key: str, value: str) -> None:
        self._write("tag", key=key, value=value)

    def message(self, text: str, level: str = "info") -> None:
        self._write("message", text=text, level=level)

    def end(self, exit_code: int, reason: str = "") -> None:
        self._write("end", exit_code=exit_code, reason=reason)

    def close(self) -> None:
        self._file.close()

    def _write(self, kind: str, **fields: Any) -> None:
        line = _line(kind, self.host, stage=self.stage, **fields)
        with self._lock:
            if self._file.closed:
                return
            self._file.write(line + "\n")
            self._file.flush()
            self._stream.write(f"{PREFIX}{line}\n")
            self._stream.flush()


def tell_clip_begun(host: str, clip: str) -> None:
    """Say on stdout that a clip's decoding begins, from whichever process does it."""
    line = f"{PREFIX}{_line('clip', host, stage='preprocess', clip=clip)}\n".encode()
    if len(line) <= select.PIPE_BUF:  # longer ones may be torn by another process's, and end more than themselves
        os.write(STDOUT, line)


def _line(kind: str, host: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields, "time": time.time(), "host": host})


def parse(line: str) -> Event | None:
    """Return the event in a line of a job's output, None where the line is something else."""
    if not line.startswith(PREFIX):
        return None
    try:
        event = json.loads(line[len(PREFIX) :])
    except json.JSONDecodeError:
        return None  # two processes wrote into each other's line: the file has the event
    return event if isinstance(event, dict) and "type" in event else None


def read(file: Path) -> Iterator[Event]:
    """Yield the events of a file; a torn last line, left by a kill, is not an event."""
    if not file.exists():
        return
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


def _drop_torn_line(file: Path) -> None:
    if not file.exists():
        return
    with file.open("rb+") as f:
        size = f.seek(0, os.SEEK_END)
        tail = 1 << 16
        f.seek(max(0, size - tail))
        end = f.read()
        f.truncate(size - len(end) + end.rfind(b"\n") + 1)
