"""The operations of SageMaker that the emulator answers itself; moto answers the others.

Sources: AWS, API reference of each operation; the wording of refusals is the service's as users quote it
(github.com/boto/boto3/issues/2808 for a job that is not there).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

from launchers.emulator.answers import ServiceError
from launchers.emulator.emulated import Emulated
from launchers.emulator.jobs import Job
from launchers.emulator.logs import ACCOUNT
from launchers.emulator.processing import ProcessingJob
from launchers.emulator.quotas import asked, instances_of
from launchers.emulator.training import TrainingJob
from launchers.emulator.validation import summary_members, validate

CLASSES: dict[str, type[Job]] = {"Training": TrainingJob, "Processing": ProcessingJob}
OPERATION = re.compile(r"(Create|Describe|Stop)(Training|Processing)Job|List(Training|Processing)Jobs")
ARN = re.compile(r"arn:[\w-]+:sagemaker:[\w-]+:\d{12}:(training|processing)-job/.+")
NOT_FOUND = {
    "Training": "Requested resource not found.",
    "Processing": "Could not find requested job with name: {name}",
}
TAKEN = {
    "Training": "Training job names must be unique within an AWS account and region, and a training job with this name "
    "already exists ({arn})",
    "Processing": "Job name must be unique within an AWS account and region, and a job with this name already exists "
    "({arn})",
}
PAGE = 100  # jobs that a list has at most
ORDERS: dict[str, Callable[[Job], Any]] = {
    "CreationTime": lambda job: job.created,
    "Name": lambda job: job.name,
    "Status": lambda job: job.status,
}
# In a summary if they are known: members of the list's shapes of either kind.
MORE_IN_SUMMARY = ("SecondaryStatus", "TrainingEndTime", "ProcessingEndTime", "FailureReason", "ExitMessage")


class SageMaker:
    """All jobs of one emulator."""

    def __init__(self, world: Emulated) -> None:
        self._world = world
        self._jobs: dict[tuple[str, str, str], Job] = {}  # by (region, kind, name)
        self._lock = threading.Lock()

    def operation(self, name: str, body: Any) -> Callable[[str], dict[str, Any]] | None:
        """Return what answers an operation when it is given the region, None where moto does."""
        if found := OPERATION.fullmatch(name):
            verb, kind = (found[1], found[2]) if found[1] else ("List", found[3])
            answers = {"Create": self._create, "Describe": self._describe, "Stop": self._stop, "List": self._list}
            return lambda region: self._answer(answers[verb], name, region, kind, body)
        if name in ("AddTags", "ListTags", "DeleteTags") and ARN.fullmatch(str((body or {}).get("ResourceArn"))):
            return lambda region: self._tags(name, body)
        return None

    def close(self) -> None:
        """End all jobs and return when their processes are gone."""
        self._world.closing.set()
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            if job.thread.is_alive():
                job.thread.join(30)

    def _answer(
        self, answer: Callable[[str, str, dict[str, Any]], dict[str, Any]], name: str, region: str, kind: str, body: Any
    ) -> dict[str, Any]:
        validate(name, body)
        return answer(region, kind, body)

    def _create(self, region: str, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        check_role(body["RoleArn"])
        name = body[f"{kind}JobName"]
        with self._lock:
            if existing := self._jobs.get((region, kind, name)):
                raise ServiceError("ResourceInUse", TAKEN[kind].format(arn=existing.arn))
            job = CLASSES[kind](self._world, region, body)
            self._check_quota(region, kind, body)
            job.start()
            self._jobs[region, kind, name] = job
        return {f"{kind}JobArn": job.arn}

    def _check_quota(self, region: str, kind: str, body: dict[str, Any]) -> None:
        running = [
            job.request
            for (where, what, _), job in self._jobs.items()
            if (where, what) == (region, kind) and not job.has_ended
        ]
        quota, wanted = asked(kind, body)
        self._world.quotas.check(quota, instances_of(running, kind, quota), wanted)

    def _describe(self, region: str, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._find(region, kind, body).describe()

    def _stop(self, region: str, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        self._find(region, kind, body).stop()
        return {}

    def _find(self, region: str, kind: str, body: dict[str, Any]) -> Job:
        name = body[f"{kind}JobName"]
        job = self._jobs.get((region, kind, name))
        if job is None:
            raise ServiceError("ValidationException", NOT_FOUND[kind].format(name=name))
        return job

    def _list(self, region: str, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """List the jobs that pass all filters, a page of them; the next one begins after the job that a token names."""
        with self._lock:
            jobs = [job for (where, what, _), job in self._jobs.items() if (where, what) == (region, kind)]
        jobs = [job for job in jobs if _passes(job, body)]
        order = ORDERS[body.get("SortBy", "CreationTime")]
        jobs.sort(key=order, reverse=body.get("SortOrder", "Descending") == "Descending")
        token = body.get("NextToken")
        names = [job.name for job in jobs]
        if token is not None and token not in names:
            raise ServiceError("ValidationException", f"Invalid NextToken: {token}")
        first = names.index(token) + 1 if token is not None else 0
        shown = jobs[first : first + body.get("MaxResults", PAGE)]
        more = {"NextToken": shown[-1].name} if shown and shown[-1] is not jobs[-1] else {}
        return {f"{kind}JobSummaries": [_summary(kind, job) for job in shown], **more}

    def _by_arn(self, arn: str) -> Job | None:
        with self._lock:
            return next((job for job in self._jobs.values() if job.arn == arn), None)

    def _tags(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        validate(name, body)
        job = self._by_arn(body["ResourceArn"])
        if job is None:
            raise ServiceError("ValidationException", NOT_FOUND["Training"])
        gone = {tag["Key"] for tag in body.get("Tags", [])} | set(body.get("TagKeys", []))
        if name != "ListTags":
            job.tags = [tag for tag in job.tags if tag["Key"] not in gone] + body.get("Tags", [])
        return {} if name == "DeleteTags" else {"Tags": job.tags}


def check_role(arn: str) -> None:
    """Refuse a role that is not there or that SageMaker may not take.

    Raises:
        ServiceError: with the service's words.
    """
    from moto.iam.models import iam_backends

    partition, name = arn.split(":")[1], arn.rpartition("/")[2]
    roles = iam_backends[ACCOUNT][partition].roles.values()
    role = next((role for role in roles if role.name == name and role.arn == arn), None)
    if role is None or "sagemaker.amazonaws.com" not in str(role.assume_role_policy_document):
        raise ServiceError(
            "ValidationException",
            f"Could not assume role {arn}. Please ensure that the role exists and allows principal "
            "'sagemaker.amazonaws.com' to assume the role.",
        )


def _passes(job: Job, body: dict[str, Any]) -> bool:
    """Tell whether a job passes the filters of a list."""
    times = (("CreationTime", job.created), ("LastModifiedTime", job.modified))
    return (
        body.get("NameContains", "") in job.name
        and body.get("StatusEquals", job.status) == job.status
        and all(time > body.get(f"{name}After", 0) for name, time in times)
        and all(time < body.get(f"{name}Before", float("inf")) for name, time in times)
    )


def _summary(kind: str, job: Job) -> dict[str, Any]:
    described = job.describe()
    known = set(summary_members(f"List{kind}Jobs", f"{kind}JobSummaries"))
    return {
        f"{kind}JobName": job.name,
        f"{kind}JobArn": job.arn,
        f"{kind}JobStatus": described[f"{kind}JobStatus"],
        "CreationTime": job.created,
        "LastModifiedTime": described["LastModifiedTime"],
        **{name: described[name] for name in MORE_IN_SUMMARY if name in described and name in known},
    }
