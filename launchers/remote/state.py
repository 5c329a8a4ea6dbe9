"""What SageMaker says of a job, in the same words for both kinds.

Sources: DescribeTrainingJob (SecondaryStatusTransitions, BillableTimeInSeconds) and DescribeProcessingJob in the
SageMaker API reference; "Managed Spot Training in Amazon SageMaker AI" (savings).

For ListTrainingJobs and ListProcessingJobs, the same reference.

IAM actions: sagemaker:ListTrainingJobs, sagemaker:ListProcessingJobs, sagemaker:DescribeTrainingJob,
sagemaker:DescribeProcessingJob, sagemaker:StopTrainingJob, sagemaker:StopProcessingJob.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from launchers.base import host_names
from launchers.remote.aws import AwsError, explained
from videolift.workspace import Kind

IN_PROGRESS, STOPPING, COMPLETED = "InProgress", "Stopping", "Completed"
ENDED = {COMPLETED, "Failed", "Stopped"}
EXIT_CODE = re.compile(r"exit code:? (\d+)", re.IGNORECASE)
WORDS = {Kind.training: "TrainingJob", Kind.processing: "ProcessingJob"}
RUNNING = {"Training", "Processing"}  # steps in which a job's program runs
LONGEST_PART = 63  # characters of NameContains
PAGE = 100  # jobs of a list
# What Describe and Stop answer for an unknown name: "Requested resource not found.", "Could not find requested job with
# name: ..."; the code alone says no more than that something is wrong with the request.
REJECTED = "ValidationException"
UNKNOWN_JOB = re.compile(r"not found|could not find|does not exist", re.IGNORECASE)
NOT_THERE = {"ResourceNotFound", "ResourceNotFoundException"}


@dataclass(frozen=True)
class Step:
    """What a job is or was busy with."""

    name: str
    started: datetime
    ended: datetime | None
    message: str


@dataclass(frozen=True)
class State:
    """A job as the service describes it."""

    kind: Kind
    arn: str
    status: str
    steps: tuple[Step, ...]
    failure: str  # FailureReason
    message: str  # what a processing job said of its end
    instances: int
    instance_type: str
    run_s: float | None  # that it ran
    billable_s: float | None  # of each instance
    output: str  # s3://..., where its files are

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def has_run(self) -> bool:
        """Tell whether its program was ever started."""
        return self.rounds > 0

    @property
    def rounds(self) -> int:
        """Return how often its program was started; spare capacity that is taken away starts it anew."""
        return sum(step.name in RUNNING for step in self.steps)

    @property
    def exit_code(self) -> int | None:
        """Return the exit code of the host that failed, where the service tells it."""
        found = EXIT_CODE.search(self.failure)
        return int(found[1]) if found else None

    @property
    def hosts(self) -> tuple[str, ...]:
        return host_names(self.instances)


def describe(client: Any, kind: Kind, job: str) -> State | None:
    """Return the state of a job, None where there is none of that name.

    Raises:
        AwsError: if SageMaker does not say which.
    """
    try:
        with explained(f"sagemaker:Describe{WORDS[kind]}", job):
            if kind is Kind.training:
                return _training(client.describe_training_job(TrainingJobName=job))
            return _processing(client.describe_processing_job(ProcessingJobName=job))
    except AwsError as error:
        if _is_unknown_job(error):
            return None
        raise


def _is_unknown_job(error: AwsError) -> bool:
    return error.code in NOT_THERE or (error.code == REJECTED and UNKNOWN_JOB.search(str(error)) is not None)


def summaries(client: Any, kind: Kind, status: str, part: str) -> dict[str, dict[str, Any]]:
    """Return the summaries of jobs in a status, by name; one is another than before when something has happened.

    Args:
        part: of the names of the jobs that are wanted.
    """
    asked: dict[str, Any] = {"StatusEquals": status, "MaxResults": PAGE, "SortBy": "CreationTime"}
    if part:
        asked["NameContains"] = part[:LONGEST_PART]
    found: dict[str, dict[str, Any]] = {}
    ask = client.list_training_jobs if kind is Kind.training else client.list_processing_jobs
    with explained(f"sagemaker:List{WORDS[kind]}s"):
        while True:
            page = ask(**asked)
            found |= {summary[f"{WORDS[kind]}Name"]: summary for summary in page[f"{WORDS[kind]}Summaries"]}
            if not page.get("NextToken"):
                return found
            asked["NextToken"] = page["NextToken"]


def stop(client: Any, kind: Kind, job: str) -> None:
    """Ask the service to stop a job; one that has ended is no error."""
    try:
        with explained(f"sagemaker:Stop{WORDS[kind]}", job):
            if kind is Kind.training:
                client.stop_training_job(TrainingJobName=job)
            else:
                client.stop_processing_job(ProcessingJobName=job)
    except AwsError as error:
        if error.code not in {REJECTED, *NOT_THERE}:
            raise
        found = describe(client, kind, job)  # which of the things that can be wrong with the request it is
        if found is not None and not found.ended and found.status != STOPPING:
            raise


def _training(found: dict[str, Any]) -> State:
    steps = tuple(
        Step(t["Status"], t["StartTime"], t.get("EndTime"), t.get("StatusMessage", ""))
        for t in found.get("SecondaryStatusTransitions", [])
    )
    resources = found["ResourceConfig"]
    return State(
        kind=Kind.training,
        arn=found["TrainingJobArn"],
        status=found["TrainingJobStatus"],
        steps=steps,
        failure=found.get("FailureReason", ""),
        message="",
        instances=int(resources.get("InstanceCount", 1)),
        instance_type=str(resources.get("InstanceType", "")),
        run_s=found.get("TrainingTimeInSeconds"),
        billable_s=found.get("BillableTimeInSeconds"),
        output=f"{found['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{found['TrainingJobName']}/output",
    )


def _processing(found: dict[str, Any]) -> State:
    cluster = found["ProcessingResources"]["ClusterConfig"]
    started, ended = found.get("ProcessingStartTime"), found.get("ProcessingEndTime")
    run_s = (ended - started).total_seconds() if started and ended else None
    status = found["ProcessingJobStatus"]
    created = found["CreationTime"]
    steps = [Step("Starting", created, started, "preparing the instances")]
    if started:
        steps.append(Step("Processing", started, ended, "running"))
    if status in ENDED:
        steps.append(Step(status, ended or created, None, ""))
    return State(
        kind=Kind.processing,
        arn=found["ProcessingJobArn"],
        status=status,
        steps=tuple(steps),
        failure=found.get("FailureReason", ""),
        message=found.get("ExitMessage", ""),
        instances=int(cluster["InstanceCount"]),
        instance_type=str(cluster["InstanceType"]),
        run_s=run_s,
        billable_s=run_s,
        output=found["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]["S3Uri"],
    )
