import subprocess
import sys
from pathlib import Path

import pytest

from videolift.script_requirements import inherited, make_environment

LOOKS = "import numpy; import videolift"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but an installation leads to this package, as where nobody set PYTHONPATH."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("requirements", [False, True])
def test_a_script_sees_the_libraries_but_not_this_package(tmp_path: Path, installed: None, requirements: bool) -> None:
    file = tmp_path / "requirements.txt"
    file.touch()
    python, variables = Path(sys.executable), inherited(tmp_path / "hiding")
    if requirements:
        python, variables = make_environment(tmp_path / "venv", file, tmp_path), inherited(of_venv=True)
    done = subprocess.run([python, "-c", LOOKS], env=variables, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'videolift'"
