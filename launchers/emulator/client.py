"""An emulator in a process of its own, for programs and tests."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import deque
from pathlib import Path
from typing import Any, Self

from launchers.emulator.choice import EmulatorError
from launchers.emulator.environment import READY, environment
from launchers.repository import ROOT

END_S = 60.0


class Emulator:
    """``python -m launchers.emulator`` while a `with` block lasts; it ends with this process, however that ends."""

    def __init__(
        self,
        root: Path,
        *,
        port: int = 0,
        hosts: str = "auto",
        grace_s: float = 120.0,
        start_s: float = 0.2,
        ready: bool = True,
        regions: tuple[str, ...] = (),
        images: dict[str, str] | None = None,
        quotas: dict[str, int] | None = None,
    ) -> None:
        self.root = root
        self.url = ""
        self.process: subprocess.Popen[str] | None = None
        self._reader = threading.Thread(target=self._read_on, daemon=True)
        self._last: deque[str] = deque(maxlen=200)  # lines of output
        self._command = [
            *(sys.executable, "-m", "launchers.emulator", "--until-stdin-closes", "--root", str(root)),
            *("--port", str(port), "--hosts", hosts, "--grace-s", str(grace_s), "--start-s", str(start_s)),
            *(() if ready else ("--no-ready",)),
            *(word for region in regions for word in ("--region", region)),
            *(word for name, value in (quotas or {}).items() for word in ("--quota", f"{name}={value}")),
            *(word for pattern, local in (images or {}).items() for word in ("--image", f"{pattern}={local}")),
        ]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._last.append(line)
            if line.startswith(READY + "http"):
                self.url = line.removeprefix(READY).strip()
                self._reader.start()
                return self
        self.process.wait()
        raise EmulatorError("".join(self._last).strip())

    def __exit__(self, *_: object) -> None:
        process = self.process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.close()
            process.wait(END_S)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            process.kill()
            process.wait()
        self._reader.join()
        process.stdout.close()

    def _read_on(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        for line in self.process.stdout:
            self._last.append(line)

    @property
    def output(self) -> str:
        """The last lines that the emulator has printed."""
        return "".join(self._last)

    def environment(self) -> dict[str, str]:
        """Return the variables that make a program take this emulator for AWS."""
        return environment(self.url)

    def fault(self, kind: str, **details: Any) -> None:
        """Let something go wrong: see :mod:`launchers.emulator.faults`."""
        self._ask("POST", "faults", {"kind": kind, **details})

    def clear_faults(self) -> None:
        self._ask("DELETE", "faults")

    def calls(self, *, of_role: bool = False) -> list[dict[str, Any]]:
        """Return the requests that reached it, those that it made itself for jobs only where asked for."""
        lines = (self.root / "calls.jsonl").read_text(encoding="utf-8").splitlines()
        return [call for call in map(json.loads, lines) if call["is_role"] == of_role]

    def _ask(self, method: str, what: str, body: Any = None) -> None:
        request = urllib.request.Request(
            f"{self.url}/_emulator/{what}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        # Not through a proxy that the environment may name.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            opener.open(request, timeout=30).close()
        except urllib.error.HTTPError as error:
            raise EmulatorError(str(json.loads(error.read()).get("message"))) from error
