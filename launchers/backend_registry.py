"""The table of backends: what ``backend.name`` may be, and how each is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from launchers.base import Backend
from launchers.cache import Cache
from launchers.config import Action, Config
from launchers.containers import ContainerBackend
from launchers.local import LocalBackend
from launchers.machine import threads_of
from launchers.outputs import Outputs
from launchers.reachability import server_problem
from launchers.remote.backend import RemoteBackend
from videolift.errors import ConfigError
from videolift.settings import Source

BACKENDS: dict[str, Callable[[Config, Cache], Backend]] = {
    "local": lambda config, cache: LocalBackend(config.backend, cache, threads_of(config)),
    "sagemaker-local": lambda config, cache: ContainerBackend(config.backend, cache, threads_of(config)),
    "sagemaker-remote": lambda config, cache: RemoteBackend(config, cache, server_problem),
}


def find_backend(config: Config, outputs: Outputs, stages: Sequence[str]) -> Backend:
    """Return the backend of a configuration.

    Raises:
        ConfigError: if the stages cannot run on it.
    """
    backend = BACKENDS[config.backend.name](config, outputs.cache)
    wrong = backend.check(stages, planning=config.action is Action.plan)
    if config.data.source is Source.npz and config.backend.preprocess.instance_count > 1:
        wrong.append("backend.preprocess.instance_count: data=npz is one file, which cannot be divided; leave it at 1")
    if wrong:
        raise ConfigError("\n".join(wrong))
    return backend
