from __future__ import annotations

from pathlib import Path

import pytest

from videolift.demo import write_demo


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--backend"))


@pytest.fixture(scope="session")
def backend_settings(backend: str, request: pytest.FixtureRequest) -> list[str]:
    """Settings that the backend needs on a machine without registries."""
    return [] if backend == "local" else list(request.getfixturevalue("containers").settings)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 clips of 6 classes in 4 groups, in a folder whose name is no easy one."""
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
