"""Uploads that send only what is not in S3 yet, checked by S3, and gone on with after an interruption.

A file is sent if there is no object of its size and SHA-256 (and, where a key is asked for, under that key). Small
files are one request. Large ones go in parts; parts that an interrupted upload has left are not sent again.

IAM actions: s3:ListBucket and s3:GetObject to compare, s3:PutObject to send (parts included); to go on with an upload
s3:ListBucketMultipartUploads and s3:ListMultipartUploadParts, s3:AbortMultipartUpload to drop one of other content.
With a KMS key kms:GenerateDataKey and, for uploads in parts and for checksums, kms:Decrypt (AWS: "Multipart upload API
and permissions"). Nothing here deletes an object.

Parts that nobody goes on with are kept and billed until a lifecycle rule of the bucket (AbortIncompleteMultipartUpload)
removes them.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote_plus

from launchers.remote.aws import AwsError, code_of, explained
from launchers.remote.parallel import THREADS, Abandoned, Meter, in_parallel
from launchers.remote.placing import refuse_bad_names
from launchers.remote.s3 import (
    SHA256_METADATA,
    Location,
    ObjectHead,
    base64_of,
    encryption_of,
    head,
    list_keys,
)
from videolift.errors import DataError, StorageError
from videolift.manifest import sha256_file

IN_PARTS_FROM = 32 << 20  # bytes; THREADS files of this size are held in memory
PART_BYTES = 16 << 20
FINGERPRINT_DIGITS = 5  # hex: up to 1 MiB
MAX_PARTS = 10_000  # AWS: "Amazon S3 multipart upload limits"
MAX_KEY_BYTES = 1024  # AWS: "Naming Amazon S3 objects"


@dataclass(frozen=True)
class ToSend:
    """One file that S3 does not have."""

    name: str  # relative to the plan's target
    source: Path | bytes
    size: int
    sha256: str


@dataclass(frozen=True)
class UploadPlan:
    """What an upload would send."""

    target: Location
    to_send: tuple[ToSend, ...]
    files_kept: int  # that S3 has already
    bytes_kept: int
    kms_key: str | None = None
    last: str | None = None  # sent when all others have arrived

    @property
    def bytes_to_send(self) -> int:
        return sum(item.size for item in self.to_send)


def plan_upload(
    client: Any,
    files: Mapping[str, Path | bytes],
    target: Location,
    *,
    kms_key: str | None = None,
    checksum: Callable[[Path], str] = sha256_file,
    last: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> UploadPlan:
    """Find out which files have to be sent: one listing, and a HeadObject for each file whose size is the object's.

    Args:
        files: by posix path below ``target``.
        checksum: SHA-256 of a file; called from this thread only, so that a caller may remember.
        last: the file whose presence says that all others are there.
        progress: called with (files compared, files in all).

    Raises:
        DataError: a name that cannot be a key.
        StorageError: a file cannot be read.
        AwsError: S3 refuses, or is not reached.
    """
    refuse_bad_names(files, "the upload")
    for name in files:
        if len((target / name).key.encode()) > MAX_KEY_BYTES:
            raise DataError(f"{name}: S3 takes keys of at most {MAX_KEY_BYTES} bytes; shorten the names of its folders")
    there = list_keys(client, target)
    items = (_described(name, source, checksum) for name, source in files.items())

    def is_there(item: ToSend) -> tuple[ToSend, bool]:
        if item.name not in there or there[item.name].size != item.size:
            return item, False
        return item, _is_same(item, head(client, target / item.name), kms_key)

    same: dict[str, bool] = {}
    described: dict[str, ToSend] = {}
    for item, found in in_parallel(is_there, items, threads=2 * THREADS):
        described[item.name], same[item.name] = item, found
        if progress is not None:
            progress(len(same), len(files))
    return UploadPlan(
        target=target,
        to_send=tuple(described[name] for name in files if not same[name]),
        files_kept=sum(same.values()),
        bytes_kept=sum(described[name].size for name in files if same[name]),
        kms_key=kms_key,
        last=last,
    )


def upload(client: Any, plan: UploadPlan, progress: Callable[[int, int], None] | None = None) -> None:
    """Send what a plan says. What has arrived stays if it fails, so that the next plan is shorter.

    Args:
        progress: called with (bytes arrived, bytes to send), maybe from another thread.

    Raises:
        DataError: a file is no longer what was planned.
        StorageError: a file cannot be read.
        AwsError: S3 refuses, or is not reached.
    """
    meter = Meter(plan.bytes_to_send, progress)
    for group in (
        [item for item in plan.to_send if item.name != plan.last],
        [item for item in plan.to_send if item.name == plan.last],
    ):
        _send_small(client, plan, [item for item in group if item.size < IN_PARTS_FROM], meter)
        for item in group:
            if item.size >= IN_PARTS_FROM:
                _InParts(client, plan, item, meter).send()


def _described(name: str, source: Path | bytes, checksum: Callable[[Path], str]) -> ToSend:
    if isinstance(source, bytes):
        return ToSend(name, source, len(source), hashlib.sha256(source).hexdigest())
    try:
        status = source.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            raise StorageError(f"{source}: is not a regular file; leave it out")
        return ToSend(name, source, status.st_size, checksum(source))
    except OSError as error:
        raise _unreadable(source, error) from error


def _is_same(item: ToSend, found: ObjectHead | None, kms_key: str | None) -> bool:
    return (
        found is not None
        and found.size == item.size
        and found.sha256 == item.sha256
        and (kms_key is None or _is_under(found, kms_key))
    )


def _is_under(found: ObjectHead, kms_key: str) -> bool:
    """Tell whether an object is encrypted with a key; which key an alias names is the service's to know."""
    if not (found.encryption or "").startswith("aws:kms"):
        return False
    used = found.kms_key or ""
    return "alias/" in kms_key or used == kms_key or used.rpartition("/")[2] == kms_key.rpartition("/")[2]


class _Body(io.BytesIO):
    """Bytes on their way, which stop when asked to."""

    def __init__(self, content: bytes, stop: threading.Event) -> None:
        super().__init__(content)
        self._stop = stop

    def read(self, size: int | None = -1, /) -> bytes:
        if self._stop.is_set():
            raise Abandoned
        return super().read(size)


def _send_small(client: Any, plan: UploadPlan, items: list[ToSend], meter: Meter) -> None:
    stop = threading.Event()

    def send(item: ToSend) -> int:
        where = plan.target / item.name
        # A byte more than planned is enough to see that the file has grown.
        content = next(_pieces(item.source, item.size + 1), b"")
        if hashlib.sha256(content).hexdigest() != item.sha256:
            raise _changed(item)
        with explained("s3:PutObject", where.uri):
            client.put_object(
                Bucket=where.bucket,
                Key=where.key,
                Body=_Body(content, stop),
                ChecksumAlgorithm="SHA256",
                ChecksumSHA256=base64_of(item.sha256),
                Metadata={SHA256_METADATA: item.sha256},
                **encryption_of(plan.kms_key),
            )
        return item.size

    for size in in_parallel(send, items, stop):
        meter.add(size)


@dataclass(frozen=True)
class _Part:
    """A part that S3 has."""

    size: int
    etag: str
    sha256: str | None  # base64; S3 has it of every part of an upload that was begun with this algorithm

    def holds(self, content: bytes, sha256: str) -> bool:
        if self.size != len(content):
            return False
        if self.sha256 is not None:
            return self.sha256 == sha256
        # Other makes of S3 list no checksums, but the same ETag: that of an unencrypted part is its MD5.
        return self.etag == hashlib.md5(content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class _Read:
    """A part of the file."""

    number: int  # from 1
    content: bytes
    sha256: str  # base64


class _InParts:
    """A large file on its way to S3.

    The file is read once, in order, so that its SHA-256 is known before the parts are put together: what changed on
    the way never becomes an object. Parts are sent several at a time.
    """

    def __init__(self, client: Any, plan: UploadPlan, item: ToSend, meter: Meter) -> None:
        self._client = client
        self._item = item
        self._meter = meter
        self._encryption = encryption_of(plan.kms_key)
        self._where = plan.target / item.name
        self._key = {"Bucket": self._where.bucket, "Key": self._where.key}
        self._stop = threading.Event()
        self._part_bytes = part_bytes(item.size, item.sha256, plan.kms_key)

    def send(self) -> None:
        self._upload_id, self._there = self._found() or (self._created(), {})
        computed = hashlib.sha256()
        done: list[dict[str, Any]] = []
        for part, size in in_parallel(self._send_part, self._parts(computed), self._stop):
            done.append(part)
            self._meter.add(size)
        if computed.hexdigest() != self._item.sha256:
            self._abort(self._upload_id)
            raise _changed(self._item)
        self._complete(sorted(done, key=lambda part: part["PartNumber"]))

    def _parts(self, computed: Any) -> Iterator[_Read]:
        last = -(-self._item.size // self._part_bytes)
        for number, content in enumerate(_pieces(self._item.source, self._part_bytes), start=1):
            computed.update(content)
            if number > last:
                return  # the file has grown, which its checksum tells
            yield _Read(number, content, base64_of(hashlib.sha256(content).hexdigest()))

    def _send_part(self, part: _Read) -> tuple[dict[str, Any], int]:
        there = self._there.get(part.number)
        if there is not None and there.holds(part.content, part.sha256):
            etag = there.etag
        else:
            with explained("s3:PutObject", self._where.uri):
                response = self._client.upload_part(
                    **self._key,
                    UploadId=self._upload_id,
                    PartNumber=part.number,
                    Body=_Body(part.content, self._stop),
                    ChecksumAlgorithm="SHA256",
                    ChecksumSHA256=part.sha256,
                )
            etag = response["ETag"]
        return {"PartNumber": part.number, "ETag": etag, "ChecksumSHA256": part.sha256}, len(part.content)

    def _found(self) -> tuple[str, dict[int, _Part]] | None:
        """Return the upload of this very file that was interrupted last; those of other content are dropped.

        What an upload was begun with is not told by S3, but the sizes of its parts are: see :func:`part_bytes`.
        """
        found = None
        for upload_id in self._begun():
            parts = self._parts_of(upload_id)
            if parts and all(part.size == self._size_of(number) for number, part in parts.items()):
                found = (upload_id, parts)
            elif parts:  # one without parts may be another process's, begun just now; it costs nothing
                self._abort(upload_id)
        return found

    def _begun(self) -> list[str]:
        with explained("s3:ListBucketMultipartUploads", self._where.uri):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._where.bucket, Prefix=self._where.key, EncodingType="url"
            )
            found = [
                (upload["Initiated"], upload["UploadId"])
                for page in pages
                for upload in page.get("Uploads", ())
                if _decoded(upload["Key"], page) == self._where.key
            ]
        return [upload_id for _, upload_id in sorted(found)]

    def _parts_of(self, upload_id: str) -> dict[int, _Part]:
        with explained("s3:ListMultipartUploadParts", self._where.uri):
            pages = self._client.get_paginator("list_parts").paginate(**self._key, UploadId=upload_id)
            return {
                part["PartNumber"]: _Part(part["Size"], part["ETag"].strip('"'), part.get("ChecksumSHA256"))
                for page in pages
                for part in page.get("Parts", ())
            }

    def _size_of(self, number: int) -> int:
        return max(0, min(self._part_bytes, self._item.size - (number - 1) * self._part_bytes))

    def _created(self) -> str:
        with explained("s3:PutObject", self._where.uri):
            response = self._client.create_multipart_upload(
                **self._key,
                ChecksumAlgorithm="SHA256",
                Metadata={SHA256_METADATA: self._item.sha256},
                **self._encryption,
            )
        return str(response["UploadId"])

    def _complete(self, parts: list[dict[str, Any]]) -> None:
        from botocore.exceptions import ClientError

        with explained("s3:PutObject", self._where.uri):
            try:
                self._client.complete_multipart_upload(
                    **self._key, UploadId=self._upload_id, MultipartUpload={"Parts": parts}
                )
            except ClientError as error:
                # A request that is repeated because its answer got lost finds the upload completed.
                if code_of(error) != "NoSuchUpload":
                    raise
        found = head(self._client, self._where)
        if found is None or found.size != self._item.size or found.sha256 != self._item.sha256:
            raise AwsError(f"{self._where}: is not what was sent; something else writes there. Run it again")

    def _abort(self, upload_id: str) -> None:
        with explained("s3:AbortMultipartUpload", self._where.uri):
            self._client.abort_multipart_upload(**self._key, UploadId=upload_id)


def part_bytes(size: int, sha256: str, kms_key: str | None) -> int:
    """Return the size of a file's parts, which also tells uploads to one key apart.

    An upload is begun with the file's SHA-256 and key, and S3 tells neither afterwards. To go on with that of another
    file would note the wrong SHA-256 beside the object. So up to 1 MiB that depends on both is added to each part.
    """
    fingerprint = hashlib.sha256(f"{sha256} {kms_key}".encode()).hexdigest()[:FINGERPRINT_DIGITS]
    return max(PART_BYTES, -(-size // MAX_PARTS)) + int(fingerprint, 16)


def _decoded(key: str, page: Mapping[str, Any]) -> str:
    return unquote_plus(key) if page.get("EncodingType") == "url" else key


def _pieces(source: Path | bytes, size: int) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield from _read_pieces(io.BytesIO(source), size)
        return
    try:
        with source.open("rb") as file:
            yield from _read_pieces(file, size)
    except OSError as error:
        raise _unreadable(source, error) from error


def _read_pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    while content := file.read(size):
        yield content


def _unreadable(path: Path, error: OSError) -> StorageError:
    reason = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
    return StorageError(f"{path}: cannot be read ({reason}); give this user permission to read it, or leave it out")


def _changed(item: ToSend) -> DataError:
    name = item.name if isinstance(item.source, bytes) else item.source
    return DataError(f"{name}: was changed while it was uploaded; leave it alone for a while and run it again")
