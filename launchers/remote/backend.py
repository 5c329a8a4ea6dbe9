"""``backend=sagemaker-remote``: stages run as jobs on Amazon SageMaker.

Preprocessing is a processing job, its videos dealt out to the instances; train, evaluate and visualize are one training
job. What is finished lies in S3 as in outputs/cache, so that it is found from any machine.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from launchers.base import Described, Job, LostTouch, Stage
from launchers.byte_progress import megabytes
from launchers.cache import FINISHED_FILE, HANDLE, Cache
from launchers.config import Action, Config, OnInterrupt, Resources, Where
from launchers.image import PURPOSES, libraries_of, locked_versions
from launchers.local import LocalBackend
from launchers.planning import KINDS
from launchers.remote import partition, requests, state
from launchers.remote.aws import Aws, AwsError, explained, is_transient
from launchers.remote.cost import COLUMNS, Estimate, most_it_can_cost
from launchers.remote.instances import precision_of
from launchers.remote.job import Handle, RemoteJob, read_handle
from launchers.remote.layout import UNKNOWN_ACCOUNT, Site
from launchers.remote.orders import Order, image_of, job_name, make_order
from launchers.remote.pending import Sending, finished_stage
from launchers.remote.preflight import find_job_problems, find_problems
from launchers.remote.quotas import machines_of
from launchers.remote.s3 import MISSING, Location, is_s3, list_keys, read_bytes
from launchers.remote.site import find_site, unresolved_site
from launchers.remote.state import State
from launchers.remote.transfer import Transfer
from launchers.remote.watch import LONGEST_BACK_OFF_S, Watch
from launchers.signals import pause
from videolift.errors import ConfigError
from videolift.settings import Precision
from videolift.workspace import Kind

if TYPE_CHECKING:
    from rich.console import Console

STOPPING_POLL_S = 2.0
CREATING_S = 3.0  # until a job is there whose making was interrupted
CREATE_AGAIN_S = (2.0, 5.0, 15.0, 30.0, 60.0)  # after unclear answers to its creation, until a job is looked for
IN_USE = "ResourceInUse"  # the name of a job is taken: names are made once, so an earlier request has arrived
NO_CREDENTIALS = "there are no AWS credentials"
ISOLATED = (
    "backend.network_isolation: AWS's TensorFlow image may lack matplotlib or psutil, which take a network to be "
    "installed; with backend.train.mode=byoc our image has them"
)

ServerProblem = Callable[[str, float], str | None]


class RemoteBackend:
    """Runs stages on Amazon SageMaker; those of several runs at once, each in a thread of its own."""

    name = "sagemaker-remote"

    def __init__(
        self, config: Config, cache: Cache, server_problem: ServerProblem = lambda uri, timeout_s: None
    ) -> None:
        """Ask nothing yet.

        Args:
            server_problem: returns the message for a tracking server, by URI, that does not answer in so many seconds.
        """
        self._config = config
        self._server_problem = server_problem
        self._settings = config.backend
        self._cache = cache
        self._aws = Aws(config.backend)
        self._watch = Watch(self._aws)
        self._transfer = Transfer(self._aws, cache.folder / "checksums.db")
        self._local = LocalBackend(config.backend, cache)
        self._data = Location.parse(str(config.data.root)) if is_s3(config.data.root) else None
        self._planning = config.action is Action.plan
        self._origins: dict[str, str | None] = {}
        self._unresolved = ""  # why a plan does not know the site
        self._unknown: dict[str, str] = {}  # stage id -> why a plan cannot tell whether it is finished in S3
        self._going_on: dict[str, bool] = {}  # whether a job computes, or has computed, what was left to it
        self._notes: list[str] = []

    # What is known without asking AWS

    def jobs(self, stages: Sequence[str]) -> list[list[str]]:
        groups = ([s for s in stages if KINDS[s] is kind] for kind in (Kind.processing, Kind.training))
        return [group for group in groups if group]

    def precision(self) -> Precision:
        return precision_of(self._settings.train.instance_type)

    def libraries(self, stage: str) -> dict[str, str]:
        if self._is_local(stage):
            return self._local.libraries(stage)
        purpose = PURPOSES[stage]
        resources = self._settings.resources(purpose)
        if resources.image is not None or (purpose == "train" and self._settings.train.in_image_of_aws):
            # What is in it is its owner's to know; its name stands for that, the same one in every region.
            image = image_of(self._settings, purpose, self._aws.region, UNKNOWN_ACCOUNT)
            return {"image": image.partition("/")[2] if partition.ecr_image(image) else image}
        expected = libraries_of(locked_versions(purpose), stage)
        if resources.base_image != Resources.base_image:
            expected["base_image"] = resources.base_image
        return expected

    def cost(self, stages: Mapping[str, Collection[str]]) -> Described | None:
        jobs = self._jobs_to_start(stages, self._is_maybe_left if self._planning else self._is_left)
        return _described_cost(self._estimate(jobs)) if jobs else None

    def environments(self, stages: Sequence[str]) -> dict[str, dict[str, str]]:
        return {}

    def _is_local(self, stage: str) -> bool:
        return PURPOSES[stage] == "preprocess" and self._settings.preprocess.where is Where.local

    # Before anything is sent

    def check(self, stages: Sequence[str], *, planning: bool) -> list[str]:
        try:
            problem = partition.region_problem(self._aws.region)
        except ConfigError as error:
            problem = str(error)
        if problem or planning:  # a plan does without the account's own side
            return [problem] if problem else []
        trains = any(PURPOSES[stage] == "train" for stage in stages)
        # A run that goes on must not be kept from its job by a server that can be told later.
        tracking = self._config.tracking
        asked = tracking.enabled and self._config.action is not Action.resume
        if self._settings.network_isolation and self._settings.train.in_image_of_aws and trains:
            self._notes.append(ISOLATED)
        uri = tracking.uri if asked else None
        found = find_problems(self._aws, lambda: self._server_problem(uri, tracking.timeout_s) if uri else None)
        self._notes += found.notes
        return found.problems

    def settle(self, stages: Sequence[str], console: Console) -> None:
        for note in self._notes:
            console.print(f"note: {note}", style="yellow", soft_wrap=True)

    def make_ready(self, stages: Mapping[str, Collection[str]], console: Console, *, at_once: int = 1) -> None:
        jobs = self._jobs_to_start(stages, self._is_left)
        account, region = self._aws.account, self._aws.region
        images = {purpose: image_of(self._settings, purpose, region, account) for purpose in jobs}
        machines = machines_of(self._settings, {purpose: min(count, at_once) for purpose, count in jobs.items()})
        found = find_job_problems(self._aws, machines, images)
        for note in found.notes:
            console.print(f"note: {note}", style="yellow", soft_wrap=True)
        if found.problems:
            raise ConfigError("\n".join(found.problems))

    def _jobs_to_start(self, stages: Mapping[str, Collection[str]], is_left: Callable[[str], bool]) -> dict[str, int]:
        """Return how many jobs stages take, by purpose; those of one run and purpose share one."""
        found: dict[str, int] = {}
        for name, ids in stages.items():
            count = 0 if self._is_local(name) else sum(not is_left(one) for one in set(ids))
            if count:
                found[PURPOSES[name]] = max(count, found.get(PURPOSES[name], 0))
        return found

    def _is_left(self, stage_id: str) -> bool:
        """Tell whether a stage was left to a job, which has all that it needs, and will be followed."""
        handle = self._handle_of(stage_id)
        if handle is None:
            return False
        if handle.job not in self._going_on:
            self._going_on[handle.job] = self._goes_on(handle)
        return self._going_on[handle.job]

    def _is_maybe_left(self, stage_id: str) -> bool:
        """Tell whether a plan knows that a stage was left to a job; where it does not know, the most is counted."""
        try:
            return self._handle_of(stage_id) is not None and self._is_resolved and self._is_left(stage_id)
        except AwsError:
            return False

    def _handle_of(self, stage_id: str) -> Handle | None:
        return read_handle(self._cache.partial_path(stage_id))

    def _goes_on(self, handle: Handle) -> bool:
        """Tell whether a job will be followed; in place of one that is stopping another one will be started."""
        if not self._is_mine(handle):
            return True  # elsewhere, where it is not followed from here, nor is another one started
        found = state.describe(self._aws.client("sagemaker"), handle.kind, handle.job)
        return found is not None and found.status in (state.IN_PROGRESS, state.COMPLETED)

    def _estimate(self, jobs: Mapping[str, int]) -> Estimate:
        return most_it_can_cost(self._settings, self._aws.region, jobs)

    @cached_property
    def _site(self) -> Site:
        return find_site(self._aws)

    @cached_property
    def _known_site(self) -> Site:
        """The site as far as a plan can know it."""
        try:
            if self._aws.has_credentials():
                return self._site
            self._unresolved = NO_CREDENTIALS
        except (AwsError, ConfigError) as error:
            self._unresolved = str(error)
        return unresolved_site(self._aws)

    @property
    def _is_resolved(self) -> bool:
        return self._known_site.account != UNKNOWN_ACCOUNT

    # What is finished elsewhere

    def origin(self, stage_id: str) -> str | None:
        if stage_id in self._unknown:
            return None
        if stage_id not in self._origins:
            try:
                self._origins[stage_id] = self._find_origin(stage_id)
            except AwsError as error:
                if not self._planning:
                    raise _not_computed(stage_id, error) from error
                self._unknown[stage_id] = str(error)
        return self._origins.get(stage_id)

    def _find_origin(self, stage_id: str) -> str | None:
        if self._planning and not self._is_resolved:
            raise AwsError(self._unresolved)
        try:
            marker = read_bytes(self._aws.client("s3"), self._site.stage(stage_id) / FINISHED_FILE)
        except AwsError as error:
            if error.code != MISSING:
                raise
            return None
        return str(json.loads(marker)["run"])

    def unknown_origin(self, stage_id: str) -> str | None:
        self.origin(stage_id)
        return self._unknown.get(stage_id)

    def fetch(self, stage_id: str, console: Console) -> None:
        folder = self._cache.emptied(stage_id)
        self._transfer.fetch(self._site.stage(stage_id), folder, console, stage_id)
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
        ids = {stage.plan.stage: stage.plan.id for stage in stages}
        handle = Handle(order.name, order.kind, self._aws.region, self._site.account, ids)
        job = RemoteJob(self._aws, self._watch, handle, stages)
        try:
            handle.save([stage.folder for stage in stages])  # first: after a crash the job is looked for
            self._create_once(order, handle, console)
        except KeyboardInterrupt:
            if not self._is_there(handle):
                pause(CREATING_S)  # what was asked for may be under way
            if not self._is_there(handle):
                job.forget()
                raise
            if self._settings.on_interrupt is OnInterrupt.stop:
                job.close()
                raise
            raise LostTouch(f"interrupted when job {handle.job} had just been submitted; it goes on") from None
        except AwsError:
            job.forget()
            raise
        return job

    def _create_once(self, order: Order, handle: Handle, console: Console) -> None:
        """Have a job made; after an unclear answer it is looked for by its name before it is asked for again.

        Raises:
            AwsError: if there is no such job, and there will be none.
            LostTouch: if that cannot be told.
        """
        was_unclear = in_use = False
        for wait_s in CREATE_AGAIN_S:
            try:
                self._create(order)
                return
            except AwsError as error:
                last = error
            is_final = not (is_transient(last) or last.code == IN_USE)
            if is_final and not was_unclear:
                raise last
            was_unclear, in_use = True, in_use or last.code == IN_USE
            console.print(f"{last}; looking for job {handle.job} in {wait_s:.0f} s", soft_wrap=True)
            pause(wait_s)  # an earlier request may be under way
            if self._is_there_at_last(handle, console):
                return
            if is_final:  # asking again changes nothing
                break
        if in_use:
            raise LostTouch(f"{last}, and SageMaker does not show job {handle.job} yet") from last
        raise last

    def _create(self, order: Order) -> None:
        client = self._aws.client("sagemaker", attempts=1)  # botocore would ask again without looking
        with explained(f"sagemaker:Create{state.WORDS[order.kind]}", order.name):
            if order.kind is Kind.training:
                client.create_training_job(**order.request)
            else:
                client.create_processing_job(**order.request)

    def _is_there_at_last(self, handle: Handle, console: Console) -> bool:
        """Tell whether a job was made, however long the service does not answer: a job that was is paid for."""
        wait_s = STOPPING_POLL_S
        while True:
            try:
                return state.describe(self._aws.client("sagemaker"), handle.kind, handle.job) is not None
            except AwsError as error:
                if not is_transient(error):
                    raise _not_known(handle, error) from error
                console.print(f"{error}; looking for job {handle.job} again in {wait_s:.0f} s", soft_wrap=True)
            pause(wait_s)
            wait_s = min(2 * wait_s, LONGEST_BACK_OFF_S)

    def _is_there(self, handle: Handle) -> bool:
        """Tell whether a job was made although its making was interrupted."""
        try:
            return state.describe(self._aws.client("sagemaker"), handle.kind, handle.job) is not None
        except AwsError as error:
            raise _not_known(handle, error) from error

    def machine(self, stage: str) -> str:
        if self._is_local(stage):
            return self._local.machine(stage)
        resources = self._settings.resources(PURPOSES[stage])
        return f"{resources.instance_count} x {resources.instance_type}"

    def busy(self, folder: Path) -> str | None:
        handle = read_handle(folder)
        if handle is None or not self._is_mine(handle):
            return None
        try:
            found = state.describe(self._aws.client("sagemaker"), handle.kind, handle.job)
        except AwsError as error:
            return f"job {handle.job}, as far as is known ({error})"
        if found is None or found.ended:
            return None
        return f"job {handle.job} ({handle.stop_command} stops it)"

    def _is_mine(self, handle: Handle) -> bool:
        return (handle.region, handle.account) == (self._aws.region, self._aws.account)

    def _under_way(self, stages: Sequence[Stage], console: Console) -> RemoteJob | None:
        """Return the job that computes the first of the stages already, and maybe some after it."""
        handle = read_handle(stages[0].folder.path)
        if handle is None:
            return None
        try:
            found = self._found(handle, stages[0], console)
        except AwsError as error:
            raise LostTouch(
                f"whether job {handle.job} goes on is not known: {error}\n"
                f"  (without {stages[0].folder.path / HANDLE} another one is started)"
            ) from error
        if found is None or found.status in ("Failed", "Stopped"):
            return None
        console.print(f"job {handle.job} is at it already: {found.status}", soft_wrap=True)
        covered = [stage for stage in stages if handle.stages.get(stage.plan.stage) == stage.plan.id]
        return RemoteJob(self._aws, self._watch, handle, covered)

    def _found(self, handle: Handle, stage: Stage, console: Console) -> State | None:
        """Return how far the job that a stage was left to is, once it is not stopping any more; None: unknown."""
        if not self._is_mine(handle):
            raise ConfigError(
                f"job {handle.job} in {handle.region} of account {handle.account} was left to compute this; say "
                f"backend.region={handle.region} to follow it, or stop it and delete {stage.folder.path / HANDLE}"
            )
        client = self._aws.client("sagemaker")
        found = state.describe(client, handle.kind, handle.job)
        while found is not None and found.status == state.STOPPING:
            console.print(f"waiting until job {handle.job} has stopped", soft_wrap=True)
            pause(STOPPING_POLL_S)
            found = state.describe(client, handle.kind, handle.job)
        return found

    def _order(self, stages: Sequence[Stage], name: str, site: Site) -> Order:
        return make_order(stages, name, site, self._settings, self._cache, data=self._data, others=self._others)

    def _others(self, place: Location, names: Sequence[str]) -> bool:
        """Tell whether something else than the named files lies below a place."""
        return bool(set(list_keys(self._aws.client("s3"), place)) - set(names))

    def _maybe_others(self, place: Location, names: Sequence[str]) -> bool:
        try:
            return self._is_resolved and self._others(place, names)
        except AwsError:  # a bucket that is not there yet, for one
            return False

    # What a plan shows

    def describe(self, jobs: Sequence[Sequence[Stage]]) -> list[Described]:
        remote = [group for group in jobs if not self._is_local(group[0].plan.stage)]
        described = []
        for group in remote:
            order = make_order(
                *(group, job_name(group, "TIME"), self._known_site, self._settings, self._cache),
                data=self._data,
                others=self._maybe_others,
            )
            rows = [("upload", "bytes", "to"), *map(self._described, order.sendings)]
            described.append(
                Described(
                    f"Create{state.WORDS[order.kind]}{_of_member(group[0])}",
                    rows,
                    requests.shown(json.dumps(order.request, indent=1, ensure_ascii=False)),
                )
            )
        counts = Counter(PURPOSES[group[0].plan.stage] for group in remote)
        return [*described, _described_cost(self._estimate(counts))]

    def _described(self, sending: Sending) -> tuple[str, ...]:
        there, total = requests.shown(sending.target.uri), megabytes(sending.bytes)
        if not self._is_resolved:
            return sending.what, f"at most {total}", there
        try:
            return sending.what, f"{megabytes(self._transfer.plan(sending).bytes_to_send)} of {total}", there
        except AwsError as error:  # a bucket that is not there yet, for one
            return sending.what, f"at most {total} ({error})", there


def _not_computed(stage_id: str, error: AwsError) -> AwsError:
    text = (
        f"whether {stage_id} is finished in S3 is not known, so it is not computed: {error}\n"
        "  Run the same command again when S3 answers"
    )
    return AwsError(text, error.code, transient=error.transient)


def _not_known(handle: Handle, error: AwsError) -> LostTouch:
    return LostTouch(f"whether job {handle.job} was started is not known: {error}")


def _of_member(stage: Stage) -> str:
    return f" of {stage.name}" if stage.is_member else ""


def _described_cost(estimate: Estimate) -> Described:
    return Described("cost", [COLUMNS, *(job.row() for job in estimate.jobs)], estimate.summary(), estimate.usd)
