"""backend=sagemaker-remote with the real images: the emulator starts each instance as a container."""

from __future__ import annotations

import json
from pathlib import Path

import boto3
import pytest

from launchers.docker import image_id
from launchers.emulator.server import MANIFEST
from launchers.recipe import Recipe
from tests import remote_side, runs
from tests.containers import Containers
from tests.emulators import running_emulator
from tests.engine import BASE_IMAGE


def test_jobs_in_our_images_give_what_containers_here_give(
    tmp_path: Path, containers: Containers, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for cwd in (here, there):
        cwd.mkdir()
    local = [*quick, "backend.train.mode=byos", "backend.preprocess.instance_count=2"]
    runs.run(*local, cwd=here)
    image = Recipe("preprocess", BASE_IMAGE, own_source=True).tag
    assert image_id(image) and image_id(Recipe("train", BASE_IMAGE, own_source=False).tag)
    remote_side.forget_aws(monkeypatch)
    with running_emulator(tmp_path / "emulator", hosts="containers", grace_s=10) as emulator:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        repository, _, tag = image.partition(":")
        boto3.client("ecr").put_image(
            repositoryName=repository, imageTag=tag, imageManifest=json.dumps(MANIFEST | {"annotations": {"t": tag}})
        )
        remote = ["backend=remote", *(s for s in local if not s.startswith("backend")), *remote_side.SETTINGS]
        images = [f"backend.preprocess.base_image={BASE_IMAGE}", "backend.preprocess.instance_count=2"]
        runs.run(*remote, *images, cwd=there)
    (same,), (record,) = runs.records(here), runs.records(there)
    assert runs.arrays(record) == runs.arrays(same)
    for stage in ("train", "evaluate"):
        assert (
            runs.metrics(record, stage).items()
            >= {
                key: value for key, value in runs.metrics(same, stage).items() if not key[0].startswith("sagemaker/")
            }.items()
        )
