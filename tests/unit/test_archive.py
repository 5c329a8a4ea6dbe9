from __future__ import annotations

import gzip
import io
import os
import resource
import stat
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from launchers.remote.archive import ArchiveError, extract
from videolift.errors import StorageError


def file(name: str, content: bytes = b"content", **changed: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in changed.items():
        setattr(info, key, value)
    return info, content


def special(name: str, kind: bytes, linkname: str = "") -> tuple[tarfile.TarInfo, bytes]:
    return file(name, b"", type=kind, linkname=linkname)


def packed(folder: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> Path:
    archive = folder / "model.tar.gz"
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return archive


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_a_job_packs_comes_out_with_plain_permissions(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "深 (1)").mkdir(parents=True)
    (source / "深 (1)" / "模型's [x]+%41.keras").write_bytes(os.urandom(3_000_000))
    (source / "深 (1)" / "empty").write_bytes(b"")
    (source / ("n" * 250)).write_bytes(b"a long name")
    (source / ("n" * 250)).chmod(0o4777)
    (source / "empty folder").mkdir()
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, arcname=".")  # names become ./深 (1)/..., as SageMaker's do
    old = os.umask(0o022)
    try:
        names = extract(archive, tmp_path / "target")
    finally:
        os.umask(old)
    assert tree(tmp_path / "target") == tree(source)
    assert names == sorted(tree(source))
    assert (tmp_path / "target" / "empty folder").is_dir()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "target").rglob("*") if path.is_file()} == {0o644}


def test_unpacking_again_replaces_files_and_leaves_others(tmp_path: Path) -> None:
    target = tmp_path / "target"
    extract(packed(tmp_path, file("a", b"old"), file("b")), target)
    (target / "mine").write_bytes(b"mine")
    extract(packed(tmp_path, file("a", b"new")), target)
    assert tree(target) == {"a": b"new", "b": b"content", "mine": b"mine"}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([file("/etc/videolift")], "'/etc/videolift' is absolute"),
        ([file("../outside")], r"'\.\./outside' leads out"),
        ([file("a/../../outside")], "leads out"),
        ([special("a", tarfile.SYMTYPE, "/etc")], "'a' is a link to '/etc'"),
        ([special("a", tarfile.SYMTYPE, "b"), file("b")], "'a' is a link to 'b'"),
        ([special("dir", tarfile.SYMTYPE, ".."), file("dir/outside")], "'dir' is a link"),
        ([special("a", tarfile.LNKTYPE, "/etc/passwd")], "'a' is a link to '/etc/passwd'"),
        ([special("null", tarfile.CHRTYPE)], "'null' is neither a file nor a folder"),
        ([special("disk", tarfile.BLKTYPE)], "'disk' is neither"),
        ([special("pipe", tarfile.FIFOTYPE)], "'pipe' is neither"),
        ([file("odd", b"", type=b"Z")], "'odd' is neither"),
        ([special("holes", tarfile.GNUTYPE_SPARSE)], "'holes' is sparse"),
        ([file("n" * 256)], "more than 255 bytes"),
        ([file("a"), file("./a")], r"'\./a' is there twice"),
        ([file("a"), file("a/b")], "'a/b' needs a folder where a file lies"),
    ],
)
def test_a_hostile_member_is_refused_by_name(
    members: list[tuple[tarfile.TarInfo, bytes]], reason: str, tmp_path: Path
) -> None:
    archive = packed(tmp_path, file("first"), *members)
    with pytest.raises(ArchiveError, match=reason) as caught:
        extract(archive, tmp_path / "in" / "target")
    assert str(archive) in str(caught.value)
    assert caught.value.member in [info.name for info, _ in members]
    assert {path.name for path in tmp_path.rglob("*")} == {"model.tar.gz", "in", "target"}


def test_a_size_below_zero_is_refused(tmp_path: Path) -> None:
    info, _ = file("a", b"", size=-1024)
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096)))
    with pytest.raises(ArchiveError, match="'a' has a size below 0"):
        extract(archive, tmp_path / "target")


def test_a_link_that_is_there_already_is_not_written_through(tmp_path: Path) -> None:
    target, outside = tmp_path / "target", tmp_path / "outside"
    target.mkdir()
    outside.mkdir()
    (target / "dir").symlink_to(outside)
    (target / "file").symlink_to(outside / "file")
    with pytest.raises(StorageError, match="leads out of it"):
        extract(packed(tmp_path, file("dir/a")), target)
    extract(packed(tmp_path, file("file")), target)  # takes the link's place
    assert tree(outside) == {}
    assert not (target / "file").is_symlink()


def test_a_folder_where_a_file_has_to_lie_stays(tmp_path: Path) -> None:
    (tmp_path / "target" / "a" / "b").mkdir(parents=True)
    with pytest.raises(StorageError, match="a folder stands where a file has to lie"):
        extract(packed(tmp_path, file("a")), tmp_path / "target")


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path, *(file(f"{number}") for number in range(5)))
    assert len(extract(archive, tmp_path / "all", max_files=5)) == 5
    with pytest.raises(ArchiveError, match="'4' is one of more than 4 members"):
        extract(archive, tmp_path / "some", max_files=4)


def zeros(size: int) -> tuple[tarfile.TarInfo, bytes]:
    return file("zeros", b"\0" * size)


def test_a_bomb_is_refused_before_it_is_written(tmp_path: Path) -> None:
    archive = packed(tmp_path, file("small"), zeros(50_000_000))
    assert archive.stat().st_size < 100_000
    with pytest.raises(ArchiveError, match="'zeros' makes it more than 10000000 bytes"):
        extract(archive, tmp_path / "target", max_bytes=10_000_000)
    assert list((tmp_path / "target").iterdir()) == []


def long_header(kind: bytes, size: int) -> tuple[tarfile.TarInfo, bytes]:
    return file("header", b"1" * size, type=kind)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_that_would_fill_the_memory_is_refused(kind: bytes, tmp_path: Path) -> None:
    archive = packed(tmp_path, long_header(kind, 100_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match="has a header of 1000"):
            extract(archive, tmp_path / "target")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_headers_without_end_are_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path, *(file("p", b"11 path=ab\n", type=tarfile.XHDTYPE) for _ in range(5000)), file("a"))
    with pytest.raises(ArchiveError, match="damaged"):
        extract(archive, tmp_path / "target")


def test_padding_without_end_is_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path, file("a"))
    with archive.open("ab") as more, gzip.open(more, "wb") as padding:
        padding.write(b"\0" * 5_000_000)
    with pytest.raises(ArchiveError, match="bytes unpacked, which is all that is taken"):
        extract(archive, tmp_path / "target", max_files=1, max_bytes=1000)


def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    archive = packed(tmp_path, zeros(100_000_000))
    tracemalloc.start()
    try:
        extract(archive, tmp_path / "target")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert (tmp_path / "target" / "zeros").stat().st_size == 100_000_000


def test_memory_does_not_grow_with_the_members(tmp_path: Path) -> None:
    archive = packed(tmp_path, *(special("./", tarfile.DIRTYPE) for _ in range(20_000)))
    tracemalloc.start()
    try:
        assert extract(archive, tmp_path / "target") == []
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def cut_off(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


def no_gzip(content: bytes) -> bytes:
    return gzip.decompress(content)


def lost_header(content: bytes) -> bytes:
    tar = bytearray(gzip.decompress(content))
    second = 512 + 512 * -(-600_000 // 512)
    tar[second : second + 100] = b"x" * 100  # its checksum is wrong now
    return gzip.compress(bytes(tar))


@pytest.mark.parametrize("damage", [cut_off, flipped, no_gzip, lost_header, lambda content: b""])
def test_a_damaged_archive_is_one_clear_error_and_leaves_nothing(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    archive = packed(tmp_path, file("first", os.urandom(600_000)), file("second", os.urandom(600_000)))
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(ArchiveError, match=r"model\.tar\.gz: .*(damaged|\.tar\.gz)"):
        extract(archive, tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


def test_a_full_disk_is_the_systems_error(tmp_path: Path) -> None:
    archive = packed(tmp_path, zeros(3_000_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            extract(archive, tmp_path / "target")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "target").iterdir()) == []
