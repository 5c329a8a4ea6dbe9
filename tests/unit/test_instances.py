import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from launchers.remote import instances
from launchers.remote.instances import Gpus, gpus_of, has_gpu, precision_of, type_problem
from videolift.settings import Precision
from videolift.workspace import Kind

ALL = sorted({name for kind in Kind for name in instances.known(kind)})


def test_the_defaults_exist() -> None:
    for kind in Kind:
        assert type_problem(kind, "ml.m5.xlarge") is None


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("m5.xlarge", "ml.m5.xlarge"),
        ("ml.m5.xlrage", "ml.m5.xlarge"),
        ("ML.G4DN.XLARGE", "ml.g4dn.xlarge"),
        ("ml_g4dn_xlarge", "ml.g4dn.xlarge"),
        ("ml.g4nd.xlarge", "ml.g4dn.xlarge"),
    ],
)
def test_a_misspelled_type_is_refused_with_the_one_that_was_meant(asked: str, meant: str) -> None:
    problem = type_problem(Kind.training, asked)
    assert problem is not None
    assert f"did you mean {meant}?" in problem


def test_a_size_that_a_family_lacks_is_answered_with_its_sizes() -> None:
    problem = type_problem(Kind.training, "ml.p3.xlarge")
    assert problem is not None
    assert problem.endswith("ml.p3 comes as 2xlarge, 8xlarge, 16xlarge")


def test_a_type_for_the_other_kind_of_job_says_so() -> None:
    only_training = sorted(set(instances.known(Kind.training)) - set(instances.known(Kind.processing)))
    assert "ml.trn1.2xlarge" in only_training
    for name in only_training:
        problem = type_problem(Kind.processing, name)
        assert problem is not None
        assert f"{name} is for training jobs" in problem


def test_a_type_that_may_be_new_is_not_called_nonsense() -> None:
    problem = type_problem(Kind.training, "ml.m99.xlarge")
    assert problem is not None
    assert "newer than the installed boto3" in problem
    assert "no instance type of SageMaker" in str(type_problem(Kind.training, "local_gpu"))


def test_gpus_agree_with_the_list_of_the_sagemaker_sdk() -> None:
    spec = find_spec("sagemaker")  # found, not imported: that takes seconds
    assert spec is not None and spec.submodule_search_locations is not None
    file = next(
        path
        for folder in spec.submodule_search_locations
        if (path := Path(folder) / "core/image_uri_config/instance_gpu_info.json").is_file()
    )
    listed = {name: info["Count"] for region in json.loads(file.read_text()).values() for name, info in region.items()}
    compared = [name for name in listed if name in ALL]  # its ml.g5n.xlarge does not exist
    assert len(compared) > 20
    for name in compared:
        gpus = gpus_of(name)
        assert gpus is not None and gpus.count == listed[name], name


def test_every_family_with_the_name_of_a_gpu_family_has_gpus() -> None:
    for name in ALL:
        family = instances.family_of(name)
        assert has_gpu(name) == family.startswith(("g", "p")), name


@pytest.mark.parametrize(
    ("instance_type", "gpus"),
    [
        ("ml.g4dn.12xlarge", Gpus(4, "T4", 7.5)),
        ("ml.g5.xlarge", Gpus(1, "A10G", 8.6)),
        ("ml.g6e.48xlarge", Gpus(8, "L40S", 8.9)),
        ("ml.g7e.12xlarge", Gpus(2, "RTX PRO 6000", 12.0)),
        ("ml.p3.8xlarge", Gpus(4, "V100", 7.0)),
        ("ml.p4d.24xlarge", Gpus(8, "A100", 8.0)),
        ("ml.p5.4xlarge", Gpus(1, "H100", 9.0)),
        ("ml.p5.48xlarge", Gpus(8, "H100", 9.0)),
        ("ml.m5.xlarge", None),
        ("ml.trn1.2xlarge", None),
        ("nonsense", None),
    ],
)
def test_gpus_of_an_instance(instance_type: str, gpus: Gpus | None) -> None:
    assert gpus_of(instance_type) == gpus


@pytest.mark.parametrize(
    ("precision", "types"),
    [
        (Precision.mixed_float16, ("ml.g4dn.xlarge", "ml.p3.2xlarge", "ml.p3dn.24xlarge")),
        (
            Precision.mixed_bfloat16,
            ("ml.g5.xlarge", "ml.g6.xlarge", "ml.g6e.xlarge", "ml.g7.2xlarge", "ml.p4de.24xlarge", "ml.p5.48xlarge"),
        ),
        (
            Precision.mixed_bfloat16,
            ("ml.m7i.large", "ml.m7i-flex.large", "ml.c7i.large", "ml.r7i.large", "ml.c8i-flex.xlarge", "ml.m7a.large"),
        ),
        (
            Precision.float32,
            ("ml.m4.xlarge", "ml.m5.xlarge", "ml.c5n.xlarge", "ml.m6i.large", "ml.r5d.large", "ml.t3.medium"),
        ),
        (Precision.float32, ("ml.p2.xlarge", "ml.trn1.2xlarge", "ml.m99.xlarge", "", "m7i.large")),
    ],
)
def test_precision_of_an_instance(precision: Precision, types: tuple[str, ...]) -> None:
    assert {name: precision_of(name) for name in types} == dict.fromkeys(types, precision)


def test_instances_with_own_disks() -> None:
    assert instances.has_local_disks("ml.g4dn.xlarge")
    assert instances.has_local_disks("ml.r5d.large")
    assert not instances.has_local_disks("ml.m5.xlarge")
    assert not instances.has_local_disks("ml.p3.2xlarge")
    assert not instances.has_local_disks("")
