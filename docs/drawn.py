"""Takes pictures that runs drew over into this folder: python -m docs.drawn [OUTPUTS] [FOLDER]

OUTPUTS (default: outputs) holds the runs; of the newest one whose network was drawn, the pictures become those of docs.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from launchers.cache import event_files
from launchers.records import RunFolder

# What they are called here: of a layer there, whose name is its model's.
PICTURES = {"gradcam_*.png": "gradcam.png", "maximize_*.gif": "maximize.gif", "embedding.png": "embedding.png"}


def main(outputs: Path, folder: Path) -> None:
    drawn = newest_drawn(outputs)
    if drawn is None:
        sys.exit(f"{outputs}: of no run all pictures were drawn; say python run.py 'stages=[visualize]' run=ID")
    for pattern, name in PICTURES.items():
        print(shutil.copyfile(next(drawn.glob(pattern)), folder / name))


def newest_drawn(outputs: Path) -> Path | None:
    """Return the output folder of the newest stage that drew all of PICTURES."""
    records = [RunFolder(file.parent).load() for file in (outputs / "runs").glob("*/run.json")]
    stages = [stage for record in records for stage in record.stages if stage.name == "visualize"]
    for stage in sorted(stages, key=lambda stage: stage.started, reverse=True):
        for _, output in event_files(Path(stage.folder)):
            if all(any(output.glob(pattern)) for pattern in PICTURES):
                return output
    return None


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    main(*given, *[Path("outputs"), Path(__file__).parent / "pictures"][len(given) :])
