"""Where the parts of this repository lie."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "videolift"
IMAGES = ROOT / "launchers" / "images"
