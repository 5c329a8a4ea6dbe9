"""The exact requests for jobs on SageMaker, held against golden files and against the API's own model.

After a change that is meant, write the golden files anew and read what has become of them:

    WRITE_GOLDEN=1 .venv/bin/pytest tests/unit/test_remote_requests.py; git diff tests/unit/golden
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launchers.base import Stage
from launchers.cache import Cache
from launchers.config import MAX_MEMBERS, Backend, Config, Mode, PreprocessJob, TrainJob
from launchers.emulator.answers import ServiceError
from launchers.emulator.validation import validate
from launchers.planning import in_jobs, inputs_of, plan_stages, prepare_stage
from launchers.remote import partition
from launchers.remote.backend import RemoteBackend
from launchers.remote.layout import Site
from launchers.remote.orders import Order, job_name, make_order
from launchers.remote.s3 import Location
from videolift.manifest import make_manifest
from videolift.settings import Data, Model, Precision, Source
from videolift.workspace import Kind

GOLDEN = Path(__file__).parent / "golden"
REGIONS = ("us-east-1", "cn-northwest-1")
ACCOUNT = "123456789012"
OPERATIONS = {Kind.processing: "CreateProcessingJob", Kind.training: "CreateTrainingJob"}
# What follows from the source, from the versions of libraries, and from where the videos lie on this machine.
VARYING = {
    r"\b(preprocess|train|evaluate|visualize)-[0-9a-f]{16}\b": r"\1-ID",
    r"\bvideolift-(preprocess|train)-[0-9a-f]{8}-TIME\b": r"videolift-\1-ID-TIME",
    r"/(plans|source)/[0-9a-f]{16}\b": r"/\1/DIGEST",
    r"/source/sdk-[0-9a-f]{16}\b": "/source/sdk-DIGEST",
    r"/data/videos-[0-9a-f]{8}\b": "/data/videos-DIGEST",
    r"/(videolift-\w+(?:-libraries)?):[0-9a-f]{12}\b": r"/\1:TAG",
}

Change = Callable[[Backend, str], Backend]


def plain(backend: Backend, _region: str) -> Backend:
    return backend


def everything(backend: Backend, region: str) -> Backend:
    """All that an administrator may want of every job."""
    key = f"arn:{partition.partition_of(region).name}:kms:{region}:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    return replace(
        backend,
        kms_key=key,
        subnets=["subnet-0a1b2c3d", "subnet-4e5f6a7b"],
        security_groups=["sg-0a1b2c3d"],
        encrypt_traffic=True,
        network_isolation=True,
        environment={"TF_CPP_MIN_LOG_LEVEL": "1", "NAME": 'it\'s 数据 "x"'},
        job_tags={"cost-centre": "42", "团队": "视频 a=b", "empty": ""},
    )


def preprocess_with(change: Change = plain, **job: Any) -> Change:
    return lambda backend, region: replace(change(backend, region), preprocess=PreprocessJob(**job))


def train_with(change: Change = plain, **job: Any) -> Change:
    return lambda backend, region: replace(change(backend, region), train=TrainJob(**job))


CASES: dict[str, dict[str, Change]] = {
    "processing": {
        "as it comes": preprocess_with(),
        "3 hosts, everything": preprocess_with(everything, instance_count=3, instance_type="ml.c5.2xlarge"),
        "our script in another image": preprocess_with(mode=Mode.byos, volume_gb=100, max_run_s=3600),
    },
    "training": {
        "as it comes": train_with(mode=Mode.byos),
        "spot on 2 hosts, everything": train_with(everything, mode=Mode.byos, spot=True, instance_count=2),
        "warm, on a GPU": train_with(mode=Mode.byos, keep_alive_s=1800, instance_type="ml.g5.xlarge"),
        "our own image": train_with(everything, mode=Mode.byoc, checkpoints=False),
    },
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("data") / "videos"
    for name in (f"{kind}/v_{kind}_g0{group}_c01.avi" for kind in ("Jump", "Kick") for group in (1, 2, 3, 4)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)  # planning decodes nothing
    settings = Backend(name="sagemaker-remote", network_isolation=False)
    return Config(data=Data(source=Source.folder, root=str(root)), backend=settings)


def stages_of(config: Config, folder: Path) -> tuple[RemoteBackend, list[Stage]]:
    """Return the backend and what it would be asked for, with nothing computed yet."""
    backend = RemoteBackend(config, Cache(folder / "cache"))
    manifest = make_manifest(config.data, config.seed)
    planned = plan_stages(config, manifest, Precision.float32, backend.libraries)
    stages = []
    for job in in_jobs(list(planned.values()), backend):
        for one in job:
            inputs = inputs_of(planned, one.name, [other.name for other in job], Cache(folder / "cache"))
            stages.append(prepare_stage(one, folder / one.id, manifest, config.data, inputs))
    return backend, stages


def order_for(
    config: Config,
    kind: Kind,
    region: str,
    folder: Path,
    *,
    data: Location | None = None,
    others: Callable[[Location, Sequence[str]], bool] = lambda _place, _names: False,
) -> Order:
    config = replace(config, backend=replace(config.backend, region=region))
    _, stages = stages_of(config, folder)
    group = [stage for stage in stages if stage.kind is kind and stage.name == stage.plan.stage]
    role = partition.role_arn(region, ACCOUNT, "service-role/videolift-job")
    site = Site(region, ACCOUNT, role, partition.default_bucket(region, ACCOUNT), "videolift")
    name = job_name(group, "TIME")
    return make_order(group, name, site, config.backend, Cache(folder / "cache"), data=data, others=others)


def normalised(request: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(request)
    for pattern, stands_for_it in VARYING.items():
        text = re.sub(pattern, stands_for_it, text)
    normal: dict[str, Any] = json.loads(text)
    return normal


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: str(kind.value))
def test_requests_are_those_of_the_golden_files(config: Config, kind: Kind, region: str, tmp_path: Path) -> None:
    found = {}
    for name, change in CASES[kind.value].items():
        settings = change(replace(config.backend, region=region), region)
        order = order_for(replace(config, backend=settings), kind, region, tmp_path / name)
        validate(OPERATIONS[kind], order.request)
        found[name] = normalised(order.request)
    file = GOLDEN / region / f"{kind.value}.json"
    if os.environ.get("WRITE_GOLDEN"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        pytest.skip(f"wrote {file}")
    assert found == json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*/*.json")), ids=lambda file: "-".join(file.parts[-2:]))
def test_golden_files_are_of_their_region_and_hold_nothing_of_one_machine(file: Path) -> None:
    text, region = file.read_text(encoding="utf-8"), file.parent.name
    here = partition.partition_of(region)
    assert set(re.findall(r"\barn:([\w-]+):", text)) == {here.name}
    assert set(re.findall(r"\.dkr\.ecr\.([\w-]+)\.([\w.]+)/", text)) == {(region, here.dns_suffix)}
    assert set(re.findall(r"s3://([^/\"]+)", text)) == {f"sagemaker-{region}-{ACCOUNT}"}
    # Ids of networks and keys are given; all others come from digests.
    given = re.sub(r"(subnet|sg)-[0-9a-f]{8}|1234abcd-12ab-34cd-56ef-1234567890ab|123456789012|\d{12}\.dkr", "", text)
    assert re.findall(r"[0-9a-f]{8,}", given) == []


def golden(kind: str, case: str) -> dict[str, Any]:
    request: dict[str, Any] = json.loads((GOLDEN / REGIONS[0] / f"{kind}.json").read_text(encoding="utf-8"))[case]
    return request


def changed(request: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    request = deepcopy(request)
    *parents, last = path.split(".")
    place: Any = request
    for name in parents:
        place = place[int(name) if name.isdecimal() else name]
    place[int(last) if last.isdecimal() else last] = value
    return request


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("processing", "ProcessingResources.ClusterConfig.InstanceType", "ml.m5.huge"),
        ("processing", "ProcessingResources.ClusterConfig.InstanceCount", "3"),
        ("processing", "ProcessingJobName", "has_underscores"),
        ("processing", "Environment.X", "v" * 257),
        ("processing", "Colour", "green"),
        ("training", "RoleArn", "videolift-job"),
        ("training", "HyperParameters.long", "v" * 2501),
        ("training", "StoppingCondition.MaxRuntimeInSeconds", 0),
        ("training", "InputDataConfig.0.ChannelName", "with space"),
        ("training", "Tags.0", {"Key": "no value"}),
    ],
)
def test_the_model_of_the_api_refuses_what_the_service_would(kind: str, path: str, value: Any) -> None:
    """So that the check above can fail."""
    request = golden(kind, "as it comes")
    operation = OPERATIONS[Kind(kind)]
    validate(operation, request)
    with pytest.raises(ServiceError, match="validation error"):
        validate(operation, changed(request, path, value))


def test_a_spot_job_may_wait_and_others_have_no_word_for_it() -> None:
    spot, usual = golden("training", "spot on 2 hosts, everything"), golden("training", "as it comes")
    assert spot["EnableManagedSpotTraining"] is True
    assert spot["StoppingCondition"]["MaxWaitTimeInSeconds"] > spot["StoppingCondition"]["MaxRuntimeInSeconds"]
    assert "EnableManagedSpotTraining" not in usual and "MaxWaitTimeInSeconds" not in usual["StoppingCondition"]


def test_a_key_encrypts_all_that_it_can() -> None:
    preprocess, train = golden("processing", "3 hosts, everything"), golden("training", "our own image")
    key = preprocess["ProcessingOutputConfig"]["KmsKeyId"]
    assert preprocess["ProcessingResources"]["ClusterConfig"]["VolumeKmsKeyId"] == key
    assert train["OutputDataConfig"]["KmsKeyId"] == train["ResourceConfig"]["VolumeKmsKeyId"] == key


def test_an_instance_with_its_own_disks_gets_no_key_for_them(config: Config, tmp_path: Path) -> None:
    def change(backend: Backend, region: str) -> Backend:
        own = "ml.g5.xlarge"
        changed_backend = everything(backend, region)
        return replace(
            changed_backend,
            preprocess=PreprocessJob(instance_type=own),
            train=TrainJob(mode=Mode.byoc, instance_type=own),
        )

    settings = change(config.backend, "us-east-1")
    for kind in Kind:
        request = order_for(replace(config, backend=settings), kind, "us-east-1", tmp_path / kind.value).request
        validate(OPERATIONS[kind], request)
        assert "VolumeKmsKeyId" not in json.dumps(request) and str(settings.kms_key) in json.dumps(request)


def test_our_own_image_brings_everything_and_needs_no_script_of_the_sdk(config: Config, tmp_path: Path) -> None:
    settings = replace(config.backend, train=TrainJob(mode=Mode.byoc), network_isolation=True)
    order = order_for(replace(config, backend=settings), Kind.training, "us-east-1", tmp_path)
    assert [sending.what for sending in order.sendings] == ["the plan"]
    assert {channel["ChannelName"] for channel in order.request["InputDataConfig"]} == {"plan", "arrays"}
    assert order.request["AlgorithmSpecification"].keys() == {"TrainingImage", "TrainingInputMode", "MetricDefinitions"}


def test_a_job_takes_as_many_members_of_an_ensemble_as_are_allowed(config: Config, tmp_path: Path) -> None:
    settings = replace(config.backend, train=TrainJob(mode=Mode.byos))
    config = replace(config, model=Model(members=MAX_MEMBERS), backend=settings)
    order = order_for(config, Kind.training, "us-east-1", tmp_path)
    validate("CreateTrainingJob", order.request)
    places = {c["ChannelName"]: c["DataSource"]["S3DataSource"]["S3Uri"] for c in order.request["InputDataConfig"]}
    members = [f"member_{number}" for number in range(1, MAX_MEMBERS + 1)]
    assert places.keys() == {"plan", "arrays", "code", "sm_drivers", *members}
    assert len(places) == 20  # Array Members of InputDataConfig in the SageMaker API reference
    assert re.search(r"/cache/train-[0-9a-f]{16}/hosts/algo-1/model/$", places["member_16"])
    assert len({places[name] for name in members}) == MAX_MEMBERS


def test_every_channel_that_is_sent_is_where_its_files_go(config: Config, tmp_path: Path) -> None:
    settings = replace(config.backend, train=TrainJob(mode=Mode.byos), preprocess=PreprocessJob(mode=Mode.byos))
    for kind in (Kind.processing, Kind.training):
        order = order_for(replace(config, backend=settings), kind, "us-east-1", tmp_path / kind.value)
        places = set(re.findall(r's3://[^"]+', json.dumps(order.request)))
        assert [s.what for s in order.sendings if f"{s.target.uri}/" not in places] == []
        scripts = [s for s in order.sendings if "start script" in s.what]
        assert len(scripts) == (kind is Kind.training)
    (sdk,) = scripts
    assert b"exec python3 stage.py" in bytes(sdk.files["sm_train.sh"])


def test_where_other_videos_lie_too_the_job_gets_a_list(config: Config, tmp_path: Path) -> None:
    place = Location("team-videos", "all of them/数据")
    order = order_for(
        config, Kind.processing, "us-east-1", tmp_path, data=place, others=lambda where, _names: where == place
    )
    validate("CreateProcessingJob", order.request)
    videos = order.request["ProcessingInputs"][0]["S3Input"]
    assert videos["S3DataType"] == "ManifestFile"
    (listing,) = (s for s in order.sendings if s.what == "the list of videos")
    assert videos["S3Uri"] == (listing.target / "videos.manifest").uri
    head, *names = json.loads(bytes(listing.files["videos.manifest"]))
    assert head == {"prefix": "s3://team-videos/all of them/数据/"}
    assert len(names) == 8 and names == sorted(names) and names[0] == "Jump/v_Jump_g01_c01.avi"
    assert "videos" not in {s.what for s in order.sendings}  # they are in S3 already
