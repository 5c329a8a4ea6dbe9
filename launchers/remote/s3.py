"""Places in S3, what lies there, and single objects.

IAM actions, by function (AWS: "Required permissions for Amazon S3 API operations"; for the keys, "HeadObject" and
"Protecting data using SSE-KMS" in its S3 guides):

list_keys              s3:ListBucket
exists, head           s3:GetObject, and s3:ListBucket, without which S3 calls a missing object forbidden
read_bytes, Stream     the same
write_bytes            s3:PutObject

With objects under a KMS key also kms:Decrypt to read or to ask for a checksum, and kms:GenerateDataKey to write.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from launchers.remote.aws import AwsError, ConnectionLost, code_of, explained
from launchers.signals import pause
from videolift.errors import ConfigError, DataError

SCHEME = "s3://"
CHUNK_BYTES = 1 << 20
RESUMPTIONS = 5  # of a broken download, one after the other without a byte between them
SHA256_METADATA = "sha256"  # x-amz-meta-sha256: S3 itself keeps no SHA-256 of a whole object that came in parts
MISSING = "NoSuchKey"
_NO_SUCH_HEAD = {"404", "NotFound", MISSING}  # an answer to HEAD has no body, and so no code
UNLISTED = "without s3:ListBucket of the bucket, S3 answers the same for an object that is not there"


@dataclass(frozen=True)
class Location:
    """A bucket and a key, or the beginning of keys. Keys are kept as they are: ``%41`` is three characters."""

    bucket: str
    key: str = ""

    @classmethod
    def parse(cls, uri: str) -> Location:
        """Read ``s3://BUCKET/KEY``.

        Raises:
            ConfigError: it is none.
        """
        bucket, _, key = uri.removeprefix(SCHEME).partition("/")
        if not uri.startswith(SCHEME) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]", bucket):
            raise ConfigError(f"{uri!r} is no place in S3; say s3://BUCKET/PREFIX")
        return cls(bucket, key)

    @property
    def uri(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"

    @property
    def prefix(self) -> str:
        """Return what all keys below begin with: the key and a slash, or nothing for the whole bucket."""
        return self.key if not self.key or self.key.endswith("/") else f"{self.key}/"

    def __truediv__(self, name: str) -> Location:
        return Location(self.bucket, self.prefix + name)

    def __str__(self) -> str:
        return self.uri


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing tells of an object."""

    size: int  # bytes
    etag: str  # without quotes
    algorithms: tuple[str, ...] = ()  # of the checksums that S3 has of it: SHA256, CRC32, ...


@dataclass(frozen=True)
class ObjectHead:
    """What S3 tells of one object."""

    size: int
    etag: str
    sha256: str | None  # of the whole object, hex, where it is known
    encryption: str | None  # AES256, aws:kms, ...
    kms_key: str | None  # ARN


def is_s3(place: str | None) -> bool:
    """Tell whether a setting names a place in S3."""
    return place is not None and place.startswith(SCHEME)


def list_keys(
    client: Any, location: Location, *, limit: int | None = None, progress: Callable[[int], None] | None = None
) -> dict[str, ObjectInfo]:
    """Return what lies below a location, by name relative to it; the empty objects that stand for folders are left out.

    Args:
        progress: called with the number of objects seen, after each page of 1,000.

    Raises:
        DataError: there are more than ``limit``.
    """
    found: dict[str, ObjectInfo] = {}
    prefix = location.prefix
    with explained("s3:ListBucket", location.uri):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=location.bucket, Prefix=prefix):
            for item in page.get("Contents", ()):
                name, size = item["Key"][len(prefix) :], item["Size"]
                if name and not (name.endswith("/") and size == 0):
                    algorithms = tuple(item.get("ChecksumAlgorithm", ()))
                    found[name] = ObjectInfo(size, item["ETag"].strip('"'), algorithms)
            if limit is not None and len(found) > limit:
                raise DataError(f"{location}: more than {limit} objects lie there; name a place that holds fewer")
            if progress is not None:
                progress(len(found))
    return found


def head(client: Any, location: Location) -> ObjectHead | None:
    """Return what is known of an object, None where there is none.

    Raises:
        AwsError: if S3 does not say which.
    """
    from botocore.exceptions import ClientError

    with explained("s3:GetObject", location.uri, UNLISTED):
        try:
            response = client.head_object(Bucket=location.bucket, Key=location.key, ChecksumMode="ENABLED")
        except ClientError as error:
            if code_of(error) in _NO_SUCH_HEAD:
                return None
            raise
    return ObjectHead(
        size=response["ContentLength"],
        etag=response["ETag"].strip('"'),
        sha256=sha256_of(response),
        encryption=response.get("ServerSideEncryption"),
        kms_key=response.get("SSEKMSKeyId"),
    )


def exists(client: Any, location: Location) -> bool:
    return head(client, location) is not None


def sha256_of(response: Any) -> str | None:
    """Return the SHA-256 of a whole object, in hex, from the answer to HeadObject or GetObject.

    S3 has computed the one in ChecksumSHA256, if it is not that of a list of parts (AWS: "Checking object integrity for
    data uploads": SHA-256 of a multipart upload is always composite). Such a one ends in the number of parts, ``-3``,
    as the ETag does, though not in all makes of S3. The other is what ``launchers/remote/upload.py`` noted beside it.
    """
    own = response.get("ChecksumSHA256", "")
    if own and "-" not in own + response["ETag"] and response.get("ChecksumType") != "COMPOSITE":
        return base64.b64decode(own).hex()
    noted = response.get("Metadata", {}).get(SHA256_METADATA, "")
    return noted if re.fullmatch(r"[0-9a-f]{64}", noted) else None


def base64_of(sha256: str) -> str:
    """Return a SHA-256 as S3 wants it."""
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def encryption_of(kms_key: str | None) -> dict[str, str]:
    """Return the arguments that PutObject and CreateMultipartUpload take for a key; without one the bucket decides."""
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}


def read_bytes(client: Any, location: Location) -> bytes:
    """Return a small object.

    Raises:
        AwsError: there is none (code ``MISSING``), or it cannot be read.
    """
    return b"".join(Stream(client, location))


class Stream:
    """The bytes of one object, in chunks; a connection that breaks on the way is opened again where it broke.

    botocore repeats a request, but not the reading of its answer. ``size`` and ``sha256`` are known from the first
    chunk on.

    Raises:
        AwsError: the object is not there, was changed meanwhile, or does not arrive as S3 has it.
        ConnectionLost: the connection broke again and again.
    """

    def __init__(self, client: Any, location: Location) -> None:
        self.size = 0
        self.sha256: str | None = None
        self._client = client
        self._location = location
        self._etag = ""
        self._at = 0
        self._broken = 0  # times since the last byte

    def __iter__(self) -> Iterator[bytes]:
        from botocore.exceptions import FlexibleChecksumError, HTTPClientError, IncompleteReadError

        computed = hashlib.sha256()
        while not self._etag or self._at < self.size:
            body = self._open()
            try:
                while chunk := body.read(CHUNK_BYTES):
                    self._at += len(chunk)
                    self._broken = 0
                    computed.update(chunk)
                    yield chunk
            except (HTTPClientError, IncompleteReadError) as error:
                self._rest(error)
            except FlexibleChecksumError as error:  # botocore's own check, of whichever checksum S3 has
                raise self._damaged() from error
            finally:
                body.close()
        if self.sha256 is not None and computed.hexdigest() != self.sha256:
            raise self._damaged()

    def _damaged(self) -> AwsError:
        return AwsError(f"{self._location}: arrived damaged (its checksum is not the one in S3); run it again")

    def _open(self) -> Any:
        """Ask for all of the object, or for what has not come yet, of the same version."""
        from botocore.exceptions import ClientError

        rest = {"Range": f"bytes={self._at}-", "IfMatch": f'"{self._etag}"'} if self._etag else {}
        with explained("s3:GetObject", self._location.uri, UNLISTED):
            try:
                response = self._client.get_object(Bucket=self._location.bucket, Key=self._location.key, **rest)
            except ClientError as error:
                if code_of(error) == "PreconditionFailed":
                    raise AwsError(f"{self._location}: was changed while it was downloaded; run it again") from error
                raise
        if not self._etag:
            self._etag = response["ETag"].strip('"')
            self.size = response["ContentLength"]
            self.sha256 = sha256_of(response)
        return response["Body"]

    def _rest(self, error: Exception) -> None:
        if self._broken == RESUMPTIONS:
            raise ConnectionLost(
                f"{self._location}: s3:GetObject: the connection broke {RESUMPTIONS + 1} times at byte {self._at} of "
                f"{self.size} ({error}); check the network and run it again"
            ) from error
        pause(min(2**self._broken / 4, 5))
        self._broken += 1
