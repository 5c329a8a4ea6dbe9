"""A user's own script as the settings have it: the stages it takes, and what can be told wrong from them alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from launchers.script_secrets import secret_problems
from videolift.errors import ConfigError
from videolift.plan import to_plain
from videolift.script_arguments import placeholders, words_of
from videolift.settings import Script, ScriptStage, Source

if TYPE_CHECKING:
    from launchers.config import Config

VIDEOS, ARRAYS = "videos", "arrays"  # contents of a channel that are made here
CHANNEL = re.compile(r"[a-z0-9_]{1,64}")  # a hyphen, which SageMaker has too, ends the SDK's start script
OWN_CHANNELS = ("plan", "code", "sm_drivers")  # ours, and those of the SageMaker SDK
PATHS = ("model_dir", "output_dir", "checkpoint_dir", "source_dir", "seed")  # placeholders besides the channels
METRIC = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)


def channels_of(script: Script) -> dict[str, str]:
    """Return what each channel holds."""
    return dict(script.channels) or {"train": VIDEOS}


def stages_of(script: Script) -> list[str]:
    """Return the stages that a script takes."""
    from launchers.config import PREPROCESS_SCRIPT, SCRIPT

    if script.stage is ScriptStage.preprocess:
        return [PREPROCESS_SCRIPT]
    return ["preprocess", SCRIPT] if ARRAYS in channels_of(script).values() else [SCRIPT]


def needs_data(script: Script) -> bool:
    """Tell whether a script is given something of ``data``."""
    return not {VIDEOS, ARRAYS}.isdisjoint(channels_of(script).values())


def shared_channel(script: Script) -> str | None:
    """Return the channel that the hosts of a preprocessing script divide: the videos, else the first one."""
    if script.stage is not ScriptStage.preprocess:
        return None
    channels = channels_of(script)
    return next((name for name, content in channels.items() if content == VIDEOS), next(iter(channels)))


def script_problems(config: Config) -> Iterator[str]:
    """Yield every mistake as ``key: what; what to do``."""
    script = config.script
    if script.path is None:
        for key, value in vars(script).items():
            if value != getattr(Script(), key):
                yield f"script.{key}: belongs to a script of your own, and there is none; say script.path=FILE"
        return
    if not script.path.strip():
        yield "script.path: is empty; say which file, or leave it out"
    if config.stages != (wanted := stages_of(script)):
        yield f"stages: with script.path they are [{','.join(wanted)}]; leave them out"
    yield from _argument_problems(script)
    yield from _channel_problems(config)
    yield from _metric_problems(script.metrics)
    yield from secret_problems(config)
    if script.exclude and script.source_dir is None:
        yield "script.exclude: is for script.source_dir; without it the file alone is sent"
    yield from _ignored(config)


def _argument_problems(script: Script) -> Iterator[str]:
    try:
        words_of(script.args)
    except ConfigError as error:
        yield str(error)
    channels = channels_of(script)
    known = [*channels, *(c for c in (VIDEOS, ARRAYS) if c in channels.values()), *PATHS, *script.secrets]
    for name in placeholders(script.args):
        if name not in known:
            there = ", ".join(f"{{{one}}}" for one in dict.fromkeys(known))
            yield f"script.args: {{{name}}} stands for nothing; there are {there}; write {{{{{name}}}}} for itself"


def _channel_problems(config: Config) -> Iterator[str]:
    from launchers.config import Where
    from launchers.remote.s3 import is_s3

    script = config.script
    local = script.stage is ScriptStage.preprocess and config.backend.preprocess.where is Where.local
    for name, content in channels_of(script).items():
        key = f"script.channels.{name}"
        if not CHANNEL.fullmatch(name):
            yield f"{key}: a channel's name has letters a-z, digits and _ only, 64 at most"
        elif name in (*OWN_CHANNELS, *PATHS):
            yield f"{key}: this name is taken; choose another one"
        if not content.strip():
            yield f"{key}: is empty; say {VIDEOS}, {ARRAYS}, a folder, or s3://BUCKET/PREFIX"
        if content == VIDEOS and config.data.source is Source.npz:
            yield f"{key}: data=npz has no videos; give the folder of the file"
        if content == ARRAYS and script.stage is ScriptStage.preprocess:
            yield f"{key}: {ARRAYS} are what preprocessing makes, and come before script.stage=train only"
        if is_s3(content) and config.backend.name != "sagemaker-remote":
            yield f"{key}: data in S3 are for backend=remote, not for {config.backend.name}; fetch them first"
        elif is_s3(content) and local:
            yield f"{key}: is in S3, and backend.preprocess.where=local runs the script here; fetch it first"


def _metric_problems(metrics: Mapping[str, str]) -> Iterator[str]:
    for name, pattern in metrics.items():
        key = f"script.metrics.{name}"
        if not METRIC.fullmatch(name):
            yield f"{key}: a metric's name begins with a letter and has letters, digits and _./- only"
        try:
            found = re.compile(pattern)
        except re.error as error:
            yield f"{key}: is no regular expression ({error}): {pattern}"
            continue
        if found.groups - ("step" in found.groupindex) != 1:
            yield (
                f"{key}: must have one (group), the value, and may have a (?P<step>...) besides; it has "
                f"{found.groups}: {pattern}"
            )


def _ignored(config: Config) -> Iterator[str]:
    """Name the settings of stages that do not run; a script would not learn of them."""
    from launchers.config import Config as Default

    script, plain = config.script, Default()
    own = "a script has its own; pass it in script.args"
    groups = {"model": own, "augment": own, "visualize": own, "predict": "it is for stages=[predict]"}
    if ARRAYS not in channels_of(script).values():
        groups["preprocess"] = f"no channel of the script holds {ARRAYS}"
    if config.tracking.register is not None:
        yield "tracking.register: is for models of the train stage; a script's model is kept as artifacts of its run"
    if not needs_data(script):
        groups["data"] = f"no channel of the script holds {VIDEOS} or {ARRAYS}"
    for group, why in groups.items():
        given, default = to_plain(getattr(config, group)), to_plain(getattr(plain, group))
        for key in (key for key in given if given[key] != default[key]):
            yield f"{group}.{key}: would do nothing: {why}; leave it out"
