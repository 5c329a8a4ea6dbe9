import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = ROOT / "run.py"
# What starts, follows and records jobs has no place in a job, and the other way round.
NOT_IN_A_JOB = {"launchers", "mlflow", "hydra", "omegaconf", "rich", "boto3", "botocore", "sagemaker", "docker"}
# A job on SageMaker reads secrets of AWS Secrets Manager by itself, so that no request holds them (ADR 30).
EXCEPTIONS = {"script_secrets.py": {"boto3", "botocore"}}
NOT_IN_A_LAUNCHER = {"tensorflow", "keras", "cv2", "av", "matplotlib"}
ONLY_INSIDE_FUNCTIONS = {"mlflow", "boto3", "botocore", "sagemaker", "docker", "optuna"}
# Runs in the process of `mlflow models serve`, which has mlflow loaded; no launcher imports it.
SERVED = {"served_model.py"}
SLOW = {"tensorflow", "keras", "mlflow", "sagemaker", "boto3", "cv2", "av", "matplotlib", "optuna"}


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def packages(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def run_when_imported(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        for_types_only = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not for_types_only and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from run_when_imported(child)


def imported(module: Path) -> set[str]:
    return set(packages(ast.walk(ast.parse(module.read_text(encoding="utf-8")))))


def imported_at_once(module: Path) -> set[str]:
    return set(packages(run_when_imported(ast.parse(module.read_text(encoding="utf-8")))))


@pytest.mark.parametrize("module", modules("src/videolift"), ids=lambda path: path.name)
def test_what_runs_in_a_job_knows_nothing_of_where_it_runs(module: Path) -> None:
    assert imported(module) & NOT_IN_A_JOB == EXCEPTIONS.get(module.name, set())
    assert imported_at_once(module) & NOT_IN_A_JOB == set()


@pytest.mark.parametrize("module", [RUN, *modules("launchers")], ids=lambda path: path.name)
def test_what_launches_jobs_does_not_do_their_work(module: Path) -> None:
    if module.name not in SERVED:
        assert imported(module) & NOT_IN_A_LAUNCHER == set()
        assert imported_at_once(module) & ONLY_INSIDE_FUNCTIONS == set()


def test_the_reader_of_imports_sees_what_it_must(tmp_path: Path) -> None:
    module = tmp_path / "m.py"
    module.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import boto3\n"
        "try:\n    import cv2\nexcept ImportError:\n    pass\n"
        "class A:\n    from keras import layers\n    def f(self):\n        import mlflow.pyfunc\n"
    )
    assert imported(module) == {"typing", "boto3", "cv2", "keras", "mlflow"}
    assert imported_at_once(module) == {"typing", "cv2", "keras"}


def test_pictures_that_need_no_network_do_without_keras() -> None:
    code = "import sys\nimport videolift.visualize\nsys.exit(' '.join({'keras', 'tensorflow'} & set(sys.modules)))\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


# What a remote plan asks of the SageMaker SDK is exactly its request.
NOT_FOR_A_REMOTE_PLAN = (SLOW - {"boto3", "sagemaker"}) | {"moto", "torch"}


def modules_loaded_by(*args: str, folder: Path, **variables: str) -> set[str]:
    code = (
        "import json, runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(); print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))\n"
    )
    command = [sys.executable, "-c", code, str(RUN), *args]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_loads_next_to_nothing(tmp_path: Path) -> None:
    assert modules_loaded_by("--help", folder=tmp_path) & (SLOW | {"hydra", "omegaconf", "numpy", "rich"}) == set()


def test_mistakes_are_found_without_slow_imports(tmp_path: Path) -> None:
    assert modules_loaded_by("-m", "depht=1", "model=cnn2d,cnn3d", folder=tmp_path) & SLOW == set()


@pytest.fixture
def some_videos(tmp_path: Path) -> Path:
    for name in ("a/1.avi", "a/2.avi", "b/1.avi", "b/2.avi"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).write_text(name)
    return tmp_path


def test_a_plan_is_made_without_slow_imports(some_videos: Path) -> None:
    plan = ("action=plan", "data=folder", "data.root=videos")
    assert modules_loaded_by("-m", *plan, folder=some_videos) & SLOW == set()


def test_a_remote_plan_loads_the_sdk_and_nothing_that_trains_or_records(some_videos: Path) -> None:
    plan = ("action=plan", "data=folder", "data.root=videos", "backend=remote", "backend.region=us-east-1")
    nobody = {"AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_CONFIG_FILE": os.devnull, "AWS_ACCESS_KEY_ID": ""}
    loaded = modules_loaded_by(*plan, folder=some_videos, **nobody)
    assert {"boto3", "sagemaker"} <= loaded and loaded & NOT_FOR_A_REMOTE_PLAN == set()


def test_the_remote_backend_is_imported_for_next_to_nothing() -> None:
    """Every command but --help imports it; what a local plan needs anyway is all that it takes."""
    code = (
        "import json, sys\n"
        "before = set(sys.modules)\n"
        "import launchers.remote.backend, launchers.remote.orders, launchers.remote.registry\n"
        "loaded = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(json.dumps(sorted(loaded - set(sys.stdlib_module_names))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["launchers", "numpy", "packaging", "videolift"]
