"""Whole runs of the real command with backend=remote, on the emulator."""

from __future__ import annotations

import shlex
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from launchers.emulator.client import Emulator
from tests import runs
from tests.emulators import BUCKET, ENDED, Account

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

HERE = Path(__file__).resolve().parent
PREPROCESS = "stages=[preprocess]"
TRAIN = "stages=[preprocess,train]"
# Seconds of work for one worker: there is time to do something to the job.
SHARED = "backend.prefix=whole"  # by two tests, of which the second finds what the first has sent
SLOW = (PREPROCESS, "preprocess.workers=1", "preprocess.height=1200", "preprocess.width=1600", "preprocess.depth=16")
EPOCHS = 30  # of a training that something happens to in its first tenth


@pytest.fixture(scope="module")
def account(emulator: Emulator) -> Account:
    return Account(emulator)


@pytest.fixture(autouse=True)
def watched(emulator: Emulator, account: Account) -> Iterator[None]:
    """See to it that a test leaves neither jobs nor faults behind."""
    before = {job for _, job in jobs(emulator)}
    yield
    emulator.clear_faults()
    left = [
        (kind, job)
        for kind, job in jobs(emulator)
        if job not in before and account.describe(kind, job)[f"{kind}JobStatus"] not in ENDED
    ]
    for kind, job in left:
        getattr(account.sagemaker, f"stop_{kind.lower()}_job")(**{f"{kind}JobName": job})
        account.ended(kind, job)
    assert not left


@pytest.fixture
def recorded(quick: list[str]) -> list[str]:
    """Settings of a run that takes seconds and is recorded in MLflow."""
    return [setting for setting in quick if setting != "tracking=none"]


@pytest.fixture(scope="module")
def computed_here(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Path:
    """A folder in which the arrays of ``quick`` were computed with backend=local."""
    cwd = tmp_path_factory.mktemp("here")
    sizes = ("preprocess.depth=4", "preprocess.height=16", "preprocess.width=16", "data.val_share=0.3")
    runs.run(PREPROCESS, "data=folder", f"data.root={videos}", *sizes, "tracking=none", cwd=cwd)
    return cwd


@pytest.fixture
def with_arrays(tmp_path: Path, computed_here: Path) -> Path:
    """A folder that has those arrays in its outputs."""
    shutil.copytree(computed_here / "outputs" / "cache", tmp_path / "outputs" / "cache", symlinks=True)
    return tmp_path


def jobs(emulator: Emulator) -> list[tuple[str, str]]:
    """Return (Training | Processing, name) of all jobs."""
    kinds = {"preprocess": "Processing"}
    names = [folder.name for folder in (emulator.root / "jobs").glob("*") if folder.is_dir()]
    return [(kinds.get(name.split("-")[1], "Training"), name) for name in sorted(names)]


class Calls:
    """What is asked of AWS from now on."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._before = len(emulator.calls())

    def all(self) -> list[dict[str, Any]]:
        return self._emulator.calls()[self._before :]

    def count(self, operation: str) -> int:
        return Counter(call["operation"] for call in self.all() if call["status"] == 200)[operation]

    def created(self) -> tuple[int, int]:
        """Return how many processing and training jobs were created."""
        return self.count("CreateProcessingJob"), self.count("CreateTrainingJob")

    def objects(self, operation: str) -> list[str]:
        """Return the keys that an operation was about, below the prefix of the experiment."""
        return [call["resource"].split("/", 2)[2] for call in self.all() if call["operation"] == operation]


class Client:
    """The command under way."""

    def __init__(self, *overrides: str, cwd: Path) -> None:
        self.process = runs.start(*overrides, cwd=cwd)
        self.out = ""

    def until(self, text: str) -> None:
        """Read on until a line with this text was printed."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.out += line
            if text in line:
                return
        raise AssertionError(f"ended before {text!r}: {self.end().text}")

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self) -> runs.Ended:
        with self.process as process:
            assert process.stdout is not None and process.stderr is not None
            out, err = process.stdout.read(), process.stderr.read()
        return runs.Ended(process.returncode, self.out + out, err)


def held(cwd: Path) -> list[str]:
    """Return settings of a training that waits in epoch 3 of 4 until :func:`let_go`."""
    gate = (f"model.args.file={cwd / 'gate'}", "model.args.batches=4")
    return [TRAIN, f"model.builder={HERE / 'held.py'}:build", *gate, "model.epoch=4"]


def let_go(cwd: Path) -> None:
    (cwd / "gate").touch()


def only_record(cwd: Path) -> dict[str, Any]:
    (record,) = runs.records(cwd)
    return record


def in_mlflow(cwd: Path) -> tuple[MlflowClient, Run]:
    """Return the only run of a folder's MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{cwd / 'outputs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("videolift")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def steps_of(cwd: Path, key: str) -> list[int]:
    client, run = in_mlflow(cwd)
    return [metric.step for metric in client.get_metric_history(run.info.run_id, key)]


def detached(cwd: Path) -> tuple[str, str, str]:
    """Return the status and the tag of the only run, here and in MLflow."""
    _, run = in_mlflow(cwd)
    record = only_record(cwd)
    assert record["tags"]["videolift.detached"] == run.data.tags["videolift.detached"]
    return record["status"], run.info.status, record["tags"]["videolift.detached"]


def come_back(ended: runs.Ended) -> list[str]:
    """Return the overrides of the command that was printed to come back."""
    words = shlex.split(ended.text.rpartition("come back with: ")[2].splitlines()[0])
    assert words[:2] == ["python", "run.py"]
    return words[2:]


# Whole runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


def test_a_whole_run(whole: Path, recorded: list[str], computed_here: Path, emulator: Emulator) -> None:
    calls = Calls(emulator)
    runs.run(*recorded, SHARED, cwd=whole)
    record, here = only_record(whole), only_record(computed_here)
    assert runs.stage(record, "preprocess")["id"] == runs.stage(here, "preprocess")["id"]
    assert runs.arrays(record) == runs.arrays(here)
    assert calls.created() == (1, 1)
    client, run = in_mlflow(whole)
    assert run.info.status == "FINISHED"
    losses = runs.metrics(record, "train")
    told = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in told] == [(step, losses["loss", step]) for step in (1, 2)]
    for kind in ("Processing", "Training"):
        small = kind.lower()
        (job,) = [name for of, name in jobs(emulator) if of == kind and name in run.data.tags[f"sagemaker.{small}.arn"]]
        assert run.data.tags[f"sagemaker.{small}.job"] == job
        assert job in run.data.tags[f"sagemaker.{small}.console"]
        assert run.data.metrics[f"sagemaker/{small}/billable_s"] > 0
    assert "test_accuracy" in run.data.metrics


def test_from_another_machine_and_over_a_bad_line(
    whole: Path, tmp_path: Path, recorded: list[str], emulator: Emulator, account: Account
) -> None:
    """The arrays come from S3, videos and source are there already, and nothing that is said gets lost."""
    emulator.fault("throttle", operation="DescribeTrainingJob", times=2)
    emulator.fault("error", operation="PutObject", status=503, times=2)
    emulator.fault("drop", operation="FilterLogEvents", times=2)
    emulator.fault("slow_logs", seconds=3)
    calls = Calls(emulator)
    ended = runs.run(*recorded, SHARED, TRAIN, "model=cnn2d", "model.epoch=3", cwd=tmp_path)
    assert f"preprocess: cached, computed by {only_record(whole)['id']}" in ended.out
    assert calls.created() == (0, 1)
    assert not [key for key in calls.objects("PutObject") if key.startswith(("data/", "source/"))]
    refused = {call["operation"] for call in calls.all() if call["status"] != 200}
    assert refused >= {"DescribeTrainingJob", "PutObject", "FilterLogEvents"}
    assert steps_of(tmp_path, "loss") == [1, 2, 3]
    record = only_record(tmp_path)
    (job,) = [name for _, name in jobs(emulator) if runs.stage(record, "train")["id"][6:14] in name]
    printed = account.log("Training", job)["algo-1"]
    lines = (tmp_path / "outputs" / "runs" / record["id"] / "train.log").read_text().splitlines()
    assert lines == [f"algo-1: {line}" for line in printed if not line.startswith("::videolift::")]


def test_preprocessing_here_for_trainings_there(
    tmp_path: Path, quick: list[str], computed_here: Path, emulator: Emulator
) -> None:
    calls = Calls(emulator)
    runs.run(*quick, PREPROCESS, "backend.preprocess.where=local", cwd=tmp_path)
    stage = runs.stage(only_record(tmp_path), "preprocess")["id"]
    assert runs.arrays(only_record(tmp_path)) == runs.arrays(only_record(computed_here))
    assert calls.created() == (0, 0)
    assert f"cache/{stage}/finished.json" in calls.objects("PutObject")


def test_what_an_earlier_try_here_left_does_not_mix_with_what_a_job_gives(
    tmp_path: Path, quick: list[str], computed_here: Path
) -> None:
    stage = runs.stage(only_record(computed_here), "preprocess")
    left = tmp_path / "outputs" / "cache" / f"{stage['id']}.partial" / "hosts/algo-1/processing/output/algo-1"
    (left / "parts").mkdir(parents=True)
    arrays = Path(stage["folder"]) / "arrays"
    for file in arrays.glob("part-*"):
        shutil.copy(file, left / "parts" / "part-of-another-division.npz")
    (left / "parts" / "part-of-another-division.jsonl").write_bytes((arrays / "index.jsonl").read_bytes())
    runs.run(*quick, PREPROCESS, cwd=tmp_path)
    assert runs.arrays(only_record(tmp_path)) == runs.arrays(only_record(computed_here))


# Leaving and coming back


def test_ctrl_c_leaves_the_job_and_the_printed_command_comes_back(
    with_arrays: Path, recorded: list[str], emulator: Emulator
) -> None:
    calls = Calls(emulator)
    client = Client(*recorded, *held(with_arrays), "backend.on_interrupt=detach", cwd=with_arrays)
    client.until("train: epoch 2")
    client.interrupt()
    left = client.end()
    assert left.code == 130
    assert detached(with_arrays) == ("RUNNING", "RUNNING", "yes")
    assert steps_of(with_arrays, "loss") == [1, 2]
    let_go(with_arrays)
    runs.run(*come_back(left), cwd=with_arrays)
    assert detached(with_arrays) == ("FINISHED", "FINISHED", "no")
    assert steps_of(with_arrays, "loss") == steps_of(with_arrays, "val_loss") == [1, 2, 3, 4]
    assert calls.created() == (0, 1)  # the arrays that were computed here were sent


def test_ctrl_c_leaves_the_members_of_an_ensemble_which_are_found_again(
    with_arrays: Path, recorded: list[str], emulator: Emulator
) -> None:
    calls = Calls(emulator)
    members = ["model.members=2", "backend.train.parallel=2"]
    client = Client(*recorded, *held(with_arrays), *members, "backend.on_interrupt=detach", cwd=with_arrays)
    for name in ("train-1", "train-2"):
        if f"{name}: epoch 2" not in client.out:
            client.until(f"{name}: epoch 2")
    client.interrupt()
    left = client.end()
    assert left.code == 130
    assert detached(with_arrays) == ("RUNNING", "RUNNING", "yes")
    assert [stage["name"] for stage in only_record(with_arrays)["stages"]] == ["preprocess", "train-1", "train-2"]
    let_go(with_arrays)
    runs.run(*come_back(left), cwd=with_arrays)
    assert detached(with_arrays) == ("FINISHED", "FINISHED", "no")
    assert steps_of(with_arrays, "train-1/loss") == steps_of(with_arrays, "train-2/loss") == [1, 2, 3, 4]
    assert calls.created() == (0, 3)  # two members, and what puts them together


def test_a_second_ctrl_c_stops_the_job(tmp_path: Path, quick: list[str], emulator: Emulator, account: Account) -> None:
    before = jobs(emulator)
    client = Client(*quick, *SLOW, "backend.on_interrupt=detach", cwd=tmp_path)
    client.until("preprocess: Starting")
    (job,) = [job for job in jobs(emulator) if job not in before]
    account.log(*job, wanted=lambda lines: "clip" in str(lines))  # else SIGTERM comes before anybody listens
    client.interrupt()
    client.until("leaving the job to itself")
    client.interrupt()
    ended = client.end()
    assert ended.code == 130
    assert only_record(tmp_path)["status"] == "KILLED"
    assert account.describe(*job)["ProcessingJobStatus"] == "Stopped"
    assert "come back with" not in ended.text


def test_kill_9_leaves_a_training_in_our_image_for_the_same_command(
    with_arrays: Path, recorded: list[str], emulator: Emulator
) -> None:
    calls = Calls(emulator)
    settings = [*recorded, *held(with_arrays), "backend.train.mode=byoc"]
    client = Client(*settings, cwd=with_arrays)
    client.until("train: epoch 2")
    client.process.kill()
    client.end()
    other = runs.run(*recorded, PREPROCESS, "name=other", "tracking.experiment=elsewhere", cwd=with_arrays)
    record = runs.records(with_arrays)[0]
    assert f"run {record['id']} was left by a launcher that died, and its job goes on" in other.out
    assert (record["status"], record["tags"]["videolift.detached"]) == ("RUNNING", "yes")
    _, run = in_mlflow(with_arrays)
    assert (run.info.status, run.data.tags["videolift.detached"]) == ("RUNNING", "yes")
    let_go(with_arrays)
    again = runs.run(*settings, cwd=with_arrays)
    assert f"goes on with run {record['id']}" in again.out
    assert runs.records(with_arrays)[0]["status"] == "FINISHED"
    _, run = in_mlflow(with_arrays)
    assert (run.info.status, run.data.tags["videolift.detached"]) == ("FINISHED", "no")
    assert steps_of(with_arrays, "loss") == [1, 2, 3, 4]
    assert calls.created() == (0, 1)


def test_submitting_our_script_without_waiting(tmp_path: Path, quick: list[str], emulator: Emulator) -> None:
    calls = Calls(emulator)
    settings = [*quick, PREPROCESS, "backend.preprocess.mode=byos", "backend.wait=false"]
    first = runs.run(*settings, cwd=tmp_path)
    assert only_record(tmp_path)["tags"]["videolift.detached"] == "yes"
    again = runs.run(*settings, cwd=tmp_path)
    assert "is at it already" in again.out
    assert come_back(first) == come_back(again)
    runs.run(*come_back(first), cwd=tmp_path)
    assert only_record(tmp_path)["status"] == "FINISHED"
    assert calls.created() == (1, 0)


def test_credentials_that_expire_leave_the_job(tmp_path: Path, quick: list[str], emulator: Emulator) -> None:
    calls = Calls(emulator)
    client = Client(*quick, PREPROCESS, cwd=tmp_path)
    client.until("preprocess: job ")
    emulator.fault("expired")
    ended = client.end()
    assert ended.code == 1
    assert "the AWS credentials have expired; renew them" in ended.out
    assert only_record(tmp_path)["status"] == "RUNNING"
    refused = runs.run(*come_back(ended), cwd=tmp_path, code=2)
    assert "credentials have expired" in refused.err
    assert only_record(tmp_path)["status"] == "RUNNING"
    emulator.clear_faults()
    runs.run(*come_back(ended), cwd=tmp_path)
    assert only_record(tmp_path)["status"] == "FINISHED"
    assert calls.created() == (1, 0)


# What goes wrong with jobs


def test_no_capacity_and_the_same_command_later(tmp_path: Path, quick: list[str], emulator: Emulator) -> None:
    emulator.fault("capacity", job="next")
    calls = Calls(emulator)
    ended = runs.run(*quick, PREPROCESS, cwd=tmp_path, code=5)
    assert "preprocess: CapacityError: Unable to provision requested ML compute capacity" in ended.err
    assert "try again later, another instance_type" in ended.err
    assert only_record(tmp_path)["status"] == "FAILED"
    runs.run(*quick, PREPROCESS, cwd=tmp_path)
    assert calls.created() == (2, 0)


def test_an_interrupted_spot_training_goes_on_from_its_checkpoint(
    with_arrays: Path, recorded: list[str], emulator: Emulator
) -> None:
    settings = [*recorded, TRAIN, f"model.epoch={EPOCHS}"]
    emulator.fault("interrupt", job="next", when_log_contains='"step": 3,')
    calls = Calls(emulator)
    ended = runs.run(*settings, "backend.train.spot=true", cwd=with_arrays)
    assert "train: Interrupted" in ended.out
    assert "goes on after epoch" in ended.out
    assert calls.created() == (0, 1)
    assert steps_of(with_arrays, "loss") == list(range(1, EPOCHS + 1))
    _, run = in_mlflow(with_arrays)
    assert 0 < run.data.metrics["sagemaker/training/spot_saving"] < 1
    here = [setting for setting in settings if not setting.startswith("backend")]
    runs.run(*here, "tracking=none", cwd=with_arrays)
    interrupted, straight = (runs.metrics(record, "train") for record in runs.records(with_arrays))
    assert interrupted == straight


def test_spot_without_checkpoints_is_refused(tmp_path: Path, quick: list[str], emulator: Emulator) -> None:
    calls = Calls(emulator)
    spot = ("backend.train.spot=true", "backend.train.checkpoints=false")
    ended = runs.run(*quick, *spot, cwd=tmp_path, code=2)
    assert "backend.train.checkpoints=true" in ended.err
    assert not calls.all()


def test_a_host_that_dies_is_named(tmp_path: Path, quick: list[str], emulator: Emulator) -> None:
    emulator.fault("kill_host", job="next", host="algo-2", when_log_contains='"host": "algo-2"')
    ended = runs.run(*quick, *SLOW, "backend.preprocess.instance_count=2", cwd=tmp_path, code=5)
    assert "preprocess on algo-2 was killed (signal 9, exit code 137), most often because memory ran out" in ended.err
    assert "choose a larger backend.preprocess.instance_type" in ended.err
    assert only_record(tmp_path)["status"] == "FAILED"


def test_a_failing_evaluation_keeps_the_training(with_arrays: Path, quick: list[str], emulator: Emulator) -> None:
    settings = [*quick, f"model.builder={HERE / 'unloadable.py'}:build", "model.epoch=1"]
    calls = Calls(emulator)
    ended = runs.run(*settings, cwd=with_arrays, code=5)
    assert "evaluate failed with exit code 1: ZeroDivisionError: my own mistake" in ended.err
    assert 'raise ZeroDivisionError("my own mistake")' in ended.err.partition("its last lines")[2]
    _, _, command = ended.err.partition("the same here: ")
    words = shlex.split(command.splitlines()[0])
    assert words[:3] == ["python", "run.py", "backend=local"]
    planned = runs.run(*words[2:], "action=plan", cwd=with_arrays)
    assert "evaluate" in planned.out
    record = only_record(with_arrays)
    assert {stage["name"]: stage["status"] for stage in record["stages"]} == {
        "preprocess": "FINISHED",
        "train": "FINISHED",
        "evaluate": "FAILED",
        "visualize": "FAILED",
    }
    again = runs.run(*settings, TRAIN, cwd=with_arrays)
    assert f"train: cached, computed by {record['id']}" in again.out
    assert calls.created() == (0, 1)


# Videos that lie in S3


def test_videos_in_s3_stay_there(
    tmp_path: Path, quick: list[str], videos: Path, computed_here: Path, emulator: Emulator, account: Account
) -> None:
    before = jobs(emulator)
    for file in sorted(videos.rglob("*.avi")):
        account.s3.upload_file(str(file), BUCKET, f"mine/videos/{file.relative_to(videos).as_posix()}")
    place = f"data.root=s3://{BUCKET}/mine/videos"
    hosts = "backend.preprocess.instance_count=2"
    settings = [s for s in quick if not s.startswith("data.root=")]
    calls = Calls(emulator)
    runs.run(*settings, place, hosts, PREPROCESS, cwd=tmp_path)
    there, here = runs.arrays(only_record(tmp_path)), runs.arrays(only_record(computed_here))
    assert there.pop("index.jsonl") != here.pop("index.jsonl")  # S3 does not know the SHA-256 of these
    assert there == here
    account.put("mine/videos/notes.txt", "another experiment's")
    runs.run(*settings, place, hosts, PREPROCESS, "preprocess.height=17", cwd=tmp_path)
    assert not [key for key in calls.objects("GetObject") if key.endswith(".avi")]
    inputs = [account.describe(*job)["ProcessingInputs"][0]["S3Input"] for job in jobs(emulator) if job not in before]
    assert sorted(given["S3DataType"] for given in inputs) == ["ManifestFile", "S3Prefix"]
    assert {given["S3DataDistributionType"] for given in inputs} == {"ShardedByS3Key"}
    refused = runs.run("data=folder", place, "tracking=none", cwd=tmp_path, code=2)
    assert "videos in S3 are for backend=remote" in refused.err


# Before anything is sent


def test_everything_that_is_wrong_with_the_account_is_told_at_once(
    tmp_path: Path, quick: list[str], emulator: Emulator
) -> None:
    calls = Calls(emulator)
    wrong = ("backend.bucket=no-such-bucket-of-mine", "backend.role=no-such-role")
    ended = runs.run(*quick, *wrong, cwd=tmp_path, code=2)
    assert "no-such-bucket-of-mine" in ended.err
    assert "no-such-role" in ended.err
    assert not calls.count("PutObject") and calls.created() == (0, 0)
    keys = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    nobody = runs.run(*quick, cwd=tmp_path, code=2, **keys)
    assert "there are no AWS credentials" in nobody.err
    misspelled = runs.run(*quick, "backend.train.instance_type=ml.m5.xlrage", cwd=tmp_path, code=2)
    assert "ml.m5.xlarge" in misspelled.err
    assert not list((tmp_path / "outputs").glob("runs/*"))


def test_what_may_cost_too_much_is_refused(tmp_path: Path, quick: list[str], emulator: Emulator) -> None:
    calls = Calls(emulator)
    dear = runs.run(*quick, PREPROCESS, "backend.max_cost=1", "backend.price_per_hour=100", cwd=tmp_path, code=2)
    assert "max_cost" in dear.err
    new = "backend.preprocess.instance_type=ml.r5.24xlarge"
    unknown = runs.run(*quick, PREPROCESS, "backend.max_cost=1", new, cwd=tmp_path, code=2)
    assert "price_per_hour" in unknown.err
    assert not calls.count("PutObject") and calls.created() == (0, 0)
