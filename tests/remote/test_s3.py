from __future__ import annotations

import base64
import errno
import hashlib
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.config import Backend
from launchers.remote import aws, parallel, s3, upload
from launchers.remote.aws import Aws, AwsError, ConnectionLost
from launchers.remote.download import download_file, download_prefix
from launchers.remote.parallel import in_parallel
from launchers.remote.s3 import Location, list_keys, read_bytes
from launchers.remote.s3_data import shadow
from launchers.remote.upload import part_bytes, plan_upload
from tests.moto_server import Fault, Front, Request, forget_everything, front_of, moto_server, use
from videolift.errors import ConfigError, DataError, StorageError
from videolift.manifest import make_manifest, sha256_file
from videolift.settings import Data, Source, Split

BUCKET = "videos-of-nobody"
AT = Location(BUCKET, "data/集 (1)")
ODD_NAMES = [
    "打/v_打_g01_c01.avi",
    "a b/it's [x] (1)+1%41&b=?#.avi",
    'quote".avi',
    "back\\slash.avi",
    "tab\t.avi",
    "é.avi",
    "plain.avi",
    "~!@$^*,;:|<>.avi",
]
BIG = (32 << 20) + 12_345


def write_bytes(client: Any, location: Location, content: bytes) -> None:
    """Write an object as others would who know S3."""
    digest = hashlib.sha256(content).digest()
    checksum = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": base64.b64encode(digest).decode()}
    client.put_object(Bucket=location.bucket, Key=location.key, Body=content, **checksum)


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto_server(tmp_path_factory.mktemp("moto") / "log") as url:
        yield url


@pytest.fixture
def front(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    with front_of(moto) as front:
        use(front.url, monkeypatch.setenv)
        yield front
    forget_everything(moto)


@pytest.fixture
def client(front: Front, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(aws, "ATTEMPTS", 2)  # of botocore, which waits longer before each
    client = Aws(Backend(name="sagemaker-remote")).client("s3")
    client.create_bucket(Bucket=BUCKET)
    front.requests.clear()
    return client


def write_tree(root: Path, names: list[str]) -> dict[str, Path | bytes]:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"content {number} of {name}".encode() * (number + 1))
    return {name: root / name for name in names}


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def send(client: Any, files: dict[str, Path | bytes], **settings: Any) -> upload.UploadPlan:
    plan = plan_upload(client, files, AT, **settings)
    upload.upload(client, plan)
    return plan


def is_upload(request: Request) -> bool:
    return request.method == "PUT"


# Places


@given(key=st.text(st.characters(exclude_categories=["Cs"])))
def test_a_place_is_read_as_it_is_written(key: str) -> None:
    assert Location.parse(f"s3://bucket-1/{key}") == Location("bucket-1", key)
    assert Location.parse(Location("bucket-1", key).uri) == Location("bucket-1", key)


def test_a_name_below_a_place_is_after_one_slash() -> None:
    for place in ("s3://b-1/数据", "s3://b-1/数据/"):
        assert (Location.parse(place) / "a/b").uri == "s3://b-1/数据/a/b"
    assert (Location("b-1") / "a").key == "a"


@pytest.mark.parametrize("text", ["", "bucket/key", "s3://", "s3:///key", "s3://a b/key", "https://bucket/key"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="say s3://BUCKET/PREFIX"):
        Location.parse(text)


# Upload


def test_any_name_comes_back_as_it_went(client: Any, tmp_path: Path) -> None:
    files = write_tree(tmp_path / "here", ODD_NAMES)
    send(client, files)
    assert {name: info.size for name, info in list_keys(client, AT).items()} == {
        name: (tmp_path / "here" / name).stat().st_size for name in ODD_NAMES
    }
    brought = download_prefix(client, AT, tmp_path / "there")
    assert tree(tmp_path / "there") == tree(tmp_path / "here")
    assert brought.names == tuple(sorted(ODD_NAMES))


def test_an_unchanged_tree_sends_nothing(client: Any, front: Front, tmp_path: Path) -> None:
    files = {**write_tree(tmp_path, ODD_NAMES), "plan.json": b"{}", "empty": b""}
    first = send(client, files)
    assert (first.files_kept, first.bytes_kept) == (0, 0)
    assert front.sent == first.bytes_to_send == sum(map(len, tree(tmp_path).values())) + 2
    front.requests.clear()
    again = send(client, files)
    assert (again.to_send, again.files_kept, again.bytes_kept) == ((), len(files), first.bytes_to_send)
    assert front.count("PUT") == front.count("POST") == front.count("DELETE") == 0
    assert front.count("GET") == 1  # the listing


def test_only_what_changed_is_sent_even_at_the_same_size(client: Any, front: Front, tmp_path: Path) -> None:
    files = write_tree(tmp_path, ["a.avi", "b.avi", "c.avi"])
    send(client, files)
    (tmp_path / "b.avi").write_bytes(bytes(reversed((tmp_path / "b.avi").read_bytes())))
    (tmp_path / "c.avi").write_bytes(b"longer than it was before, by far" * 9)
    front.requests.clear()
    plan = send(client, {**files, "new.avi": b"new"})
    assert [item.name for item in plan.to_send] == ["b.avi", "c.avi", "new.avi"]
    assert front.count("PUT") == 3
    assert read_bytes(client, AT / "b.avi") == (tmp_path / "b.avi").read_bytes()


def test_an_object_of_somebody_else_is_compared_by_what_s3_computed(client: Any, front: Front) -> None:
    client.put_object(Bucket=BUCKET, Key=(AT / "known").key, Body=b"same", ChecksumAlgorithm="SHA256")
    client.put_object(Bucket=BUCKET, Key=(AT / "unknown").key, Body=b"same", ChecksumAlgorithm="CRC32")
    lie = {"sha256": hashlib.sha256(b"same").hexdigest()}
    client.put_object(Bucket=BUCKET, Key=(AT / "lie").key, Body=b"diff", ChecksumAlgorithm="SHA256", Metadata=lie)
    plan = plan_upload(client, {"known": b"same", "unknown": b"same", "lie": b"same"}, AT)
    assert [item.name for item in plan.to_send] == ["unknown", "lie"]


def test_what_lies_beside_the_target_does_not_count(client: Any) -> None:
    write_bytes(client, Location(BUCKET, AT.key + "-other/a"), b"content")
    client.put_object(Bucket=BUCKET, Key=AT.prefix)  # a folder, as the console makes them
    client.put_object(Bucket=BUCKET, Key=AT.prefix + "sub/")
    assert list_keys(client, AT) == {}


def test_listings_go_on_after_a_page(client: Any, front: Front) -> None:
    for number in range(5):
        write_bytes(client, AT / f"{number}", b"")
    paginator = client.get_paginator

    def small_pages(name: str) -> Any:
        found = paginator(name)
        found.PAGE = 2
        original = found.paginate
        found.paginate = lambda **kwargs: original(**kwargs, PaginationConfig={"PageSize": 2})
        return found

    client.get_paginator = small_pages
    seen: list[int] = []
    front.requests.clear()
    assert sorted(list_keys(client, AT, progress=seen.append)) == ["0", "1", "2", "3", "4"]
    assert (seen, front.count("GET")) == ([2, 4, 5], 3)
    with pytest.raises(DataError, match="more than 3 objects"):
        list_keys(client, AT, limit=3)


def test_checksums_of_files_may_be_remembered(client: Any, tmp_path: Path) -> None:
    files = write_tree(tmp_path, ["a", "b"])
    asked: list[Path] = []

    def remembered(path: Path) -> str:
        asked.append(path)
        return sha256_file(path)

    send(client, files, checksum=remembered)
    assert asked == [tmp_path / "a", tmp_path / "b"]


def test_the_file_that_means_finished_is_sent_last(client: Any, front: Front, tmp_path: Path) -> None:
    names = ["finished.json", *(f"part-{number}" for number in range(20))]
    files = write_tree(tmp_path, names)
    front.faults.append(Fault(lambda request: request.path.endswith("part-19"), times=9, status=403))
    with pytest.raises(AwsError):
        send(client, files, last="finished.json")
    assert "finished.json" not in list_keys(client, AT)
    front.faults.clear()
    front.requests.clear()
    send(client, files, last="finished.json")
    assert [request.path.rsplit("/")[-1] for request in front.requests if is_upload(request)][-1] == "finished.json"
    assert len(list_keys(client, AT)) == 21


def test_everything_is_encrypted_with_the_key_and_that_is_compared(client: Any, front: Front) -> None:
    key = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    big = os.urandom(BIG)
    send(client, {"small": b"small"})
    sent = send(client, {"small": b"small", "big": big}, kms_key=key)
    assert [item.name for item in sent.to_send] == ["small", "big"]
    for name in ("small", "big"):
        told = client.head_object(Bucket=BUCKET, Key=(AT / name).key)
        assert (told["ServerSideEncryption"], told["SSEKMSKeyId"]) == ("aws:kms", key)
    files: dict[str, Path | bytes] = {"small": b"small", "big": big}
    for same in (key, key.rpartition("/")[2], "alias/mine", None):
        assert plan_upload(client, files, AT, kms_key=same).to_send == ()
    assert len(plan_upload(client, files, AT, kms_key=key.replace("1234abcd", "other")).to_send) == 2


def test_progress_ends_at_the_total(client: Any, tmp_path: Path) -> None:
    files = {**write_tree(tmp_path, ["a", "b", "c"]), "big": os.urandom(BIG)}
    compared: list[tuple[int, int]] = []
    arrived: list[tuple[int, int]] = []
    plan = plan_upload(client, files, AT, progress=lambda *done: compared.append(done))
    upload.upload(client, plan, lambda *done: arrived.append(done))
    assert compared == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert arrived[-1] == (plan.bytes_to_send, plan.bytes_to_send)
    assert arrived == sorted(arrived) and len(arrived) > 4


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../a", "leads out"),
        ("/a", "absolute"),
        ("a//b", "empty part"),
        ("a/./b", "dot between"),
        ("a\0b", "NUL"),
        ("a\udcff", "UTF-8"),
        ("深" * 80 + "/" + "b" * 200 + "/" + "c" * 200 + "/" + "d" * 200 + "/" + "e" * 200, "at most 1024 bytes"),
    ],
)
def test_names_that_cannot_be_keys_are_refused_before_a_request(
    name: str, reason: str, client: Any, front: Front
) -> None:
    with pytest.raises(DataError, match=reason):
        plan_upload(client, {name: b""}, AT)
    assert front.requests == []


def test_a_file_that_cannot_be_read_is_named(client: Any, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"gone\.avi: cannot be read \(No such file"):
        plan_upload(client, {"gone.avi": tmp_path / "gone.avi"}, AT)


@pytest.mark.parametrize("size", [1000, BIG])
@pytest.mark.parametrize("change", ["other", "longer", "shorter"])
def test_a_file_that_changes_never_becomes_an_object(size: int, change: str, client: Any, tmp_path: Path) -> None:
    video = tmp_path / "a.avi"
    video.write_bytes(os.urandom(size))
    plan = plan_upload(client, {"a.avi": video}, AT)
    before = video.stat()
    changed = {"other": os.urandom(size), "longer": video.read_bytes() + b"1", "shorter": video.read_bytes()[:-1]}
    video.write_bytes(changed[change])
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match=r"a\.avi: was changed while it was uploaded"):
        upload.upload(client, plan)
    assert list_keys(client, AT) == {}
    assert "Uploads" not in client.list_multipart_uploads(Bucket=BUCKET)


def test_a_file_that_grows_after_whole_parts_is_noticed(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "part_bytes", lambda size, sha256, kms_key: 16 << 20)
    video = tmp_path / "a.avi"
    video.write_bytes(os.urandom(32 << 20))
    plan = plan_upload(client, {"a.avi": video}, AT)
    with video.open("ab") as file:  # all that was planned is there, and more follows
        file.write(b"more")
    with pytest.raises(DataError, match="was changed"):
        upload.upload(client, plan)
    assert list_keys(client, AT) == {}


def test_a_busy_service_is_asked_again(client: Any, front: Front) -> None:
    front.faults.append(Fault(is_upload, status=503))
    send(client, {"a": b"content"})
    assert front.count("PUT") == 2
    assert read_bytes(client, AT / "a") == b"content"


def test_a_dropped_connection_is_opened_again(client: Any, front: Front) -> None:
    front.faults.append(Fault(is_upload))
    send(client, {"a": b"content"})
    assert read_bytes(client, AT / "a") == b"content"


def test_a_lost_connection_says_so_and_what_arrived_stays(client: Any, front: Front, tmp_path: Path) -> None:
    names = [f"{number}.avi" for number in range(20)]
    files = write_tree(tmp_path, names)
    front.faults.append(Fault(lambda request: is_upload(request) and request.path.endswith("9.avi"), times=100))
    with pytest.raises(ConnectionLost, match=r"s3://.*9\.avi: s3:PutObject: AWS cannot be reached"):
        send(client, files)
    arrived = set(list_keys(client, AT))
    assert arrived <= set(names) - {"9.avi", "19.avi"} and len(arrived) >= 8
    front.faults.clear()
    plan = send(client, files)
    assert {item.name for item in plan.to_send} == set(names) - arrived
    assert set(list_keys(client, AT)) == set(names)


def test_a_bucket_that_is_not_there_is_named(client: Any) -> None:
    with pytest.raises(AwsError, match=r"s3://nowhere/a: s3:ListBucket: .*NoSuchBucket"):
        plan_upload(client, {"a": b""}, Location("nowhere", "a"))


def interrupt(client: Any, front: Front, files: dict[str, Path | bytes], kms_key: str | None = None) -> None:
    """Send the first part of a big file and lose the connection."""
    front.faults.append(Fault(lambda request: request.is_part and request.query["partNumber"] != ["1"], times=100))
    with pytest.raises(ConnectionLost):
        send(client, files, kms_key=kms_key)
    front.faults.clear()
    front.requests.clear()


def parts_sent(front: Front) -> list[str]:
    return sorted(request.query["partNumber"][0] for request in front.requests if request.is_part)


def test_a_big_file_goes_in_parts_and_is_known_again(client: Any, front: Front, tmp_path: Path) -> None:
    video = tmp_path / "big.avi"
    video.write_bytes(os.urandom(BIG))
    send(client, {"big.avi": video})
    assert parts_sent(front) == ["1", "2"] or parts_sent(front) == ["1", "2", "3"]
    told = client.head_object(Bucket=BUCKET, Key=(AT / "big.avi").key, ChecksumMode="ENABLED")
    assert base64.b64decode(told["ChecksumSHA256"]).hex() != sha256_file(video)  # it is that of the parts
    assert plan_upload(client, {"big.avi": video}, AT).to_send == ()
    download_file(client, AT / "big.avi", tmp_path / "back")
    assert sha256_file(tmp_path / "back") == sha256_file(video)


@pytest.mark.parametrize("sums", ["sha256", "etag"])
def test_an_interrupted_big_file_goes_on_where_it_was(sums: str, client: Any, front: Front, tmp_path: Path) -> None:
    video = tmp_path / "big.avi"
    video.write_bytes(os.urandom(BIG))
    interrupt(client, front, {"big.avi": video})
    if sums == "etag":
        front.part_sums.clear()  # like makes of S3 that do not list them
    send(client, {"big.avi": video})
    assert "1" not in parts_sent(front) and "2" in parts_sent(front)
    download_file(client, AT / "big.avi", tmp_path / "back")
    assert sha256_file(tmp_path / "back") == sha256_file(video)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=BUCKET)


def test_parts_of_other_content_are_dropped_and_those_of_other_files_stay(
    client: Any, front: Front, tmp_path: Path
) -> None:
    video = tmp_path / "big.avi"
    video.write_bytes(os.urandom(BIG))
    interrupt(client, front, {"big.avi": video})
    interrupt(client, front, {"big.avi.bak": b"other" * (BIG // 5 + 1)})
    with video.open("ab") as file:  # its first part is what it was
        file.write(b"more")
    send(client, {"big.avi": video})
    assert "1" in parts_sent(front)
    assert plan_upload(client, {"big.avi": video}, AT).to_send == ()
    left = [item["Key"] for item in client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]]
    assert left == [(AT / "big.avi.bak").key]


def test_parts_that_were_begun_under_another_key_are_dropped(client: Any, front: Front) -> None:
    big: dict[str, Path | bytes] = {"big": os.urandom(BIG)}
    interrupt(client, front, big)
    send(client, big, kms_key="alias/mine")
    assert "1" in parts_sent(front)
    assert client.head_object(Bucket=BUCKET, Key=(AT / "big").key)["SSEKMSKeyId"] == "alias/mine"


def test_an_object_that_another_writer_replaces_is_noticed(client: Any, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"1" * BIG)
    client.meta.events.register(
        "after-call.s3.CompleteMultipartUpload", lambda **_: write_bytes(client, AT / "big", b"theirs")
    )
    with pytest.raises(AwsError, match="is not what was sent"):
        send(client, {"big": tmp_path / "big"})


def test_a_damaged_part_is_sent_again(client: Any, front: Front, tmp_path: Path) -> None:
    video = tmp_path / "big.avi"
    video.write_bytes(os.urandom(BIG))
    interrupt(client, front, {"big.avi": video})
    for part in front.part_sums:
        front.part_sums[part] = base64.b64encode(bytes(32)).decode()
    send(client, {"big.avi": video})
    assert "1" in parts_sent(front)


def test_a_completion_whose_answer_got_lost_is_a_success(client: Any, front: Front, tmp_path: Path) -> None:
    def completes(request: Request) -> bool:
        return request.method == "POST" and "uploadId" in request.query

    front.faults.append(Fault(completes, lost=True))
    front.faults.append(Fault(completes, status=404, code="NoSuchUpload"))
    content = os.urandom(BIG)
    send(client, {"big": content})
    assert sum(map(completes, front.requests)) == 2
    assert read_bytes(client, AT / "big") == content


def test_an_interrupt_ends_the_upload_at_once(client: Any, front: Front, tmp_path: Path) -> None:
    files = write_tree(tmp_path, [f"{number}" for number in range(100)])

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upload.upload(client, plan_upload(client, files, AT), interrupted)
    assert front.count("PUT") <= 2 * parallel.THREADS


def test_the_first_failure_ends_what_is_under_way() -> None:
    stop = threading.Event()
    begun: list[int] = []
    ended: list[bool] = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 0:
            raise ValueError("the first")
        ended.append(stop.wait(60))

    with pytest.raises(ValueError, match="the first"):
        list(in_parallel(work, range(1000), stop))
    assert len(begun) <= parallel.THREADS and all(ended)


def test_a_request_that_is_given_up_is_not_tried_again(client: Any, front: Front) -> None:
    class Reads(threading.Event):
        """Set when the body has been read to be signed, and again to be sent."""

        count = 0

        def is_set(self) -> bool:
            self.count += 1
            return self.count > 3

    reads = Reads()
    with pytest.raises(parallel.Abandoned):
        client.put_object(Bucket=BUCKET, Key="a", Body=upload._Body(b"content", reads))
    assert reads.count == 4 and list_keys(client, Location(BUCKET)) == {}


def test_parts_cover_the_largest_file_and_differ_with_content_and_key() -> None:
    sums = [hashlib.sha256(bytes([number])).hexdigest() for number in range(50)]
    assert len({part_bytes(BIG, sha256, key) for sha256 in sums for key in (None, "a", "b")}) == 150
    for size in (BIG, 5 << 40):
        assert size / part_bytes(size, sums[0], None) <= upload.MAX_PARTS
        assert 5 << 20 <= part_bytes(size, sums[0], None) <= 5 << 30  # AWS: "Amazon S3 multipart upload limits"


# Single objects and downloads


def test_an_object_is_written_read_and_missed(client: Any) -> None:
    write_bytes(client, AT / "计划.json", b"{}")
    write_bytes(client, AT / "empty", b"")
    assert s3.exists(client, AT / "计划.json") and not s3.exists(client, AT / "other")
    assert (read_bytes(client, AT / "计划.json"), read_bytes(client, AT / "empty")) == (b"{}", b"")
    with pytest.raises(AwsError, match=r"other: s3:GetObject: .*NoSuchKey") as caught:
        read_bytes(client, AT / "other")
    assert caught.value.code == "NoSuchKey"


def test_files_that_are_here_are_not_fetched_again(client: Any, front: Front, tmp_path: Path) -> None:
    send(client, write_tree(tmp_path / "here", ["a", "b", "c/d"]))
    there = tmp_path / "there"
    download_prefix(client, AT, there)
    (there / "b").write_bytes(bytes(len((there / "b").read_bytes())))
    (there / "mine").write_bytes(b"mine")
    front.requests.clear()
    progress: list[tuple[int, int]] = []
    brought = download_prefix(client, AT, there, progress=lambda *done: progress.append(done))
    assert front.count("GET") == 2  # the listing and b
    assert brought.bytes_fetched == len((there / "b").read_bytes())
    assert progress[-1][0] == progress[-1][1] == brought.bytes_fetched + brought.bytes_kept
    assert tree(there) == {**tree(tmp_path / "here"), "mine": b"mine"}


def test_only_what_is_wanted_is_fetched(client: Any, tmp_path: Path) -> None:
    send(client, write_tree(tmp_path / "here", ["a.json", "b.npz"]))
    brought = download_prefix(client, AT, tmp_path / "there", only=lambda name: name.endswith(".json"))
    assert brought.names == ("a.json",) and set(tree(tmp_path / "there")) == {"a.json"}


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("../outside", "leads out"),
        ("a/../../outside", "leads out"),
        ("/outside", "absolute"),
        ("a//b", "empty part"),
        ("n" * 256, "more than 255 bytes"),
        ("good/below", "'good' is a file and the folder of 'good/below'"),
        ("folder-with-content/", "empty part"),
    ],
)
def test_keys_that_cannot_be_files_are_refused_before_a_download(
    key: str, reason: str, client: Any, front: Front, tmp_path: Path
) -> None:
    for name in ("good", key):
        client.put_object(Bucket=BUCKET, Key=AT.prefix + name, Body=b"content")
    with pytest.raises(DataError, match=reason) as caught:
        download_prefix(client, AT, tmp_path / "in" / "there")
    assert AT.uri in str(caught.value)
    with pytest.raises(DataError, match=reason):
        shadow(client, AT, tmp_path / "in" / "shadow")
    assert {path.name for path in tmp_path.rglob("*")} <= {"in", "there", "shadow", "tree", "objects.json"}


def test_a_link_or_folder_in_the_way_is_refused(client: Any, tmp_path: Path) -> None:
    send(client, {"a/b": b"content"})
    outside, there = tmp_path / "outside", tmp_path / "there"
    outside.mkdir()
    there.mkdir()
    (there / "a").symlink_to(outside)
    with pytest.raises(StorageError, match="leads out of it"):
        download_prefix(client, AT, there)
    (there / "a").unlink()
    (there / "a" / "b").mkdir(parents=True)
    with pytest.raises(StorageError, match="a folder stands where a file has to lie"):
        download_prefix(client, AT, there)
    assert tree(outside) == {}


@pytest.mark.parametrize("times", [1, 3])
def test_a_download_goes_on_where_the_connection_broke(times: int, client: Any, front: Front, tmp_path: Path) -> None:
    content = os.urandom(5_000_000)
    write_bytes(client, AT / "a", content)
    front.requests.clear()
    front.faults.append(Fault(lambda request: request.method == "GET", times=times, cut=1_500_000))
    download_file(client, AT / "a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == content
    assert front.count("GET") == times + 1


def test_a_connection_that_breaks_again_and_again_is_lost(
    client: Any, front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "RESUMPTIONS", 2)
    write_bytes(client, AT / "a", os.urandom(5_000_000))
    front.faults.append(Fault(lambda request: request.method == "GET", times=100, cut=0))
    (tmp_path / "a").write_bytes(b"what was here")
    with pytest.raises(ConnectionLost, match=r"broke 3 times at byte 0 of 5000000"):
        download_file(client, AT / "a", tmp_path / "a")
    assert tree(tmp_path) == {"a": b"what was here"}


def test_two_versions_of_an_object_are_never_mixed(client: Any, front: Front, tmp_path: Path) -> None:
    write_bytes(client, AT / "a", bytes(5_000_000))
    front.faults.append(Fault(lambda request: request.method == "GET", cut=1_500_000))
    front.faults.append(
        Fault(lambda request: request.method == "GET", hook=lambda: write_bytes(client, AT / "a", b"1" * 5_000_000))
    )
    with pytest.raises(AwsError, match="was changed while it was downloaded"):
        download_file(client, AT / "a", tmp_path / "a")
    assert tree(tmp_path) == {}


def test_what_arrives_damaged_is_refused(client: Any, tmp_path: Path) -> None:
    client.put_object(
        Bucket=BUCKET, Key=(AT / "a").key, Body=b"content", Metadata={"sha256": hashlib.sha256(b"other").hexdigest()}
    )
    with pytest.raises(AwsError, match="arrived damaged"):
        download_file(client, AT / "a", tmp_path / "a")
    assert tree(tmp_path) == {}


def test_a_full_disk_is_the_systems_error(client: Any, tmp_path: Path) -> None:
    write_bytes(client, AT / "a", bytes(3_000_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            download_prefix(client, AT, tmp_path / "there")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert tree(tmp_path / "there") == {}


# Data that stays in S3


def write_videos(client: Any) -> dict[str, bytes]:
    """Write a data set with official lists; return its objects."""
    objects = {
        f"{label}/v_{label}_g{group:02d}_c01.avi": f"{label} {group}".encode() * 1000
        for label in ("打架", "Calm")
        for group in (1, 2)
    }
    lines = {
        split: [f"{label}/v_{label}_g{group:02d}_c01.avi" for label in ("打架", "Calm")]
        for split, group in (("train", 1), ("test", 2))
    }
    objects["classInd.txt"] = "1 打架\n2 Calm\n".encode()
    for split, listed in lines.items():
        objects[f"{split}list01.txt"] = "\n".join(listed).encode()
    for name, content in objects.items():
        write_bytes(client, AT / name, content)
    return objects


def write_local(root: Path, objects: dict[str, bytes]) -> None:
    for name, content in objects.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def test_a_manifest_of_data_in_s3_is_that_of_the_same_data_here(client: Any, front: Front, tmp_path: Path) -> None:
    objects = write_videos(client)
    write_local(tmp_path / "here", objects)
    front.requests.clear()
    there = shadow(client, AT, tmp_path / "shadow")
    assert sum(request.path.endswith(".avi") for request in front.requests if request.method == "GET") == 0
    remote = make_manifest(Data(source=Source.ucf101, root=str(there.root), split=Split.official), 0, there.checksum)
    local = make_manifest(Data(source=Source.ucf101, root=str(tmp_path / "here"), split=Split.official), 0)
    assert remote == local


def test_objects_are_identical_by_a_sha256_only(client: Any, tmp_path: Path) -> None:
    for label in ("A", "B"):
        for number in range(6):
            write_bytes(client, AT / label / f"{number}.mp4", f"{label} {number}".encode())
    for name in ("A/0.mp4", "A/1.mp4"):
        write_bytes(client, AT / name, b"same")
    for name in ("A/2.mp4", "B/2.mp4"):  # of one ETag and one size, but what S3 computed of them is no SHA-256
        client.put_object(Bucket=BUCKET, Key=(AT / name).key, Body=b"alike", ChecksumAlgorithm="CRC32")
    there = shadow(client, AT, tmp_path / "shadow")
    data = Data(source=Source.folder, root=str(there.root))
    assert there.checksum(there.root / "A/2.mp4") == there.checksum(there.root / "B/2.mp4")
    for seed in range(9):
        made = make_manifest(data, seed, there.checksum, content=there.content)
        sides = {clip.id: clip.split for clip in made.clips}
        assert sides["A/0.mp4"] == sides["A/1.mp4"]
    notes = "\n".join(made.notes)
    assert "1 set of identical clips (2 in all): A/0.mp4 = A/1.mp4" in notes
    assert "whether 2 of 12 clips are identical to others is not known" in notes
    write_bytes(client, AT / "B/3.mp4", b"same")
    there = shadow(client, AT, tmp_path / "shadow")
    with pytest.raises(DataError, match=r"A/0\.mp4 \(A\) = B/3\.mp4 \(B\)"):
        make_manifest(data, 0, there.checksum, content=there.content)


def test_placeholders_take_no_space(client: Any, tmp_path: Path) -> None:
    write_bytes(client, AT / "a.avi", bytes(8_000_000))
    there = shadow(client, AT, tmp_path / "shadow")
    status = (there.root / "a.avi").stat()
    assert status.st_size == 8_000_000 and status.st_blocks * 512 < 100_000


def test_a_shadow_follows_what_it_shows(client: Any, front: Front, tmp_path: Path) -> None:
    write_videos(client)
    write_bytes(client, AT / "labels.csv", b"path,label\n")
    before = shadow(client, AT, tmp_path / "shadow")
    front.requests.clear()
    assert shadow(client, AT, tmp_path / "shadow") == before
    assert len(front.requests) == 1  # the listing
    client.delete_object(Bucket=BUCKET, Key=(AT / "打架/v_打架_g01_c01.avi").key)
    client.delete_object(Bucket=BUCKET, Key=(AT / "打架/v_打架_g02_c01.avi").key)
    client.delete_object(Bucket=BUCKET, Key=(AT / "classInd.txt").key)
    write_bytes(client, AT / "打架", b"a file where a folder was")
    write_bytes(client, AT / "classInd.txt/deep", b"a folder where a file was")
    write_bytes(client, AT / "Calm/v_Calm_g01_c01.avi", b"shorter")
    write_bytes(client, AT / "labels.csv", b"path,group\n")  # of the same size
    after = shadow(client, AT, tmp_path / "shadow")
    assert sizes(after.root) == {name: info.size for name, info in list_keys(client, AT).items()}
    assert (after.root / "labels.csv").read_bytes() == b"path,group\n"
    changed = after.root / "Calm/v_Calm_g01_c01.avi"
    assert after.checksum(changed) == hashlib.sha256(b"shorter").hexdigest() != before.checksum(changed)


def sizes(root: Path) -> dict[str, int]:
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in root.rglob("*") if path.is_file()}


def test_objects_without_a_sha256_are_told_apart_without_asking(client: Any, front: Front, tmp_path: Path) -> None:
    for name, body in (("a.avi", b"one"), ("b.avi", b"two"), ("c.avi", b"one")):
        client.put_object(Bucket=BUCKET, Key=(AT / name).key, Body=body, ChecksumAlgorithm="CRC32")
    front.requests.clear()
    there = shadow(client, AT, tmp_path / "shadow")
    one, two, same = (there.checksum(there.root / name) for name in ("a.avi", "b.avi", "c.avi"))
    assert one == same != two and len(one) == len(two) == 64
    assert front.count("HEAD") == 0
    client.put_object(Bucket=BUCKET, Key=(AT / "a.avi").key, Body=b"new", ChecksumAlgorithm="CRC32")
    there = shadow(client, AT, tmp_path / "shadow")
    assert there.checksum(there.root / "a.avi") not in (one, two)


def test_a_big_object_that_was_uploaded_in_parts_keeps_its_checksum(client: Any, tmp_path: Path) -> None:
    content = os.urandom(BIG)
    send(client, {"a.avi": content})
    there = shadow(client, AT, tmp_path / "shadow")
    assert there.checksum(there.root / "a.avi") == hashlib.sha256(content).hexdigest()


def test_a_file_that_the_shadow_does_not_show_has_no_checksum(client: Any, tmp_path: Path) -> None:
    write_bytes(client, AT / "a.avi", b"content")
    there = shadow(client, AT, tmp_path / "shadow")
    for path in (there.root / "b.avi", tmp_path / "a.avi"):
        with pytest.raises(DataError, match="is not among the objects of s3://"):
            there.checksum(path)


def test_nothing_in_s3_is_an_error_that_names_the_place(client: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"data.root=s3://{BUCKET}/data/.*: nothing lies there"):
        shadow(client, AT, tmp_path / "shadow")


def test_a_folder_of_somebody_else_is_left_alone(client: Any, tmp_path: Path) -> None:
    write_bytes(client, AT / "a.avi", b"content")
    write_bytes(client, Location(BUCKET, "other/b.avi"), b"content")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match="holds something else"):
        shadow(client, AT, tmp_path / "mine")
    shadow(client, AT, tmp_path / "shadow")
    with pytest.raises(StorageError, match="is an image of s3://.*other"[:15]):
        shadow(client, Location(BUCKET, "other"), tmp_path / "shadow")
    (tmp_path / "shadow" / "objects.json").write_text("{")
    with pytest.raises(StorageError, match="is damaged"):
        shadow(client, AT, tmp_path / "shadow")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_an_interrupted_shadow_is_finished_next_time(client: Any, front: Front, tmp_path: Path) -> None:
    objects = write_videos(client)
    front.faults.append(Fault(lambda request: request.path.endswith("classInd.txt"), times=100, status=403))
    with pytest.raises(AwsError):
        shadow(client, AT, tmp_path / "shadow")
    front.faults.clear()
    there = shadow(client, AT, tmp_path / "shadow")
    assert sizes(there.root) == {name: len(content) for name, content in objects.items()}
    assert (there.root / "classInd.txt").read_bytes() == objects["classInd.txt"]
