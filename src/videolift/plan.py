"""What one stage is told: resolved settings as one JSON file with its hash, so that nothing is lost on the way."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
import typing
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from videolift.errors import ConfigError
from videolift.settings import Augment, Data, Model, Predict, Preprocess, Script, Visualize

T = typing.TypeVar("T")

PLAN_FILE = "plan.json"
MANIFEST_FILE = "manifest.json"
SOURCE_FOLDER = "source"  # a user's own model or script, beside the plan
MEMBER_CHANNEL = "member_{}"  # of the model of an ensemble's member, from 1


@dataclass
class Plan:
    """One stage's orders."""

    stage: str
    id: str
    data: Data = field(default_factory=Data)
    preprocess: Preprocess = field(default_factory=Preprocess)
    model: Model = field(default_factory=Model)
    augment: Augment = field(default_factory=Augment)
    predict: Predict = field(default_factory=Predict)
    visualize: Visualize = field(default_factory=Visualize)
    script: Script = field(default_factory=Script)  # its path is below source/
    seed: int = 0
    manifest_digest: str = ""
    system_interval_s: float = 0.0  # seconds between two samples of CPU and memory; 0 takes none

    def write(self, folder: Path) -> None:
        """Write ``plan.json`` with its own hash."""
        content = to_plain(self)
        text = json.dumps({"hash": digest_of(content), **content}, indent=1, ensure_ascii=False)
        (folder / PLAN_FILE).write_text(text, encoding="utf-8")


def read_plan(folder: Path) -> Plan:
    """Read ``plan.json``.

    Raises:
        ConfigError: if it is missing or was changed after it was written.
    """
    file = folder / PLAN_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{file}: not a readable plan ({error}); run the stage through run.py") from error
    claimed = content.pop("hash", "")
    if claimed != digest_of(content):
        raise ConfigError(
            f"{file}: its content does not fit its hash, so it was changed on the way; plan the run again"
        )
    return from_plain(Plan, content)


def digest_of(content: Any) -> str:
    """Return the SHA-256 of a plain value's canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def to_plain(value: Any) -> Any:
    """Return dataclasses, enums, tuples and paths as dicts, texts and lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def from_plain(kind: type[T], plain: dict[str, Any]) -> T:
    """Return the dataclass that :func:`to_plain` took apart; unknown keys are an error."""
    return typing.cast(T, _restore(kind, plain))


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _restore(kind: Any, plain: Any) -> Any:
    if isinstance(kind, types.UnionType):
        if plain is None:
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        unknown = sorted(set(plain) - set(hints))
        if unknown:
            raise ConfigError(f"{kind.__name__}: unknown keys {', '.join(unknown)}; the plan is of another version")
        return kind(**{name: _restore(hints[name], value) for name, value in plain.items()})
    return kind(plain) if isinstance(kind, type) and issubclass(kind, Enum) else plain
