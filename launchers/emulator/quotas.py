"""How many instances the emulated account may have: Service Quotas of SageMaker, and what happens beyond them.

Sources: AWS, API reference "ListServiceQuotas"; "Amazon SageMaker AI endpoints and quotas" (names; values differ
between accounts); the refusal is worded as users quote it (github.com/gabehollombe-aws/jupyter-notebooks/issues/1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from launchers.emulator.answers import ServiceError
from launchers.emulator.logs import ACCOUNT

SERVICE = "sagemaker"
LONGEST = "Longest run time for a training job"
INSTANCES = 20.0  # of each type, where nothing else is said
DEFAULTS = {LONGEST: 432_000.0}
KINDS = {
    "Training": ("{} for training job usage", "{} for spot training job usage", "{} for training warm pool usage"),
    "Processing": ("{} for processing job usage",),
}
PAGE = 100


class Quotas:
    """The quotas of one account, the same in all regions."""

    def __init__(self, changed: Mapping[str, float]) -> None:
        warm = {name: 0.0 for name in _names() if "warm pool" in name}
        self._values: dict[str, float] = {**dict.fromkeys(_names(), INSTANCES), **warm, **DEFAULTS, **changed}

    def answer(self, operation: str, region: str, body: Any) -> dict[str, Any] | None:
        """Return what Service Quotas answers, None where moto does."""
        if not isinstance(body, dict) or body.get("ServiceCode") != SERVICE:
            return None
        if operation == "ListServiceQuotas":
            first = int(body.get("NextToken") or 0)
            last = first + min(int(body.get("MaxResults") or PAGE), PAGE)
            names = sorted(self._values)
            more = {"NextToken": str(last)} if last < len(names) else {}
            return {"Quotas": [self._described(name, region) for name in names[first:last]], **more}
        if operation == "GetServiceQuota":
            for name in self._values:
                if _code(name) == body.get("QuotaCode"):
                    return {"Quota": self._described(name, region)}
            raise ServiceError("NoSuchResourceException", "The specified quota does not exist.", 404)
        return None

    def check(self, name: str, used: int, wanted: int) -> None:
        """Refuse instances beyond a quota, as the Create calls do."""
        value = self._values.get(name)
        if value is not None and used + wanted > value:
            raise ServiceError(
                "ResourceLimitExceeded",
                f"The account-level service limit '{name}' is {value:.0f} Instances, with current utilization of "
                f"{used} Instances and a request delta of {wanted} Instances. Please use AWS Service Quotas to request "
                "an increase for this quota.",
            )

    def _described(self, name: str, region: str) -> dict[str, Any]:
        return {
            "ServiceCode": SERVICE,
            "ServiceName": "Amazon SageMaker",
            "QuotaArn": f"arn:aws:servicequotas:{region}:{ACCOUNT}:{SERVICE}/{_code(name)}",
            "QuotaCode": _code(name),
            "QuotaName": name,
            "Value": self._values[name],
            "Unit": "Seconds" if name == LONGEST else "None",
            "Adjustable": True,
            "GlobalQuota": False,
        }


def quota_name(kind: str, instance_type: str, *, spot: bool) -> str:
    return KINDS[kind][1 if spot else 0].format(instance_type)


def instances_of(requests: Iterable[Mapping[str, Any]], kind: str, name: str) -> int:
    """Return how many instances of the requests' jobs one quota bounds."""
    return sum(count for request in requests for quota, count in [asked(kind, request)] if quota == name)


def asked(kind: str, request: Mapping[str, Any]) -> tuple[str, int]:
    """Return the quota that a request to create a job draws on, and by how many instances."""
    cluster = request["ResourceConfig"] if kind == "Training" else request["ProcessingResources"]["ClusterConfig"]
    spot = bool(request.get("EnableManagedSpotTraining"))
    return quota_name(kind, cluster.get("InstanceType", ""), spot=spot), int(cluster.get("InstanceCount", 1))


@cache
def _names() -> tuple[str, ...]:
    from botocore.session import get_session

    model = get_session().get_service_model("sagemaker")
    types = {"Training": "TrainingInstanceType", "Processing": "ProcessingInstanceType"}
    return tuple(
        name.format(instance_type)
        for kind, names in KINDS.items()
        for instance_type in model.shape_for(types[kind]).enum
        for name in names
    )


def _code(name: str) -> str:
    return f"L-{hashlib.sha256(name.encode()).hexdigest()[:8].upper()}"
