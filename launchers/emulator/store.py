"""S3 as the service reaches it for a job: over HTTP, with an access key that tells this traffic from a person's."""

from __future__ import annotations

import re
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

ROLE_KEY = "ASIAEMULATEDJOBROLE0"
ADDRESS = re.compile(r"s3://([^/]+)/?(.*)", re.DOTALL)


def role_config(endpoint: str, region: str) -> str:
    """Return the AWS configuration by which a job acts as its role; the service gives it at an address of its own."""
    return (
        f"[default]\nregion = {region}\nendpoint_url = {endpoint}\n"
        f"aws_access_key_id = {ROLE_KEY}\naws_secret_access_key = of-the-emulator\n"
    )


class MissingObjects(Exception):
    """There is nothing at an address of S3."""


class UploadFailed(Exception):
    """Something could not be stored in S3."""


class Store:
    """One region's S3."""

    def __init__(self, endpoint: str, region: str) -> None:
        import boto3
        from botocore.config import Config

        session = boto3.Session(
            aws_access_key_id=ROLE_KEY,
            aws_secret_access_key="of-the-emulator",
            region_name=region,
        )
        self.client: Any = session.client(
            "s3",
            endpoint_url=endpoint,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 2}),
        )

    def keys(self, address: str) -> list[str]:
        """Return the keys that begin with an address's, sorted; markers of folders are left out.

        Raises:
            MissingObjects: if there is no bucket, or nothing in it at that address.
        """
        from botocore.exceptions import ClientError

        bucket, prefix = split(address)
        found: list[str] = []
        try:
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                found += [entry["Key"] for entry in page.get("Contents", [])]
        except ClientError as error:
            raise MissingObjects(f"{address}: {error}") from error
        return sorted(key for key in found if not key.endswith("/"))

    def read(self, address: str) -> bytes:
        from botocore.exceptions import ClientError

        bucket, key = split(address)
        try:
            content: bytes = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except ClientError as error:
            raise MissingObjects(f"{address}: {error}") from error
        return content

    def download(self, bucket: str, key: str, file: Path) -> None:
        from botocore.exceptions import ClientError

        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.client.download_file(bucket, key, str(file))
        except ClientError as error:
            raise MissingObjects(f"s3://{bucket}/{key}: {error}") from error

    def upload(self, file: Path, address: str, kms_key: str | None = None) -> None:
        """Store a file.

        Raises:
            FileNotFoundError: if it is not there (any more).
            UploadFailed: if S3 does not take it.
        """
        from boto3.exceptions import S3UploadFailedError

        bucket, key = split(address)
        extra = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}
        try:
            self.client.upload_file(str(file), bucket, key, ExtraArgs=extra)
        except S3UploadFailedError as error:
            raise UploadFailed(f"{address}: {error}") from error

    def upload_folder(self, folder: Path, address: str, kms_key: str | None = None) -> None:
        for file in files_below(folder):
            self.upload(file, join(address, file.relative_to(folder).as_posix()), kms_key)

    def upload_archive(self, folders: Iterable[Path], address: str, kms_key: str | None = None) -> None:
        """Upload what several folders hold as one .tar.gz; of files with the same name the last wins."""
        members: dict[str, Path] = {}
        for folder in folders:
            if folder.is_dir():
                members |= {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
        with tempfile.TemporaryDirectory() as scratch:
            archive = Path(scratch, "archive.tar.gz")
            with tarfile.open(archive, "w:gz") as tar:
                for name, path in sorted(members.items()):
                    tar.add(path, name, recursive=False)
            self.upload(archive, address, kms_key)


def split(address: str) -> tuple[str, str]:
    """Return bucket and key of an address like s3://bucket/key."""
    found = ADDRESS.fullmatch(address)
    if not found:
        raise MissingObjects(f"{address}: is no address of S3 like s3://bucket/prefix")
    return found[1], found[2]


def join(address: str, name: str) -> str:
    return f"{address.rstrip('/')}/{name}"


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []


def safe_name(name: str) -> str:
    """Return a key's part as a path that stays below its folder.

    Raises:
        MissingObjects: if it would not.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise MissingObjects(f"{name}: a key that is no path below a folder cannot be downloaded to one")
    return str(path)


def changed(folder: Path, known: Mapping[Path, tuple[int, int]]) -> dict[Path, tuple[int, int]]:
    """Return the files below a folder that are new or other than they were, each with its (time, size)."""
    found = {}
    for file in files_below(folder):
        try:
            status = file.stat()
        except FileNotFoundError:  # a job renames its temporary files
            continue
        state = (status.st_mtime_ns, status.st_size)
        if known.get(file) != state:
            found[file] = state
    return found
