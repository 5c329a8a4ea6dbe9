"""Unpacks model.tar.gz and output.tar.gz of a job as if a stranger had packed them.

A job's archive holds what user code wrote into ``/opt/ml/model`` and ``/opt/ml/output``. Only folders and plain files
are taken from it, under names that stay below the target; there is no use for links there, and without links no file
can be written through one. tarfile's own ``data`` filter is not used: it lets links through that stay inside, and cuts
a leading slash where this refuses it.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from launchers.remote.placing import PARTIAL_SUFFIX, place, wrong_with
from videolift.errors import DataError

MAX_FILES = 100_000
MAX_BYTES = 64 << 30  # unpacked
MAX_READ_BYTES = 4 << 20
CHUNK_BYTES = 1 << 20
OVERHEAD_BYTES = 4096  # of headers and padding, for each file that is allowed
END_OF_ARCHIVE_BYTES = 64 << 10
DAMAGED = (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, RecursionError, ValueError, OverflowError)


class ArchiveError(DataError):
    """An archive holds what cannot be unpacked safely, or is damaged; carries the member."""

    def __init__(self, archive: Path, reason: str, member: str = "") -> None:
        super().__init__(f"{archive}: {f'{member!r} ' if member else ''}{reason}")
        self.member = member


def extract(archive: Path, target: Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> list[str]:
    """Unpack a .tar.gz into a folder in one pass and little memory; return the names of its files, sorted.

    Owners and modes are not taken over. Nothing appears in the folder before all of the archive has turned out right;
    then files that it already has under these names are replaced, each at once.

    Args:
        max_files: members, folders included.
        max_bytes: of all files together, unpacked.

    Raises:
        ArchiveError: a link, a device, a name that leads out, too many or too large files, damage.
        StorageError: a folder stands where a file has to lie, or a link in ``target`` leads out of it.
        OSError: the archive cannot be read or a file not written.
    """
    target.mkdir(parents=True, exist_ok=True)
    aside = target / f".{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
    aside.mkdir()
    try:
        with archive.open("rb") as packed:
            unpacked = _Unpacked(packed, archive, max_bytes + OVERHEAD_BYTES * max_files + END_OF_ARCHIVE_BYTES)
            try:
                names, folders = _unpack_all(unpacked, aside, archive, max_files, max_bytes)
                unpacked.finish()
            except DAMAGED as error:
                raise ArchiveError(archive, f"is damaged or no .tar.gz ({error or type(error).__name__})") from error
        for name in folders:
            place(target, f"{name}/_")
        for name in names:
            (aside / name).replace(place(target, name))
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return sorted(names)


def _unpack_all(
    unpacked: _Unpacked, aside: Path, archive: Path, max_files: int, max_bytes: int
) -> tuple[set[str], set[str]]:
    """Return the names of the files and of the folders that were unpacked."""
    names: set[str] = set()
    folders: set[str] = set()
    for tar, member in _members(unpacked, archive, max_files, max_bytes):
        name = PurePosixPath(member.name).as_posix()
        if name in names:
            raise ArchiveError(archive, "is there twice", member.name)
        if name != ".":
            _unpack(tar, member, aside, name, archive)
            (folders if member.isdir() else names).add(name)
    return names, folders


def _members(
    unpacked: _Unpacked, archive: Path, max_files: int, max_bytes: int
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield members that may be unpacked, each before the next is looked at."""
    count = size = 0
    # Not "r|gz": that would read a header of any length into memory, where "r:" asks for it in one piece.
    with tarfile.open(fileobj=unpacked, mode="r:") as tar:  # type: ignore[call-overload]
        while (member := tar.next()) is not None:
            tar.members = []  # all that were seen, which nobody asks for
            count, size = count + 1, size + member.size
            reason = _refusal(member)
            if count > max_files:
                reason = f"is one of more than {max_files} members, which is all that is unpacked"
            elif size > max_bytes:
                reason = f"makes it more than {max_bytes} bytes unpacked, which is all that is taken"
            if reason:
                raise ArchiveError(archive, reason, member.name)
            yield tar, member


def _refusal(member: tarfile.TarInfo) -> str:
    """Return why a member is not unpacked, or nothing."""
    if member.issym() or member.islnk():
        return f"is a link to {member.linkname!r}; links are not unpacked"
    if not member.isdir() and not member.isfile():
        return "is neither a file nor a folder; devices and pipes are not unpacked"
    if member.size < 0:
        return "has a size below 0"
    if member.issparse():
        return "is sparse; pack it without --sparse"
    name = PurePosixPath(member.name).as_posix()  # ``./a`` is what `tar -C FOLDER .` writes
    if name == ".":
        return "" if member.isdir() else "is a file without a name"
    return wrong_with(name)


def _unpack(tar: tarfile.TarFile, member: tarfile.TarInfo, aside: Path, name: str, archive: Path) -> None:
    try:
        # The parents of what would lie in a folder are the folder itself.
        path = place(aside, f"{name}/_" if member.isdir() else name)
    except (FileExistsError, NotADirectoryError) as error:
        raise ArchiveError(archive, "needs a folder where a file lies", member.name) from error
    if member.isdir():
        return
    content = tar.extractfile(member)
    assert content is not None  # it is a file
    with content, path.open("xb") as file:
        shutil.copyfileobj(content, file, CHUNK_BYTES)


class _Unpacked:
    """The unpacked bytes of an archive, read forward, never many at once nor more than are allowed in all."""

    def __init__(self, packed: BinaryIO, archive: Path, max_bytes: int) -> None:
        self._file = gzip.GzipFile(fileobj=packed, mode="rb")
        self._archive = archive
        self._max_bytes = max_bytes
        self._at = 0

    def tell(self) -> int:
        return self._at

    def seek(self, position: int) -> int:
        if position < self._at:
            raise ArchiveError(self._archive, "is damaged: its members overlap")
        while self._at < position and self.read(min(position - self._at, CHUNK_BYTES)):
            pass
        return self._at

    def read(self, size: int) -> bytes:
        if size > MAX_READ_BYTES:
            raise ArchiveError(self._archive, f"has a header of {size} bytes, which is none that tar writes")
        content = self._file.read(size)
        self._at += len(content)
        if self._at > self._max_bytes:
            raise ArchiveError(
                self._archive, f"is more than {self._max_bytes} bytes unpacked, which is all that is taken"
            )
        return content

    def finish(self) -> None:
        """Read what follows the last member: the end of the gzip file says whether all of it was right.

        Raises:
            ArchiveError: there is more; tarfile takes a damaged header for the end.
        """
        start = self._at
        while content := self.read(CHUNK_BYTES):
            if content.strip(b"\0"):
                raise ArchiveError(self._archive, f"is damaged: what follows byte {start} is no member")
