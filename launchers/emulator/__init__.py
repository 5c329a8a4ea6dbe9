import sys
from pathlib import Path

# As in run.py: works from any folder, installed or not.
if (_source := str(Path(__file__).resolve().parents[2] / "src")) not in sys.path:
    sys.path.append(_source)
