from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests import runs


def test_the_readmes_notebook_cell_runs(tmp_path: Path) -> None:
    readme = (runs.REPOSITORY / "README.md").read_text(encoding="utf-8")
    (cell,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert 'compose(["model.epoch=3", ' in cell
    cell = cell.replace('compose(["model.epoch=3", ', 'compose(["stages=[preprocess]", "tracking=none", ')
    subprocess.run([sys.executable, "-c", cell], cwd=tmp_path, check=True)
    assert runs.records(tmp_path)[0]["status"] == "FINISHED"
