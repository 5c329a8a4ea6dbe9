"""Gives a host the files that it was dealt, and no others: as links on this machine, as real files to a container."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from launchers.base import Dealt, Stage
from videolift.workspace import Workspace


def deal(root: Path, names: Sequence[str], hosts: Sequence[str]) -> dict[str, Dealt]:
    """Divide files among hosts by their place in the list; one host may see the whole folder."""
    from videolift.parts import host_of  # numpy, which a plan does not need

    dealt: dict[str, list[str]] = {host: [] for host in hosts}
    for number, name in enumerate(names):
        dealt[hosts[host_of(number, len(hosts))]].append(name)
    return {host: Dealt(root, tuple(files), whole=len(hosts) == 1) for host, files in dealt.items()}


def lay_out(stage: Stage, give: Callable[[Dealt, Path], Path], *, mounted: bool = False) -> dict[str, Workspace]:
    """Lay out the workspace of every host, with what it was dealt.

    Args:
        give: :func:`link` or :func:`hard_link_or_copy`.
        mounted: the channels are going to be mounted.
    """
    spaces = {}
    for host in stage.hosts:
        folders = {
            channel: give(hosts[host], stage.folder.share(channel, host)) for channel, hosts in stage.dealt.items()
        }
        spaces[host] = stage.workspace(host, folders)
        spaces[host].lay_out(mounted=mounted)
    return spaces


def link(dealt: Dealt, folder: Path) -> Path:
    """Return a folder that holds the share as links: ``folder``, or the root itself where all of it may be seen."""
    if dealt.whole:
        return dealt.root
    folder.mkdir(parents=True)
    for name in dealt.names:
        _parent_of(folder / name).symlink_to(_real(dealt.root / name))
    return folder


def hard_link_or_copy(dealt: Dealt, folder: Path) -> Path:
    """Return a folder that holds the share as regular files, which a container that sees nothing else can read.

    The root itself where all of it may be seen and no link leads out of it. Hard links take no space; files of another
    file system, and links, are copied.
    """
    if dealt.whole and not _links(dealt):
        return dealt.root.resolve()
    folder.mkdir(parents=True)
    for name in dealt.names:
        source, target = _real(dealt.root / name), _parent_of(folder / name)
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without hard links
            _copy(source, target)
    return folder


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except (FileNotFoundError, PermissionError, shutil.SpecialFileError):
        target.unlink(missing_ok=True)
        target.symlink_to(source)  # leads nowhere there: who reads it says that it cannot be read


def _links(dealt: Dealt) -> bool:
    """Tell whether a file of the share is a link, or lies below one."""
    root = dealt.root.resolve()
    return any(_real(root / name) != root / name for name in dealt.names)


def _real(path: Path) -> Path:
    """Return where a path leads; a link that leads to itself is where it leads."""
    return Path(os.path.realpath(path))


def _parent_of(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
