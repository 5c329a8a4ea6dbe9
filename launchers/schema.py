"""What the configuration's dataclasses say about a key: whether it exists, its type, and which key was meant instead.

Hydra stops at the first bad key and would let ``+data.rot=x`` through; this knows all of them before Hydra is asked.
"""

from __future__ import annotations

import difflib
import inspect
import math
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from launchers.config import Config
from launchers.repository import ROOT

CLOSE = 0.65  # likeness of names: batch_size finds batch, depht finds depth, foo finds nothing
LEVEL_APART = 0.05  # of likeness, that a key on another level must be more alike
TRUE_OR_FALSE = ("true", "yes", "y", "on", "1", "false", "no", "n", "off", "0")  # what OmegaConf takes for a bool


@dataclass(frozen=True)
class Setting:
    """A key that holds a value."""

    key: str
    type: type
    item: Any  # what a list or dict holds; its own type for anything else
    optional: bool
    file: str  # where the dataclass is


@dataclass(frozen=True)
class Mistake:
    """Something wrong with one key, before the file of the right key is known."""

    where: str  # the override as it was typed, or a file and its key
    what: str
    key: str | None = None  # the key that is meant
    file: str | None = None  # where to look, if not where that key is set


@cache
def settings() -> dict[str, Setting]:
    """Return every setting by its key, in the order of the dataclasses."""
    return {setting.key: setting for setting in _settings(Config, "")}


@cache
def sections() -> dict[str, str]:
    """Return the file of every key that holds further keys: ``data``, ``backend.train``, ..."""
    return dict(_sections(Config, ""))


def find(key: str) -> Setting | None:
    """Return the setting that a key names or reaches into: ``tags.camera`` is found as ``tags``."""
    known = settings()
    if key in known:
        return known[key]
    head, _, inside = key.partition(".")
    while inside:
        setting = known.get(head)
        if setting and setting.type is dict:
            return setting if setting.item is Any or "." not in inside else None
        part, _, inside = inside.partition(".")
        head = f"{head}.{part}"
    return None


def nearest(key: str, others: Iterable[str] = ()) -> str | None:
    """Return the key that was most probably meant, judged by its last part; None where none is close."""
    leaf = key.rpartition(".")[2].lower()

    def likeness(candidate: str) -> float:
        return difflib.SequenceMatcher(None, leaf, candidate.rpartition(".")[2]).ratio()

    def order(candidate: str) -> tuple[float, float]:
        apart = abs(candidate.count(".") - key.count("."))
        whole = difflib.SequenceMatcher(None, key.lower(), candidate).ratio()
        return likeness(candidate) - LEVEL_APART * apart, whole

    best = max((*settings(), *sections(), *others), key=order)
    return best if likeness(best) >= CLOSE else None


def unknown(where: str, key: str, others: Iterable[str] = ()) -> Mistake:
    """Return the mistake of naming a key that does not exist; ``others`` exist too, without being settings."""
    near = nearest(key, others)
    if near:
        return Mistake(where, f"there is no setting {key}; did you mean {near}?", near)
    section = key.rpartition(".")[0]
    while section and section not in sections():
        section = section.rpartition(".")[0]
    keys = [k for k in (*settings(), *sections()) if k.rpartition(".")[0] == section]
    names = ", ".join(k.rpartition(".")[2] for k in keys)
    file = sections()[section] if section else _file_of(Config)
    return Mistake(where, f"there is no setting {key}; {section or 'the top level'} has {names}", file=file)


def check_value(where: str, key: str, value: Any, origin: str | None = None) -> Iterator[Mistake]:
    """Yield what is wrong with a value, of a setting or of a whole section given as a dict.

    Args:
        where: what the messages start with: an override, or a file for its top level.
        origin: the override or file, where ``where`` is something inside it.
    """
    if key in sections() or not key:
        if isinstance(value, dict):
            for name, inner in value.items():
                inner_key = f"{key}.{name}" if key else str(name)
                yield from check_value(f"{origin or where}: {inner_key}", inner_key, inner, origin or where)
        else:
            yield Mistake(where, "holds settings, not a value; say " + _example(key), key)
        return
    setting = find(key)
    if setting is None:
        yield unknown(where, key)
    elif wrong := _wrong(setting, value, inside=key != setting.key):
        yield Mistake(where, wrong, setting.key)


def shown_path(path: Path) -> str:
    """Return a path as a reader of this repository knows it: relative to the repository where it is inside."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def closest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of some names that was most probably meant."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1)), None)


def _wrong(setting: Setting, value: Any, *, inside: bool) -> str | None:
    kind = setting.item if inside else setting.type
    optional = setting.optional and not inside
    if _interpolated(value) or (value is None and optional) or fits(kind, setting.item, value):
        return None
    must = f"must be {_said(kind, optional, setting.item)}"
    if isinstance(value, str) and isinstance(kind, type) and issubclass(kind, Enum):
        near = closest(value, kind.__members__)
        return f"{must}, got {value}" + (f"; did you mean {near}?" if near else "")
    return f"{must}, got {shown(value)}" + (_list_hint(value) if kind is list else "")


def fits(kind: Any, item: Any, value: Any) -> bool:
    """Tell whether OmegaConf takes a value for a type; stricter where it would guess (2 for true, nan for a number)."""
    if _interpolated(value) or kind is Any:
        return True
    if kind is list:
        return isinstance(value, list) and all(fits(item, item, inner) for inner in value)
    if kind is dict:
        return isinstance(value, dict) and all(isinstance(k, str) and fits(item, item, v) for k, v in value.items())
    if value is None or isinstance(value, (list, dict)):
        return False
    return _scalar_fits(kind, value)


def _scalar_fits(kind: type, value: Any) -> bool:
    if kind is str:
        return True
    if kind is bool:
        return str(value).lower() in TRUE_OR_FALSE and not isinstance(value, float)
    if issubclass(kind, Enum):
        return isinstance(value, kind) or value in kind.__members__
    if isinstance(value, bool) or (kind is int and isinstance(value, float)):
        return False
    try:
        return math.isfinite(int(value) if kind is int else float(value))
    except (ValueError, TypeError, OverflowError):
        return False


def _interpolated(value: Any) -> bool:
    return isinstance(value, str) and ("${" in value or value == "???")


def _said(kind: type, optional: bool, item: Any) -> str:
    if issubclass(kind, Enum):
        names = [*kind.__members__, *(["null"] if optional else [])]
        return f"{', '.join(names[:-1])} or {names[-1]}"
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        list: "a list of whole numbers" if item is int else "a list of names",
        dict: "a dictionary {name: value}",
    }
    return words[kind] + (" or null" if optional else "")


def shown(value: Any) -> str:
    """Return a value as one types it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _list_hint(value: Any) -> str:
    return f"; say [{shown(value)}]" if not isinstance(value, (list, dict)) and "[" not in str(value) else ""


def _example(section: str) -> str:
    key = next(key for key in settings() if key.startswith(f"{section}."))
    return f"{key}=VALUE"


def _settings(cls: type, prefix: str) -> Iterator[Setting]:
    for name, hint in get_type_hints(cls).items():
        if is_dataclass(hint):
            yield from _settings(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
            continue
        kind, optional = _without_none(hint)
        base = get_origin(kind) or kind
        item = get_args(kind)[-1] if get_args(kind) else kind
        yield Setting(prefix + name, base, item, optional, _file_of(cls))


def _sections(cls: type, prefix: str) -> Iterator[tuple[str, str]]:
    for name, hint in get_type_hints(cls).items():
        if is_dataclass(hint):
            yield prefix + name, _file_of(hint)  # type: ignore[arg-type]
            yield from _sections(hint, f"{prefix}{name}.")  # type: ignore[arg-type]


def _without_none(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    (kind,) = (part for part in get_args(hint) if part is not type(None))
    return kind, True


def _file_of(cls: type) -> str:
    return shown_path(Path(inspect.getfile(cls)))
