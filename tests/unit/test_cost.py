import csv
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.cache import Cache
from launchers.config import Backend, Config, PreprocessJob, TrainJob, Where
from launchers.remote import cost, instances, partition
from launchers.remote.backend import RemoteBackend
from launchers.remote.cost import Estimate, Price, cost_problem, dollars, most_it_can_cost
from videolift.workspace import Kind

JOBS = {Kind.processing: 1, Kind.training: 1}
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
    assert most_it_can_cost(backend(), "us-east-1", {Kind.training: 1}, PRICES).usd == 1.0
    assert most_it_can_cost(backend(), "us-east-1", {Kind.training: 2}, PRICES).usd == 2.0
    nothing = most_it_can_cost(backend(max_cost=1), "us-east-1", {}, PRICES)
    assert nothing.usd == 0
    assert nothing.summary() == "no job, no cost"
    assert cost_problem(backend(max_cost=1), nothing) is None


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


def test_a_limit_refuses_what_may_cost_more() -> None:
    limited = backend(max_cost=3.99)
    problem = cost_problem(limited, estimate(limited))
    assert problem is not None
    assert problem.startswith("backend.max_cost: the jobs can cost 4.00 USD, more than 3.99")
    assert cost_problem(backend(max_cost=4), estimate(limited)) is None
    assert cost_problem(backend(), estimate(limited)) is None


def test_a_limit_refuses_what_is_not_known() -> None:
    limited = backend(max_cost=1000)
    problem = cost_problem(limited, estimate(limited, "cn-north-1"))
    assert problem is not None
    assert "ml.g5.xlarge for training in cn-north-1 is not known" in problem
    assert "backend.price_per_hour" in problem
    assert cost_problem(backend(), estimate(limited, "cn-north-1")) is None


@given(cents=st.integers(0, 10**9))
def test_whole_cents_stay_what_they_are(cents: int) -> None:
    assert dollars(cents / 100).replace(",", "") == f"{cents // 100}.{cents % 100:02}"


@given(usd=st.floats(0, 10**6))
def test_an_amount_never_looks_smaller_than_it_is(usd: float) -> None:
    shown = float(dollars(usd).replace(",", ""))
    assert usd - 1e-6 <= shown <= usd + 0.011


def test_a_row_fits_the_columns() -> None:
    for job in estimate(backend()).jobs:
        assert len(job.row()) == len(cost.COLUMNS)


def test_every_price_in_the_list_is_of_something_and_says_where_it_was_read() -> None:
    with cost.PRICES.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(cost.known_prices()) == len(rows), "no price twice"
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
    problem = cost_problem(backend(max_cost=3.0), most_it_can_cost(backend(), "us-east-1", {Kind.training: 4}, PRICES))
    assert problem is not None
    assert "can cost 4.00 USD" in problem and "fewer values or trials" in problem
