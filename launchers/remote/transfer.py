"""What goes to S3 for an experiment and what comes back, told as it goes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launchers.byte_progress import shown_bytes
from launchers.checksums import open_checksums
from launchers.remote.aws import Aws
from launchers.remote.download import download_prefix
from launchers.remote.pending import Sending
from launchers.remote.s3 import Location
from launchers.remote.upload import UploadPlan, plan_upload, upload
from launchers.signals import pause

if TYPE_CHECKING:
    from rich.console import Console

TURN_S = 0.2  # between two looks whether another thread is done with a place


class Transfer:
    """Sends and fetches, for several threads at once."""

    def __init__(self, aws: Aws, checksums: Path) -> None:
        self._aws = aws
        self._checksums = checksums
        self._lock = threading.Lock()
        self._senders: dict[Location, threading.Thread] = {}

    @property
    def _client(self) -> Any:
        return self._aws.client("s3")

    def plan(self, sending: Sending) -> UploadPlan:
        """Return what of the files S3 does not have."""
        with open_checksums(self._checksums) as checksums:
            return plan_upload(
                self._client,
                sending.files,
                sending.target,
                kms_key=self._aws.settings.kms_key,
                checksum=checksums.of,
                last=sending.last,
            )

    def send(self, sending: Sending, console: Console) -> None:
        """Send what S3 does not have; what another thread sends to the same place now is waited for."""
        with self._alone(sending, console):
            plan = self.plan(sending)
            if plan.to_send:
                what = f"uploading {sending.what}: {len(plan.to_send)} of {len(sending.files)} files"
                with shown_bytes(console, what) as progress:
                    upload(self._client, plan, progress)

    @contextmanager
    def _alone(self, sending: Sending, console: Console) -> Iterator[None]:
        """Keep two threads from sending to one place."""
        place, told = sending.target, False
        try:
            while not self._is_mine(place):
                if not told:
                    console.print(f"waiting until another run has uploaded {sending.what}", soft_wrap=True)
                    told = True
                pause(TURN_S)
            yield
        finally:
            with self._lock:
                if self._senders.get(place) is threading.current_thread():
                    del self._senders[place]

    def _is_mine(self, place: Location) -> bool:
        me = threading.current_thread()
        with self._lock:
            # One that was interrupted at the wrong moment may not have said that it is done.
            if not self._senders.get(place, me).is_alive():
                del self._senders[place]
            return self._senders.setdefault(place, me) is me

    def fetch(self, location: Location, folder: Path, console: Console, what: str) -> None:
        """Fetch what is below a location and not here."""
        with shown_bytes(console, f"fetching {what}") as progress:
            download_prefix(self._client, location, folder, progress=progress)
