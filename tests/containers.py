"""What tests against real containers share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from launchers.container_job import LOCK_LABEL
from tests.engine import BASE_IMAGE, docker

__all__ = ["Containers", "docker", "leftovers", "settings_of", "skip_without"]


@dataclass(frozen=True)
class Containers:
    """An engine with the base image, and what `run.py` has to be told to build from it without any registry."""

    host: str
    settings: tuple[str, ...]


def settings_of(wheels: Path) -> tuple[str, ...]:
    return (
        f"backend.build.wheels={wheels.resolve()}",
        f"backend.preprocess.base_image={BASE_IMAGE}",
        f"backend.train.base_image={BASE_IMAGE}",
        f"backend.predict.base_image={BASE_IMAGE}",
    )


def leftovers() -> list[str]:
    """Return the containers and networks that runs have left behind."""
    of_runs = ("--filter", f"label={LOCK_LABEL}", "--format")
    containers = docker("ps", "--all", *of_runs, "container {{.Names}}")
    networks = docker("network", "ls", *of_runs, "network {{.Name}}")
    return [*containers.splitlines(), *networks.splitlines()]


def skip_without(problem: str | None) -> None:
    """Skip the test for this reason, if there is one; in CI nothing is skipped."""
    if problem is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(problem)
    pytest.skip(problem)
