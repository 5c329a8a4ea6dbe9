"""The source of a script's project, its channels, and what its hosts wrote."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from launchers import scripting
from launchers.base import Backend, Stage
from launchers.cache import StageFolder
from launchers.config import Config
from launchers.planning import plan_stages
from videolift.errors import ConfigError, DataError
from videolift.manifest import Manifest, sha256_file
from videolift.plan import Plan
from videolift.settings import Data, Precision, Script
from videolift.workspace import Kind

NOWHERE = Path("/nowhere")
NOTHING = Manifest((), (), "script")


@dataclass
class Anywhere:
    """A backend of which only the libraries are asked."""

    versions: dict[str, str] = field(default_factory=lambda: {"numpy": "2.4.1", "tensorflow": "2.21.0"})

    def libraries(self, stage: str) -> dict[str, str]:
        return self.versions


def backend(**versions: str) -> Backend:
    return cast(Backend, Anywhere(versions) if versions else Anywhere())


def project(folder: Path, **files: str) -> Path:
    for name, content in {"train.py": "print(1)\n", **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def source(folder: Path, **settings: Any) -> scripting.Source:
    script = scripting.absolute(Script(**{"path": str(folder / "train.py"), **settings}))
    return scripting.read_source(script, folder / "results")


def test_a_file_alone_is_sent_with_its_requirements(tmp_path: Path) -> None:
    project(tmp_path, **{"requirements.txt": "numpy\n", "other.py": ""})
    found = source(tmp_path)
    assert set(found.files) == {"train.py", "requirements.txt"} and found.requirements == "requirements.txt"


def test_a_project_is_sent_without_what_is_no_source(tmp_path: Path) -> None:
    project(
        tmp_path, **{"net/a.py": "", "net/__pycache__/a.pyc": "", ".git/config": "", ".venv/x.py": "", "outputs/o": ""},
        **{"data/a.npz": "", "b.bak": "", "notes/n.md": ""},
    )  # fmt: skip
    found = source(tmp_path, source_dir=str(tmp_path), exclude=["data", "*.bak", "notes/*.md"])
    assert set(found.files) == {"train.py", "net/a.py"} and found.requirements is None


def test_secrets_and_our_own_outputs_are_no_source_and_links_are_followed(tmp_path: Path) -> None:
    home = project(
        tmp_path / "home", **{".env.local": "", ".aws/credentials": "", "key.pem": "", "id_rsa": "", ".netrc": ""},
        **{"results/runs/x/run.json": "{}", "mlflow.db": ""},
    )  # fmt: skip
    project(tmp_path / "shared", **{"lib.py": "", "deep/more.py": ""})
    (home / "lib").symlink_to(tmp_path / "shared")
    (tmp_path / "shared" / "deep" / "up").symlink_to(tmp_path / "shared")
    (home / "gone").symlink_to(tmp_path / "nowhere")
    assert set(source(home, source_dir=str(home)).files) == {
        *("train.py", "lib/lib.py", "lib/train.py", "lib/deep/more.py")
    }


def test_the_guide_names_all_that_is_left_out() -> None:
    guide = (Path(__file__).parents[2] / "docs/migrate.md").read_text(encoding="utf-8")
    named = guide.partition("<!-- EXCLUDED in launchers/scripting.py -->\n")[2].partition("\n\n")[0]
    assert named.split() == list(scripting.EXCLUDED)


def test_a_script_that_is_sent_without_what_it_imports_is_refused(tmp_path: Path) -> None:
    text = "import os, helper.x\nfrom net import a\nfrom . import b\nimport train\n"
    project(tmp_path, **{"train.py": text, "helper.py": "", "net/a.py": "", "b.py": "", "os/notes.txt": ""})
    with pytest.raises(ConfigError) as error:
        source(tmp_path)
    told = [line.partition(",")[0] for line in str(error.value).splitlines()]
    assert told == ["script.path: train.py imports helper", "script.path: train.py imports net"]
    assert f"say script.source_dir={tmp_path}" in str(error.value)
    assert source(tmp_path, source_dir=str(tmp_path)).files


def test_what_is_wrong_with_a_script_is_told(tmp_path: Path) -> None:
    project(tmp_path / "a", **{"broken.py": "def x(:\n"})
    for settings, message in (
        (
            {"path": str(tmp_path / "a" / "trian.py")},
            r"script\.path: no file .*/trian\.py; there are broken\.py, train\.py",
        ),
        ({"path": str(tmp_path / "a" / "broken.py")}, r"script\.path: broken\.py, line 1: no Python"),
        ({"source_dir": str(tmp_path / "b")}, r"script\.source_dir: no folder"),
        ({"source_dir": str(tmp_path / "a"), "requirements": "r.txt"}, r"script\.requirements: r\.txt is not in"),
    ):
        with pytest.raises(ConfigError, match=message):
            source(tmp_path / "a", **settings)
    (tmp_path / "c").mkdir()
    with pytest.raises(ConfigError, match=r"is not in script\.source_dir"):
        source(tmp_path / "a", source_dir=str(tmp_path / "c"))


def test_data_in_a_project_are_refused_with_the_remedy(tmp_path: Path) -> None:
    project(tmp_path)
    with (tmp_path / "films.tar").open("wb") as file:
        file.truncate(120 << 20)
    with pytest.raises(ConfigError, match=r"films\.tar has 126 MB.*script\.channels\.NAME=FOLDER"):
        source(tmp_path, source_dir=str(tmp_path))
    assert source(tmp_path, source_dir=str(tmp_path), exclude=["*.tar"]).files


def plan(folder: Path, data: Path, **settings: Any) -> str:
    script = scripting.absolute(Script(path=str(folder / "train.py"), channels={"train": str(data)}, **settings))
    channels = scripting.find_channels(script, Data(), NOTHING, sha256_file, lambda: None)
    config = Config(script=script)
    return scripting.plan_script(scripting.read_source(script, NOWHERE), channels, config, backend(), NOTHING)[
        "script"
    ].id


def test_the_id_is_that_of_source_arguments_and_data(tmp_path: Path) -> None:
    here, there = project(tmp_path / "here"), project(tmp_path / "there")
    data = project(tmp_path / "data", **{"x/y.txt": "1"})
    first = plan(here, data, args="--a 1")
    assert plan(there, data, args="--a 1") == first  # where it lies does not matter
    assert plan(here, data, args="--a 1", metrics={"x": "(.)"}) == first
    others = [plan(here, data, args="--a 2")]
    (here / "train.py").write_text("print(2)\n")
    others.append(plan(here, data, args="--a 1"))
    (data / "x" / "y.txt").write_text("2")
    others.append(plan(there, data, args="--a 1"))
    assert len({first, *others}) == 4


def test_a_channel_without_files_is_refused(tmp_path: Path) -> None:
    project(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"script\.channels\.train: there is no .*/nowhere"):
        plan(tmp_path / "a", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"script\.channels\.train: no files in"):
        plan(tmp_path / "a", tmp_path / "empty")


def test_arrays_of_a_script_are_those_of_any_other_run(tmp_path: Path) -> None:
    script = scripting.absolute(Script(path=str(project(tmp_path) / "train.py"), channels={"x": "arrays"}))
    channels = scripting.find_channels(script, Data(), NOTHING, sha256_file, lambda: None)
    planned = scripting.plan_script(
        scripting.read_source(script, NOWHERE), channels, Config(script=script), backend(), NOTHING
    )
    usual = plan_stages(Config(stages=["preprocess"]), NOTHING, Precision.float32, backend().libraries)
    assert planned["preprocess"].id == usual["preprocess"].id


@pytest.mark.parametrize(
    ("requirements", "problem"),
    [
        ("# nothing\n", None),
        ("numpy>=2\ntensorflow==2.21.0  # ours\n", None),
        ("numpy<2\n", "numpy<2 would have to be installed"),
        ("tqdm\n--extra-index-url https://x\n", "tqdm would have to be installed"),
        ("--no-index\n--find-links wheels\ntqdm\n", None),
        ("-r others.txt\n", "-r others.txt would have to be installed"),
    ],
)
def test_requirements_that_need_a_network_are_refused_where_there_is_none(
    tmp_path: Path, requirements: str, problem: str | None
) -> None:
    found = source(project(tmp_path, **{"requirements.txt": requirements}))
    config = Config(script=Script(path=str(tmp_path / "train.py")))
    config.backend.name = "sagemaker-local"
    told = scripting.network_problem(found, config, backend())
    assert told is None if problem is None else told is not None and problem in told
    config.backend.network_isolation = False
    assert scripting.network_problem(found, config, backend()) is None


def test_hosts_results_lie_side_by_side_and_none_is_lost(tmp_path: Path) -> None:
    stage = Stage(
        Plan("preprocess-script", "x"), Kind.processing, StageFolder(tmp_path, Kind.processing), ("algo-1", "algo-2")
    )
    for host in stage.hosts:
        output = stage.workspace(host, {}).output
        project(output / "files", **{"same.txt": "1", f"{host}.txt": host, "sub/other.txt": host, "train.py": ""})
    scripting.merge(stage)
    made = {f.relative_to(tmp_path / "arrays").as_posix(): f.read_text() for f in tmp_path.glob("arrays/**/*.txt")}
    assert made == {
        "same.txt": "1",
        **{f"{host}.txt": host for host in stage.hosts},
        **{f"{host}/sub/other.txt": host for host in stage.hosts},
    }


def test_one_hosts_file_may_have_the_name_of_another_ones_folder(tmp_path: Path) -> None:
    stage = Stage(
        Plan("preprocess-script", "x"), Kind.processing, StageFolder(tmp_path, Kind.processing), ("algo-1", "algo-2")
    )
    one, other = (stage.workspace(host, {}).output for host in stage.hosts)
    project(one / "files", **{"summary.txt": "given", "a": "file", "train.py": ""})
    project(one / "work", **{"summary.txt": "beside", "train.py": ""})
    project(other / "files", **{"a/b.txt": "below", "train.py": ""})
    scripting.merge(stage)
    arrays = tmp_path / "arrays"
    made = {f.relative_to(arrays).as_posix(): f.read_text() for f in arrays.rglob("*") if f.is_file()}
    assert made.pop("train.py") == ""
    assert made == {
        "algo-1/files/summary.txt": "given",
        "algo-1/work/summary.txt": "beside",
        "algo-1/files/a": "file",
        "algo-2/files/a/b.txt": "below",
    }
