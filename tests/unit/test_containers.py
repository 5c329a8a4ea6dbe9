"""What needs no engine of the container backend: commands, remedies, parity, the command that shows a failure here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from launchers import building, docker
from launchers.cache import Cache
from launchers.commands import local_overrides
from launchers.compose import compose
from launchers.config import Backend, TrainJob, problems
from launchers.container_job import Setup, run_arguments
from launchers.image import PURPOSES, locked_versions
from launchers.local import LocalBackend
from launchers.machine import thread_variables
from launchers.parity import differences, parity_table, to_csv
from launchers.recipe import Recipe
from videolift.plan import to_plain
from videolift.provenance import LIBRARIES, library_versions
from videolift.workspace import Kind, Workspace


def setup(tmp_path: Path, *hosts: str, ships_source: bool = False, memory: str | None = None) -> Setup:
    spaces = {h: Workspace(Kind.training, tmp_path / "hosts" / h, h, hosts, {"plan": tmp_path}) for h in hosts}
    return Setup("train-0123", Kind.training, "image:1", ships_source, spaces, tmp_path / "lock", memory=memory)


def test_a_container_is_started_as_the_service_would(tmp_path: Path) -> None:
    command = run_arguments(setup(tmp_path, "algo-1"), "algo-1", "name", None)
    assert command[:3] == ["docker", "run", "--interactive"]
    assert command[-3:] == ["image:1", "train", "--until-stdin-closes"]
    assert command[command.index("--network") + 1] == "none"
    assert f'"type=bind","source={tmp_path}","target=/opt/ml/input/data/plan","readonly"' in command
    assert "--memory" not in command


def test_a_memory_limit_allows_no_swap(tmp_path: Path) -> None:
    command = run_arguments(setup(tmp_path, "algo-1", memory="2g"), "algo-1", "name", None)
    assert command[command.index("--memory") + 1] == command[command.index("--memory-swap") + 1] == "2g"


def test_a_containers_share_of_the_cores_is_a_number_of_threads(tmp_path: Path) -> None:
    divided = replace(setup(tmp_path, "algo-1"), variables=thread_variables(2))
    command = run_arguments(divided, "algo-1", "name", None)
    shares = {"TF_NUM_INTRAOP_THREADS=2", "TF_NUM_INTEROP_THREADS=2", "TF_FORCE_GPU_ALLOW_GROWTH=true"}
    assert shares <= set(command)
    assert "TF_" not in " ".join(run_arguments(setup(tmp_path, "algo-1"), "algo-1", "name", None))


def test_hosts_of_one_job_reach_each_other_by_name(tmp_path: Path) -> None:
    command = run_arguments(setup(tmp_path, "algo-1", "algo-2"), "algo-2", "name", "net")
    assert command[command.index("--network") + 1] == "net"
    assert command[command.index("--network-alias") + 1] == command[command.index("--hostname") + 1] == "algo-2"


def test_own_script_runs_from_where_our_source_is_mounted(tmp_path: Path) -> None:
    command = run_arguments(setup(tmp_path, "algo-1", ships_source=True), "algo-1", "name", None)
    assert command[-6:] == [
        *("--entrypoint", "python3", "image:1"),
        *("/opt/ml/input/data/code/stage.py", "train", "--until-stdin-closes"),
    ]


def test_a_mounts_path_may_hold_what_csv_would_cut() -> None:
    assert docker.mount(Path('/a,b"c:d'), "/opt/ml", writable=True) == [
        "--mount",
        '"type=bind","source=/a,b""c:d","target=/opt/ml"',
    ]


@pytest.mark.parametrize(
    ("told", "remedy"),
    [
        ("permission denied while trying to connect to the Docker daemon socket", "sudo usermod -aG docker"),
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", "Docker is not running"),
        ("something else", "Docker does not answer: something else"),
    ],
)
def test_what_docker_says_becomes_a_remedy(told: str, remedy: str) -> None:
    assert remedy in docker._engine_remedy(told)


def test_a_disk_that_is_too_small_is_told_before_building(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "free_bytes", lambda: 1_000_000_000)
    told = building.before_building(Recipe("train", "base:1", own_source=True))
    assert told is not None
    assert "has 1.0 GB left" in told and "docker system prune" in told
    monkeypatch.setattr(docker, "free_bytes", lambda: None)  # Docker Desktop's disk is not ours to look at
    assert building.before_building(Recipe("train", "base:1", own_source=True)) is None


def test_the_tag_is_of_the_content() -> None:
    recipe = Recipe("train", "base:1", own_source=True)
    assert recipe.tag == Recipe("train", "base:1", own_source=True, wheels=Path("wheels")).tag
    others = [
        Recipe("train", "base:2", own_source=True).tag,
        Recipe("train", "base:1", own_source=False).tag,
        Recipe("preprocess", "base:1", own_source=True).tag,
    ]
    assert len({recipe.tag, *others}) == 4


@pytest.mark.parametrize("stage", sorted(LIBRARIES))
def test_the_images_locks_are_what_is_installed_here(stage: str) -> None:
    locked = locked_versions(PURPOSES[stage])
    here = library_versions(stage)
    assert {name: locked[name] for name in LIBRARIES[stage]} == {name: here[name] for name in LIBRARIES[stage]}


def test_parity_names_what_differs_and_forgives_a_patch_release_of_python() -> None:
    import platform

    major, minor, _ = platform.python_version().split(".")
    table = parity_table({"train image": {"python": f"{major}.{minor}.999", "keras": "1.0"}})
    assert [line.split(" is ")[0] for line in differences(table)] == ["keras"]
    assert to_csv(table).splitlines()[0] == "library,here,train image"
    other = parity_table({"train image": {"python": "3.99.0"}})
    assert differences(other)[0].startswith("python is 3.99.0 in the train image")


def test_the_command_that_shows_a_failure_here_is_the_same_experiment() -> None:
    asked = [
        *("backend=sagemaker-local", "backend.preprocess.instance_count=2", "data=folder", "data.root=视频 (1)"),
        *("preprocess.interval=2", "model.args.width=5", "model.builder=mine.py:build", "model.learning_rate=0.1"),
        *("data.nclass=3", "preprocess.color=true", "seed=4"),
    ]
    config = compose(asked)
    again = compose(local_overrides(config, ["train"]))
    for group in ("data", "preprocess", "model", "seed"):
        assert to_plain(getattr(again, group)) == to_plain(getattr(config, group))
    assert (again.backend.name, again.backend.preprocess.instance_count) == ("local", 2)
    assert again.stages == ["preprocess", "train"]


def test_settings_of_containers_are_refused_where_there_are_none() -> None:
    config = compose([])
    config.backend.gpus = "all"
    config.backend.train.memory = "2g"
    assert [line.partition(":")[0] for line in problems(config)] == ["backend.gpus", "backend.train.memory"]


def test_two_hosts_cannot_train_on_backend_local(tmp_path: Path) -> None:
    (wrong,) = LocalBackend(Backend(train=TrainJob(instance_count=2)), Cache(tmp_path)).check(["train"], planning=False)
    assert "backend.train.instance_count" in wrong
