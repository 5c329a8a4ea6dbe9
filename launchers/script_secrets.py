"""Secrets of a user's script: where each comes from, and that none stands in a setting that is recorded and sent."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from launchers.redaction import SECRETS, is_source, redacted, redacted_words
from videolift.plan import to_plain
from videolift.script_arguments import words_of
from videolift.script_secrets import ACTION, ARN, value_at
from videolift.settings import ScriptStage

if TYPE_CHECKING:
    from launchers.config import Backend, Config

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What we, the service, the interpreter or TensorFlow set, and what programs are found by.
RESERVED = re.compile(
    r"SM_.*|VIDEOLIFT_.*|PYTHON.*|LD_.*|DYLD_.*|TRAINING_JOB_.*|TF_.*|CUDA_.*|OMP_.*|MLFLOW_.*|VIRTUAL_ENV"
    r"|PATH|HOME|HOSTNAME|TMPDIR|TMP|TEMP|PWD|SHELL|USER|LANG|LC_.*"
)
# May hold a password: the launcher alone reads it, and what is recorded of it is redacted.
MAY_HOLD = ("tracking.uri",)
# Of jobs on SageMaker, where it is rejected with words of its own.
ELSEWHERE = ("backend.environment",)
WRITE_INSTEAD = (
    "arguments are recorded, sent and shown. Set script.secrets.{name}=VARIABLE, a variable of this shell or an ARN of "
    "AWS Secrets Manager, and write {{{name}}} in its place"
)


def secret_problems(config: Config) -> Iterator[str]:
    """Yield every mistake in ``script.secrets`` that can be told from the settings alone; none repeats a source."""
    from launchers.script_settings import ARRAYS, PATHS, VIDEOS, channels_of

    taken = (*channels_of(config.script), VIDEOS, ARRAYS, *PATHS)
    for name, source in config.script.secrets.items():
        key = f"{SECRETS}.{name}"
        if not NAME.fullmatch(name):
            yield f"{key}: is no variable's name. It has letters a-z, digits and _, and begins with no digit"
        elif RESERVED.fullmatch(name):
            yield f"{key}: this variable is set for every script already. Choose another name"
        elif name in taken:
            yield f"{key}: {{{name}}} stands for something else in script.args. Choose another name"
        if not is_source(source):
            yield (
                f"{key}: must be where the value comes from, never the value: the name of a variable of this shell "
                "(capital letters, digits and _), or the ARN of a secret of AWS Secrets Manager"
            )
        elif runs_on_sagemaker(config):
            yield from _remote_problems(key, name, source, config.backend)


def runs_on_sagemaker(config: Config) -> bool:
    """Tell whether the script runs in a job on SageMaker."""
    from launchers.config import Where

    here = config.script.stage is ScriptStage.preprocess and config.backend.preprocess.where is Where.local
    return config.backend.name == "sagemaker-remote" and not here


def _remote_problems(key: str, name: str, source: str, backend: Backend) -> Iterator[str]:
    from launchers.remote.partition import partition_of

    arn = ARN.fullmatch(source)
    if arn is None:
        yield (
            f"{key}: a variable of this shell could reach a job only in its request, which AWS shows. Store it: "
            f'aws secretsmanager create-secret --name videolift/{name} --secret-string "$NAME", and set {key}=ARN'
        )
    elif backend.network_isolation:
        yield (
            f"{key}: the job reads it from AWS Secrets Manager, and backend.network_isolation=true lets it reach "
            "nothing. Set backend.network_isolation=false"
        )
    elif backend.region is not None and (here := partition_of(backend.region).name) != arn["partition"]:
        yield f"{key}: is in {arn['partition']}, and {backend.region} belongs to {here}. Use a secret of {here}"


def missing_secrets(config: Config) -> list[str]:
    """Return which variables of this shell are not there; not by name, since it may be a value typed by mistake."""
    sources = {} if runs_on_sagemaker(config) else config.script.secrets
    return [
        f"{SECRETS}.{name}: the variable that it names is not set in this shell. Export it, or name another"
        for name, source in sources.items()
        if ARN.fullmatch(source) is None and not os.environ.get(source)
    ]


def values_of(secrets: Mapping[str, str], backend: Backend) -> dict[str, str]:
    """Return the value of each secret, for a script on this machine.

    Raises:
        VideoliftError: if one cannot be had.
    """
    return {name: _value(name, source, backend) for name, source in secrets.items()}


def _value(name: str, source: str, backend: Backend) -> str:
    from launchers.remote.aws import Aws, explained
    from videolift.errors import ConfigError

    if ARN.fullmatch(source) is not None:
        with explained(ACTION, f"{SECRETS}.{name}"):
            return value_at(source, lambda region: Aws(replace(backend, region=region)).client("secretsmanager"), name)
    value = os.environ.get(source)
    if not value:
        raise ConfigError(f"{SECRETS}.{name}: the variable that it names is not set in this shell")
    return value


def literal_secrets(config: Config) -> Iterator[str]:
    """Yield every setting that holds a secret itself: all of them are recorded, and most are sent and shown."""
    for key, value in _leaves(to_plain(config)):
        if key == "script.args":
            yield from _in_arguments(str(value))
        elif not key.startswith((f"{SECRETS}.", *MAY_HOLD, *ELSEWHERE)) and redacted(value, key) != value:
            yield f"{key}: looks like a secret, and settings are recorded, sent and shown. {_remedy(key)}"


def _remedy(key: str) -> str:
    if key.startswith("script."):
        return "Give it to the script by script.secrets"
    return "Leave it out; only a script of your own is given secrets (script.secrets)"


def _in_arguments(args: str) -> Iterator[str]:
    from videolift.errors import ConfigError

    try:
        words = words_of(args)
    except ConfigError:  # told already
        return
    option = ""
    for word, shown in zip(words, redacted_words(words), strict=True):
        if word != shown:
            what = option or shown.partition("=")[0].partition("://")[0]
            name = re.sub(r"\W+", "_", what.lstrip("-")).upper().strip("_") or "API_KEY"
            yield f"script.args: the value of {what!r} looks like a secret, and {WRITE_INSTEAD.format(name=name)}"
        option = word if word.startswith("-") and "=" not in word else ""


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    elif value is not None:
        yield key, value
