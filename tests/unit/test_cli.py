import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = ROOT / "run.py"
# What a run does is not the command line's concern: this one only tells what it was given.
EXPERIMENT = """
import time
from contextlib import contextmanager
@contextmanager
def sweep(config, name, job_count):
    print("sweep", name, job_count, flush=True)
    try:
        yield "parent-id"
    except BaseException as error:
        print("left by", type(error).__name__, flush=True)
        raise
def run(config, parent=None):
    print("job", config.seed, parent, flush=True)
    if config.seed == 8:
        raise ZeroDivisionError
    if config.seed == 9:
        time.sleep(60)
    return config.seed
"""
HOSTILE = "a b's [数据] (1)"


def run(*args: str, folder: Path, program: Path = RUN) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(program), *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def copy_repository(folder: Path, experiment: str | None = None) -> Path:
    """Copy the program into a folder, with other code for launchers/experiment.py where given; return its run.py."""
    for part in ("conf", "launchers", "src"):
        shutil.copytree(ROOT / part, folder / "copy" / part, ignore=shutil.ignore_patterns("__pycache__"))
    if experiment is not None:
        (folder / "copy/launchers/experiment.py").write_text(experiment)
    return shutil.copy(RUN, folder / "copy" / "run.py")


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


def test_mistakes_end_with_2_one_line_each_and_nothing_written(folder: Path) -> None:
    done = run("-m", "depht=1", "model=cnn2d,cnn4d", "seed=-1", folder=folder)
    assert (done.returncode, done.stdout) == (2, "")
    headline, *lines = done.stderr.splitlines()
    assert headline == "3 mistakes in the configuration; nothing was run:"
    assert [line.split()[0] for line in lines] == ["depht=1:", "model=cnn2d,cnn4d", "seed:"]
    assert list(folder.iterdir()) == []


def test_what_hydra_refuses_ends_with_2_and_no_traceback(folder: Path) -> None:
    for args in (["hydra.foo=1"], ["-cn", "nothing"], ["--config-dir", "nowhere"], ["-m", "--cfg", "job"], ["--nope"]):
        done = run(*args, folder=folder)
        assert (done.returncode, done.stdout) == (2, ""), args
        assert "Traceback" not in done.stderr


def test_hydras_own_options_keep_working_around_any_text(folder: Path) -> None:
    done = run(f"data.root=/数据/{HOSTILE}", "--cfg", "job", "name=it's, x", "--package", "data", folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"root: /数据/{HOSTILE}" in done.stdout.replace("''", "'").replace("root: '", "root: ")
    done = run("-c", "hydra", "preprocess=dense", folder=folder)
    assert "output_subdir: null" in done.stdout
    assert "Hydra (1.3" in run("--hydra-help", folder=folder).stdout


def test_a_plan_runs_from_any_folder_with_paths_relative_to_it(folder: Path) -> None:
    make_videos(folder / "视频")
    done = run("action=plan", "data=folder", "data.root=视频", folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "8 clips of 2 classes" in done.stdout
    assert {path.name for path in folder.iterdir()} <= {"视频", "outputs"}
    assert list(folder.rglob("*.log")) == list(folder.rglob(".hydra")) == []


def test_the_program_runs_in_a_folder_with_signs_in_its_name(folder: Path) -> None:
    done = run("depht=1", folder=folder, program=copy_repository(folder, EXPERIMENT))
    assert "did you mean preprocess.depth? (conf/preprocess/default.yaml)" in done.stderr
    done = run("seed=3", folder=folder, program=folder / "copy/run.py")
    assert (done.returncode, done.stdout, done.stderr) == (3, "job 3 None\n", "")


def test_an_expected_failure_is_one_line_with_its_own_exit_code(folder: Path) -> None:
    done = run("action=plan", "data=folder", "data.root=nowhere", folder=folder)
    assert done.returncode == 3
    assert done.stderr.startswith("DataError: data.root=nowhere: ")
    assert len(done.stderr.splitlines()) == 1


def test_every_job_of_a_sweep_runs_and_the_first_failure_is_the_exit_code(folder: Path) -> None:
    make_videos(folder / "v (1)")
    done = run("-m", "action=plan", "data=folder", "data.root=nowhere,v (1)", "tags.a=b", folder=folder)
    assert done.returncode == 3
    assert done.stderr.startswith("DataError: data.root=nowhere: ")
    assert "8 clips of 2 classes" in done.stdout
    (left,) = (path for path in (folder / "outputs/sweeps").rglob("*") if path.is_file())
    assert left.name == "multirun.yaml"


def test_an_outputs_folder_that_cannot_be_made_is_an_expected_failure(folder: Path) -> None:
    (folder / "taken").write_text("")
    done = run("-m", "action=plan", "outputs=taken", folder=folder)
    assert done.returncode == 6
    assert done.stderr.startswith("StorageError: taken")
    assert len(done.stderr.splitlines()) == 1


def test_an_unexpected_failure_keeps_its_traceback_and_the_sweep_goes_on(folder: Path) -> None:
    done = run("-m", "seed=8,2", folder=folder, program=copy_repository(folder, EXPERIMENT))
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ZeroDivisionError" in done.stderr
    assert "job 2 parent-id" in done.stdout


def test_a_sweep_learns_that_a_job_failed_and_its_jobs_whom_they_belong_to(folder: Path) -> None:
    done = run("-m", "seed=0,4,5", folder=folder, program=copy_repository(folder, EXPERIMENT))
    assert done.returncode == 4
    said = [line for line in done.stdout.splitlines() if line.startswith(("sweep", "job", "left"))]
    assert said == [
        "sweep seed=0,4,5 3",
        "job 0 parent-id",
        "job 4 parent-id",
        "job 5 parent-id",
        "left by SystemExit",
    ]


def test_ctrl_c_ends_a_sweep_with_130(folder: Path) -> None:
    command = [sys.executable, str(copy_repository(folder, EXPERIMENT)), "-m", "seed=9,1"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert any(line.startswith("job 9") for line in process.stdout)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "left by KeyboardInterrupt" in out
    assert "job 1" not in out and "Traceback" not in err
