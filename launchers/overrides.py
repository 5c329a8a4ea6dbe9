"""What is typed after ``python run.py``: made readable for Hydra, and checked against the schema.

Hydra's grammar gives brackets, quotes, commas, ``=`` and the like a meaning, and has no letters but a-z. A path or a
name is text whatever it looks like, so the value of a setting that holds text is quoted before Hydra sees it, except

- ``null``, which is nothing;
- ``'in quotes'`` or ``"in quotes"``, which is Hydra's own way to say the same;
- ``${...}`` where it is an interpolation that can be read;
- under ``-m`` the commas between the values of a sweep, and ``choice(...)`` and its kin.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString, Sweep, ValueType
from hydra.errors import HydraException
from omegaconf.errors import GrammarParseError
from omegaconf.grammar_parser import parse

from launchers import schema
from launchers.config import Action
from launchers.schema import Mistake

_OVERRIDE = re.compile(r"(?P<prefix>\+\+|\+|~)?(?P<key>[^=]*)(=(?P<value>.*))?", re.DOTALL)
_QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
_SWEEP = re.compile(r"\s*(choice|range|interval|glob|shuffle|sort|tag)\s*\(.*\)\s*", re.DOTALL)
_NAME = re.compile(r"[\w.-]+", re.ASCII)
_DOLLAR = re.compile(r"(\\*)\$\{")

Groups = Mapping[str, Sequence[str]]  # group -> the choices it has


def split(typed: str) -> tuple[str, str, str | None]:
    """Return prefix (``+``, ``++``, ``~`` or nothing), key and value of an override; None without ``=``."""
    match = _OVERRIDE.fullmatch(typed)
    assert match
    return match["prefix"] or "", match["key"].strip(), match["value"]


def is_hydras(key: str) -> bool:
    """Tell whether a key configures Hydra itself."""
    return re.split(r"[./@]", key)[0] == "hydra"


def quote(typed: str, *, multirun: bool) -> str:
    """Return an override as Hydra must be given it for its value to arrive as it was typed."""
    prefix, key, value = split(typed)
    setting = schema.find(key)
    if value is None or setting is None:
        return typed
    if setting.type is dict and prefix != "~":
        prefix = "++"  # Hydra closes every dictionary; this is its word for "set, there or not"
    kind = setting.item if key != setting.key else setting.type
    if kind is str or (kind is Any and _parsed(typed) is None):
        value = _quoted_sweep(value) if multirun else _quoted(value)
    return f"{prefix}{key}={value}"


def elements(value: str) -> list[str]:
    """Cut a sweep at the commas outside quotes and brackets; a bracket that never closes is a plain character."""
    found, start = [], 0
    while start <= len(value):
        end = _element_end(value, start)
        found.append(value[start:end].strip())
        start = end + 1
    return found


def _element_end(value: str, start: int) -> int:
    quoted = re.compile(rf"\s*(?:{_QUOTED.pattern})\s*(?=,|$)", re.DOTALL).match(value, start)
    if quoted:
        return quoted.end()
    depth = 0
    for index in range(start, len(value)):
        depth += (value[index] in "([{") - (value[index] in ")]}")
        if value[index] == "," and depth <= 0:
            return index
    comma = value.find(",", start) if depth > 0 else -1
    return comma if comma >= 0 else len(value)


def _quoted_sweep(value: str) -> str:
    return value if _SWEEP.fullmatch(value) else ",".join(map(_quoted, elements(value)))


def _quoted(value: str) -> str:
    if value.lower() == "null" or _QUOTED.fullmatch(value):
        return value
    return QuotedString(_literal(value), Quote.single).with_quotes()


def _literal(value: str) -> str:
    """Escape ``${`` where OmegaConf cannot read it as an interpolation."""
    if "${" not in value:
        return value
    try:
        parse(value)
    except GrammarParseError:
        return _DOLLAR.sub(r"\1\1\\${", value)
    return value


def _parsed(override: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def mistakes(typed: str, groups: Groups, *, multirun: bool) -> list[Mistake]:
    """Return what is wrong with one override, each element of a sweep by itself."""
    prefix, key, value = split(typed)
    if value is None and prefix != "~":
        return [_no_value(typed, key, groups)]
    foreign = is_hydras(key) or "@" in key  # Hydra's own, which it checks itself
    if not (foreign or key in groups or key in schema.sections() or schema.find(key)):
        return [schema.unknown(typed, key, groups)]
    override = _parsed(quote(typed, multirun=multirun))
    if override is None:
        return [_unreadable(typed, key, value or "", groups, multirun=multirun)]
    if foreign:
        return []
    return [*_prefix_mistakes(typed, prefix, key, groups)] or [*_value_mistakes(typed, override, groups, multirun)]


def _no_value(typed: str, key: str, groups: Groups) -> Mistake:
    if typed in Action.__members__:
        return Mistake(typed, f"a setting is given as key=value; did you mean action={typed}?", "action")
    near = key if key in groups or schema.find(key) else schema.nearest(key, groups)
    return Mistake(typed, "a setting is given as key=value" + (f"; did you mean {near}=...?" if near else ""), near)


def _no_choice(typed: str, group: str, choice: str, groups: Groups) -> Mistake:
    near = schema.closest(choice, groups[group])
    hint = f"; did you mean {near}?" if near else ""
    return Mistake(typed, f"{group} has no choice {choice!r}, it has {', '.join(groups[group])}{hint}", group)


def _unreadable(typed: str, key: str, value: str, groups: Groups, *, multirun: bool) -> Mistake:
    if key in groups:
        return _no_choice(typed, key, value, groups)
    setting = schema.find(key)
    if setting is None:
        return Mistake(typed, "Hydra cannot read this; put text with signs in 'quotes'")
    if setting.type is dict and not _NAME.fullmatch(key):
        return Mistake(typed, f"Hydra reads names in {setting.key} of letters a-z, digits, _ and - only", setting.key)
    if setting.type is dict:
        return Mistake(typed, f"Hydra cannot read this; say {setting.key}.NAME=VALUE for each entry", setting.key)
    wrong = [] if multirun and "," in value else [*schema.check_value(typed, key, value)]
    return wrong[0] if wrong else Mistake(typed, "Hydra cannot read this value", key)


def _prefix_mistakes(typed: str, prefix: str, key: str, groups: Groups) -> Iterator[Mistake]:
    setting = schema.find(key)
    if setting is not None and setting.type is dict:
        return
    if prefix == "~" and (key not in groups or key in schema.sections()):
        instead = f"choose another with {key}=..." if key in groups else f"give it another value with {key}=..."
        yield Mistake(typed, f"{key} cannot be left out; {instead}", key)
    elif prefix == "+" or (prefix == "++" and key in groups):
        yield Mistake(typed, f"{key} is there already; leave out the {prefix}", key)


def _value_mistakes(typed: str, override: Override, groups: Groups, multirun: bool) -> Iterator[Mistake]:
    key, value = override.key_or_group, override.value()
    if override.is_delete():
        return
    if override.is_sweep_override() and not multirun:
        yield Mistake(typed, "several values are a sweep; add -m to run them all" + _or_a_list(key), key)
    elif override.value_type is ValueType.INTERVAL_SWEEP:
        return  # for sweepers that choose values themselves
    elif isinstance(value, Glob):
        if key not in groups:
            yield Mistake(typed, "glob() chooses among the files of a group, and this is none", key)
        elif not value.filter(list(groups[key])):
            yield Mistake(typed, f"fits no choice of {key}; it has {', '.join(groups[key])}", key)
    else:
        for element in _elements_of(override):
            where = f"{typed} ({key}={element})" if isinstance(value, Sweep) else typed
            yield from _element_mistakes(where, key, element, groups)


def _elements_of(override: Override) -> list[Any]:
    if not override.is_sweep_override():
        return [override.value()]
    return [e.text if isinstance(e, QuotedString) else e for e in override.sweep_iterator()]


def _element_mistakes(where: str, key: str, value: Any, groups: Groups) -> Iterator[Mistake]:
    if key not in groups or isinstance(value, dict):
        yield from schema.check_value(where, key, value)
        return
    for choice in value if isinstance(value, list) else [value]:
        if not isinstance(choice, str) or choice not in groups[key]:
            yield _no_choice(where, key, "null" if choice is None else str(choice), groups)


def _or_a_list(key: str) -> str:
    setting = schema.find(key)
    return ", or [in brackets] for one list" if setting is not None and setting.type in (list, dict) else ""
