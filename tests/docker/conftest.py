from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.containers import Containers, leftovers


@pytest.fixture(scope="session")
def backend() -> str:
    return "sagemaker-local"  # whatever --backend says: these tests are about containers


@pytest.fixture(autouse=True)
def nothing_left(containers: Containers) -> Iterator[None]:
    """Every test leaves the engine without a container or network of ours."""
    yield
    assert leftovers() == []
