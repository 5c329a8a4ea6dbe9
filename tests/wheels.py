"""A wheel that no index has: what a user's project ships in a folder of its own."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

SCRIPTS = Path(__file__).parent / "scripts"
NAME, VERSION = "tinybanner", "1.0"
MODULE = 'def banner(text):\n    return f"*** {text} ***"\n'


def project(folder: Path) -> Path:
    """Return a copy of the project in tests/scripts with the wheel that its requirements name."""
    copy = Path(shutil.copytree(SCRIPTS / "tf_project", folder, ignore=shutil.ignore_patterns("__pycache__")))
    info = f"{NAME}-{VERSION}.dist-info"
    (copy / "wheels").mkdir()
    with zipfile.ZipFile(copy / "wheels" / f"{NAME}-{VERSION}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{NAME}.py", MODULE)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{NAME}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return copy
