"""What a host of a job is, whatever stands for it here."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol


@dataclass(frozen=True)
class HostPlan:
    """How one host is to be started."""

    job: str
    name: str  # algo-1, ...
    hosts: tuple[str, ...]
    folder: Path  # stands for /opt/ml
    image: str
    entrypoint: Sequence[str] | None  # None: the image's own
    arguments: Sequence[str]
    environment: Mapping[str, str]
    network: str = ""  # what the job's hosts share, as `HostKind.open_network` named it
    addresses: Mapping[str, str] = field(default_factory=dict)
    aws_config: str = ""  # the configuration file of AWS by which the job acts as its role; where processes are hosts


class Host(Protocol):
    """One host that was started."""

    output: IO[bytes]  # stdout and stderr, in the order in which they were written

    @property
    def pid(self) -> int | None:
        """Process id on this machine of the host's first process; None where it has ended."""

    def send(self, number: signal.Signals) -> None:
        """Send the host's first process a signal; one that has ended gets none."""

    def poll(self) -> int | None:
        """Return the exit code as a shell would give it, None while the host runs."""

    def close(self) -> None:
        """End what still runs and leave nothing behind."""


class HostKind(Protocol):
    """A way of running hosts."""

    name: str
    interface: str  # of the network between hosts

    def problem(self) -> str | None:
        """Return why hosts cannot be run this way here, None where they can."""

    def image_problem(self, image: str) -> str | None:
        """Return why an image cannot be run, None where it can."""

    def open_network(self, job: str, hosts: Sequence[str]) -> tuple[str, Mapping[str, str]]:
        """Return the name of what connects a job's hosts, and their addresses where those are known beforehand."""

    def close_network(self, network: str) -> None: ...

    def start(self, plan: HostPlan) -> Host: ...
