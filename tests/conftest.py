from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import engine
from tests.containers import Containers, settings_of, skip_without

BACKENDS = ("local", "sagemaker-local")  # the contract tests run unchanged against every one
IMAGES = engine.REPOSITORY / "launchers" / "images"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        choices=BACKENDS,
        default="local",
        help="where the stages of contract tests run; sagemaker-local needs a Docker engine or root to start one "
        "(default: %(default)s)",
    )


@pytest.fixture(scope="session")
def containers() -> Iterator[Containers]:
    """An engine as DOCKER_HOST: the one that answers already, or one in .engine that ends with the tests."""
    own = engine.Engine(engine.FOLDER)
    started = False
    host = engine.found_engine()
    if host is None:
        skip_without(engine.missing_for_engine())
        started = own.start()
        host = own.host
    try:
        skip_without(engine.missing_for_base())
        engine.make_base(host, engine.FOLDER)
        wheels = engine.FOLDER / "wheels"
        engine.download_wheels(wheels, IMAGES / "preprocess.txt", IMAGES / "train.txt")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", host)
            patch.delenv("DOCKER_CONTEXT", raising=False)  # it would win
            yield Containers(host, settings_of(wheels))
    finally:
        if started:
            own.stop()
