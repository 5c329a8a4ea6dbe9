"""Compose, check and run one experiment, or every job of a sweep: ``python run.py --help``."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "src")]  # works from any folder, installed or not

from videolift.errors import ConfigError, Stopped, StorageError, VideoliftError  # noqa: E402 - after the path above

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from omegaconf import DictConfig

    from launchers.compose import Checked

OF_AN_EXISTING_RUN = ("action", "run", "stages", "outputs", "tracking", "hydra")
PARENT = "VIDEOLIFT_PARENT"  # environment variable: the id of the sweep that a job belongs to


def main(argv: list[str]) -> int:
    """Do what the command line says and return the exit code."""
    try:
        if not {"--help", "-h"}.isdisjoint(argv):
            from launchers.help import help_text

            print(help_text(HERE / "conf"))
            return 0
        return _run(argv)
    except ConfigError as error:
        print(error, file=sys.stderr)
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
    if multirun and not only_shown and checked.jobs[0].config.action in (Action.run, Action.resume):
        return _sweep(argv, args, checked)
    return _hydra(argv)


def _refuse_ignored(overrides: Sequence[str], checked: Checked) -> None:
    """Raise ConfigError for settings that an existing run would not take over."""
    if not any(job.config.run for job in checked.jobs):
        return
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides]
    ignored = [key for key in keys if key.partition(".")[0] not in OF_AN_EXISTING_RUN]
    if ignored:
        raise ConfigError(
            f"{', '.join(ignored)}: an existing run keeps its own settings; leave run= out to start one with these"
        )


def _options(argv: list[str], overrides: list[str]) -> list[str]:
    """Return the part of the command line that is not overrides."""
    left = list(overrides)
    return [arg for arg in argv if not (left and arg == left[0] and left.pop(0))]


def _sweep(argv: list[str], args: Namespace, checked: Checked) -> int:
    from launchers import experiment

    config = checked.jobs[0].config
    name = config.name or " ".join(args.overrides) or "sweep"
    before = os.environ.get(PARENT)
    with experiment.sweep(config, name, len(checked.jobs)) as parent:
        if parent is not None:
            os.environ[PARENT] = parent
        try:
            code = _hydra(argv, [job.label for job in checked.jobs])
        finally:
            _set_or_remove(PARENT, before)
        if code:
            raise SystemExit(code)  # leaves through the sweep, which so learns that a job failed
    return code


def _set_or_remove(variable: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = value


def _hydra(argv: list[str], labels: Sequence[str] = ()) -> int:
    """Let Hydra run every job, and return the first exit code that is not 0.

    Args:
        labels: of a sweep's jobs: what tells each from the others.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from launchers.compose import one_line
    from launchers.config import register

    register()
    codes: list[int] = []

    def job(composed: DictConfig) -> None:
        number = len(codes)
        codes.append(_job(composed, labels[number] if number < len(labels) else None))

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints its own errors, and leaves with 1
    sys.argv = [sys.argv[0], *argv]
    try:
        hydra.main(version_base="1.3", config_path=str(HERE / "conf"), config_name="config")(job)()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(one_line(error)) from None
    except OSError as error:
        raise StorageError(f"{error.filename or 'outputs'}: {error.strerror or error}; say outputs=FOLDER") from None
    return next((code for code in codes if code), 0)


def _job(composed: DictConfig, label: str | None) -> int:
    """Run one job and return its exit code; the jobs of a sweep after it run whatever it is, unless it was stopped."""
    from launchers import experiment
    from launchers.config import to_object

    try:
        code = experiment.run(to_object(composed), parent=os.environ.get(PARENT), label=label)
    except VideoliftError as error:
        code = _report(error)
    except Exception:
        traceback.print_exc()
        code = VideoliftError.exit_code
    if code == Stopped.exit_code:
        raise KeyboardInterrupt
    return code


def _report(error: VideoliftError) -> int:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
