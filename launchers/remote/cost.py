"""What the jobs of a run, or of a whole sweep, can cost at most.

A job is billed for its instances while it runs, which its time limit ends ("Amazon SageMaker AI pricing";
BillableTimeInSeconds in the SageMaker API reference). Waiting for spare capacity is not billed, and spare capacity
costs at most the usual price. Kept warm, the instances of a training are billed on ("SageMaker AI Managed Warm Pools").

Prices are in prices.csv, each with where it was read and when. What is not there is unknown; nothing is guessed.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from launchers.base import Described
from launchers.config import Backend
from launchers.planning import KINDS
from videolift.workspace import Kind

PRICES = Path(__file__).with_name("prices.csv")
NOT_INCLUDED = (
    "volumes, storage and requests in S3, images in ECR, logs in CloudWatch, data transfer, taxes, and what saving "
    "takes after a job's time limit"
)


@dataclass(frozen=True)
class Price:
    """What an instance costs an hour, and how that is known."""

    usd_per_hour: float
    source: str


Prices = Mapping[tuple[str, Kind, str], Price]  # by region, kind of job, instance type


@dataclass(frozen=True)
class JobCost:
    """What jobs of one kind can cost at most."""

    kind: Kind
    instance_type: str
    instances: int
    hours: float  # of each instance
    price: Price | None  # None: unknown
    spot: bool = False
    count: int = 1  # of such jobs

    @property
    def usd(self) -> float | None:
        """Return what all of them cost, None where the price is unknown."""
        return None if self.price is None else self.count * self.instances * self.hours * self.price.usd_per_hour

    def row(self) -> tuple[str, ...]:
        """Return the jobs as a line of a table under :data:`COLUMNS`."""
        what = f"{self.kind.value}, spare capacity" if self.spot else self.kind.value
        what = f"{self.count} x {what}" if self.count > 1 else what
        price = "unknown" if self.price is None else f"{self.price.usd_per_hour:g}"
        source = "" if self.price is None else self.price.source
        return (what, f"{self.instances} x {self.instance_type}", f"{self.hours:g}", price, dollars(self.usd), source)


COLUMNS = ("job", "instances", "hours at most", "USD an hour", "USD at most", "price from")


@dataclass(frozen=True)
class Estimate:
    """What all jobs can cost at most."""

    region: str
    jobs: tuple[JobCost, ...]

    @property
    def usd(self) -> float | None:
        """Return the sum, None where a price is unknown."""
        costs = [job.usd for job in self.jobs]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    def unknown(self) -> list[str]:
        """Return what is not known the price of: ``ml.m5.xlarge for training``."""
        return list(
            dict.fromkeys(f"{job.instance_type} for {job.kind.value}" for job in self.jobs if job.price is None)
        )

    def summary(self) -> str:
        """Return one line for people."""
        if not self.jobs:
            return "no job, no cost"
        if self.usd is None:
            return (
                f"unknown: no price of {', '.join(self.unknown())} in {self.region}; "
                "backend.price_per_hour=USD makes it known"
            )
        return f"at most {dollars(self.usd)} USD, without {NOT_INCLUDED}"


def most_it_can_cost(backend: Backend, region: str, jobs: Mapping[str, int], prices: Prices | None = None) -> Estimate:
    """Return the most that jobs can cost when each takes all the time that it is allowed.

    Args:
        jobs: how many will be submitted, by purpose; one that is not, because its result is there, costs nothing.
        prices: None: those of prices.csv.
    """
    found = known_prices() if prices is None else prices
    return Estimate(region, tuple(_cost_of(backend, region, purpose, count, found) for purpose, count in jobs.items()))


def cost_problem(limit: float, costs: Sequence[Described], *, several: bool) -> str | None:
    """Return why nothing must be submitted, None where ``backend.max_cost`` allows it.

    Args:
        costs: of all that is going to run.
        several: it is more than one run.
    """
    known = [cost.usd for cost in costs if cost.usd is not None]
    if len(known) < len(costs):
        texts = dict.fromkeys(cost.text for cost in costs if cost.usd is None)
        return f"backend.max_cost: what the jobs can cost is {'; '.join(texts)}, or leave backend.max_cost out"
    usd = sum(known)
    if usd <= limit:
        return None
    fewer = ", choose fewer values or trials" if several else ""
    return (
        f"backend.max_cost: the jobs can cost {dollars(usd)} USD, more than {limit:g}; lower "
        f"backend.<stage>.max_run_s or instance_count{fewer}, or raise backend.max_cost"
    )


def dollars(usd: float | None) -> str:
    """Return an amount in whole cents, rounded up: a limit must not look lower than it is."""
    if usd is None:
        return "unknown"
    # Binary fractions: 0.07 * 100 is a little above 7.
    return f"{math.ceil(round(usd * 100, 6)) / 100:,.2f}"


@lru_cache
def known_prices(file: Path = PRICES) -> Prices:
    """Return the price list."""
    with file.open(encoding="utf-8", newline="") as lines:
        return {
            (row["region"], Kind(row["component"]), row["instance_type"]): Price(
                float(row["usd_per_hour"]), f"{row['source']}, {row['date']}"
            )
            for row in csv.DictReader(lines)
        }


def _cost_of(backend: Backend, region: str, purpose: str, count: int, prices: Prices) -> JobCost:
    job, kind = backend.resources(purpose), KINDS[purpose]
    seconds = job.max_run_s + (backend.train.keep_alive_s if kind is Kind.training else 0)
    if backend.price_per_hour is not None:
        price: Price | None = Price(backend.price_per_hour, "backend.price_per_hour")
    else:
        price = prices.get((region, kind, job.instance_type))
    spot = kind is Kind.training and backend.train.spot
    return JobCost(kind, job.instance_type, job.instance_count, seconds / 3600, price, spot, count)
