"""Training on several hosts and replicas: real processes of the stage on loopback, beside one host's training."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from tests.waiting import HANG_S
from videolift import entry, events
from videolift.demo import write_demo
from videolift.entry import STOPPED_EXIT_CODE
from videolift.errors import TrainingError
from videolift.manifest import Manifest, make_manifest
from videolift.parts import INDEX_FILE, merge, read_index
from videolift.plan import MANIFEST_FILE, SOURCE_FOLDER, Plan
from videolift.settings import Data, Model, Precision, Preprocess, Source
from videolift.workspace import Kind, Workspace

SOURCE = Path(entry.__file__).parent.parent
HOSTS = ("127.0.0.1", "localhost")  # two names that resolve everywhere
ALONE = HOSTS[:1]
SMALL = Preprocess(depth=4, height=16, width=16, workers=1)
BATCH = 7
EVEN_BATCH = 6
EPOCHS = 12
MODEL = Model(epoch=3, batch=BATCH, learning_rate=3e-3, dropout=False, precision=Precision.float32)
RTOL = 1e-4
DIVIDED = """
import sys
import tensorflow as tf
from videolift.entry import main
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.exit(main())
"""
WITH_STATISTICS = """
import keras

def build(shape, classes, synchronized, dropout):
    return keras.Sequential([
        keras.Input(shape, dtype="uint8"),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv3D(4, 3, use_bias=False, kernel_regularizer="l2"),  # a bias here has no gradient but noise
        keras.layers.BatchNormalization(synchronized=synchronized),
        keras.layers.Flatten(),
        keras.layers.Dropout(dropout),
        keras.layers.Dense(classes, activation="softmax", dtype="float32"),
    ])
"""


@dataclass(frozen=True)
class Inputs:
    """What trainings of this module read."""

    manifest: Manifest
    arrays: Path

    @property
    def train_samples(self) -> int:
        train = {clip.id for clip in self.manifest.clips if clip.split == "train"}
        return sum(e.stop - e.start for e in read_index(self.arrays / INDEX_FILE) if e.clip in train)


@dataclass
class Host:
    """A process of the train stage."""

    space: Workspace
    process: subprocess.Popen[str]
    output: str = ""

    def ended(self) -> int:
        rest, _ = self.process.communicate(timeout=HANG_S)
        self.output += rest
        return self.process.returncode

    def wait_for_epoch(self, epoch: int) -> None:
        stdout: IO[str] | None = self.process.stdout
        assert stdout is not None
        for line in stdout:
            self.output += line
            event = events.parse(line)
            if event and event["type"] == "metric" and event["key"] == "loss" and event["step"] == epoch:
                return
        raise AssertionError(f"no epoch {epoch}: {self.output}")

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in events.read(self.space.events_file) if e["type"] == kind]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    root = tmp_path_factory.mktemp("inputs")
    write_demo(root / "videos", groups=4, clips=3)
    manifest = make_manifest(Data(Source.demo, str(root / "videos"), val_share=0.3), seed=0)
    space = lay_out(root, Plan("preprocess", "id", preprocess=SMALL), manifest, {"videos": root / "videos"})
    host = start(space)
    assert host.ended() == 0, host.output
    merge([space.parts], [clip.id for clip in manifest.clips], SMALL, root / "arrays")
    return Inputs(manifest, root / "arrays")


@pytest.fixture
def ports() -> Iterator[None]:
    """Hold the ports of training, of which a machine has one set, against other runs of these tests."""
    with (Path(tempfile.gettempdir()) / "videolift-training-ports").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def lay_out(
    root: Path, plan: Plan, manifest: Manifest, channels: dict[str, Path], hosts: Sequence[str] = ALONE, rank: int = 0
) -> Workspace:
    orders = root / f"plan-{plan.stage}"
    orders.mkdir(parents=True, exist_ok=True)
    replace(plan, manifest_digest=manifest.digest).write(orders)
    (orders / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    kind = Kind.processing if plan.stage == "preprocess" else Kind.training
    space = Workspace(kind, root / f"{plan.stage}-{rank}", hosts[rank], tuple(hosts), {"plan": orders, **channels})
    space.lay_out()
    return space


def start(space: Workspace, *program: str) -> Host:
    program = program or ("-m", "videolift.entry")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SM_")}
    environment = {**inherited, **space.variables(), "PYTHONPATH": str(SOURCE), "PYTHONUNBUFFERED": "1"}
    environment["TF_CONFIG"] = "somebody else's"  # AWS's images set it for their own ends
    process = subprocess.Popen(
        [sys.executable, *program, "--root", str(space.root)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Host(space, process)


def start_training(
    root: Path, inputs: Inputs, model: Model, hosts: Sequence[str] = ALONE, *program: str, source: str = ""
) -> list[Host]:
    """Start every host of a training, each with a folder of its own."""
    plan = Plan("train", "id", preprocess=SMALL, model=model)
    spaces = [
        lay_out(root, plan, inputs.manifest, {"arrays": inputs.arrays}, hosts, rank) for rank in range(len(hosts))
    ]
    if source:
        (root / "plan-train" / SOURCE_FOLDER).mkdir(exist_ok=True)
        (root / "plan-train" / SOURCE_FOLDER / "mine.py").write_text(source)
    return [start(space, *program) for space in spaces]


def trained(
    root: Path, inputs: Inputs, model: Model, hosts: Sequence[str] = ALONE, *program: str, source: str = ""
) -> list[Host]:
    started = start_training(root, inputs, model, hosts, *program, source=source)
    codes = [host.ended() for host in started]
    assert codes == [0] * len(hosts), "\n".join(host.output for host in started)
    return started


def history(host: Host) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads((host.space.output / "history.json").read_text())["history"]
    return found


def assert_same(
    found: list[dict[str, float]], expected: list[dict[str, float]], rtol: float = RTOL, *, flips: float = 0.0
) -> None:
    """Compare two histories; of the samples, a share of ``flips`` may be on the other side of the line."""
    assert [sorted(epoch) for epoch in found] == [sorted(epoch) for epoch in expected]
    for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
        atol = flips if "accuracy" in key else 0.0
        np.testing.assert_allclose([e[key] for e in found], [e[key] for e in expected], rtol, atol, err_msg=key)


def messages(host: Host) -> str:
    return "\n".join(str(event["text"]) for event in host.told("message"))


@pytest.fixture(scope="module")
def one_host(tmp_path_factory: pytest.TempPathFactory, inputs: Inputs) -> list[dict[str, float]]:
    """History of EPOCHS epochs on one device."""
    (host,) = trained(tmp_path_factory.mktemp("one"), inputs, replace(MODEL, epoch=EPOCHS))
    return history(host)


@pytest.mark.usefixtures("ports")
def test_two_hosts_train_as_one_and_the_first_alone_writes(
    tmp_path: Path, inputs: Inputs, one_host: list[dict[str, float]]
) -> None:
    assert inputs.train_samples % BATCH == 1, "the last batch of an epoch leaves a replica without a sample"
    leader, follower = trained(tmp_path, inputs, MODEL, HOSTS)
    assert_same(history(leader), one_host[: MODEL.epoch])
    assert {f.name for f in leader.space.model.iterdir()} == {"model.keras", "classes.txt", "settings.json"}
    assert list(follower.space.model.iterdir()) == list(follower.space.checkpoints.iterdir()) == []
    assert {e["type"] for e in events.read(follower.space.events_file)} == {"end"}
    told = {event["key"]: event["value"] for event in leader.told("metric")}
    assert told["hosts"] == told["replicas"] == 2
    assert "divided among 2 replicas on 2 hosts" in messages(leader)
    assert "samples_per_second" in told


def test_two_devices_of_one_host_train_as_one(tmp_path: Path, inputs: Inputs, one_host: list[dict[str, float]]) -> None:
    (host,) = trained(tmp_path, inputs, MODEL, ALONE, "-c", DIVIDED)
    assert_same(history(host), one_host[: MODEL.epoch])
    assert "divided among 2 replicas on 1 host" in messages(host)


@pytest.mark.usefixtures("ports")
@pytest.mark.parametrize("asked", HOSTS)
def test_all_stop_with_the_host_that_is_asked_and_one_host_goes_on(
    tmp_path: Path, inputs: Inputs, one_host: list[dict[str, float]], asked: str
) -> None:
    model = replace(MODEL, epoch=EPOCHS)
    started = start_training(tmp_path, inputs, model, HOSTS)
    started[0].wait_for_epoch(2)
    started[HOSTS.index(asked)].process.send_signal(signal.SIGTERM)
    assert [host.ended() for host in started] == [STOPPED_EXIT_CODE] * 2, started[0].output + started[1].output
    assert not (started[0].space.model / "model.keras").exists()
    (resumed,) = trained(tmp_path, inputs, model)  # in the folder of the first host
    assert "goes on after epoch" in messages(resumed)
    # Sums over two hosts are rounded in another order, for as many epochs as they got to; of 36 samples one may flip.
    assert_same(history(resumed), one_host, rtol=1e-3, flips=1.01 / 36)


@pytest.mark.usefixtures("ports")
def test_two_hosts_go_on_from_the_checkpoint_of_one_though_only_the_first_has_it(
    tmp_path: Path, inputs: Inputs, one_host: list[dict[str, float]]
) -> None:
    trained(tmp_path, inputs, replace(MODEL, epoch=1))
    leader, follower = trained(tmp_path, inputs, MODEL, HOSTS)
    assert "goes on after epoch 1 of 3" in messages(leader)
    assert_same(history(leader), one_host[: MODEL.epoch])
    assert list(follower.space.checkpoints.iterdir()) == []


@pytest.mark.usefixtures("ports")
@pytest.mark.parametrize("killed", [0, 1])
def test_a_host_that_dies_is_named_and_ends_the_others(tmp_path: Path, inputs: Inputs, killed: int) -> None:
    started = start_training(tmp_path, inputs, replace(MODEL, epoch=10_000), HOSTS)
    started[0].wait_for_epoch(2)
    started[killed].process.kill()
    assert started[killed].ended() == -signal.SIGKILL
    survivor = started[1 - killed]
    assert survivor.ended() == TrainingError.exit_code, survivor.output
    reason = survivor.space.failure_file.read_text()
    assert reason == (
        f"TrainingError: {HOSTS[killed]} ended before the training was done; what it printed last says why"
    )


@pytest.mark.usefixtures("ports")
def test_divergence_is_told_by_all(tmp_path: Path, inputs: Inputs) -> None:
    model = replace(MODEL, optimizer="sgd", learning_rate=1e30)
    started = start_training(tmp_path, inputs, model, HOSTS)
    assert [host.ended() for host in started] == [TrainingError.exit_code] * 2
    for host in started:
        assert "in epoch 1; use a smaller model.learning_rate (now 1e+30)" in host.space.failure_file.read_text()


@pytest.mark.usefixtures("ports")
def test_early_stopping_is_the_same_decision_everywhere(tmp_path: Path, inputs: Inputs) -> None:
    leader, _ = trained(tmp_path, inputs, replace(MODEL, epoch=100, early_stopping=1, learning_rate=0.03), HOSTS)
    assert len(history(leader)) < 100
    assert "stopped early" in messages(leader)


@pytest.mark.usefixtures("ports")
def test_own_statistics_of_each_replica_are_told_and_survive_an_interruption(tmp_path: Path, inputs: Inputs) -> None:
    model = replace(MODEL, builder="mine.py:build", args={"synchronized": False, "dropout": 0.1})
    leader, _ = trained(tmp_path / "three", inputs, model, HOSTS, source=WITH_STATISTICS)
    assert "keras.layers.BatchNormalization(synchronized=True)" in messages(leader)
    trained(tmp_path / "one and two", inputs, replace(model, epoch=1), HOSTS, source=WITH_STATISTICS)
    resumed, _ = trained(tmp_path / "one and two", inputs, model, HOSTS, source=WITH_STATISTICS)
    assert_same(history(resumed), history(leader))


@pytest.mark.usefixtures("ports")
def test_synchronized_statistics_and_regularization_are_those_of_one_host(tmp_path: Path, inputs: Inputs) -> None:
    model = replace(MODEL, builder="mine.py:build", args={"synchronized": True, "dropout": 0.0}, batch=EVEN_BATCH)
    assert inputs.train_samples % EVEN_BATCH == 0, "where slices are uneven, statistics count some samples twice"
    (alone,) = trained(tmp_path / "one", inputs, model, source=WITH_STATISTICS)
    leader, _ = trained(tmp_path / "two", inputs, model, HOSTS, source=WITH_STATISTICS)
    assert "BatchNormalization" not in messages(leader)
    assert_same(history(leader), history(alone))


@pytest.mark.usefixtures("ports")
@pytest.mark.parametrize("precision", [Precision.mixed_float16, Precision.mixed_bfloat16])
def test_reduced_precision(tmp_path: Path, inputs: Inputs, precision: Precision) -> None:
    leader, _ = trained(tmp_path, inputs, replace(MODEL, name="cnn2d", precision=precision), HOSTS)
    losses = [epoch["loss"] for epoch in history(leader)]
    assert losses[-1] < losses[0]


@pytest.mark.usefixtures("ports")
def test_more_replicas_than_samples_in_a_batch(tmp_path: Path, inputs: Inputs) -> None:
    model = replace(MODEL, epoch=1, batch=1)
    (alone,) = trained(tmp_path / "one", inputs, model)
    leader, _ = trained(tmp_path / "two", inputs, model, HOSTS)
    assert "model.batch=1 is less than the 2 replicas" in messages(leader)
    assert_same(history(leader), history(alone))
