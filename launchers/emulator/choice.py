"""Which way of running hosts this machine allows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from launchers.emulator.hosts import HostKind
from launchers.emulator.hosts_in_containers import ContainerHosts
from launchers.emulator.hosts_in_namespaces import NamespaceHosts


class EmulatorError(Exception):
    """The emulator cannot run; the text says why and what to do."""


def choose_hosts(wanted: str, root: Path, images: Mapping[str, str]) -> HostKind:
    """Return the way that was asked for, or with ``auto`` the first that works: containers, then namespaces.

    Args:
        images: local images by the patterns of the URIs that they stand for.

    Raises:
        EmulatorError: if there is none.
    """
    containers, namespaces = ContainerHosts(images), NamespaceHosts(root)
    if wanted == "namespaces":
        return _checked(namespaces)
    if wanted == "containers":
        return _checked(containers)
    why_not = containers.problem()
    if why_not is None:
        if containers.has_images():
            return containers
        why_not = "Docker has no image of videolift; say python run.py action=build backend=sagemaker-local"
    if problem := namespaces.problem():
        raise EmulatorError(f"jobs can be run neither in containers ({why_not}) nor as processes ({problem})")
    return namespaces


def _checked(hosts: HostKind) -> HostKind:
    if problem := hosts.problem():
        raise EmulatorError(problem)
    return hosts
