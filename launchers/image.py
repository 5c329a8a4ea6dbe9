"""What is inside an image: the versions that belong to a stage's id, and whether it brings our source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from launchers import docker
from launchers.docker import DockerError
from launchers.images import install
from launchers.images import probe as probing
from launchers.repository import IMAGES
from videolift.errors import StageError
from videolift.provenance import FOLDER, LIBRARIES, OF_SCRIPTS

PURPOSES = {  # by stage
    "preprocess": "preprocess",
    "train": "train",
    "evaluate": "train",
    "visualize": "train",
    "predict": "predict",
    "script": "train",
    "preprocess-script": "preprocess",
}
MACHINE = "x86_64"  # what docker.PLATFORM is to Python
LOCKED_FOR = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": MACHINE}
LOCKED_PYTHON = "3.11.0"  # what an image is taken to have as long as nothing is known of its base
ALSO_RECORDED = ("matplotlib", "psutil")
WANTED = sorted({name for names in LIBRARIES.values() for name in names} | set(ALSO_RECORDED))
PROBE_TIMEOUT_S = 300.0  # the first container of a large image on a slow disk


@dataclass(frozen=True)
class Image:
    """An image that is here."""

    reference: str
    id: str
    python: str
    machine: str
    versions: dict[str, str]  # by distribution, under the name that our lock file has
    source: str | None  # source_of() the videolift package in it, None where it has none

    @property
    def contents(self) -> dict[str, str]:
        """What :func:`libraries_of` takes: the versions, and the architecture as ``machine``."""
        return {**self.versions, "machine": self.machine}


def source_of(folder: Path = FOLDER) -> str:
    """Return the SHA-256 of the names and bytes of a package's modules, which :attr:`Image.source` is of another."""
    return probing.source_of(str(folder))


def probe(reference: str) -> Image:
    """Find out what an image that is here holds, by running Python in it.

    Raises:
        DockerError: if it is not here, has no Python, or one that is too old for the stages.
    """
    identity = docker.image_id(reference)
    if identity is None:
        raise DockerError(f"{reference}: there is no such image here")
    told = _probed(identity, reference)
    if "versions" not in told:
        oldest = ".".join(map(str, probing.OLDEST))
        raise DockerError(f"{reference}: has Python {told['python']}; stages need {oldest} or later in their image")
    return Image(reference=reference, id=identity, **told)


def locked_versions(purpose: str, base: Image | None = None) -> dict[str, str]:
    """Return what the image of a purpose will hold once it is built, in the form of :attr:`Image.contents`.

    Args:
        base: what it will be built from, where that is known: what it has already is kept.
    """
    locked = _locked(purpose, base.python if base else LOCKED_PYTHON)
    wanted = {name: version for name, version in locked.items() if name in WANTED}
    kept = {name: version for name, version in base.versions.items() if name in locked} if base else {}
    return {**wanted, **kept, "machine": MACHINE}


def libraries_of(contents: Mapping[str, str], stage: str, reference: str = "the image") -> dict[str, str]:
    """Return what ``videolift.provenance.library_versions`` returns where the stage runs.

    Args:
        contents: :attr:`Image.contents` or :func:`locked_versions`.
        reference: what to call the image in an error.

    Raises:
        StageError: if the image lacks a library of the stage.
    """
    missing = [name for name in LIBRARIES[stage] if name not in contents]
    if missing and stage not in OF_SCRIPTS:
        purpose = PURPOSES[stage]
        raise StageError(
            f"{reference}: lacks {', '.join(missing)}, which {stage} needs; install it there, or let an image be built "
            f"from it: backend.{purpose}.image=null backend.{purpose}.base_image=IMAGE"
        )
    there = {name: contents[name] for name in LIBRARIES[stage] if name not in missing}
    return {**there, "machine": contents["machine"]}


def requirement_file(purpose: str) -> Path:
    """Return the locked requirement file of a purpose."""
    return IMAGES / f"{purpose}.txt"


def _locked(purpose: str, python: str) -> dict[str, str]:
    environment = {**LOCKED_FOR, "python_full_version": python, "python_version": ".".join(python.split(".")[:2])}
    lines = install.read_requirements(requirement_file(purpose).read_text(encoding="utf-8")).values()
    requirements = [Requirement(line.split("--hash", 1)[0].strip()) for line in chain.from_iterable(lines)]
    applying = [one for one in requirements if one.marker is None or one.marker.evaluate(environment)]
    return {install.normalised(one.name): str(one.specifier).removeprefix("==") for one in applying}


@cache  # an id's contents never change
def _probed(identity: str, reference: str) -> dict[str, Any]:
    wanted = {name: list(install.ALIASES.get(name, ())) for name in WANTED}
    script = Path(probing.__file__).read_text(encoding="utf-8")
    try:
        answer = docker.call(
            *("run", "--rm", "--pull", "never", "--network", "none", "--platform", docker.PLATFORM),
            *("--entrypoint", "python3", identity, "-c", script, json.dumps(wanted)),
            timeout_s=PROBE_TIMEOUT_S,
        )
        told: dict[str, Any] = json.loads(answer.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise DockerError(f"{reference}: its python3 does not say what it has") from error
    except DockerError as error:
        raise DockerError(f"{reference}: {_remedy(str(error))}") from error
    return told


def _remedy(told: str) -> str:
    if "executable file not found" in told or "no such file or directory" in told:
        return "has no program python3; use an image with Python 3.11 or 3.12"
    if "exec format error" in told or "does not match the specified platform" in told:
        return f"is for another processor; use an image for {docker.PLATFORM} ({told})"
    return f"its Python cannot be run: {told}"
