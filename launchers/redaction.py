"""Keeps credentials out of what is printed and recorded."""

from __future__ import annotations

import re
from typing import Any

USER_AND_PASSWORD = re.compile(r"(?<=://)[^/\s]*@")  # up to the last @ before a slash: a password may hold one itself
HIDDEN = "***@"


def redacted_text(text: str) -> str:
    """Return the text with the user and password of every address in it hidden."""
    return USER_AND_PASSWORD.sub(HIDDEN, text)


def redacted(value: Any) -> Any:
    """Return a plain nested value with every text in it redacted."""
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, dict):
        return {key: redacted(item) for key, item in value.items()}
    return [redacted(item) for item in value] if isinstance(value, (list, tuple)) else value
