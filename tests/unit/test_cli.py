import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import run as program
from tests.waiting import HANG_S

ROOT = Path(__file__).parents[2]
RUN = ROOT / "run.py"
# What a run does is not the command line's concern: this one only tells what it was given.
EXPERIMENT = """
from dataclasses import dataclass, field
from typing import Any
@dataclass
class Place:
    parent: Any
    label: Any
    tags: Any
    record: Any = None
def close_dead(*_):
    pass
def run(config, place=None, close_sweeps=None):
    print("job", config.seed, place, flush=True)
    return config.seed
"""
HOSTILE = "a b's [数据] (1)"


def run(*args: str, folder: Path, at: Path = RUN) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(at), *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=HANG_S, check=False)


def copy_repository(folder: Path, experiment: str | None = None) -> Path:
    """Copy the program into a folder, with other code for launchers/experiment.py where given; return its run.py."""
    for part in ("conf", "launchers", "src"):
        shutil.copytree(ROOT / part, folder / "copy" / part, ignore=shutil.ignore_patterns("__pycache__"))
    if experiment is not None:
        (folder / "copy/launchers/experiment.py").write_text(experiment)
    return Path(shutil.copy(RUN, folder / "copy" / "run.py"))


def make_videos(folder: Path, classes: Sequence[str] = ("down", "up")) -> None:
    """Make files that a plan can list; it opens none of them."""
    for name in classes:
        for index in range(4):
            (folder / name / f"{index}.avi").parent.mkdir(parents=True, exist_ok=True)
            (folder / name / f"{index}.avi").write_text(f"{name} {index}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / HOSTILE).mkdir()
    return tmp_path / HOSTILE


def test_help_is_ours_and_touches_nothing(folder: Path) -> None:
    done = run("data=nonsense", "--help", folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "python run.py data=ucf101 data.root=UCF-101" in done.stdout
    assert list(folder.iterdir()) == []


@pytest.fixture
def main(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command line in this process, which is quicker, for what ends before a job."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [str(RUN)])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    return lambda *args: program.main(list(args))


def test_mistakes_end_with_2_one_line_each_and_nothing_written(
    main: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("-m", "depht=1", "model=cnn2d,cnn4d", "seed=-1") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    headline, *lines = shown.err.splitlines()
    assert headline == "3 mistakes in the configuration; nothing was run:"
    assert [line.split()[0] for line in lines] == ["depht=1:", "model=cnn2d,cnn4d", "seed:"]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("args", [["hydra.foo=1"], ["-cn", "nothing"], ["-cd", "nowhere"], ["-m", "--cfg", "job"]])
def test_what_hydra_refuses_ends_with_2_and_a_line(
    args: list[str], main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(*args) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) <= 2


def test_hydras_own_options_keep_working_around_any_text(
    main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("data.root=/数据/(1) [x]", "--cfg", "job", "name=it's, x", "--package", "data") == 0
    assert "root: /数据/(1) [x]" in capsys.readouterr().out
    assert main("-c", "hydra", "preprocess=dense") == 0
    assert "output_subdir: null" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main("--hydra-help")
    assert "Hydra (1.3" in capsys.readouterr().out


def test_printing_a_configuration_needs_no_data(main: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--cfg", "job", "data=ucf101") == 0
    assert main("--cfg", "job", "data=ucf101", "data.rot=x") == 2
    assert "did you mean data.root?" in capsys.readouterr().err


def test_an_expected_failure_is_one_line_with_its_own_exit_code(folder: Path) -> None:
    make_videos(folder / "v (1)")
    done = run("-m", "action=plan", "data=folder", "data.root=nowhere,v (1)", "tags.a=b", folder=folder)
    assert done.returncode == 3
    assert "computed" not in done.stdout
    assert done.stderr.startswith(f"DataError: data.root={folder / 'nowhere'}: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.rstrip().endswith("[data.root='nowhere']")


def test_a_plan_reports_what_is_not_known_of_groups_and_stops_at_identical_clips_under_two_labels(
    main: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_videos(folder / "v")
    settings = ["action=plan", "data=folder", f"data.root={folder / 'v'}", f"outputs={folder / 'out'}"]
    assert main(*settings) == 0
    shown = capsys.readouterr().out
    assert "note: the groups of 8 of 8 clips are not known" in shown
    (split,) = (line for line in shown.splitlines() if line.startswith("split"))
    assert split.endswith("the groups of 8 of 8 clips are not known: clips of one recording may be on both sides")
    (folder / "v" / "up" / "0.avi").write_text("down 1")
    assert main(*settings) == 3
    assert "down/1.avi (down) = up/0.avi (up)" in capsys.readouterr().err
    assert main(*settings, "data.conflicts=drop") == 0
    shown = capsys.readouterr().out
    assert "note: data.conflicts=drop leaves out 1 set of identical clips (2 in all)" in shown and "6 clips" in shown


def test_a_plan_of_a_sweep_leaves_nothing_but_what_it_knows_of_the_videos(folder: Path) -> None:
    make_videos(folder / "v (1)")
    done = run("-m", "action=plan", "data=folder", "data.root=v (1)", "seed=0,1", folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "8 evaluate" in done.stdout or "2 train" in done.stdout
    # Paths are relative to where the command was typed, and Hydra scatters nothing there.
    assert {path.name for path in folder.iterdir()} == {"v (1)", "outputs"}
    assert {path.name for path in (folder / "outputs").rglob("*") if path.is_file()} <= {"checksums.db"}


def test_one_run_passes_its_exit_code_on_and_leaves_nothing(folder: Path) -> None:
    at = copy_repository(folder, EXPERIMENT)
    (folder / "here").mkdir()
    done = run("seed=3", "outputs=there", folder=folder / "here", at=at)
    alone = "Place(parent=None, label=None, tags={}, record=None)"
    assert (done.returncode, done.stdout, done.stderr) == (3, f"job 3 {alone}\n", "")
    assert list((folder / "here").iterdir()) == []


def test_an_outputs_folder_that_cannot_be_made_is_an_expected_failure(
    main: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "taken").write_text("")
    assert main("-m", "action=plan", "outputs=taken") == 6
    assert capsys.readouterr().err.startswith(f"StorageError: {folder / 'taken'}")


def test_a_copy_runs_its_own_source_whatever_is_installed(folder: Path) -> None:
    at = copy_repository(folder)
    source = at.parent / "src" / "videolift"
    (source / "demo.py").write_text("raise SystemExit('this is the copy')")
    errors = (source / "errors.py").read_text()
    (source / "errors.py").write_text(f"{errors}\nStageError.exit_code = 55\n")
    done = run("action=plan", folder=folder, at=at)
    assert done.returncode == 55
    assert done.stderr.rstrip().endswith("this is the copy")
