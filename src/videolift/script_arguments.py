"""The arguments of a user's script: one text as a shell would cut it, with placeholders for paths."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from videolift.errors import ConfigError

# A name in braces is a placeholder, one in double braces is itself in single ones. Other braces, as in JSON, are text.
PLACEHOLDER = re.compile(r"\{\{(?P<text>[A-Za-z_]\w*)\}\}|\{(?P<name>[A-Za-z_]\w*)\}")
OPTION = re.compile(r"--?[A-Za-z_]")  # -1 is a number, and so a value


def words_of(args: str) -> list[str]:
    """Cut arguments as a shell does.

    Raises:
        ConfigError: if a quote is not closed.
    """
    try:
        return shlex.split(args)
    except ValueError as error:
        raise ConfigError(f"script.args: cannot be cut into words ({str(error).lower()}): {args}") from error


def placeholders(args: str) -> list[str]:
    """Return the names of the placeholders in arguments, each once."""
    return list(dict.fromkeys(match["name"] for match in PLACEHOLDER.finditer(args) if match["name"]))


def filled(words: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Return words with their placeholders replaced."""
    return [PLACEHOLDER.sub(lambda m: values[m["name"]] if m["name"] else f"{{{m['text']}}}", word) for word in words]


def options(words: Sequence[str]) -> dict[str, str]:
    """Return what arguments set, as far as that can be told without the script: ``--batch-size 8`` is batch_size, 8.

    An option without a value is ``true``, several values are one text; what belongs to no option is left out.
    """
    found: dict[str, list[str]] = {}
    name = None
    for word in words:
        if OPTION.match(word):
            name, equals, value = word.lstrip("-").partition("=")
            name = name.replace("-", "_")
            found[name] = [value] if equals else []
        elif name is not None:
            found[name].append(word)
    return {name: " ".join(values) if values else "true" for name, values in found.items()}


def hyperparameters(words: Sequence[str]) -> dict[str, Any]:
    """Return :func:`options` as SageMaker's training toolkit has them: numbers and truths as such."""
    return {name: _value(text) for name, text in options(words).items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
