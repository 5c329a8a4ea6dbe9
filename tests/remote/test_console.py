"""What SageMaker's console shows of a job: its metrics, hyperparameters and tags."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launchers.emulator.client import Emulator
from tests import runs
from tests.emulators import Account
from tests.remote.careless import Day, a_day


@pytest.fixture
def day(emulator: Emulator, quick: list[str], videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Day:
    return a_day(emulator, quick, videos, tmp_path_factory)


def test_every_metric_of_a_training_is_found_in_its_log(day: Day, emulator: Emulator) -> None:
    """As the service does: each regular expression over each line, and the first group is the value."""
    account = Account(emulator)
    (job,) = (name for name in day.jobs if "-train-" in name)
    described = account.describe("Training", job)
    (lines,) = account.log("Training", job).values()
    told = {
        definition["Name"]: [float(match[1]) for line in lines if (match := re.search(definition["Regex"], line))]
        for definition in described["AlgorithmSpecification"]["MetricDefinitions"]
    }
    whole = runs.records(day.user.cwd)[0]
    values = runs.metrics(whole, "train") | runs.metrics(whole, "evaluate")
    for name in set(told) - {"samples_per_second"}:
        assert told[name] == [value for (key, _), value in values.items() if key == name], name
        assert len(told[name]) == 1  # one epoch
    assert len(told["samples_per_second"]) == 1


def test_settings_and_tags_tell_jobs_apart(day: Day, emulator: Emulator) -> None:
    account = Account(emulator)
    (job,) = (name for name in day.jobs if "-train-" in name)
    described = account.describe("Training", job)
    assert described["HyperParameters"].items() >= {"model_epoch": "1", "model_name": "cnn3d", "seed": "0"}.items()
    tags = account.sagemaker.list_tags(ResourceArn=described["TrainingJobArn"])["Tags"]
    assert tags == [{"Key": "videolift", "Value": "train-evaluate-visualize"}]
