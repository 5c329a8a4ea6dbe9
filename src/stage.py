"""What a container runs that brings libraries but not our source: the folder of this file is shipped to it."""

from __future__ import annotations

import sys

from videolift.entry import main

if __name__ == "__main__":
    sys.exit(main())
