"""One emulator in this process: moto, the front before it, its jobs, and the loopback address they are reached at."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launchers.building import recipe_of
from launchers.config import Backend, Mode, PreprocessJob, Resources, TrainJob
from launchers.emulator.calls import CallsFile
from launchers.emulator.emulated import Emulated
from launchers.emulator.front import Front
from launchers.emulator.hosts import HostKind
from launchers.emulator.jobs import partition_of
from launchers.emulator.logs import ACCOUNT
from launchers.emulator.quotas import Quotas
from launchers.emulator.sagemaker_api import SageMaker

LOOPBACK = "127.0.0.1"
REGION = "us-east-1"
ROLE = "videolift-job"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"},
    ],
}


MANIFEST = {  # of an image without layers: "Image Manifest Version 2, Schema 2" of the Docker registry
    "schemaVersion": 2,
    "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
    "config": {
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "size": 1,
        "digest": f"sha256:{'0' * 64}",
    },
    "layers": [],
}


class Server:
    """Answers at a port of this machine's loopback interface."""

    def __init__(
        self,
        root: Path,
        hosts: HostKind,
        *,
        port: int = 0,
        grace_s: float = 120.0,
        start_s: float = 0.2,
        quotas: Mapping[str, float] | None = None,  # those that are not as launchers.emulator.quotas has them
    ) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # calls.jsonl has the requests
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self._calls = CallsFile(root / "calls.jsonl")
        self._calls.path.touch()
        self.world = Emulated(root, "", hosts, grace_s, start_s, Quotas(quotas or {}))
        self.sagemaker = SageMaker(self.world)
        front = Front(DomainDispatcherApplication(create_backend_app), self.sagemaker, self.world, self._calls)
        self._http: Any = make_server(LOOPBACK, port, front, threaded=True, request_handler=MotoRequestHandler)
        self.url = self.world.endpoint = f"http://{LOOPBACK}:{self._http.server_port}"

    def serve(self) -> None:
        """Answer requests as long as this process lives."""
        self.world.logs.start()
        self._http.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """End all jobs and release the port."""
        self.sagemaker.close()
        self._http.server_close()


def make_ready(regions: Sequence[str]) -> None:
    """Make what an account has that has used videolift before: a role for jobs, and in each region a bucket and images.

    Regions in China and those of the US government belong to accounts of their own, which have the same number here.
    """
    from moto.iam.models import iam_backends
    from moto.s3.models import s3_backends

    for partition in {"aws", *map(partition_of, regions)}:
        iam_backends[ACCOUNT][partition].create_role(
            role_name=ROLE,
            assume_role_policy_document=json.dumps(TRUST),
            path="/",
            permissions_boundary=None,
            description="Role of jobs on the emulator",
            tags=[],
            max_session_duration="3600",
        )
    for region in regions:
        s3_backends[ACCOUNT][partition_of(region)].create_bucket(f"sagemaker-{region}-{ACCOUNT}", region)
        _have_images(region)


def _have_images(region: str) -> None:
    """Put the names of this version's images into the registry; what they stand for is the hosts' to know."""
    from moto.ecr.models import ecr_backends

    registry = ecr_backends[ACCOUNT][region]
    for mode in Mode:
        settings = Backend(preprocess=PreprocessJob(mode=mode), train=TrainJob(mode=mode), predict=Resources(mode=mode))
        for purpose in settings.jobs():
            name, _, tag = recipe_of(settings, purpose).tag.partition(":")
            if name not in registry.repositories:
                registry.create_repository(name, ACCOUNT, {}, {"scanOnPush": True}, "IMMUTABLE", [])
            registry.put_image(name, json.dumps({**MANIFEST, "annotations": {"tag": tag}}), tag)
