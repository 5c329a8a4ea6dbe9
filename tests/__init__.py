"""Tests of this checkout: what is installed has to be it, in the processes that tests start as well."""

from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

if (found := find_spec("videolift")) is None or found.origin != str(REPOSITORY / "src/videolift/__init__.py"):
    what = f"is that of {Path(str(found.origin)).parents[2]}" if found else "is not installed in this environment"
    raise pytest.UsageError(
        f"videolift {what}. Install {REPOSITORY}: make setup, "
        f"or set PYTHONPATH={REPOSITORY}/src:{REPOSITORY} for this environment."
    )
