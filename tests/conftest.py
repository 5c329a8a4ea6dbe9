from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from launchers.emulator.client import Emulator
from tests import engine, remote_side
from tests.containers import Containers, settings_of, skip_without
from tests.under_way import OnThisMachine, UnderWay

BACKENDS = ("local", "sagemaker-local", "sagemaker-remote")  # the contract tests run unchanged against every one
# What a property says of a commit depends on neither the machine's load nor chance, nor on what was found here before.
settings.register_profile(
    "same everywhere", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, database=None
)
settings.load_profile("same everywhere")
IMAGES = engine.REPOSITORY / "launchers" / "images"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        choices=BACKENDS,
        default="local",
        help="where the stages of contract tests run; sagemaker-local needs a Docker engine or root to start one, "
        "sagemaker-remote runs against the emulator (default: %(default)s)",
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
        engine.download_wheels(wheels, *sorted(IMAGES.glob("*.txt")))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", host)
            patch.delenv("DOCKER_CONTEXT", raising=False)  # it would win
            yield Containers(host, settings_of(wheels))
    finally:
        if started:
            own.stop()


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--backend"))


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator of AWS that this environment leads to, with our images in its registry."""
    root = tmp_path_factory.mktemp("emulator")
    with Emulator(root, hosts="namespaces", grace_s=10) as running, pytest.MonkeyPatch.context() as patch:
        remote_side.forget_aws(patch)
        for name, value in running.environment().items():
            patch.setenv(name, value)
        yield running


@pytest.fixture(scope="session")
def backend_settings(backend: str, request: pytest.FixtureRequest) -> list[str]:
    """Settings that the backend needs on a machine without registries and accounts."""
    if backend == "sagemaker-local":
        return list(request.getfixturevalue("containers").settings)
    if backend == "sagemaker-remote":
        request.getfixturevalue("emulator")
        return list(remote_side.SETTINGS)
    return []


@pytest.fixture
def under_way(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> UnderWay:
    """Where hosts leave their files while they run, and which processes they are."""
    if backend == "sagemaker-remote":
        return remote_side.OnEmulator(request.getfixturevalue("emulator").root)
    return OnThisMachine(backend)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 clips of 6 classes in 4 groups, in a folder whose name is no easy one."""
    from videolift.demo import write_demo

    root = tmp_path_factory.mktemp("contract") / "数据 (1) [x]'s"
    write_demo(root, groups=4, clips=1)
    return root


@pytest.fixture
def quick(videos: Path, backend: str, backend_settings: list[str]) -> list[str]:
    """Settings of a run that takes seconds."""
    return [
        f"backend={backend}",
        *backend_settings,
        "data=folder",
        f"data.root={videos}",
        "preprocess.depth=4",
        "preprocess.height=16",
        "preprocess.width=16",
        "model.epoch=2",
        "model.batch=8",
        "model.precision=float32",
        "data.val_share=0.3",
        "tracking=none",
    ]
