"""Compose, check and run one experiment, or every job of a sweep: ``python run.py --help``."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
# What lies beside this file comes first: it may be a sweep's copy, or another checkout than the one that is installed.
# Hydra looks for plugins in every folder of the path.
sys.path[:0] = [str(HERE), str(HERE / "src"), str(HERE / "launchers" / "plugins")]

from videolift.errors import ConfigError, Stopped, StorageError, VideoliftError  # noqa: E402 - after the path above

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig

    from launchers.compose import Checked, Sources

OF_AN_EXISTING_RUN = ("action", "run", "stages", "outputs", "tracking", "hydra")
OF_ITS_MODEL = ("predict", "backend", "name", "tags")  # what is asked of a run's model is a run of its own


def main(argv: list[str]) -> int:
    """Do what the command line says and return the exit code."""
    try:
        if not {"--help", "-h"}.isdisjoint(argv):
            from launchers.help import help_text

            print(help_text(HERE / "conf"))
            return 0
        return _run(argv)
    except ConfigError as error:
        _print_error(str(error))
        return error.exit_code
    except VideoliftError as error:
        return _report(error)
    except KeyboardInterrupt:
        return Stopped.exit_code


def _run(argv: list[str]) -> int:
    from hydra._internal.utils import get_args_parser

    # Overrides may stand before and after Hydra's options; Hydra's own parser takes them on one side only.
    args = get_args_parser().parse_intermixed_args(argv)
    if args.hydra_help or args.shell_completion or args.experimental_rerun:
        return _hydra(argv)
    from launchers.compose import Sources, check
    from launchers.config import Action

    only_shown = bool(args.cfg or args.info)
    multirun = args.multirun or "hydra.mode=MULTIRUN" in args.overrides
    sources = Sources(args.config_name or "config", args.config_path or "conf", args.config_dir)
    checked = check(args.overrides, sources, multirun=multirun, values=not only_shown)
    _refuse_ignored(args.overrides, checked)
    argv = [*checked.overrides, *_options(argv, args.overrides)]
    if not multirun:
        _refuse_sweeps_own(args.overrides, checked)
    elif not only_shown and checked.jobs[0].config.run is None:
        action = checked.jobs[0].config.action
        if action in (Action.run, Action.plan):
            return _sweep(argv, args.overrides, checked, sources)
    return _hydra(argv)


def _refuse_sweeps_own(overrides: Sequence[str], checked: Checked) -> None:
    """Raise ConfigError for settings that would do nothing without a sweep."""
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides]
    if ignored := [key for key in keys if key.partition(".")[0] == "sweep"]:
        raise ConfigError(f"{', '.join(ignored)}: is for sweeps; say python run.py -m")


def _refuse_ignored(overrides: Sequence[str], checked: Checked) -> None:
    """Raise ConfigError for settings that an existing run would not take over."""
    if not any(job.config.run for job in checked.jobs):
        return
    from launchers.config import PREDICT, Action

    known = set(OF_AN_EXISTING_RUN)
    if all(PREDICT in job.config.stages for job in checked.jobs):
        known |= set(OF_ITS_MODEL)
    if all(job.config.action in (Action.run, Action.plan) for job in checked.jobs):
        known.add("visualize")
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides]
    ignored = [key for key in keys if key.partition(".")[0] not in known]
    if ignored:
        raise ConfigError(
            f"{', '.join(ignored)}: an existing run keeps its own settings; leave run= out to start one with these"
        )


def _options(argv: list[str], overrides: list[str]) -> list[str]:
    """Return the part of the command line that is not overrides."""
    left = list(overrides)
    return [arg for arg in argv if not (left and arg == left[0] and left.pop(0))]


def _sweep(argv: list[str], typed: list[str], checked: Checked, sources: Sources) -> int:
    """Plan a sweep, let Hydra run it, and return the first exit code of a child that is not 0."""
    from launchers.config import Action
    from launchers.console import new_console
    from launchers.signals import terminate_as_interrupt
    from launchers.sweeps import asked, frozen, session
    from videolift.errors import as_expected

    console, config = new_console(), checked.jobs[0].config
    try:
        if config.action is Action.plan:
            asked.plan_only(asked.prepare(checked, typed, sources, console), console)
            return 0
        if not frozen.is_frozen(HERE):
            outputs = Path(config.outputs).expanduser().resolve()
            copy = frozen.freeze(HERE, outputs, sources.config_path, sources.config_dir)
            frozen.run_from(copy, sys.argv[1:])
        with terminate_as_interrupt():
            opened = session.open_session(asked.prepare(checked, typed, sources, console), HERE, console)
            with opened.opened():
                code = _hydra([*opened.hydras_own, *argv], [job.label for job in checked.jobs])
    except OSError as error:
        raise as_expected(error) or error from error
    except KeyboardInterrupt:
        return Stopped.exit_code
    return code or opened.exit_code


def _hydra(argv: list[str], labels: Sequence[str] = ()) -> int:
    """Let Hydra run every job, and return the first exit code that is not 0.

    Args:
        labels: of a sweep's jobs: what tells each from the others.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from launchers.compose import one_line
    from launchers.config import register

    register()
    codes: list[int] = []

    def job(composed: DictConfig) -> float:
        number = HydraConfig.get().job.num if labels else 0
        code, value = _job(composed, number, labels[number] if number < len(labels) else None)
        codes.append(code)
        return value

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints its own errors, and leaves with 1
    sys.argv = [sys.argv[0], *argv]
    try:
        hydra.main(version_base="1.3", config_path=str(HERE / "conf"), config_name="config")(job)()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(one_line(error)) from None
    except OSError as error:
        raise StorageError(f"{error.filename or 'outputs'}: {error.strerror or error}; say outputs=FOLDER") from None
    return next((code for code in codes if code), 0)


def _job(composed: DictConfig, number: int, label: str | None) -> tuple[int, float]:
    """Run one job for a launcher of Hydra's, and return its exit code and the value of ``sweep.metric``.

    Those after it run whatever its code is, unless it was stopped.
    """
    from launchers import experiment
    from launchers.config import to_object
    from launchers.sweeps.dead import close_dead_sweeps
    from launchers.sweeps.session import place_of, value_of

    config, place = to_object(composed), place_of(number, label)
    try:
        code = experiment.run(config, place, close_dead_sweeps)
    except VideoliftError as error:
        code = _report(error)
    except Exception:
        _print_error(traceback.format_exc().rstrip())
        code = VideoliftError.exit_code
    if code == Stopped.exit_code:
        raise KeyboardInterrupt
    return code, value_of(place.record, config.sweep.metric)


def _report(error: VideoliftError) -> int:
    _print_error(f"{type(error).__name__}: {error}")
    return error.exit_code


def _print_error(text: str) -> None:
    from launchers.redaction import redacted_text

    print(redacted_text(text), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
