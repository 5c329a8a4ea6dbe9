"""What the SageMaker SDK would send for a training, whoever's machine it is asked on and whatever the settings hold."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from launchers.emulator.validation import validate
from launchers.remote import requests
from launchers.remote.trainer import Captured, Training, capture, training_image
from videolift.errors import ConfigError
from videolift.events import Events
from videolift.plan import Plan
from videolift.settings import Model

TRAINING = Training(
    name="videolift-train-1a2b3c4d-TIME",
    image="763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:2.21.0-cpu-py312",
    role="arn:aws:iam::123456789012:role/videolift-job",
    bucket="sagemaker-us-east-1-123456789012",
    region="us-east-1",
    command="exec python3 stage.py",
    source="s3://bucket/videolift/source/1a2b/",
    channels={"arrays": "s3://bucket/videolift/cache/x/arrays/", "plan": "s3://bucket/videolift/plans/y/"},
    output="s3://bucket/videolift/jobs",
    drivers="s3://bucket/videolift/source",
    instance_type="ml.m5.xlarge",
    instance_count=1,
    volume_gb=30,
    keep_alive_s=0,
    spot=False,
    max_run_s=3600,
    max_wait_s=None,
    checkpoints=None,
    kms_key=None,
    volume_kms_key=None,
    subnets=[],
    security_groups=[],
    isolated=False,
    encrypt_traffic=False,
    environment={},
    tags={},
    hyperparameters={},
    metrics={},
)
DEFAULTS = """
SchemaVersion: '1.0'
SageMaker:
  TrainingJob:
    EnableNetworkIsolation: true
    Environment: {THEIRS: 'yes'}
    Tags: [{Key: theirs, Value: 'yes'}]
    VpcConfig: {SecurityGroupIds: [sg-0123456789abcdef0], Subnets: [subnet-0123456789abcdef0]}
"""


@pytest.fixture(scope="module")
def captured() -> Captured:
    return capture(TRAINING)


# ---- Nothing of the machine is in a request


@pytest.mark.parametrize("variable", ["SAGEMAKER_ADMIN_CONFIG_OVERRIDE", "SAGEMAKER_USER_CONFIG_OVERRIDE"])
def test_defaults_of_a_user_or_an_administrator_change_nothing(
    captured: Captured, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sagemaker.core.config.config_manager import SageMakerConfig

    (tmp_path / "config.yaml").write_text(DEFAULTS)
    monkeypatch.setenv(variable, str(tmp_path / "config.yaml"))
    assert "THEIRS" in json.dumps(SageMakerConfig().load_sagemaker_config())  # the SDK by itself would take them
    assert capture(TRAINING) == captured


def test_a_profile_that_is_not_there_is_in_nobodys_way(captured: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "of-another-machine")
    monkeypatch.setenv("AWS_DEFAULT_PROFILE", "of-another-machine")
    assert capture(TRAINING) == captured


def test_the_process_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("SAGEMAKER_USER_CONFIG_OVERRIDE", "mine.yaml")
    monkeypatch.delenv("SAGEMAKER_VALIDATE_ROLE", raising=False)
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    logging.disable(logging.INFO)
    try:
        training_image("us-east-1", "2.21.0", "ml.m5.xlarge")
        capture(TRAINING)
        with pytest.raises(ConfigError):
            training_image("us-east-1", "0.1.0", "ml.m5.xlarge")
        assert logging.root.manager.disable == logging.INFO
    finally:
        logging.disable(logging.NOTSET)
    assert dict(os.environ) == before
    assert list(tmp_path.iterdir()) == []


def test_several_threads_ask_at_once_and_other_sessions_are_left_alone(
    captured: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"AWS_PROFILE": "mine", "AWS_CONFIG_FILE": "mine", "AWS_SHARED_CREDENTIALS_FILE": "mine"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before, changed = dict(os.environ), set[str]()
    trainings = [replace(TRAINING, name=f"videolift-train-{number}", instance_count=number + 1) for number in range(2)]
    with ThreadPoolExecutor(len(trainings)) as pool:
        asked = [pool.submit(capture, training) for training in trainings]
        while not all(one.done() for one in asked):
            changed |= {name for name in variables if os.environ.get(name) != variables[name]}
            time.sleep(0.001)
    assert changed == set()
    assert dict(os.environ) == before
    for training, one in zip(trainings, asked, strict=True):
        request = one.result().request
        assert request["TrainingJobName"] == training.name
        assert request["ResourceConfig"]["InstanceCount"] == training.instance_count
        assert one.result().drivers_name == captured.drivers_name


def test_calls_for_several_regions_do_not_mix(captured: Captured) -> None:
    chinese = replace(
        TRAINING,
        name="videolift-train-5e6f7a8b-TIME",
        region="cn-northwest-1",
        bucket="sagemaker-cn-northwest-1-123456789012",
        role="arn:aws-cn:iam::123456789012:role/videolift-job",
    )
    other = capture(chinese)
    assert (other.request["TrainingJobName"], other.request["RoleArn"]) == (chinese.name, chinese.role)
    assert capture(TRAINING) == captured
    assert other.drivers_name == captured.drivers_name  # the same files lie at the same place


def test_what_the_sdk_refuses_is_an_error_that_a_person_can_act_on() -> None:
    with pytest.raises(ConfigError, match="the SageMaker SDK refuses the training job"):
        capture(replace(TRAINING, source="/no such folder"))


@pytest.mark.parametrize(("region", "version"), [("us-east-1", "0.1.0"), ("mars-north-1", "2.21.0")])
def test_an_image_that_aws_does_not_have_is_named(region: str, version: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"framework_version={version}: AWS has no such TensorFlow image in {region}"
    ):
        training_image(region, version, "ml.m5.xlarge")


# ---- Tags and hyperparameters


def test_tags_arrive_as_they_are_even_without_a_value() -> None:
    tags = {"团队": "视频 a=b", "empty": "", "videolift": "train"}
    request = capture(replace(TRAINING, tags=tags)).request
    assert {tag["Key"]: tag["Value"] for tag in request["Tags"]} == tags
    validate("CreateTrainingJob", request)


def hyperparameters_of(**args: object) -> dict[str, str]:
    return requests.hyperparameters(Plan("train", "train-1", model=Model(builder="model.py:build", args=args)))


NASTY = {
    "learning.rate": 1e-3,
    "it's": 'it\'s "quoted"',
    "escaped": '"\\u0027; exit 3; \\u0027"',
    "lines": "a\nb\r\n\u2028c",
    "shell": "$HOME `exit 3` $(exit 3) \\ !",
    "数据": ["中文", "Größe", None, {"k": "v"}],
    "long": "长" * 4000,
    "k" * 300: True,
    "empty": "",
}


def test_hyperparameters_are_such_as_the_service_takes() -> None:
    found = hyperparameters_of(**NASTY)
    validate("CreateTrainingJob", capture(replace(TRAINING, hyperparameters=found)).request)
    assert found["model_args_learning_rate"] == "0.001"
    assert found["model_args___"] == '["中文", "Größe", null, {"k": "v"}]'
    assert found["model_args_long"] == "长" * 2500
    assert found["model_args_shell"] == NASTY["shell"]
    assert all(re.fullmatch(r"[A-Za-z0-9_]{1,256}", key) for key in found)


def test_hyperparameters_are_a_hundred_at_most_and_our_own_stay() -> None:
    found = hyperparameters_of(**{f"a{number}": number for number in range(200)})
    assert len(found) == 100
    assert {"model_epoch", "preprocess_depth", "seed", "model_args_a0"} <= found.keys()
    assert "model_args_a199" not in found
    validate("CreateTrainingJob", capture(replace(TRAINING, hyperparameters=found)).request)


def test_the_sdks_own_script_can_export_the_hyperparameters(tmp_path: Path) -> None:
    """Its environment.py writes a shell script, which bash reads; one quote too many would end the job."""
    found = hyperparameters_of(**NASTY)
    captured = capture(replace(TRAINING, hyperparameters=found))
    for name, content in captured.drivers.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    write = (
        "import json, os, sys\n"
        "from scripts import environment\n"
        "environment.read_source_code_json = environment.read_distributed_json = lambda: {}\n"  # are in /opt/ml there
        "resources = {'current_host': 'algo-1', 'current_instance_type': 'ml.m5.xlarge', 'hosts': ['algo-1'],\n"
        "             'network_interface_name': 'lo'}\n"
        "environment.set_env(resources, {}, json.load(open(sys.argv[1])), sys.argv[2])\n"
    )
    (tmp_path / "hyperparameters.json").write_text(json.dumps(captured.request["HyperParameters"]))
    variables = {**os.environ, "PYTHONPATH": str(tmp_path), "TRAINING_JOB_NAME": "job"}
    python = [*("python3", "-c", write), "hyperparameters.json", "sm.env"]
    subprocess.run(python, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True)
    shell = ["bash", "-c", 'set -e; source ./sm.env; printf %s "$SM_HP_MODEL_ARGS_SHELL"; env -0 > exported']
    told = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (told.stdout, told.stderr) == (NASTY["shell"], "")
    exported = {line.partition("=")[0] for line in (tmp_path / "exported").read_text().split("\0")}
    assert {f"SM_HP_{key.upper()}" for key in found} <= exported


# ---- Metrics in the console


def lines_of(tmp_path: Path, **metrics: float) -> list[str]:
    stream = io.StringIO()
    events = Events(tmp_path / "events.jsonl", "algo-1", stream, stage="train")
    events.metrics(metrics, step=7)
    events.close()
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("value", [0.5, 1e-7, 1.5e12, -3.0, 0.0])
def test_each_metric_is_found_in_its_own_line_only(tmp_path: Path, value: float) -> None:
    """The service looks for each regular expression in each line and takes the first group."""
    keys = [*requests.CURVES, "loss2", "train_loss", "system/loss"]
    lines = lines_of(tmp_path, **dict.fromkeys(keys, value))
    assert len(lines) == len(keys)
    for name, expression in requests.metric_definitions().items():
        found = {key: match[1] for key, line in zip(keys, lines, strict=True) if (match := re.search(expression, line))}
        assert found.keys() == {name}
        assert float(found[name]) == value


def test_what_is_no_number_and_what_is_no_metric_is_no_metric(tmp_path: Path) -> None:
    stream = io.StringIO()
    events = Events(tmp_path / "events.jsonl", "algo-1", stream, stage="train")
    events.metric("loss", float("nan"))
    events.message('"key": "loss", "value": 1.0')
    events.tag("loss", "1.0")
    events.close()
    for expression in requests.metric_definitions().values():
        assert re.search(expression, stream.getvalue()) is None
