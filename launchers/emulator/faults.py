"""What goes wrong on purpose: refused, failing and unanswered requests, and trouble of jobs.

Sources: AWS, "Common Errors" (ThrottlingException, ExpiredTokenException), botocore's retry rules; "Managed Spot
Training in Amazon SageMaker AI" for interruptions; the capacity error is worded as users quote the service
(github.com/DIAGNijmegen/rse-grand-challenge/issues/2631).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from launchers.emulator.answers import ServiceError

ON_REQUESTS = ("throttle", "error", "drop", "lose", "expired")
ON_JOBS = ("capacity", "interrupt", "kill_host", "slow_logs")
KEYS = {
    "throttle": {"operation", "times"},
    "error": {"operation", "times", "status", "code", "message"},
    "drop": {"operation", "times"},
    "lose": {"operation", "times"},  # as drop, but what was asked for is done
    "expired": {"operation", "times"},
    "capacity": {"job", "times"},
    "interrupt": {"job", "after_s", "when_log_contains", "times"},
    "kill_host": {"job", "host", "after_s", "when_log_contains", "times"},
    "slow_logs": {"seconds"},
}
CAPACITY_REASON = (
    "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance type."
)
NEXT = "next"  # a job that is created after the fault was
THROTTLES = {
    "s3": ("SlowDown", "Please reduce your request rate.", 503),
    "iam": ("Throttling", "Rate exceeded", 400),
    "sts": ("Throttling", "Rate exceeded", 400),
}
EXPIRED = {
    "s3": ("ExpiredToken", "The provided token has expired.", 400),
    "sts": ("ExpiredToken", "The security token included in the request is expired", 403),
}
SERVER_ERRORS = {500: ("InternalFailure", "InternalError"), 503: ("ServiceUnavailable", "ServiceUnavailable")}


class DropConnection(Exception):
    """The connection is to be closed without an answer."""


@dataclass
class Fault:
    """One kind of trouble and when it comes."""

    kind: str
    operation: str | None = None  # of a request; None: any
    times: int | None = None  # None: until faults are cleared, or once for trouble of jobs
    status: int = 500
    code: str | None = None  # None: the usual one of the status; "": there is no body, as from a proxy
    message: str | None = None
    job: str | None = None  # a name, "next", or None for any
    host: str = "algo-1"
    after_s: float = 0.0  # from the start of the job's containers
    when_log_contains: str | None = None
    seconds: float = 0.0
    created: float = field(default_factory=time.monotonic)
    log_was_seen: bool = False


def read_fault(described: Any) -> Fault:
    """Return the fault that a request describes.

    Raises:
        ServiceError: if it describes none.
    """
    if not isinstance(described, dict) or described.get("kind") not in KEYS:
        raise ServiceError("ValidationException", f"a fault has a kind, one of {', '.join(KEYS)}")
    kind = described["kind"]
    unknown = set(described) - KEYS[kind] - {"kind"}
    if unknown:
        raise ServiceError(
            "ValidationException",
            f"fault {kind}: has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(KEYS[kind]))}",
        )
    return Fault(**described)


class Faults:
    """The faults that are to come."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def apply(self, service: str, operation: str) -> bool:
        """Raise what a request is to suffer, if anything, and return whether its answer is to be lost.

        Raises:
            ServiceError: the answer of the service.
            DropConnection: no answer.
        """
        fault = self._take_for_request(operation)
        if fault is None:
            return False
        if fault.kind == "lose":
            return True
        if fault.kind == "drop":
            raise DropConnection
        if fault.kind == "throttle":
            raise ServiceError(*THROTTLES.get(service, ("ThrottlingException", "Rate exceeded", 400)))
        if fault.kind == "expired":
            default = ("ExpiredTokenException", "The security token included in the request is expired", 400)
            raise ServiceError(*EXPIRED.get(service, default))
        usual = SERVER_ERRORS.get(fault.status, ("InternalFailure", "InternalError"))[service == "s3"]
        code = usual if fault.code is None else fault.code
        raise ServiceError(code, fault.message or "the emulator was told to fail", fault.status)

    def _take_for_request(self, operation: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.kind in ON_REQUESTS and fault.operation in (None, operation):
                    self._use(fault)
                    return fault
        return None

    def take_for_job(self, kinds: tuple[str, ...], job: str, created: float, running_s: float) -> Fault | None:
        """Return a fault that a job is to suffer now, and count it as used.

        Args:
            created: when the job was, by ``time.monotonic``.
            running_s: seconds since its containers were started.
        """
        with self._lock:
            for fault in self._mine(kinds, job, created):
                if running_s >= fault.after_s and (fault.when_log_contains is None or fault.log_was_seen):
                    self._use(fault, default_times=1)
                    fault.log_was_seen = False
                    return fault
        return None

    def see_line(self, job: str, created: float, line: str) -> None:
        """Note that a job has written a line."""
        if not self._faults:
            return
        with self._lock:
            for fault in self._mine(ON_JOBS, job, created):
                if fault.when_log_contains is not None and fault.when_log_contains in line:
                    fault.log_was_seen = True

    def log_delay_s(self) -> float:
        with self._lock:
            return max((fault.seconds for fault in self._faults if fault.kind == "slow_logs"), default=0.0)

    def _mine(self, kinds: tuple[str, ...], job: str, created: float) -> list[Fault]:
        mine = []
        for fault in self._faults:
            if fault.kind in kinds:
                if fault.job == NEXT and created >= fault.created:
                    fault.job = job
                if fault.job in (None, job):
                    mine.append(fault)
        return mine

    def _use(self, fault: Fault, default_times: int | None = None) -> None:
        times = fault.times if fault.times is not None else default_times
        if times is None:
            return
        fault.times = times - 1
        if fault.times <= 0:
            self._faults.remove(fault)
