"""What a container runs that brings libraries but not our source: the folder of this file is shipped to it."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from videolift.entry import main

# What AWS's TensorFlow image may lack: module -> requirement. All else that stages import it has. Preprocessing runs in
# an image that is ours.
MAYBE_MISSING = {"matplotlib": "matplotlib>=3.8", "psutil": "psutil>=5.9"}
TRAINING = Path("/opt/ml/input/config")  # AWS: "How Amazon SageMaker AI Provides Training Information"
FAILURE_FILE = Path("/opt/ml/output/failure")  # AWS: "How Amazon SageMaker AI Processes Training Output"


def complete() -> str | None:
    """Install what is missing, and return why that failed; a container that has it all needs no network."""
    missing = [requirement for module, requirement in MAYBE_MISSING.items() if find_spec(module) is None]
    if not missing or not TRAINING.is_dir():
        return None
    print(f"installing {', '.join(missing)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *missing], check=False)
    if not done.returncode:
        return None
    return (
        f"the image lacks {', '.join(missing)}, and pip could not install them; give the job a network "
        "(backend.network_isolation=false), a mirror (backend.environment.PIP_INDEX_URL=URL), or an image that has "
        "them (backend.train.mode=byoc)"
    )


if __name__ == "__main__":
    problem = complete()
    if problem is not None:
        print(problem, file=sys.stderr, flush=True)
        if FAILURE_FILE.parent.is_dir():
            FAILURE_FILE.write_text(problem, encoding="utf-8")
        sys.exit(1)
    sys.exit(main())
