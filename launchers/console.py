"""What everything that a person reads of a run is printed on."""

from __future__ import annotations

import sys
from typing import IO, Any

from rich.console import Console

from launchers.redaction import redacted_text

PLAIN_WIDTH = 160  # characters


class RedactedConsole(Console):
    """A console that prints no secret in a text."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print texts redacted, and anything else as it is."""
        super().print(*(redacted_text(one) if isinstance(one, str) else one for one in objects), **options)


def new_console(file: IO[str] | None = None) -> Console:
    """Return a console for this terminal, or for a file, which has no width: ids and paths are not cut."""
    width = None if file is None and sys.stdout.isatty() else PLAIN_WIDTH
    return RedactedConsole(file=file, markup=False, highlight=False, width=width)
