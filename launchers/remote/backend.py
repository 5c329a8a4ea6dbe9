"""``backend=sagemaker-remote``: stages run as jobs on Amazon SageMaker.

Preprocessing is a processing job, its videos dealt out to the instances; train, evaluate and visualize are one training
job. What is finished lies in S3 as in outputs/cache, so that it is found from any machine.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from launchers.base import Described, Job, Stage
from launchers.cache import FINISHED_FILE, Cache
from launchers.config import Config, Resources, Where
from launchers.image import PURPOSES, libraries_of, locked_versions
from launchers.local import LocalBackend
from launchers.remote import cost, partition, requests, state
from launchers.remote.aws import Aws, AwsError, explained
from launchers.remote.instances import precision_of
from launchers.remote.job import Handle, RemoteJob, read_handle
from launchers.remote.orders import Order, image_of, is_of_aws, job_name, make_order, resources_of
from launchers.remote.preflight import Needs, find_problems
from launchers.remote.quotas import Machines
from launchers.remote.requests import kind_of
from launchers.remote.s3 import Location, is_s3, list_keys, read_bytes
from launchers.remote.site import UNKNOWN_ACCOUNT, Site, find_site, unresolved_site
from launchers.remote.transfer import Sending, Transfer, finished_stage, megabytes
from videolift.errors import ConfigError
from videolift.settings import Precision
from videolift.workspace import Kind

if TYPE_CHECKING:
    from rich.console import Console

STOPPING_POLL_S = 2.0


class RemoteBackend:
    """Runs stages on Amazon SageMaker."""

    name = "sagemaker-remote"

    def __init__(self, config: Config, cache: Cache) -> None:
        self._config = config
        self._settings = config.backend
        self._cache = cache
        self._aws = Aws(config.backend)
        self._local = LocalBackend(config.backend, cache)
        self._data = Location.parse(str(config.data.root)) if is_s3(config.data.root) else None
        self._origins: dict[str, str | None] = {}
        self._notes: list[str] = []

    # What is known without asking AWS

    def jobs(self, stages: Sequence[str]) -> list[list[str]]:
        groups = ([s for s in stages if kind_of(s) is kind] for kind in (Kind.processing, Kind.training))
        return [group for group in groups if group]

    def precision(self) -> Precision:
        return precision_of(self._settings.train.instance_type)

    def libraries(self, stage: str) -> dict[str, str]:
        if self._is_local(stage):
            return self._local.libraries(stage)
        purpose = PURPOSES[stage]
        resources = resources_of(self._settings, purpose)
        if resources.image is not None or is_of_aws(self._settings, purpose):
            # What is in it is its owner's to know; its name stands for that, the same one in every region.
            image = image_of(self._settings, purpose, self._aws.region, UNKNOWN_ACCOUNT)
            return {"image": image.partition("/")[2] if partition.ecr_image(image) else image}
        expected = libraries_of(locked_versions(purpose), stage)
        if resources.base_image != Resources.base_image:
            expected["base_image"] = resources.base_image
        return expected

    def environments(self, stages: Sequence[str]) -> dict[str, dict[str, str]]:
        return {}

    def _is_local(self, stage: str) -> bool:
        return stage == "preprocess" and self._settings.preprocess.where is Where.local

    # Before anything is sent

    def check(self, stages: Sequence[str], *, planning: bool) -> list[str]:
        try:
            problem = partition.region_problem(self._aws.region)
        except ConfigError as error:
            problem = str(error)
        if problem or planning:  # a plan does without the account's own side
            return [problem] if problem else []
        remote = [stage for stage in stages if not self._is_local(stage)]
        tracking = self._config.tracking
        needs = Needs(
            machines=[self._machines(kind) for kind in dict.fromkeys(map(kind_of, remote))],
            images=self._images(remote),
            bucket=self._settings.bucket,
            tracking_uri=tracking.uri if tracking.enabled else None,
            tracking_timeout_s=tracking.timeout_s,
        )
        found = find_problems(self._aws, needs)
        self._notes = found.notes
        return found.problems

    def _machines(self, kind: Kind) -> Machines:
        train = self._settings.train
        job: Resources = train if kind is Kind.training else self._settings.preprocess
        key = "backend.train" if kind is Kind.training else "backend.preprocess"
        machines = Machines(key, kind, job.instance_type, job.instance_count, job.max_run_s)
        if kind is Kind.processing:
            return machines
        return Machines(**vars(machines) | {"spot": train.spot, "keep_alive_s": train.keep_alive_s})

    def _images(self, stages: Sequence[str]) -> dict[str, str]:
        try:
            account = self._aws.account
        except AwsError:  # which is a problem of its own
            return {}
        purposes = dict.fromkeys(PURPOSES[stage] for stage in stages)
        return {purpose: image_of(self._settings, purpose, self._aws.region, account) for purpose in purposes}

    def settle(self, stages: Sequence[str], console: Console) -> None:
        for note in self._notes:
            console.print(f"note: {note}", style="yellow", soft_wrap=True)

    def make_ready(self, stages: Sequence[str], console: Console) -> None:
        if problem := cost.cost_problem(self._settings, self._estimate(stages)):
            raise ConfigError(problem)

    def _estimate(self, stages: Sequence[str]) -> cost.Estimate:
        kinds = dict.fromkeys(kind_of(stage) for stage in stages if not self._is_local(stage))
        return cost.most_it_can_cost(self._settings, self._aws.region, list(kinds))

    @cached_property
    def _site(self) -> Site:
        return find_site(self._aws)

    @cached_property
    def _known_site(self) -> Site:
        """The site as far as it can be known; a run says what is wrong, a plan shows what it can."""
        try:
            return self._site if self._aws.has_credentials() else unresolved_site(self._aws)
        except (AwsError, ConfigError):
            return unresolved_site(self._aws)

    @property
    def _is_resolved(self) -> bool:
        return self._known_site.account != UNKNOWN_ACCOUNT

    @cached_property
    def _transfer(self) -> Transfer:
        return Transfer(self._aws.client("s3"), self._cache.folder / "checksums.db", self._settings.kms_key)

    # What is finished elsewhere

    def origin(self, stage_id: str) -> str | None:
        if not self._is_resolved:
            return None
        if stage_id not in self._origins:
            self._origins[stage_id] = self._find_origin(stage_id)
        return self._origins[stage_id]

    def _find_origin(self, stage_id: str) -> str | None:
        try:
            marker = read_bytes(self._aws.client("s3"), self._site.stage(stage_id) / FINISHED_FILE)
        except AwsError:  # nobody has, or the bucket cannot be read, which the checks tell
            return None
        return str(json.loads(marker)["run"])

    def fetch(self, stage_id: str, console: Console) -> None:
        self._transfer.fetch(self._site.stage(stage_id), self._cache.partial(stage_id), console, stage_id)
        self._cache.adopt(stage_id)

    def keep(self, stage_id: str, console: Console) -> None:
        self._transfer.send(finished_stage(self._cache.path(stage_id), self._site.stage(stage_id)), console)

    # Jobs

    def submit(self, stages: Sequence[Stage], console: Console) -> Job:
        if self._is_local(stages[0].plan.stage):
            return self._local.submit(stages, console)
        found = self._under_way(stages, console)
        if found is not None:
            return found
        token = f"{time.strftime('%y%m%d%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
        order = self._order(stages, job_name(stages, token), self._site)
        for sending in order.sendings:
            self._transfer.send(sending, console)
        handle = Handle(order.name, order.kind, self._aws.region, {s.plan.stage: s.plan.id for s in stages})
        handle.save([stage.folder for stage in stages])  # first: after a crash the job is looked for
        self._create(order)
        return RemoteJob(self._aws, handle, stages)

    def _create(self, order: Order) -> None:
        client = self._aws.client("sagemaker")
        with explained(f"sagemaker:Create{state.WORDS[order.kind]}", order.name):
            if order.kind is Kind.training:
                client.create_training_job(**order.request)
            else:
                client.create_processing_job(**order.request)

    def _under_way(self, stages: Sequence[Stage], console: Console) -> RemoteJob | None:
        """Return the job that computes the first of the stages already, and maybe some after it."""
        handle = read_handle(stages[0].folder.path)
        if handle is None or handle.region != self._aws.region:
            return None
        client = self._aws.client("sagemaker")
        found = state.describe(client, handle.kind, handle.job)
        while found is not None and found.status == "Stopping":
            console.print(f"waiting until job {handle.job} has stopped", soft_wrap=True)
            time.sleep(STOPPING_POLL_S)
            found = state.describe(client, handle.kind, handle.job)
        if found is None or found.status in ("Failed", "Stopped"):
            return None
        console.print(f"job {handle.job} is at it already: {found.status}", soft_wrap=True)
        covered = [stage for stage in stages if handle.stages.get(stage.plan.stage) == stage.plan.id]
        return RemoteJob(self._aws, handle, covered)

    def _order(self, stages: Sequence[Stage], name: str, site: Site) -> Order:
        return make_order(stages, name, site, self._settings, self._cache, data=self._data, others=self._others)

    def _others(self, place: Location, names: Sequence[str]) -> bool:
        """Tell whether something else than the named files lies below a place; a plan cannot always ask."""
        return self._is_resolved and bool(set(list_keys(self._aws.client("s3"), place)) - set(names))

    # What a plan shows

    def describe(self, stages: Sequence[Stage]) -> list[Described]:
        remote = [stage for stage in stages if not self._is_local(stage.plan.stage)]
        described = []
        for names in self.jobs([stage.plan.stage for stage in remote]):
            group = [stage for stage in remote if stage.plan.stage in names]
            order = self._order(group, job_name(group, "TIME"), self._known_site)
            rows = [("upload", "bytes", "to"), *map(self._described, order.sendings)]
            described.append(
                Described(f"Create{state.WORDS[order.kind]}", rows, requests.shown(json.dumps(order.request, indent=1)))
            )
        estimate = self._estimate([stage.plan.stage for stage in stages])
        return [
            *described,
            Described("cost", [cost.COLUMNS, *(job.row() for job in estimate.jobs)], estimate.summary()),
        ]

    def _described(self, sending: Sending) -> tuple[str, ...]:
        there, total = requests.shown(sending.target.uri), megabytes(sending.bytes)
        if not self._is_resolved:
            return sending.what, f"at most {total}", there
        try:
            return sending.what, f"{megabytes(self._transfer.plan(sending).bytes_to_send)} of {total}", there
        except AwsError as error:  # a bucket that is not there yet, for one
            return sending.what, f"at most {total} ({error})", there
