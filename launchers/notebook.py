"""The notebook API: ``from launchers.notebook import compose, run``."""

from __future__ import annotations

from launchers import experiment
from launchers.compose import compose
from launchers.config import Config
from launchers.sweeps.dead import close_dead_sweeps

__all__ = ["compose", "run"]


def run(config: Config) -> int:
    """Do what ``config.action`` says and return the exit code.

    Raises:
        VideoliftError: for everything that a person can act on.
    """
    return experiment.run(config, close_sweeps=close_dead_sweeps)
