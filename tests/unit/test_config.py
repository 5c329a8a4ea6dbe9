import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from launchers import repository, schema
from launchers.compose import CONF, Sources, check, compose
from launchers.config import Action, Backend, Config, Tracking, TrainJob, drawn, problems
from launchers.help import ACTIONS, GROUPS, SETTINGS, help_text
from launchers.overrides import mistakes
from videolift.errors import ConfigError
from videolift.settings import PICTURES, Data, Model, Reader, Sampling, Source, Split, Visualize

FILES = sorted(CONF.rglob("*.yaml"))
CHOICES = [(path.parent.name, path.stem) for path in FILES if path.parent != CONF]
# What a choice needs besides itself, as the head of its file says.
NEEDS = {
    ("data", "ucf101"): ["data.root=v"],
    ("data", "folder"): ["data.root=v"],
    ("data", "prefix"): ["data.root=v"],
    ("data", "manifest"): ["data.csv=c.csv"],
    ("data", "npz"): ["data.npz=d.npz"],
    ("experiment", "ucf101_10"): ["data.root=v"],
    ("experiment", "ucf101_101"): ["data.root=v"],
    ("experiment", "ucf101_ensemble"): ["data.root=v"],
    ("experiment", "my_videos"): ["data.root=v"],
    ("experiment", "article"): ["data.root=v"],
}


def messages(overrides: list[str], sources: Sources) -> list[str]:
    with pytest.raises(ConfigError) as error:
        check(overrides, sources)
    return [line.strip() for line in str(error.value).splitlines()[1:]]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_and_binds_to_what_its_file_says(group: str, choice: str) -> None:
    config = compose([f"{group}={choice}", *NEEDS.get((group, choice), [])])
    assert problems(config) == []
    bound = OmegaConf.structured(config)
    file = CONF / group / f"{choice}.yaml"
    said = OmegaConf.load(file)
    assert isinstance(said, DictConfig)
    said.pop("defaults", None)
    whole = bound if "# @package _global_" in file.read_text(encoding="utf-8") else bound[group]
    assert OmegaConf.merge(whole, said) == whole


def test_the_files_add_nothing_to_the_dataclasses_unless_told() -> None:
    first = compose()
    assert first == Config()
    first.tags["a"] = first.data.root = "x"
    assert compose() == Config()  # what is composed is the caller's own


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONF).as_posix())
def test_every_file_says_at_its_head_what_it_is_and_how_to_use_it(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    head = [line for line in lines[: next(i for i, line in enumerate(lines) if line[0] != "#")] if line[:3] != "# @"]
    assert head[0].endswith((".", "split."))
    assert head[1].startswith("#   python run.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONF).as_posix())
def test_the_commands_at_the_head_of_a_file_can_be_typed(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    groups = {group: [choice for known, choice in CHOICES if known == group] for group, _ in CHOICES}
    commands = [line.split("python run.py")[1].split("  #")[0] for line in lines if "python run.py" in line]
    for command in commands:
        overrides = [word for word in shlex.split(command) if "=" in word]
        multirun = " -m " in command
        assert [mistakes(typed, groups, multirun=multirun) for typed in overrides] == [[] for _ in overrides]


def test_an_alias_and_several_choices_at_once() -> None:
    config = compose(["backend=remote", "tracking=none", "preprocess=original", "data=ucf101", "data.root=../data"])
    assert config.backend.name == "sagemaker-remote"
    assert config.tracking.enabled is False
    assert (config.preprocess.sampling, config.preprocess.reader) == (Sampling.uniform, Reader.opencv)
    assert config.data == Data(Source.ucf101, root="../data", split=Split.official)


def test_an_experiment_chooses_groups_and_the_command_line_still_wins() -> None:
    config = compose(["experiment=my_videos", "data.root=v"])
    assert (config.data.source, config.preprocess.interval, config.name) == (Source.folder, 2, "my_videos")
    config = compose(["experiment=my_videos", "data.root=v", "preprocess=default", "model.epoch=3", "name=mine"])
    assert (config.preprocess.interval, config.model.epoch, config.name) == (None, 3, "mine")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a user's own choices, some of them wrong."""
    files = {
        "data/mine.yaml": "source: folder\nroot: 数据/我的 (1)\n",
        "data/typo.yaml": "source: folder\nrot: x\nlist: two\n",
        "data/broken.yaml": "source: [folder\n",
        "experiment/wrong.yaml": "# @package _global_\nmodel:\n  epoch: ten\n  depth: 3\nseeed: 1\n",
        "experiment/right.yaml": "# @package _global_\ndefaults:\n  - override /data: mine\ntags:\n  用途: 测试\n",
        "preprocess/sub/deep.yaml": "depth: 7\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_a_users_own_folder_adds_choices(own: Path) -> None:
    sources = Sources(config_dir=str(own))
    assert check(["data=mine"], sources).jobs[0].config.data.root == "数据/我的 (1)"
    assert check(["experiment=right"], sources).jobs[0].config.tags == {"用途": "测试"}
    assert check(["preprocess=sub/deep"], sources).jobs[0].config.preprocess.depth == 7
    assert check(["data=mine", f"hydra.searchpath=['file://{own}']"]).jobs[0].config.data.source is Source.folder


def test_mistakes_in_the_selected_files_are_told_with_the_file(own: Path) -> None:
    sources = Sources(config_dir=str(own))
    assert messages(["data=typo", "experiment=wrong", "model.batch=x"], sources) == [
        "model.batch=x: must be a whole number, got x (src/videolift/settings.py)",
        f"{own}/data/typo.yaml: data.rot: there is no setting data.rot; did you mean data.root?",
        f"{own}/data/typo.yaml: data.list: must be a whole number, got two",
        f"{own}/experiment/wrong.yaml: model.epoch: must be a whole number, got ten",
        f"{own}/experiment/wrong.yaml: model.depth: there is no setting model.depth; did you mean preprocess.depth?",
        f"{own}/experiment/wrong.yaml: seeed: there is no setting seeed; did you mean seed?",
    ]
    (line,) = messages(["data=broken"], sources)
    assert "data/broken.yaml" in line
    assert "line 2" in line


def test_a_file_of_the_repository_is_named_as_in_the_repository(tmp_path: Path) -> None:
    shutil.copytree(CONF, tmp_path / "conf")
    with (tmp_path / "conf/config.yaml").open("a") as file:
        file.write("sead: 3\n")
    (line,) = messages([], Sources(config_path=str(tmp_path / "conf")))
    assert line == f"{tmp_path}/conf/config.yaml: sead: there is no setting sead; did you mean seed?"


def test_sources_that_are_not_there_are_told(tmp_path: Path) -> None:
    assert messages([], Sources(config_dir="nowhere")) == ["--config-dir=nowhere: there is no such folder"]
    assert messages([], Sources(config_name="nothing"))[0].startswith("Cannot find primary config 'nothing'")
    (tmp_path / "plain.yaml").write_text("seed: 1\n")
    (line,) = messages([], Sources(config_name="plain", config_dir=str(tmp_path)))
    assert line == "the primary configuration does not have `- schema` first in its defaults; see conf/config.yaml"


WRONG = {
    "run: action=resume needs the id of a run; say run=ID": Config(action=Action.resume),
    "run: action=sync needs the id of a run; say run=ID": Config(action=Action.sync),
    "run: a finished run is for stages=[evaluate,visualize] or some of them; to go on with an unfinished one say "
    "action=resume": Config(run="x"),
    "run: is empty; give it a value or leave it out": Config(run=" ", stages=["evaluate"]),
    "stages: is empty; there are preprocess, train, evaluate, visualize": Config(stages=[]),
    "stages: there is no stage 'evalute', there are preprocess, train, evaluate, visualize, predict; did you mean "
    "evaluate?": Config(stages=["train", "evalute"]),
    "stages: train is there 2 times; once is enough": Config(stages=["train", "train"]),
    "outputs: is empty; give it a value": Config(outputs=""),
    "seed: must be from 0 to 4294967295, got 4294967296": Config(seed=2**32),
    "backend.name: there is no backend 'cloud', there are local, sagemaker-local, sagemaker-remote": Config(
        backend=Backend(name="cloud")
    ),
    "backend.train.instance_count: must be at least 1, got 0": Config(backend=Backend(train=TrainJob(0))),
    "backend.train.parallel: must be at least 1, got 0": Config(backend=Backend(train=TrainJob(parallel=0))),
    "model.members: must be at least 1, got 0": Config(model=Model(members=0)),
    "seed: must be from 0 to 4294967286, got 4294967287": Config(model=Model(members=10), seed=2**32 - 9),
    "model.members: at most 16 on SageMaker, got 17: what puts them together has a channel a member, and a training "
    "job has 20 at most": Config(model=Model(members=17), backend=Backend(name="sagemaker-remote")),
    "backend.grace_s: must be at least 0 seconds, got -1": Config(backend=Backend(grace_s=-1)),
    "tracking.timeout_s: must be above 0 seconds, got 0": Config(tracking=Tracking(timeout_s=0)),
    "tracking.experiment: is empty; give it a value or leave it out": Config(tracking=Tracking(experiment="")),
    "data.root: data=folder needs it; say data.root=PATH": Config(data=Data(Source.folder)),
    "visualize.pictures: is empty; there are contact_sheet, learning_curves, confusion_matrix, gradcam, maximize, "
    "embedding": Config(visualize=Visualize(pictures=[])),
    "visualize.pictures: there is no picture 'grad_cam', there are contact_sheet, learning_curves, confusion_matrix, "
    "gradcam, maximize, embedding; did you mean gradcam?": Config(visualize=Visualize(["grad_cam"])),
    "visualize.units: is for maximize, which is not drawn; say visualize.pictures=[maximize]": Config(
        visualize=Visualize(units=[1])
    ),
    "visualize.units: must be different numbers from 0, at least one, got [1, 1]": Config(
        visualize=Visualize(["maximize"], units=[1, 1])
    ),
    "visualize.layer: is for the stage visualize, which is not in stages; leave it out": Config(
        run="x", stages=["evaluate"], visualize=Visualize(layer="conv3d")
    ),
}


@pytest.mark.parametrize(("message", "config"), WRONG.items())
def test_values_that_do_not_fit_together_are_told(message: str, config: Config) -> None:
    assert problems(config) == [message]


def test_every_problem_is_told() -> None:
    wrong = replace(Config(), seed=-1, stages=["x"], outputs="", data=Data(Source.npz, test_share=2))
    assert len(problems(wrong)) == 5


def test_a_finished_run_can_be_evaluated_again() -> None:
    assert problems(Config(run="x", stages=["evaluate", "visualize"])) == []
    assert problems(Config(run="x", action=Action.resume)) == []


def test_of_a_finished_run_every_picture_is_drawn_and_of_a_new_one_those_without_the_network() -> None:
    again = Config(run="x", stages=["visualize"], visualize=Visualize(layer="conv3d", units=[1]))
    assert problems(again) == []
    assert drawn(again).pictures == list(PICTURES)
    assert drawn(replace(again, visualize=Visualize(["gradcam"]))).pictures == ["gradcam"]
    assert drawn(Config()).pictures is None


def test_the_schema_knows_every_key_and_its_type() -> None:
    defaults = OmegaConf.create(OmegaConf.to_container(OmegaConf.structured(Config)))
    for key, setting in schema.settings().items():
        default = OmegaConf.select(defaults, key)
        default = OmegaConf.to_container(default) if OmegaConf.is_config(default) else default
        assert (default is None and setting.optional) or schema.fits(setting.type, setting.item, default), key
        assert (repository.ROOT / setting.file).is_file()


def test_the_help_shows_every_group_choice_and_action() -> None:
    text = help_text(CONF)
    assert {group for group, _ in CHOICES} == set(GROUPS)
    assert list(ACTIONS) == list(Action)
    for group, choice in CHOICES:
        assert f"    {choice} " in text.partition(f"  {group}=\n")[2]
    assert max(map(len, text.splitlines())) <= 120


def test_the_examples_of_the_help_are_settings_that_compose() -> None:
    assert len(SETTINGS) == 11
    assert isinstance(compose(list(SETTINGS)), Config)
