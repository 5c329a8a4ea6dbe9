"""A stand-in, on this machine, for the parts of AWS that videolift uses: S3, IAM, STS, ECR, logs, and jobs that run.

python -m launchers.emulator
"""

import sys
from pathlib import Path

# As in run.py: works from any folder, installed or not.
if (_source := str(Path(__file__).resolve().parents[2] / "src")) not in sys.path:
    sys.path.append(_source)

from launchers.emulator.choice import EmulatorError
from launchers.emulator.client import Emulator

__all__ = ["Emulator", "EmulatorError"]
