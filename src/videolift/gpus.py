"""What nvidia-smi tells of this machine's GPUs."""

from __future__ import annotations

import shutil
import subprocess

PROGRAM = "nvidia-smi"
PATIENCE_S = 10.0


def gpus(*properties: str) -> list[list[str]]:
    """Return properties of every GPU as nvidia-smi prints them, without units; none where no driver answers in time.

    Args:
        properties: names of ``nvidia-smi --help-query-gpu``, ``memory.used`` (MiB) for one.
    """
    if shutil.which(PROGRAM) is None:
        return []
    query = [PROGRAM, f"--query-gpu={','.join(properties)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:  # a busy driver
        return []
    lines = answer.stdout.splitlines() if answer.returncode == 0 else []
    return [[cell.strip() for cell in line.split(",")] for line in lines]
