"""docs/migrate.md in a real container: the project as it is, and wheels for what the image lacks."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

from tests import engine, runs
from tests.containers import Containers

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/migrate.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"^ {4}python run\.py (backend=sagemaker-local .+)$", re.MULTILINE)
OFFLINE = re.compile(r"^ {4}(--no-index)\n {4}(--find-links \S+)$", re.MULTILINE)


def test_the_guides_project_trains_in_a_container(containers: Containers, videos: Path, tmp_path: Path) -> None:
    (command,) = COMMAND.findall(GUIDE)
    (lines,) = OFFLINE.findall(GUIDE)
    project = Path(shutil.copytree(ROOT / "docs/migrate", tmp_path / "docs/migrate"))
    requirements = project / "requirements.txt"
    requirements.write_text("\n".join([*lines, requirements.read_text(encoding="utf-8")]), encoding="utf-8")
    wheels = project / lines[1].split()[1]
    wheels.mkdir()
    (wheel,) = (engine.FOLDER / "wheels").glob("opencv_python_headless-*.whl")
    shutil.copy(wheel, wheels)
    words = shlex.split(command.replace("--epoch 20", "--epoch 1"))
    words = [word for word in words if word not in ("backend.network_isolation=false", "data.root=videos")]
    runs.run(*words, *containers.settings, f"data.root={videos}", "tracking=none", cwd=tmp_path)
    (record,) = runs.records(tmp_path)
    assert {("loss", 1), ("accuracy", 1), ("val_accuracy", 1)} <= runs.metrics(record, "script").keys()
    printed = (tmp_path / "outputs/runs" / record["id"] / "script.log").read_text(encoding="utf-8")
    assert "pip: Successfully installed opencv-python-headless-" in printed
