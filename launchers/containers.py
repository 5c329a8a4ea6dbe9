"""``backend=sagemaker-local``: every host of a stage is a container on this machine, as SageMaker would start it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from launchers import docker, script_channels, shares
from launchers.attached import OnThisMachine
from launchers.base import Stage
from launchers.building import before_building, build, pull, recipe_of
from launchers.cache import Cache
from launchers.config import Backend, Mode, Resources
from launchers.container_job import ContainerJob, Setup, remove_left, remove_orphans
from launchers.image import PURPOSES, Image, libraries_of, locked_versions, probe, source_of
from launchers.machine import ALL_CORES, Threads, best_precision, thread_variables
from launchers.script_secrets import values_of
from videolift.errors import ConfigError
from videolift.settings import Precision
from videolift.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console


class ContainerBackend(OnThisMachine):
    """Runs stages in Docker containers."""

    name = "sagemaker-local"

    def __init__(self, settings: Backend, cache: Cache, threads: Threads = ALL_CORES) -> None:
        self._settings = settings
        self._threads = threads
        self._cache = cache
        self._images: dict[str, Image] = {}  # by purpose, those that are here
        self._bases: dict[str, Image] = {}  # by purpose, what is here of those still to be built from
        self._recipes = {purpose: recipe_of(settings, purpose) for purpose in dict.fromkeys(PURPOSES.values())}

    def check(self, stages: Sequence[str], *, planning: bool) -> list[str]:
        problem = docker.engine_problem()
        return [] if problem is None else [f"backend={self.name}: {problem}"]

    def settle(self, stages: Sequence[str], console: Console) -> None:
        for purpose in _purposes(stages):
            brought = self._settings.resources(purpose).image
            if brought is not None and docker.image_id(brought) is None:
                pull(brought, console)
            if docker.image_id(self._reference(purpose)) is not None:
                self._images[purpose] = self._checked(purpose, probe(self._reference(purpose)))
            elif docker.image_id(self._settings.resources(purpose).base_image) is not None:
                self._bases[purpose] = probe(self._settings.resources(purpose).base_image)

    def libraries(self, stage: str) -> dict[str, str]:
        image = self._images.get(PURPOSES[stage])
        if image is not None:
            return libraries_of(image.contents, stage, image.reference)
        base = self._bases.get(PURPOSES[stage])
        expected = libraries_of(locked_versions(PURPOSES[stage], base), stage)
        name = self._settings.resources(PURPOSES[stage]).base_image
        if base is None and name != Resources.base_image:
            # It may bring libraries of its own: until it is here, nothing that is finished counts as its result.
            expected["base_image"] = name
        return expected

    def precision(self) -> Precision:
        return best_precision(gpus=self._settings.gpus is not None)

    def make_ready(self, stages: Mapping[str, Collection[str]], console: Console, *, at_once: int = 1) -> None:
        for name in remove_orphans(self._settings.grace_s):
            console.print(f"removed container {name}, left by a launcher that died", soft_wrap=True)
        missing = [self._recipes[purpose] for purpose in _purposes(stages) if purpose not in self._images]
        problems = [problem for recipe in missing if (problem := before_building(recipe))]
        if problems:
            raise ConfigError("\n".join(problems))
        for recipe in missing:
            build(recipe, console)
            self._images[recipe.purpose] = self._checked(recipe.purpose, probe(recipe.tag))

    def environments(self, stages: Sequence[str]) -> dict[str, dict[str, str]]:
        images = {purpose: self._images[purpose] for purpose in _purposes(stages) if purpose in self._images}
        return {f"{name} image": {"python": image.python, **image.versions} for name, image in images.items()}

    def _start(self, stage: Stage, console: Console) -> ContainerJob:
        # A launcher that waited for the lock of one that died gets here without having started anew.
        remove_left(self._cache.lock_file(stage.plan.id), self._settings.grace_s)
        if script_channels.is_of_script(stage):
            spaces = script_channels.lay_out(stage, console, mounted=True).spaces
        else:
            spaces = shares.lay_out(stage, shares.hard_link_or_copy, mounted=True)
        return ContainerJob.start(stage, self._setup(stage, spaces))

    def _setup(self, stage: Stage, spaces: dict[str, Workspace]) -> Setup:
        purpose = PURPOSES[stage.plan.stage]
        resources = self._settings.resources(purpose)
        return Setup(
            stage_id=stage.plan.id,
            kind=stage.kind,
            image=self._images[purpose].id,  # a name may mean another image by now
            ships_source=resources.mode is Mode.byos,
            spaces=spaces,
            lock=self._cache.lock_file(stage.plan.id),
            memory=resources.memory,
            memory_setting=f"backend.{purpose}.memory",
            cpus=resources.cpus,
            gpus=self._settings.gpus if purpose == "train" else None,
            isolated=self._settings.network_isolation,
            variables=thread_variables(self._threads.of(stage)),
            secrets=values_of(stage.plan.script.secrets, self._settings),
        )

    def _reference(self, purpose: str) -> str:
        return self._settings.resources(purpose).image or self._recipes[purpose].tag

    def _checked(self, purpose: str, image: Image) -> Image:
        """Refuse an image that is to bring our source and brings another one: stage ids stand for the source here."""
        if self._settings.resources(purpose).mode is Mode.byoc and image.source != source_of():
            brings = "another version of videolift than the one here" if image.source else "no videolift"
            raise ConfigError(
                f"backend.{purpose}.image: {image.reference} brings {brings}; say backend.{purpose}.mode=byos to ship "
                "the source to it, or build it anew"
            )
        return image


def _purposes(stages: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(PURPOSES[stage] for stage in stages))
