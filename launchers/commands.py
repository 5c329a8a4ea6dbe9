"""Commands that a person can type to see again what a run did."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from launchers.base import Stage
from launchers.config import PREDICT, Backend, Config
from launchers.records import MODEL_OF_TAG
from launchers.redaction import redacted_words
from launchers.remote.s3 import is_s3
from videolift.plan import to_plain

FETCHED = "VIDEOS"  # stands for the folder that videos in S3 have to be fetched to first
# What a run is called and where it is recorded does not change what it does, and may hold a password.
LEFT_OUT = ("action", "run", "name", "tags", "tracking", "stages", "backend")


def alone(config: Config, stage: Stage) -> str:
    """Return the command that runs a failed stage once more on this machine, outside of any container."""
    if config.backend.name == Backend.name and config.script.path is None:  # a script's input is gone with its job
        root = str(stage.workspace(stage.hosts[0], {}).root)
        return shlex.join(["python", "-m", "videolift.entry", "--root", root])
    return shlex.join(redacted_words(["python", "run.py", *local_overrides(config, [stage.plan.stage])]))


def local_overrides(config: Config, stages: list[str]) -> list[str]:
    """Return what to say to run some stages of an experiment with ``backend=local``, and what they need before them."""
    from launchers.planning import planned_names

    if stages == [PREDICT]:
        asked = {"predict": to_plain(config.predict)}
        return [
            "backend=local",
            f"stages=[{PREDICT}]",
            f"run={config.tags[MODEL_OF_TAG]}",
            "tracking=none",
            *changed(asked),
        ]
    settings = changed({key: value for key, value in to_plain(_fetched(config)).items() if key not in LEFT_OUT})
    if config.script.path is not None:
        return ["backend=local", "tracking=none", *settings]
    words = ["backend=local", f"stages=[{','.join(planned_names(stages))}]", "tracking=none"]
    hosts = config.backend.preprocess.instance_count
    words += [f"backend.preprocess.instance_count={hosts}"] if hosts > 1 else []
    return words + settings


def _fetched(config: Config) -> Config:
    """Return the settings with what lies in S3 replaced by a folder that stands for it."""
    channels = {name: FETCHED if is_s3(content) else content for name, content in config.script.channels.items()}
    data = replace(config.data, root=FETCHED) if is_s3(config.data.root) else config.data
    return replace(config, script=replace(config.script, channels=channels), data=data)


def changed(settings: dict[str, Any]) -> list[str]:
    """Return how one types those of some settings that are not the default."""
    default = to_plain(Config())
    return [word for key, value in settings.items() for word in _changed(key, value, default[key])]


def _changed(key: str, value: Any, default: Any) -> Iterator[str]:
    if value == default:
        return
    if isinstance(value, dict) and (default or all(isinstance(inner, str) for inner in value.values())):
        for name, inner in value.items():
            yield from _changed(f"{key}.{name}", inner, default.get(name))
    else:
        yield f"{key}={_typed(value)}"


def _typed(value: Any) -> str:
    """Return a value as one types it on Hydra's command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_typed(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_typed, value)) + "]"
    return str(value)
