"""What starting a job takes: its request, and the files that it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launchers.base import Stage
from launchers.building import recipe_of
from launchers.cache import Cache
from launchers.config import Backend, Mode
from launchers.image import PURPOSES
from launchers.remote import requests
from launchers.remote.layout import Site
from launchers.remote.pending import Sending, finished_stage
from launchers.remote.registry import image_uri
from launchers.remote.requests import Input
from launchers.remote.s3 import Location
from launchers.remote.trainer import capture, training_image
from launchers.repository import SOURCE
from videolift.plan import digest_of
from videolift.workspace import Kind

DIGEST_LENGTH = 16  # hexadecimal digits
NAME_ID_LENGTH = 8


@dataclass
class Order:
    """Everything that starting a job takes."""

    kind: Kind
    name: str
    request: dict[str, Any]
    sendings: list[Sending] = field(default_factory=list)


def job_name(stages: Sequence[Stage], token: str) -> str:
    """Return the name of a job: ``videolift-train-1a2b3c4d-TOKEN``."""
    first = stages[0].plan
    return f"videolift-{first.stage}-{first.id.rpartition('-')[2][:NAME_ID_LENGTH]}-{token}"


def image_of(settings: Backend, purpose: str, region: str, account: str) -> str:
    """Return the URI of the image that the stages of a purpose run in.

    Raises:
        ConfigError: if AWS has no TensorFlow image as it is wanted.
    """
    brought = settings.resources(purpose).image
    if brought is not None:
        return brought
    if purpose == "train" and settings.train.in_image_of_aws:
        return training_image(region, settings.train.framework_version, settings.train.instance_type)
    return image_uri(recipe_of(settings, purpose), account, region)


def make_order(
    stages: Sequence[Stage],
    name: str,
    site: Site,
    settings: Backend,
    cache: Cache,
    *,
    data: Location | None,
    others: Callable[[Location, Sequence[str]], bool],
) -> Order:
    """Return what starts a job for stages that go together.

    Args:
        data: where the videos lie in S3 already; None where they are sent.
        others: tells whether something else than the named files lies below a place.

    Raises:
        ConfigError: if the SageMaker SDK refuses a setting.
    """
    inputs, sendings = _inputs(stages, name, site, cache, data, others)
    if stages[0].kind is Kind.processing:
        (stage,) = stages
        return _processing(stage, name, site, settings, inputs, sendings)
    return _training(stages, name, site, settings, inputs, sendings)


def _processing(
    stage: Stage, name: str, site: Site, settings: Backend, inputs: dict[str, Input], sendings: list[Sending]
) -> Order:
    purpose = PURPOSES[stage.plan.stage]
    if settings.resources(purpose).mode is Mode.byos:
        source = _source(site)
        inputs[requests.CODE_CHANNEL] = Input(source.target)
        sendings.append(source)
    image = image_of(settings, purpose, site.region, site.account)
    tags = requests.tags(settings, [stage.plan.stage])
    request = requests.processing_request(
        *(name, site, settings, settings.resources(purpose), image, inputs, site.jobs / name / "output", tags),
        instances=len(stage.hosts),
    )
    return Order(Kind.processing, name, request, sendings)


def _training(
    stages: Sequence[Stage],
    name: str,
    site: Site,
    settings: Backend,
    inputs: dict[str, Input],
    sendings: list[Sending],
) -> Order:
    source = _source(site) if settings.train.mode is Mode.byos else None
    if source is not None:
        sendings.append(source)
    first = stages[0].plan
    job = requests.training(
        name=name,
        site=site,
        settings=settings,
        image=image_of(settings, "train", site.region, site.account),
        channels={channel: one.location for channel, one in inputs.items()},
        source=source.target if source else None,
        checkpoints=site.checkpoints(first.id) if settings.train.checkpoints else None,
        plan=first,
        tags=requests.tags(settings, [stage.plan.stage for stage in stages]),
        instances=len(stages[0].hosts),
    )
    captured = capture(job)
    if captured.drivers:
        target = site.root / "source" / captured.drivers_name
        sendings.append(Sending("the SageMaker SDK's start script", captured.drivers, target))
    for entry in captured.request.get("InputDataConfig", []):
        if (one := inputs.get(entry["ChannelName"])) is not None and one.listed:
            entry["DataSource"]["S3DataSource"] |= {"S3DataType": "ManifestFile", "S3Uri": one.location.uri}
    return Order(Kind.training, name, captured.request, sendings)


def _inputs(
    stages: Sequence[Stage],
    name: str,
    site: Site,
    cache: Cache,
    data: Location | None,
    others: Callable[[Location, Sequence[str]], bool],
) -> tuple[dict[str, Input], list[Sending]]:
    """Return the inputs of a job, but for our source, and what has to be sent for them."""
    inputs, sendings = _dealt(stages[0], name, site, data, others)
    plan = _plan(stages, site, together=stages[0].kind is Kind.training)
    results, finished = _results(stages, site, cache)
    return {**inputs, "plan": Input(plan.target), **results}, [*sendings, plan, *finished]


def _dealt(
    stage: Stage, name: str, site: Site, data: Location | None, others: Callable[[Location, Sequence[str]], bool]
) -> tuple[dict[str, Input], list[Sending]]:
    """Return the inputs of files that are dealt out, or lie in S3 by themselves, and what has to be sent for them."""
    sharded = stage.shared if len(stage.hosts) > 1 else None
    inputs = {
        channel: Input(Location.parse(place), sharded=channel == sharded) for channel, place in stage.places.items()
    }
    sendings: list[Sending] = []
    given = {channel: _dealt_files(stage, channel) for channel in stage.dealt}
    for channel, (root, names) in given.items():
        videos = stage.plan.script.channels.get(channel, "videos") == "videos"
        what = "videos" if videos else f"channel {channel}"
        place = data if videos and data is not None else site.data(root)
        if place is not data:
            sendings.append(Sending(what, {one: root / one for one in names}, place))
        # Another channel of the same folder is going to lie there, too.
        more = any(files != (root, names) for files in given.values() if files[0] == root)
        if not (more or others(place, names)):
            inputs[channel] = Input(place, sharded=channel == sharded)
            continue
        # Only those of the manifest: what else lies there is another experiment's.
        folder, file = site.jobs / name, f"{channel}.manifest"
        sendings.append(Sending(f"the list of {what}", {file: requests.listing(place, names)}, folder))
        inputs[channel] = Input(folder / file, listed=True, sharded=channel == sharded)
    return inputs, sendings


def _dealt_files(stage: Stage, channel: str) -> tuple[Path, list[str]]:
    """Return the folder of a channel and the files in it that all hosts together are given."""
    shares = list(stage.dealt[channel].values())
    return shares[0].root, sorted({name for share in shares for name in share.names})


def _results(stages: Sequence[Stage], site: Site, cache: Cache) -> tuple[dict[str, Input], list[Sending]]:
    """Return the inputs of results that stages need, and what has to be sent to get them there."""
    inputs: dict[str, Input] = {}
    sendings: list[Sending] = []
    for channel, folder in (item for stage in stages for item in stage.channels.items()):
        if channel in ("plan", *inputs):
            continue
        below = folder.relative_to(cache.folder)
        inputs[channel] = Input(site.root / "cache" / below.as_posix())
        stage_id = below.parts[0]
        if cache.finished(stage_id) and stage_id not in {sending.what for sending in sendings}:
            sendings.append(finished_stage(cache.path(stage_id), site.stage(stage_id)))
    return inputs, sendings


def _plan(stages: Sequence[Stage], site: Site, *, together: bool) -> Sending:
    """Return the plans of the stages, a folder each where they share a job."""
    files = {}
    for stage in stages:
        for file in (f for f in sorted(stage.folder.plan.rglob("*")) if f.is_file()):
            name = file.relative_to(stage.folder.plan).as_posix()
            files[f"{stage.plan.stage}/{name}" if together else name] = file.read_bytes()
    return Sending("the plan", files, site.plan(_digest(files)))


def _source(site: Site) -> Sending:
    """Return our script, at a place that its content names."""
    files = {f.relative_to(SOURCE).as_posix(): f.read_bytes() for f in sorted(SOURCE.rglob("*.py"))}
    return Sending("our source", files, site.source(_digest(files)))


def _digest(files: dict[str, bytes]) -> str:
    return digest_of({name: content.hex() for name, content in files.items()})[:DIGEST_LENGTH]
