"""Which objects of S3 each host of a job is given, and where they lie on it.

Sources: AWS, API reference, "S3DataSource" and "ProcessingS3Input" (S3Prefix, ManifestFile, FullyReplicated,
ShardedByS3Key); "How Amazon SageMaker AI Provides Training Information".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launchers.emulator.answers import ServiceError
from launchers.emulator.store import MissingObjects, Store, safe_name, split

DATA_TYPES = ("S3Prefix", "ManifestFile")
DISTRIBUTIONS = ("FullyReplicated", "ShardedByS3Key")


@dataclass(frozen=True)
class Channel:
    """One input of a job."""

    name: str
    address: str
    is_manifest: bool
    is_sharded: bool
    local: str  # folder in the container

    def objects(self, store: Store) -> list[tuple[str, str, str]]:
        """Return (bucket, key, path below the folder) of every object, in the order of their keys.

        Raises:
            MissingObjects: if there is none.
        """
        if self.is_manifest:
            return self._in_manifest(store)
        bucket, prefix = split(self.address)
        found = [(bucket, key, safe_name(_below(prefix, key))) for key in store.keys(self.address)]
        if not found:
            raise MissingObjects(f'No S3 objects found under S3 URL "{self.address}" given in input data source')
        return found

    def _in_manifest(self, store: Store) -> list[tuple[str, str, str]]:
        """Return what a list like ``[{"prefix": "s3://bucket/folder/"}, "name", ...]`` names."""
        try:
            head, *names = json.loads(store.read(self.address))
            prefix = str(head["prefix"])
        except (ValueError, TypeError, KeyError) as error:
            raise MissingObjects(
                f'Manifest "{self.address}": is no JSON list that begins with {{"prefix": "s3://..."}} ({error})'
            ) from error
        bucket, folder = split(prefix)
        if not names:
            raise MissingObjects(f'Manifest "{self.address}": names no objects')
        return sorted((bucket, folder + name, safe_name(name)) for name in names)

    def share(self, store: Store, host_index: int, host_count: int) -> list[tuple[str, str, str]]:
        """Return what one host is given: everything, or every n-th object."""
        everything = self.objects(store)
        return everything[host_index::host_count] if self.is_sharded else everything


def _below(prefix: str, key: str) -> str:
    """Return where a key's object lies in the folder: what follows the prefix's last slash or the prefix itself."""
    if key == prefix:
        return key.rpartition("/")[2]
    if prefix.endswith("/") or key[len(prefix)] == "/":
        return key[len(prefix) :].lstrip("/")
    return key[prefix.rfind("/") + 1 :]


def training_channels(request: Mapping[str, Any]) -> list[Channel]:
    found = []
    for entry in request.get("InputDataConfig") or []:
        source = (entry.get("DataSource") or {}).get("S3DataSource") or {}
        mode = entry.get("InputMode") or request["AlgorithmSpecification"].get("TrainingInputMode") or "File"
        name = entry["ChannelName"]
        found.append(_channel(name, source, mode, source.get("S3DataDistributionType"), f"/opt/ml/input/data/{name}"))
    return found


def processing_channels(request: Mapping[str, Any]) -> list[Channel]:
    found = []
    for entry in request.get("ProcessingInputs") or []:
        source = entry.get("S3Input") or {}
        name = entry["InputName"]
        local = str(source.get("LocalPath") or "")
        if not local.startswith("/opt/ml/processing/"):
            raise ServiceError(
                "ValidationException",
                f"LocalPath of input {name} must be a folder below /opt/ml/processing, got {local!r}",
            )
        mode = source.get("S3InputMode") or "File"
        found.append(_channel(name, source, mode, source.get("S3DataDistributionType"), local))
    return found


def _channel(name: str, source: Mapping[str, Any], mode: str, distribution: str | None, local: str) -> Channel:
    kind = source.get("S3DataType") or "S3Prefix"
    given = [
        ("data source", "S3Uri" in source, "one in S3"),
        ("S3DataType", kind in DATA_TYPES, " or ".join(DATA_TYPES)),
    ]
    given += [
        ("input mode", mode == "File", "File"),
        ("S3DataDistributionType", distribution in (None, *DISTRIBUTIONS), ""),
    ]
    for what, fine, known in given:
        if not fine:
            raise ServiceError(
                "ValidationException", f"channel {name}: the emulator knows no other {what} than {known}"
            )
    return Channel(name, source["S3Uri"], kind == "ManifestFile", distribution == "ShardedByS3Key", local)


def download(channels: list[Channel], store: Store, folder: Path, host_index: int, host_count: int) -> None:
    """Bring one host its share of every channel.

    Args:
        folder: of this machine, that the host sees as /opt/ml.
    """
    for channel in channels:
        target = folder / Path(channel.local).relative_to("/opt/ml")
        target.mkdir(parents=True, exist_ok=True)
        for bucket, key, name in channel.share(store, host_index, host_count):
            store.download(bucket, key, target / name)
