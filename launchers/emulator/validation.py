"""Is a request one that SageMaker would take? Checked against the service model that botocore ships.

Clients check types and required members themselves; enumerations, patterns and upper bounds only the service does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from launchers.emulator.answers import ServiceError

UNICODE_CLASSES = {r"\p{L}": "a-zA-Z\u00c0-\uffff", r"\p{Z}": r"\s", r"\p{N}": r"\d"}  # Java's, in a bracket


@cache
def _model() -> Any:
    from botocore.session import get_session

    return get_session().get_service_model("sagemaker")


def output_members(operation: str) -> list[str]:
    """Return what the answer of an operation may have."""
    return list(_model().operation_model(operation).output_shape.members)


@cache
def summary_members(operation: str, summaries: str) -> list[str]:
    """Return what each of an operation's summaries may have."""
    return list(_model().operation_model(operation).output_shape.members[summaries].member.members)


def validate(operation: str, body: Any) -> None:
    """Raise the service's ValidationException for a request that its model does not allow."""
    from botocore.validate import ParamValidator

    shape = _model().operation_model(operation).input_shape
    if not isinstance(body, dict):
        raise ServiceError("SerializationException", "the request is no JSON object")
    problems = (
        [] if (report := ParamValidator().validate(body, shape)).has_errors() is False else [report.generate_report()]
    )
    problems = problems or list(_violations(body, shape, ""))
    if problems:
        count = f"{len(problems)} validation error{'s' if len(problems) > 1 else ''} detected"
        raise ServiceError("ValidationException", f"{count}: {'; '.join(problems)}")


def _violations(value: Any, shape: Any, where: str) -> Iterator[str]:
    if shape.type_name == "structure":
        for name, inner in value.items():
            yield from _violations(
                inner, shape.members[name], f"{where}.{_lower_first(name)}" if where else _lower_first(name)
            )
    elif shape.type_name == "list":
        yield from _bounds(len(value), shape, where, "length", value)
        for index, inner in enumerate(value):
            yield from _violations(inner, shape.member, f"{where}.{index + 1}.member")
    elif shape.type_name == "map":
        yield from _bounds(len(value), shape, where, "length", value)
        for key, inner in value.items():
            yield from _violations(key, shape.key, f"{where}.key")
            yield from _violations(inner, shape.value, f"{where}.{key}.member")
    elif shape.type_name == "string":
        yield from _bounds(len(value), shape, where, "length", value)
        yield from _words(value, shape, where)
    elif shape.type_name in ("integer", "long", "float", "double"):
        yield from _bounds(value, shape, where, "value", value)


def _words(value: str, shape: Any, where: str) -> Iterator[str]:
    if shape.enum and value not in shape.enum:
        yield _failure(value, where, f"Member must satisfy enum value set: [{', '.join(shape.enum)}]")
    pattern = shape.metadata.get("pattern")
    if pattern and not re.fullmatch(_python_pattern(pattern), value):
        yield _failure(value, where, f"Member must satisfy regular expression pattern: {pattern}")


def _bounds(size: float, shape: Any, where: str, noun: str, value: Any) -> Iterator[str]:
    lowest, highest = shape.metadata.get("min"), shape.metadata.get("max")
    if lowest is not None and size < lowest:
        yield _failure(value, where, f"Member must have {noun} greater than or equal to {lowest}")
    if highest is not None and size > highest:
        yield _failure(value, where, f"Member must have {noun} less than or equal to {highest}")


def _failure(value: Any, where: str, constraint: str) -> str:
    return f"Value '{value}' at '{where}' failed to satisfy constraint: {constraint}"


def _python_pattern(pattern: str) -> str:
    for java, python in UNICODE_CLASSES.items():
        pattern = pattern.replace(java, python)
    return pattern


def _lower_first(name: str) -> str:
    return name[:1].lower() + name[1:]
