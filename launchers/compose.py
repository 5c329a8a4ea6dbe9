"""From overrides to checked configurations: every mistake of a whole sweep is listed before its first job.

Hydra stops at the first mistake and composes a sweep's jobs one after the other. So the overrides and the YAML files
that they select are first checked against the schema, then every job is composed as Hydra will compose it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

# Hydra's public compose() knows neither --config-dir nor the defaults list, and cannot be called inside a Hydra job
# without disturbing it. What is used below is bounded by hydra-core <1.4 and exercised by the tests.
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException
from yaml import YAMLError

from launchers import overrides as cli
from launchers import schema
from launchers.config import Config, register, to_object
from launchers.config import problems as config_problems
from launchers.redaction import redacted_text, redacted_word
from launchers.repository import ROOT
from launchers.schema import Mistake
from launchers.sweeps.space import SPACE, Space, corners, read_space
from videolift.errors import ConfigError

CONF = ROOT / "conf"
_HYDRAS_ERRORS = (HydraException, OmegaConfBaseException, YAMLError, ValueError)
GRIDS = ("basic", "videolift_grid")  # sweepers that run every combination
SAMPLER = "videolift_optuna"  # the sweeper that chooses values as it goes
SHOWN_JOBS = 3  # of a sweep, behind a mistake that only some of its jobs make


@dataclass(frozen=True)
class Sources:
    """Where the configuration is read from; as Hydra's options of these names take it."""

    config_name: str = "config"
    config_path: str = str(CONF)  # folder of the primary configuration, relative to the repository
    config_dir: str | None = None  # a further folder with groups


@dataclass(frozen=True)
class Job:
    """One run of a sweep, or the only one."""

    label: str  # the overrides that tell it from the others; empty where there are none
    config: Config
    overrides: tuple[str, ...]  # all of them but Hydra's own
    parameters: dict[str, str]  # those that tell it from the others: setting, or group -> value


@dataclass(frozen=True)
class Checked:
    """A command line without mistakes."""

    overrides: list[str]  # as Hydra must be given them
    jobs: list[Job]  # with a sampler: one, without what is chosen for each trial
    space: Space | None = None  # what a sampler chooses from
    corners: list[Job] = field(default_factory=list)  # trials at the edges of the space
    is_grid: bool = True  # whether the jobs are all there are; False where a sweeper chooses them as it goes


@dataclass(frozen=True)
class _Request:
    """What to compose: everything that Hydra needs to know besides one job's overrides."""

    loader: ConfigLoaderImpl
    config_name: str
    hydras: list[str]  # overrides of Hydra's own settings, the same for every job
    groups: cli.Groups
    grid: list[list[str]]  # the other overrides, job by job
    swept: frozenset[str]  # keys that differ between jobs
    given: list[str]  # the other overrides, as they were
    sweeper: str | None = None  # choice of hydra/sweeper, None for one run


DEFAULT_SOURCES = Sources()


def compose(overrides: Sequence[str] = ()) -> Config:
    """Return the configuration that ``python run.py`` would run with these overrides, for notebooks and tests.

    Raises:
        ConfigError: lists every mistake.
    """
    return check(overrides).jobs[0].config


def check(
    overrides: Sequence[str], sources: Sources = DEFAULT_SOURCES, *, multirun: bool = False, values: bool = True
) -> Checked:
    """Quote and check overrides, and compose every job they ask for.

    Args:
        values: also compose the jobs and check what the values make together; not wanted to print a configuration.

    Raises:
        ConfigError: lists every mistake.
    """
    register()
    version.setbase("1.3")
    setup_globals()
    quoted = [cli.quote(typed, multirun=multirun) for typed in overrides]
    found: list[Mistake] = []
    groups: dict[str, list[str]] = {}
    try:
        loader = _loader(sources, quoted)
        groups = groups_of(loader.repository)
        wrong = [cli.mistakes(typed, groups, multirun=multirun) for typed in overrides]
        found = list(dict.fromkeys(mistake for mistakes in wrong for mistake in mistakes))
        good = [text for text, mistakes in zip(quoted, wrong, strict=True) if not mistakes]
        request = _request(loader, groups, sources.config_name, good, multirun=multirun)
        files = _selected_files(request, groups)
        found += _intervals_of_a_grid(request)
    except _HYDRAS_ERRORS as error:
        raise _config_error([*(_with_file(mistake, {}, groups) for mistake in found), one_line(error)]) from None
    origins = {key: file for file, package, content in files for key in _keys(package, content)}
    lines = [_with_file(mistake, origins, groups) for mistake in found]
    in_files = [m for file, package, content in files for m in schema.check_value(file, package, content)]
    lines += [f"{mistake.where}: {mistake.what}" for mistake in in_files]
    checked = Checked(quoted, [], is_grid=request.sweeper is None or request.sweeper in GRIDS)
    if values and not in_files:
        jobs, problems = _compose_jobs(request)
        checked = replace(checked, jobs=jobs)
        if request.sweeper == SAMPLER and jobs:
            checked, mistakes, problems = _with_space(checked, request, problems)
            mistakes = [m for m in mistakes if not (found and m.where == SPACE)]
            lines += [_with_file(mistake, origins, groups) for mistake in mistakes]
        lines += [problem for problem in problems if not _follows(problem, found)]
    if lines:
        raise _config_error(list(dict.fromkeys(lines)))
    return checked


def _with_space(checked: Checked, request: _Request, problems: list[str]) -> tuple[Checked, list[Mistake], list[str]]:
    """Add what a sampler chooses from, and return what is wrong with it and with the trials at its edges.

    Args:
        problems: those of the job without a choice. It is no trial, so they count only where nothing is to be chosen.
    """
    space, mistakes = read_space(request.given, checked.jobs[0].config.sweep, request.groups)
    if not space.distributions:
        return checked, mistakes, problems
    edges = replace(request, grid=corners(space), swept=frozenset(space.distributions))
    jobs, problems = _compose_jobs(edges)
    return replace(checked, space=space, corners=jobs), mistakes, problems


def one_line(error: BaseException) -> str:
    """Return what Hydra, OmegaConf or a YAML reader says, on one line and without its internals."""
    if isinstance(error, YAMLError):
        return " ".join(str(error).split())
    said = [_first_line(part) for part in (error, error.__cause__) if part is not None]
    return "; ".join(dict.fromkeys(text for text in said if text)) or type(error).__name__


def _first_line(error: BaseException) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, InterpolationKeyError):
        text += "; write \\${...} where the text itself is meant"
    key = re.search(r"full_key: (\S+)", str(error))
    return f"{key[1]}: {text}" if key and key[1] not in text else text


def _loader(sources: Sources, overrides: list[str]) -> ConfigLoaderImpl:
    package = sources.config_path.startswith("pkg://")
    search_path = create_config_search_path(sources.config_path if package else str(ROOT / sources.config_path))
    loader = ConfigLoaderImpl(search_path)
    further = [value for text in overrides if cli.split(text)[1] == "hydra.searchpath" for value in _list_in(text)]
    if not further:
        primary = loader.repository.load_config(sources.config_name)
        further = list((primary and OmegaConf.select(primary.config, "hydra.searchpath")) or [])
    if sources.config_dir is not None:
        if not Path(sources.config_dir).is_dir():
            raise ValueError(f"--config-dir={sources.config_dir}: there is no such folder")
        further.insert(0, f"file://{Path(sources.config_dir).absolute()}")
    for path in further:
        search_path.prepend(provider="command-line", path=path, anchor=SearchPathQuery(provider="schema"))
    return ConfigLoaderImpl(search_path) if further else loader


def _list_in(override: str) -> list[str]:
    value = OverridesParser.create().parse_override(override).value()
    return [str(item) for item in value] if isinstance(value, list) else []


def groups_of(files: IConfigRepository) -> dict[str, list[str]]:
    """Return every group of ours with its choices; those in sub-folders as ``folder/choice``.

    Args:
        files: a loader's repository; the loader's own methods copy it each time.
    """
    top = [group for group in files.get_group_options("", ObjectType.GROUP) if group != "hydra"]
    return {group: _choices(files, group) for group in top}


def _choices(files: IConfigRepository, group: str) -> list[str]:
    choices = files.get_group_options(group, ObjectType.CONFIG)
    inner = files.get_group_options(group, ObjectType.GROUP)
    return choices + [f"{name}/{choice}" for name in inner for choice in _choices(files, f"{group}/{name}")]


def _request(
    loader: ConfigLoaderImpl, groups: cli.Groups, config_name: str, overrides: list[str], *, multirun: bool
) -> _Request:
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    hydras = [override.input_line or "" for override in parsed if override.is_hydra_override()]
    own = [override for override in parsed if not override.is_hydra_override()]
    swept = frozenset(override.key_or_group for override in own if override.is_sweep_override())
    still = [override.input_line or "" for override in own if not override.is_sweep_override()]
    sweeper = None
    grid = [still]
    if multirun:
        defaults = loader.compute_defaults_list(config_name, hydras + still, RunMode.MULTIRUN)
        sweeper = defaults.overrides.known_choices["hydra/sweeper"]
        if sweeper in GRIDS:  # others choose values as they go
            grid = BasicSweeper.split_arguments([o for o in own if not o.is_interval_sweep()], None)[0]
    given = [override.input_line or "" for override in own]
    return _Request(loader, config_name, hydras, groups, grid, swept, given, sweeper)


def _intervals_of_a_grid(request: _Request) -> list[Mistake]:
    if request.sweeper not in GRIDS:
        return []
    parsed = OverridesParser.create().parse_overrides(request.given)
    what = "a grid has no values for interval(...); add sweep=optuna, or give the values with commas"
    return [Mistake(o.input_line or "", what, o.key_or_group) for o in parsed if o.is_interval_sweep()]


def _selected_files(request: _Request, groups: cli.Groups) -> list[tuple[str, str, Any]]:
    """Return file, package and content of every YAML file of ours that some job selects, later ones winning."""
    selections = dict.fromkeys(
        tuple(text for text in job if cli.split(text)[1].partition("@")[0] in groups) for job in request.grid
    )
    files: dict[tuple[str, str], Any] = {}
    for selection in selections:
        overrides = [*request.hydras, *selection]
        defaults = request.loader.compute_defaults_list(request.config_name, overrides, RunMode.RUN)
        for default in defaults.defaults:
            path = default.config_path or ""
            loaded = None if path.startswith("hydra/") else request.loader.repository.load_config(path)
            if loaded is None or not loaded.path.startswith("file://"):
                continue
            content = OmegaConf.to_container(loaded.config, resolve=False)
            if isinstance(content, dict):
                content.pop("hydra", None)
            folder = Path(loaded.path.removeprefix("file://"))
            files[schema.shown_path(folder / f"{path.removesuffix('.yaml')}.yaml"), default.package or ""] = content
    return [(file, package, content) for (file, package), content in files.items()]


def _keys(package: str, content: Any) -> Iterator[str]:
    if isinstance(content, dict) and schema.find(package) is None:
        for name, inner in content.items():
            yield from _keys(f"{package}.{name}" if package else str(name), inner)
    else:
        yield package


def _with_file(mistake: Mistake, origins: Mapping[str, str], groups: cli.Groups) -> str:
    file, key = mistake.file, mistake.key
    if key is not None and file is None:
        setting = schema.find(key)
        file = origins.get(key) or (f"{schema.shown_path(CONF / key)}/" if key in groups else None)
        file = file or (setting.file if setting else schema.sections().get(key))
    return f"{redacted_word(mistake.where)}: {mistake.what}" + (f" ({file})" if file else "")


def _compose_jobs(request: _Request) -> tuple[list[Job], list[str]]:
    """Return the jobs that could be composed, and every problem with the jobs that have it where not all do."""
    jobs: list[Job] = []
    problems: dict[str, list[str]] = {}
    bases: dict[tuple[str, ...], DictConfig] = {}
    for index, overrides in enumerate(request.grid):
        swept = [text for text in overrides if cli.split(text)[1] in request.swept]
        label = " ".join(swept)
        try:
            config = _compose_job(request, overrides, index, bases)
        except (*_HYDRAS_ERRORS, ConfigError) as error:
            problems.setdefault(one_line(error), []).append(label)
            continue
        jobs.append(Job(label, config, tuple(overrides), _parameters(swept)))
        for problem in config_problems(config):
            problems.setdefault(problem, []).append(label)
    return jobs, [text + in_jobs(labels, len(request.grid)) for text, labels in problems.items()]


def told_apart(overrides: Sequence[str], common: Sequence[str]) -> dict[str, str]:
    """Return what some overrides set that others do not: setting, or group -> value."""
    return _parameters([text for text in overrides if text not in common])


def _parameters(overrides: list[str]) -> dict[str, str]:
    parsed = OverridesParser.create().parse_overrides(overrides)
    return {override.key_or_group: _plain(override.value()) for override in parsed}


def _plain(value: Any) -> str:
    return str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else schema.shown(value)


def in_jobs(labels: Sequence[str], job_count: int) -> str:
    """Return which jobs make a mistake, to be said behind it; nothing where all do."""
    if len(labels) == job_count:
        return ""
    more = f"; and {len(labels) - SHOWN_JOBS} more" if len(labels) > SHOWN_JOBS else ""
    return f" [{'; '.join(labels[:SHOWN_JOBS])}{more}]"


def _compose_job(
    request: _Request, overrides: list[str], index: int, bases: dict[tuple[str, ...], DictConfig]
) -> Config:
    """Return the configuration of a job as Hydra composes it.

    Args:
        bases: what was composed before, by the groups that were chosen: jobs that choose the same ones share it.
    """
    chosen = tuple(text for text in overrides if cli.split(text)[1].partition("@")[0] in request.groups)
    base = bases.get(chosen)
    if base is None:
        base = request.loader.load_configuration(request.config_name, request.hydras + list(chosen), RunMode.RUN)
        bases[chosen] = base
    composed = copy.deepcopy(base)
    values = OverridesParser.create().parse_overrides([text for text in overrides if text not in chosen])
    ConfigLoaderImpl._apply_overrides_to_config(values, composed)
    with open_dict(composed):
        composed.hydra.job.num = index
        composed.hydra.job.id = str(index)
        composed.hydra.overrides.task = overrides
    running = HydraConfig.instance()
    before = running.cfg
    running.set_config(composed)  # what ${hydra:...} reads; it keeps a copy
    try:
        with open_dict(composed):
            del composed["hydra"]
        return to_object(composed)
    finally:
        running.cfg = before


def _follows(problem: str, found: Iterable[Mistake]) -> bool:
    """Tell whether a problem may be there only because a mistaken override was not applied."""
    keys = problem.partition(":")[0].split(", ")
    return any(
        mistake.key is not None and (key == mistake.key or key.startswith(f"{mistake.key}."))
        for mistake in found
        for key in keys
    )


def _config_error(lines: list[str]) -> ConfigError:
    noun = "mistake" if len(lines) == 1 else "mistakes"
    listed = "".join(f"\n  {_printable(redacted_text(line))}" for line in lines)
    return ConfigError(f"{len(lines)} {noun} in the configuration; nothing was run:{listed}")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
