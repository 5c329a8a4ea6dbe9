"""How many instances an account may have, as far as it may be asked.

Sources: "ListServiceQuotas" in the Service Quotas API reference, "Amazon SageMaker AI endpoints and quotas" in the AWS
General Reference for the names, "Request a warm pool quota increase" in the SageMaker AI guide.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from launchers.config import Backend, TrainJob
from launchers.planning import KINDS
from launchers.remote import partition
from launchers.remote.aws import Aws, AwsError, explained
from videolift.workspace import Kind

ATTEMPTS = 2  # quotas are good to know, and not worth waiting for
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5, 10
LONGEST_TRAINING = "Longest run time for a training job"


@dataclass(frozen=True)
class Machines:
    """The instances that jobs of one kind ask for."""

    key: str  # setting that they come from: backend.train
    kind: Kind
    instance_type: str
    count: int  # of one job
    max_run_s: int
    spot: bool = False
    keep_alive_s: int = 0
    at_once: int = 1  # jobs

    @property
    def quota(self) -> str:
        """Return the name of the quota that bounds them."""
        return f"{self.instance_type} for {'spot ' if self.spot else ''}{self.kind.value} job usage"

    @property
    def warm_quota(self) -> str:
        return f"{self.instance_type} for training warm pool usage"


def machines_of(backend: Backend, at_once: Mapping[str, int]) -> list[Machines]:
    """Return what jobs ask for.

    Args:
        at_once: how many there are at the same time, by purpose.
    """
    asked = []
    for purpose, job in backend.jobs().items():
        if purpose in at_once:
            machines = Machines(
                f"backend.{purpose}", KINDS[purpose], job.instance_type, job.instance_count, job.max_run_s
            )
            if isinstance(job, TrainJob):
                machines = replace(machines, spot=job.spot, keep_alive_s=job.keep_alive_s)
            asked.append(replace(machines, at_once=at_once[purpose]))
    return asked


def client(aws: Aws) -> Any:
    """Return a client of Service Quotas that gives up soon."""
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        user_agent_extra="videolift",
    )
    return aws.session.client("service-quotas", region_name=aws.region, config=config)


def too_small(service_quotas: Any, machines: Sequence[Machines], region: str) -> tuple[list[str], list[str]]:
    """Return (problems, notes) of quotas that do not suffice; a quota that cannot be read is no problem."""
    wanted = {name for one in machines for name in _names_for(one)}
    if not wanted:
        return [], []
    try:
        with explained("servicequotas:ListServiceQuotas"):
            quotas = _quotas_named(service_quotas, wanted)
    except AwsError as error:
        return [], [f"quotas: whether they suffice is not known, {error}"]
    problems = [problem for one in machines for problem in _too_small(one, quotas, region)]
    return problems, [note for one in machines for note in _not_warm(one, quotas, region)]


def _names_for(machines: Machines) -> Iterator[str]:
    yield machines.quota
    if machines.kind is Kind.training:
        yield LONGEST_TRAINING
    if machines.keep_alive_s:
        yield machines.warm_quota


def _quotas_named(service_quotas: Any, wanted: Collection[str]) -> dict[str, tuple[float, str]]:
    """Return value and code of the quotas with these names; SageMaker has thousands, so stop when they are there."""
    found: dict[str, tuple[float, str]] = {}
    for page in service_quotas.get_paginator("list_service_quotas").paginate(
        ServiceCode="sagemaker", PaginationConfig={"PageSize": 100}
    ):
        for quota in page["Quotas"]:
            if quota.get("QuotaName") in wanted and "Value" in quota:
                found[quota["QuotaName"]] = (float(quota["Value"]), str(quota.get("QuotaCode", "")))
        if len(found) == len(wanted):
            break
    return found


def _too_small(machines: Machines, quotas: Mapping[str, tuple[float, str]], region: str) -> Iterator[str]:
    if machines.quota in quotas:
        value, code = quotas[machines.quota]
        if value < machines.count:
            yield (
                f"{machines.key}.instance_count: {machines.count} asked for, and the quota {machines.quota!r} of this "
                f"account is {value:g} in {region}; {_ask_for_more(region, code)}, or take another instance type"
            )
        elif value < machines.count * machines.at_once:
            each = f"of {machines.count} instances each " if machines.count > 1 else ""
            yield (
                f"sweep.parallel: {machines.at_once} {machines.kind.value} jobs {each}at a time, and the quota "
                f"{machines.quota!r} of this account is {value:g} in {region}; say sweep.parallel="
                f"{int(value // machines.count)}, {_ask_for_more(region, code)}, or take another instance type"
            )
    if machines.kind is Kind.training and LONGEST_TRAINING in quotas:
        value, code = quotas[LONGEST_TRAINING]
        if value < machines.max_run_s:
            yield (
                f"{machines.key}.max_run_s: {machines.max_run_s} asked for, and the quota {LONGEST_TRAINING!r} of this "
                f"account is {value:.0f} seconds in {region}; lower it, or {_ask_for_more(region, code)}"
            )


def _not_warm(machines: Machines, quotas: Mapping[str, tuple[float, str]], region: str) -> Iterator[str]:
    """The job runs all the same, and its instances go when it ends."""
    if machines.keep_alive_s and machines.warm_quota in quotas:
        value, code = quotas[machines.warm_quota]
        if value < machines.count:
            yield (
                f"{machines.key}.keep_alive_s: has no effect, the quota {machines.warm_quota!r} of this account is "
                f"{value:g} in {region}; {_ask_for_more(region, code)}"
            )


def _ask_for_more(region: str, code: str) -> str:
    link = partition.quota_link(region, code or None)
    return f"ask for more at {link}" if link else "ask for more in the Service Quotas console"
