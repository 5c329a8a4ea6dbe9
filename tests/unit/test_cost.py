import csv
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.base import Described
from launchers.cache import Cache
from launchers.config import Backend, Config, PreprocessJob, TrainJob, Where
from launchers.remote import instances, partition
from launchers.remote.backend import RemoteBackend
from launchers.remote.cost import (
    COLUMNS,
    Estimate,
    Price,
    cost_problem,
    dollars,
    known_prices,
    most_it_can_cost,
)
from launchers.remote.cost import (
    PRICES as PRICE_LIST,
)
from videolift.workspace import Kind

JOBS = {"preprocess": 1, "train": 1}
PRICES = {
    ("us-east-1", Kind.processing, "ml.m5.xlarge"): Price(0.5, "a page, 2026-01-01"),
    ("us-east-1", Kind.training, "ml.g5.xlarge"): Price(2.0, "a page, 2026-01-01"),
}


def backend(**settings: object) -> Backend:
    plain = Backend(
        name="sagemaker-remote",
        preprocess=PreprocessJob(instance_count=3, max_run_s=7200),
        train=TrainJob(instance_type="ml.g5.xlarge", max_run_s=1800),
    )
    return replace(plain, **settings)  # type: ignore[arg-type]


def estimate(settings: Backend, region: str = "us-east-1") -> Estimate:
    return most_it_can_cost(settings, region, JOBS, PRICES)


def test_a_run_costs_instances_times_hours_times_price() -> None:
    found = estimate(backend())
    assert [(job.instances, job.hours, job.usd) for job in found.jobs] == [(3, 2.0, 3.0), (1, 0.5, 1.0)]
    assert found.usd == 4.0
    assert found.summary().startswith("at most 4.00 USD, without volumes, storage")


def test_waiting_for_spare_capacity_costs_nothing_and_keeping_warm_does() -> None:
    spot = TrainJob(instance_type="ml.g5.xlarge", max_run_s=1800, spot=True, max_wait_s=86400)
    assert estimate(backend(train=spot)).usd == 4.0
    assert estimate(backend(train=spot)).jobs[1].row()[0] == "training, spare capacity"
    warm = TrainJob(instance_type="ml.g5.xlarge", max_run_s=1800, keep_alive_s=1800)
    assert estimate(backend(train=warm)).usd == 5.0


def test_only_jobs_that_run_cost() -> None:
    assert most_it_can_cost(backend(), "us-east-1", {"train": 1}, PRICES).usd == 1.0
    assert most_it_can_cost(backend(), "us-east-1", {"train": 2}, PRICES).usd == 2.0
    nothing = most_it_can_cost(backend(), "us-east-1", {}, PRICES)
    assert nothing.usd == 0
    assert nothing.summary() == "no job, no cost"


@pytest.mark.parametrize("region", ["eu-west-1", "cn-north-1"])
def test_an_unknown_price_is_said_and_never_guessed(region: str) -> None:
    found = estimate(backend(), region)
    assert found.usd is None
    assert [job.row()[3:5] for job in found.jobs] == [("unknown", "unknown")] * 2
    assert found.summary().startswith(
        f"unknown: no price of ml.m5.xlarge for processing, ml.g5.xlarge for training in {region}"
    )


def test_one_unknown_price_makes_the_sum_unknown() -> None:
    found = estimate(backend(train=TrainJob(instance_type="ml.m5.xlarge")))
    assert [job.usd for job in found.jobs] == [3.0, None]
    assert found.usd is None
    assert found.unknown() == ["ml.m5.xlarge for training"]


def test_an_own_price_beats_the_list() -> None:
    found = estimate(backend(price_per_hour=0.1), "cn-north-1")
    assert found.usd == pytest.approx(0.1 * 6.5)
    assert {job.row()[5] for job in found.jobs} == {"backend.price_per_hour"}


def cost(usd: float | None) -> Described:
    return Described("cost", (), "unknown: no price of ml.g5.xlarge" if usd is None else "at most", usd)


def test_a_limit_refuses_what_may_cost_more_together() -> None:
    problem = cost_problem(3.99, [cost(3.0), cost(1.0)], several=False)
    assert problem is not None
    assert problem.startswith("backend.max_cost: the jobs can cost 4.00 USD, more than 3.99")
    assert "fewer" not in problem
    assert cost_problem(4, [cost(3.0), cost(1.0)], several=True) is None
    assert cost_problem(1, [], several=True) is None


def test_a_limit_refuses_what_is_not_known() -> None:
    problem = cost_problem(1000, [cost(1.0), cost(None)], several=False)
    assert problem is not None
    assert "unknown: no price of ml.g5.xlarge, or leave backend.max_cost out" in problem


@given(cents=st.integers(0, 10**9))
def test_whole_cents_stay_what_they_are(cents: int) -> None:
    assert dollars(cents / 100).replace(",", "") == f"{cents // 100}.{cents % 100:02}"


@given(usd=st.floats(0, 10**6))
def test_an_amount_never_looks_smaller_than_it_is(usd: float) -> None:
    shown = float(dollars(usd).replace(",", ""))
    assert usd - 1e-6 <= shown <= usd + 0.011


def test_a_row_fits_the_columns() -> None:
    for job in estimate(backend()).jobs:
        assert len(job.row()) == len(COLUMNS)


def test_every_price_in_the_list_is_of_something_and_says_where_it_was_read() -> None:
    with PRICE_LIST.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(known_prices()) == len(rows), "no price twice"
    for row in rows:
        assert partition.region_problem(row["region"]) is None
        assert instances.type_problem(Kind(row["component"]), row["instance_type"]) is None
        assert float(row["usd_per_hour"]) > 0
        assert row["source"]
        assert date(2017, 11, 29) < date.fromisoformat(row["date"]), "SageMaker is not older"
        assert partition.partition_of(row["region"]).name != "aws-cn", "prices there are not in US dollars"


# ---- A sweep


def of_a_sweep(tmp_path: Path, settings: Backend) -> RemoteBackend:
    return RemoteBackend(Config(backend=settings), Cache(tmp_path))


STAGES = {
    "preprocess": ["preprocess-1", "preprocess-2"],
    "train": [f"train-{number}" for number in range(12)],
    "evaluate": [f"evaluate-{number}" for number in range(13)],  # one of a training that is finished
    "visualize": [f"visualize-{number}" for number in range(12)],
}


def test_a_sweep_costs_all_its_jobs(tmp_path: Path) -> None:
    settings = backend(region="us-east-1", price_per_hour=1.0)
    found = of_a_sweep(tmp_path, settings).cost(STAGES)
    assert found is not None
    assert [row[0] for row in found.rows[1:]] == ["2 x processing", "13 x training"]
    assert [row[4] for row in found.rows[1:]] == ["12.00", "6.50"]
    assert found.text.startswith("at most 18.50 USD")
    assert found.usd == 18.5


def test_a_single_run_is_told_as_ever(tmp_path: Path) -> None:
    found = of_a_sweep(tmp_path, backend(region="us-east-1", price_per_hour=1.0)).cost(
        {name: ids[:1] for name, ids in STAGES.items()}
    )
    assert found is not None
    assert [row[0] for row in found.rows[1:]] == ["processing", "training"]


def test_what_runs_here_costs_nothing(tmp_path: Path) -> None:
    settings = backend(region="us-east-1", price_per_hour=1.0, preprocess=PreprocessJob(where=Where.local))
    here = of_a_sweep(tmp_path, settings)
    assert here.cost({"preprocess": STAGES["preprocess"]}) is None


def test_too_dear_a_sweep_may_be_made_smaller() -> None:
    problem = cost_problem(3.0, [cost(4.0)], several=True)
    assert problem is not None
    assert "can cost 4.00 USD" in problem and "fewer values or trials" in problem
