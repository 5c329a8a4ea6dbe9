from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def backend() -> str:
    return "sagemaker-remote"
