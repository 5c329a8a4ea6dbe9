"""Secrets of a user's script inside its job: where each comes from, and how none is printed.

The launcher on this machine gives them through the job's standard input. A job on SageMaker reads those of AWS Secrets
Manager by itself, as its role: the one thing of AWS in this package, imported where it is used. A value is in the
environment of the script, never in a file.

Source of the form of an ARN with a key: Amazon ECS, "Pass Secrets Manager secrets through environment variables".
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from videolift.errors import VideoliftError
from videolift.script_requirements import make_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

ARN = re.compile(
    r"(?P<arn>arn:(?P<partition>aws[a-z-]*):secretsmanager:(?P<region>[a-z0-9-]+):\d{12}:secret:[\w/+=.@-]+)"
    r"(?::(?P<key>[^:]*):(?P<stage>[^:]*):(?P<version>[^:]*))?",
    re.ASCII,
)
ACTION = "secretsmanager:GetSecretValue"
HIDDEN = "***"
SHORTEST = 4  # characters of what is hidden; anything shorter is in ordinary words, too
PIECE = 1 << 16  # bytes


def given_on_stdin() -> dict[str, str]:
    """Return the values that a launcher wrote as one line of JSON to the standard input, and read no further."""
    found = b""
    while not found.endswith(b"\n") and (content := os.read(0, PIECE)):
        found += content
    values: dict[str, str] = json.loads(found) if found.endswith(b"\n") else {}  # else the launcher died meanwhile
    return values


def values_of(secrets: Mapping[str, str], given: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """Return the value of each secret by its name in the script's environment.

    Args:
        secrets: where each comes from: the name of a variable, or an ARN.
        given: values that the launcher gave.
        scratch: folder that libraries can be put in for a while.

    Raises:
        VideoliftError: if one cannot be had; the message holds no value.
    """
    found = {name: given[name] for name in secrets if name in given}
    wanted = {name: source for name, source in secrets.items() if name not in found}
    addresses = {name: source for name, source in wanted.items() if ARN.fullmatch(source)}
    for name in wanted.keys() - addresses.keys():  # a stage that somebody runs by hand
        value = os.environ.get(wanted[name])
        if not value:
            raise VideoliftError(f"script.secrets.{name}: the variable that it names is not set. Set it and run again")
        found[name] = value
    return {**found, **(_of_aws(addresses, scratch) if addresses else {})}


def _of_aws(addresses: Mapping[str, str], scratch: Path) -> dict[str, str]:
    with _boto3(scratch) as boto3:
        from botocore.exceptions import BotoCoreError, ClientError

        def client(region: str) -> Any:
            return boto3.client("secretsmanager", region_name=region)

        found = {}
        for name, source in addresses.items():
            try:
                found[name] = value_at(source, client, name)
            except (BotoCoreError, ClientError) as error:
                raise VideoliftError(
                    f"script.secrets.{name}: the job cannot read {source} ({error}). Let its role do {ACTION} "
                    "(docs/iam/job-role.json), and check the ARN and its region"
                ) from error
        return found


def value_at(source: str, client: Callable[[str], Any], name: str) -> str:
    """Return the value of a secret in AWS Secrets Manager, or of one key of it.

    Args:
        source: ARN, maybe with ``:JSON-KEY:STAGE:VERSION``, each of which may be empty.
        client: returns the client for a region.
        name: of the secret, for messages.

    Raises:
        VideoliftError: if there is no such text in it; the message holds nothing of it.
    """
    parts = ARN.fullmatch(source)
    assert parts
    which = {"VersionStage": parts["stage"], "VersionId": parts["version"]}
    answer = client(parts["region"]).get_secret_value(
        SecretId=parts["arn"], **{key: value for key, value in which.items() if value}
    )
    text = answer.get("SecretString")
    if not text:
        raise VideoliftError(f"script.secrets.{name}: {parts['arn']} holds no text. Store the secret as a string")
    return _of_key(text, parts["key"], f"script.secrets.{name}: {parts['arn']}") if parts["key"] else str(text)


def _of_key(text: str, key: str, where: str) -> str:
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get(key) in (None, ""):
        raise VideoliftError(f"{where} holds no key {key!r} of a JSON object. Check the key, or leave it out")
    value = content[key]
    return value if isinstance(value, str) else json.dumps(value)


@contextmanager
def _boto3(scratch: Path) -> Iterator[Any]:
    """Give boto3, installed for the moment where an image lacks it."""
    folders: list[str] = []
    try:
        import boto3
    except ImportError:
        file = scratch / "boto3.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("boto3\n", encoding="utf-8")
        python = make_environment(scratch / "boto3", file, scratch)
        folders = [str(place) for place in python.parent.parent.glob("lib/python*/site-packages")]
        sys.path += folders
        importlib.invalidate_caches()
        import boto3
    try:
        yield boto3
    finally:  # the script does not see it
        sys.path[:] = [place for place in sys.path if place not in folders]


@dataclass(frozen=True)
class Mask:
    """Hides values in a text."""

    found: re.Pattern[str] | None = None
    longest: int = 0  # characters

    def __call__(self, text: str) -> str:
        return text if self.found is None else self.found.sub(HIDDEN, text)


NOTHING_HIDDEN = Mask()


def masking(values: Iterable[str]) -> Mask:
    """Return what hides values in a text: as they are, as JSON has them, and as addresses do; longer ones first."""
    pieces = {piece.strip() for value in values for text in _texts(value) for piece in text.splitlines()}
    forms = {
        form
        for piece in pieces
        for form in (piece, json.dumps(piece)[1:-1], quote(piece, safe="", errors="surrogateescape"))
    }
    hidden = sorted((form for form in forms if len(form.strip()) >= SHORTEST), key=len, reverse=True)
    return Mask(re.compile("|".join(map(re.escape, hidden))), len(hidden[0])) if hidden else NOTHING_HIDDEN


def _texts(value: str) -> Iterator[str]:
    """Yield a value, and every text in it where it is JSON, as AWS's console stores a user name with a password."""
    yield value
    try:
        rest = [json.loads(value)]
    except ValueError:
        return
    while rest:
        one = rest.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, (dict, list)):
            rest += one.values() if isinstance(one, dict) else one
