"""A stand-in, on this machine, for the parts of AWS that videolift uses: S3, IAM, STS, ECR, logs, and jobs that run.

python -m launchers.emulator
"""

from launchers.emulator.choice import EmulatorError
from launchers.emulator.client import Emulator

__all__ = ["Emulator", "EmulatorError"]
