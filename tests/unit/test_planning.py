from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launchers.backend_registry import BACKENDS
from launchers.cache import Cache
from launchers.config import Backend, Config, Sweep, TrainJob
from launchers.planning import KINDS, OwnStages, in_jobs, inputs_of, place_of, plan_stages, prepare_stage, to_compute
from videolift.errors import ConfigError
from videolift.manifest import Clip, Manifest
from videolift.provenance import imported_modules, library_versions
from videolift.settings import QUICK_PICTURES, BadVideo, Model, Precision, Preprocess, Sampling, Visualize

MANIFEST = Manifest(
    ("a", "b"),
    (Clip("a/1.avi", 0, "g1", "train", "00", 5), Clip("b/2.avi", 1, "g2", "test", "11", 5)),
    "folder",
)


def ids(config: Config, manifest: Manifest = MANIFEST, precision: Precision = Precision.float32) -> dict[str, str]:
    return {name: stage.id for name, stage in plan_stages(config, manifest, precision, library_versions).items()}


def preprocess_with(**changes: Any) -> Config:
    return Config(preprocess=replace(Preprocess(), **changes))


@pytest.mark.parametrize(
    "changes",
    [{"workers": 3}, {"bad_video": BadVideo.skip}, {"max_bad_share": 0.5}, {"sampling": Sampling.uniform}],
)
def test_knobs_that_cannot_change_the_arrays_are_not_in_their_id(changes: dict[str, Any]) -> None:
    assert ids(preprocess_with(**changes)) == ids(Config())


@pytest.mark.parametrize("changes", [{"depth": 11}, {"color": True}, {"interval": 2}, {"sampling": Sampling.head}])
def test_settings_that_change_the_arrays_change_every_id(changes: dict[str, Any]) -> None:
    changed, usual = ids(preprocess_with(**changes)), ids(Config())
    assert all(changed[name] != usual[name] for name in usual)


def test_folders_and_tracking_are_in_no_id() -> None:
    elsewhere = Config(outputs="/elsewhere", name="x", tags={"a": "b"})
    elsewhere.data.root = "/another/place"
    elsewhere.tracking.enabled = False
    assert ids(elsewhere) == ids(Config())


def test_another_split_keeps_the_arrays_and_trains_anew() -> None:
    clips = (replace(MANIFEST.clips[0], split="test"), replace(MANIFEST.clips[1], split="train"))
    other = ids(Config(), replace(MANIFEST, clips=clips))
    assert other["preprocess"] == ids(Config())["preprocess"]
    assert other["train"] != ids(Config())["train"]


def test_another_model_keeps_the_arrays() -> None:
    config = Config()
    config.model.epoch = 3
    assert ids(config)["preprocess"] == ids(Config())["preprocess"]
    assert ids(config)["train"] != ids(Config())["train"]


def test_the_precision_that_auto_is_here_is_what_counts() -> None:
    explicit = Config()
    explicit.model.precision = Precision.mixed_bfloat16
    assert ids(Config(), precision=Precision.mixed_bfloat16) == ids(explicit)
    assert ids(Config(), precision=Precision.float32)["train"] != ids(explicit)["train"]


def test_inputs_of_a_stage_are_planned_with_it() -> None:
    assert list(ids(Config(stages=["evaluate"]))) == ["preprocess", "train", "evaluate"]


def test_the_source_of_a_users_model_is_in_the_id_of_training(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    config = Config()
    config.model.builder = f"{file}:build"
    found = []
    for width in (1, 2):
        file.write_text(textwrap.dedent(f"def build(shape, classes): return {width}"))
        found.append(ids(config))
    assert found[0]["preprocess"] == found[1]["preprocess"]
    assert found[0]["train"] != found[1]["train"]


def test_what_is_drawn_makes_other_pictures_and_nothing_else() -> None:
    plain = ids(Config())
    assert ids(Config(visualize=Visualize(list(QUICK_PICTURES)))) == plain  # what null means
    found = {"plain": plain["visualize"]}
    for changed in ({"pictures": ["gradcam"]}, {"layer": "conv3d"}, {"units": [1]}):
        now = ids(Config(visualize=replace(Visualize(["maximize"]), **changed)))
        found[str(changed)] = now["visualize"]
        assert {**now, "visualize": ""} == {**plain, "visualize": ""}
    assert len(set(found.values())) == 4


def test_further_stages_of_a_finished_run_take_its_own_ones_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def build(shape, classes): return 'as it is now'")
    config = Config(stages=["visualize"], model=Model(builder=f"{tmp_path / 'mine.py'}:build"))
    own = OwnStages({"preprocess": "preprocess-1", "train": "train-1", "evaluate": "evaluate-1"}, {"mine.py": b"then"})
    planned = plan_stages(config, MANIFEST, Precision.float32, library_versions, own)
    assert {name: planned[name].id for name in own.ids} == own.ids
    assert planned["visualize"].builder == {"mine.py": b"then"}
    other = replace(own, ids={**own.ids, "train": "train-2"})
    again = plan_stages(config, MANIFEST, Precision.float32, library_versions, other)
    assert again["visualize"].id != planned["visualize"].id


def test_two_functions_of_one_file_are_two_models(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def small(shape, classes): ...\ndef large(shape, classes): ...\n")
    found = set()
    for function in ("small", "large"):
        config = Config()
        config.model.builder = f"{tmp_path / 'mine.py'}:{function}"
        found.add(ids(config)["train"])
    assert len(found) == 2


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        ("mine", "must be file.py:function"),
        ("missing.py:build", "no file .*missing.py"),
        ("nosuchpackage.models:build", "no package 'nosuchpackage'"),
    ],
)
def test_a_builder_that_is_not_there_is_told_before_any_work(builder: str, message: str) -> None:
    config = Config()
    config.model.builder = builder
    with pytest.raises(ConfigError, match=message):
        ids(config)


def test_a_stages_source_is_all_that_it_imports_and_no_more() -> None:
    assert {"video", "sampling", "parts", "settings"} <= imported_modules("preprocess")
    assert not {"train", "models", "evaluate", "visualize"} & imported_modules("preprocess")
    assert not {"video", "sampling"} & imported_modules("train")


def ensemble(members: int, seed: int = 0, hosts: int = 1, **stages: list[str]) -> Config:
    backend = Backend(train=TrainJob(instance_count=hosts))
    return Config(model=Model(members=members), seed=seed, backend=backend, **stages)


def test_a_member_of_an_ensemble_is_what_a_training_with_its_seed_alone_would_be() -> None:
    whole = ids(ensemble(3, seed=7))
    assert list(whole) == ["preprocess", "train-1", "train-2", "train-3", "train", "evaluate", "visualize"]
    for number in (1, 2, 3):
        assert whole[f"train-{number}"] == ids(Config(seed=6 + number))["train"]
    larger = ids(ensemble(5, seed=7))
    assert {name: larger[name] for name in ("train-1", "train-2", "train-3")}.items() <= whole.items()
    assert larger["train"] != whole["train"] != ids(Config(seed=7))["train"]
    assert larger["evaluate"] != whole["evaluate"]
    assert ids(ensemble(1, seed=7)) == ids(Config(seed=7))


# name -> (kind of job, the stages whose results it takes)
STAGE_GRAPH = {
    "preprocess": ("processing", ()),
    "train-1": ("training", ("preprocess",)),
    "train-2": ("training", ("preprocess",)),
    "train": ("training", ("preprocess", "train-1", "train-2")),
    "evaluate": ("training", ("preprocess", "train")),
    "visualize": ("training", ("preprocess", "train", "evaluate")),
}
JOBS = {
    "local": [["preprocess"], ["train-1"], ["train-2"], ["train"], ["evaluate"], ["visualize"]],
    "sagemaker-local": [["preprocess"], ["train-1"], ["train-2"], ["train"], ["evaluate"], ["visualize"]],
    "sagemaker-remote": [["preprocess"], ["train-1"], ["train-2"], ["train", "evaluate", "visualize"]],
}


def test_the_stage_graph_is_the_one_that_was_recorded() -> None:
    planned = plan_stages(ensemble(2), MANIFEST, Precision.float32, library_versions)
    assert {name: (KINDS[one.stage].value, one.needs) for name, one in planned.items()} == STAGE_GRAPH


@pytest.mark.parametrize("backend", JOBS)
def test_stages_share_jobs_as_recorded(backend: str, tmp_path: Path) -> None:
    config = replace(ensemble(2), backend=replace(ensemble(2).backend, name=backend, region="us-east-1"))
    planned = plan_stages(config, MANIFEST, Precision.float32, library_versions)
    jobs = in_jobs(list(planned.values()), BACKENDS[backend](config, Cache(tmp_path)))
    assert [[one.name for one in job] for job in jobs] == JOBS[backend]


def test_members_train_on_all_hosts_and_are_put_together_on_one() -> None:
    planned = plan_stages(ensemble(2, hosts=3), MANIFEST, Precision.float32, library_versions)
    assert {name: len(stage.hosts) for name, stage in planned.items()} == {
        **dict.fromkeys(planned, 1),
        "train-1": 3,
        "train-2": 3,
    }
    assert (planned["train-2"].plan.seed, planned["train-2"].plan.model.members) == (1, 1)
    assert (planned["train"].plan.seed, planned["train"].plan.model.members) == (0, 2)


def test_the_settings_of_an_ensemble_are_in_its_id_by_those_of_its_members() -> None:
    changed = ensemble(2)
    changed.model.epoch = 3
    assert ids(changed)["train"] != ids(ensemble(2))["train"]


class Started(Exception):
    """A process would have been started, with an environment."""


def test_members_that_train_side_by_side_divide_the_cores_and_what_runs_alone_has_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attach(command: list[str], environment: dict[str, str]) -> None:
        raise Started(environment.get("TF_NUM_INTRAOP_THREADS"))

    monkeypatch.setattr("launchers.local.attach", attach)
    monkeypatch.setattr("launchers.machine.usable_cores", lambda: 8)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)

    def threads(name: str, **sweep: int) -> str | None:
        config = replace(ensemble(3), backend=Backend(train=TrainJob(parallel=2)), sweep=Sweep(**sweep))
        planned = plan_stages(config, MANIFEST, Precision.float32, library_versions)[name]
        stage = prepare_stage(planned, tmp_path / name, MANIFEST, config.data, {})
        with pytest.raises(Started) as started:
            BACKENDS["local"](config, Cache(tmp_path)).submit([stage], Console())
        return started.value.args[0]

    assert [threads(name) for name in ("train-3", "train", "evaluate")] == ["4", None, None]
    assert [threads(name, threads=6) for name in ("train-3", "train", "evaluate")] == ["3", "6", "6"]


class TwoJobs:
    """Divides stages as a backend does."""

    def jobs(self, stages: list[str]) -> list[list[str]]:
        return [group for group in (stages[:1], stages[1:]) if group]


def test_every_member_has_a_job_of_its_own_before_that_of_the_whole(tmp_path: Path) -> None:
    planned = plan_stages(ensemble(2), MANIFEST, Precision.float32, library_versions)
    jobs = [[one.name for one in job] for job in in_jobs(list(planned.values()), TwoJobs())]  # type: ignore[arg-type]
    assert jobs == [["preprocess"], ["train-1"], ["train-2"], ["train", "evaluate", "visualize"]]
    inputs = inputs_of(planned, "train", jobs[-1], Cache(tmp_path))
    stage = prepare_stage(planned["train"], tmp_path / "train", MANIFEST, Config().data, inputs)
    folders = {name: folder.relative_to(tmp_path).parts[0] for name, folder in stage.channels.items()}
    assert {**folders, "plan": ""} == {
        "plan": "",
        "arrays": planned["preprocess"].id,
        "member_1": planned["train-1"].id,
        "member_2": planned["train-2"].id,
    }
    member = prepare_stage(planned["train-2"], tmp_path / "2", MANIFEST, Config().data, {})
    assert (member.name, member.plan.stage) == ("train-2", "train")


def test_of_a_finished_ensemble_no_member_has_to_be_computed() -> None:
    planned = plan_stages(ensemble(2), MANIFEST, Precision.float32, library_versions)
    wanted = ["preprocess", "train", "evaluate"]
    names = [one.name for one in to_compute(planned, wanted, {"preprocess", "train-1"})]
    assert names == ["train-2", "train", "evaluate"]
    assert [one.name for one in to_compute(planned, wanted, {"preprocess", "train"})] == ["evaluate"]


def test_further_stages_of_a_finished_ensemble_need_no_members() -> None:
    own = OwnStages({"preprocess": "preprocess-1", "train": "train-1"}, {})
    config = replace(ensemble(3), stages=["evaluate"])
    planned = plan_stages(config, MANIFEST, Precision.float32, library_versions, own)
    assert list(planned) == ["preprocess", "train", "evaluate"]


def test_stages_of_a_run_are_sorted_with_members_first() -> None:
    names = ["evaluate", "train", "train-10", "preprocess", "train-2"]
    assert sorted(names, key=place_of) == ["preprocess", "train-2", "train-10", "train", "evaluate"]
