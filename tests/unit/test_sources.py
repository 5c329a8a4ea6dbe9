from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from videolift.errors import ConfigError, DataError, StorageError
from videolift.settings import Data, Source, Split
from videolift.sources import list_clips, npz_shape, resolve_axes, root_of


def put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"video " + name.encode())
    return root


def ucf(root: Path, **settings) -> Data:
    return Data(source=Source.ucf101, root=str(root), **settings)


def ids(listing) -> list[str]:
    return [entry.id for entry in listing.entries]


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Two classes, two groups, list 1 complete."""
    names = [f"{c}/v_{c}_g0{g}_c01.avi" for c in ("Jump", "Run") for g in (1, 2)]
    put(tmp_path, *names)
    write(tmp_path, "classInd.txt", "1 Jump", "2 Run")
    write(tmp_path, "trainlist01.txt", "Jump/v_Jump_g02_c01.avi 1", "Run/v_Run_g02_c01.avi 2")
    write(tmp_path, "testlist01.txt", "Jump/v_Jump_g01_c01.avi", "Run/v_Run_g01_c01.avi")
    return tmp_path


def write(root: Path, name: str, *lines: str) -> None:
    (root / name).write_bytes("".join(f"{line}\r\n" for line in lines).encode())  # as UCF-101's own lists end lines


# Names


def test_ucf101_names_give_label_and_a_group_that_counts_across_classes(tmp_path):
    put(tmp_path, "Run/v_Run_g02_c01.avi", "Jump/v_Jump_g02_c03.avi", "Jump/v_Jump_g11_c01.avi")
    listing = list_clips(ucf(tmp_path))
    assert listing.classes == ("Jump", "Run")
    assert [(e.id, e.label, e.group) for e in listing.entries] == [
        ("Jump/v_Jump_g02_c03.avi", "Jump", "g02"),
        ("Jump/v_Jump_g11_c01.avi", "Jump", "g11"),
        ("Run/v_Run_g02_c01.avi", "Run", "g02"),
    ]


def test_ucf101_may_lie_flat_in_the_root(tmp_path):
    put(tmp_path, "v_Run_g02_c01.avi", "v_Jump_g02_c03.mp4")
    assert [(e.label, e.group) for e in list_clips(ucf(tmp_path)).entries] == [("Jump", "g02"), ("Run", "g02")]


def test_ucf101_class_is_spelled_as_its_folder(tmp_path):
    put(tmp_path, "HandstandPushups/v_HandStandPushups_g01_c01.avi", "Run/v_Run_g01_c01.avi")
    assert list_clips(ucf(tmp_path)).classes == ("HandstandPushups", "Run")


def test_ucf101_names_that_do_not_fit_are_named_and_counted(tmp_path):
    put(tmp_path, "Run/v_Run_g01_c01.avi", "Run/v_Jump_g01_c01.avi", *(f"odd{i}.avi" for i in range(6)))
    with pytest.raises(
        DataError, match=r"7 files are not named .*: Run/v_Jump_g01_c01.avi, odd0.avi.* and 2 more.*data=folder"
    ):
        list_clips(ucf(tmp_path))


def test_the_same_clip_twice_is_refused(tmp_path):
    put(tmp_path, "Run/v_Run_g01_c01.avi", "copy/Run/v_Run_g01_c01.mp4", "Jump/v_Jump_g01_c01.avi")
    with pytest.raises(DataError, match=r"more than once: Run/v_Run_g01_c01.avi, copy/Run/v_Run_g01_c01.mp4"):
        list_clips(ucf(tmp_path))


def test_demo_follows_the_same_naming_rule_in_any_container(tmp_path):
    put(tmp_path, "Pan/v_Pan_g01_c01.avi", "Tilt/v_Tilt_g01_c02.mp4")
    assert list_clips(Data(root=str(tmp_path))).classes == ("Pan", "Tilt")


def test_class_folders_of_any_depth(tmp_path):
    put(tmp_path, "走路/a.mp4", "Run/day 1/b 'x'.mov", "Run/day\n2/ü.mkv", "Run/v_Run_g07_c01.avi")
    listing = list_clips(Data(source=Source.folder, root=str(tmp_path)))
    assert listing.classes == ("Run", "走路")
    assert {e.id: e.group for e in listing.entries} == {
        "Run/day 1/b 'x'.mov": None,
        "Run/day\n2/ü.mkv": None,
        "Run/v_Run_g07_c01.avi": "g07",
        "走路/a.mp4": None,
    }


def test_videos_outside_class_folders_are_left_out_with_a_note(tmp_path):
    put(tmp_path, "A/a.mp4", "B/b.mp4", "stray.mp4")
    listing = list_clips(Data(source=Source.folder, root=str(tmp_path)))
    assert ids(listing) == ["A/a.mp4", "B/b.mp4"]
    assert "stray.mp4" in listing.notes[0]


def test_no_class_folders_at_all_points_to_the_other_sources(tmp_path):
    put(tmp_path, "Music_01.mp4")
    with pytest.raises(DataError, match=r"no class folders.*data=prefix"):
        list_clips(Data(source=Source.folder, root=str(tmp_path)))


def test_train_and_test_folders_are_not_taken_for_classes(tmp_path):
    put(tmp_path, "train/Run/a.mp4", "test/Run/b.mp4")
    with pytest.raises(DataError, match=r"\(test, train\) look like splits"):
        list_clips(Data(source=Source.folder, root=str(tmp_path)))


def test_prefix_is_the_text_before_the_first_underscore(tmp_path):
    put(tmp_path, "Music_01.mp4", "Music_02.mp4", "Talk_a_b.mp4")
    listing = list_clips(Data(source=Source.prefix, root=str(tmp_path)))
    assert [(e.label, e.group) for e in listing.entries] == [
        ("Music", None),
        ("Music", None),
        ("Talk", None),
    ]


def test_prefix_names_files_without_one(tmp_path):
    put(tmp_path, "Music_01.mp4", "talk.mp4", "_01.mp4")
    with pytest.raises(DataError, match=r"2 files are not named.*: _01.mp4, talk.mp4"):
        list_clips(Data(source=Source.prefix, root=str(tmp_path)))


# Folders


def test_hidden_and_other_files_are_passed_over(tmp_path):
    put(tmp_path, "A/a.MP4", "B/b.mp4", "A/._a.mp4", "A/.DS_Store", ".cache/C/c.mp4", "B/notes.txt")
    assert ids(list_clips(Data(source=Source.folder, root=str(tmp_path)))) == ["A/a.MP4", "B/b.mp4"]


def test_links_to_files_and_folders_are_followed_and_circles_are_not(tmp_path):
    store = put(tmp_path / "store", "a.mp4", "more/b.mp4")
    root = put(tmp_path / "root", "C/c.mp4")
    (root / "A").mkdir()
    (root / "A/a.mp4").symlink_to(store / "a.mp4")
    (root / "B").symlink_to(store / "more")
    (root / "C/up").symlink_to(root)
    listing = list_clips(Data(source=Source.folder, root=str(root)))
    assert ids(listing) == ["A/a.mp4", "B/b.mp4", "C/c.mp4"]
    assert listing.entries[0].size == (store / "a.mp4").stat().st_size


def test_link_that_leads_nowhere_is_named(tmp_path):
    put(tmp_path, "A/a.mp4", "B/b.mp4")
    (tmp_path / "B/gone.mp4").symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"leads nowhere.*B/gone.mp4"):
        list_clips(Data(source=Source.folder, root=str(tmp_path)))


def test_name_that_is_not_utf8_is_refused_by_name(tmp_path):
    put(tmp_path, "A/a.mp4", "B/b.mp4")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/B/caf\xe9.mp4")).write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 file name is not UTF-8: 'B/caf\\udce9.mp4'"):
        list_clips(Data(source=Source.folder, root=str(tmp_path)))


@pytest.mark.parametrize("source", [Source.demo, Source.ucf101, Source.folder, Source.prefix])
def test_missing_root_and_root_that_is_a_file(tmp_path, source):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"absent: does not exist\. Say data\.root="):
        list_clips(Data(source=source, root=str(tmp_path / "absent")))
    with pytest.raises(DataError, match="is a file"):
        list_clips(Data(source=source, root=str(tmp_path / "file")))


def test_no_videos_says_what_was_looked_for_and_what_is_there(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg", "README")
    with pytest.raises(DataError, match=r"Looked .* \.mp4 .*found 2 x \.jpg, 1 x no suffix.*data\.root="):
        list_clips(ucf(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no files at all"):
        list_clips(ucf(tmp_path / "empty"))


@pytest.fixture
def unprivileged():
    """Act as nobody in a folder that nobody can enter, since permissions do not bind root."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = os.geteuid() == 0
        yield Path(folder), (lambda: os.seteuid(65534)) if root else (lambda: None)
        if root:
            os.seteuid(0)
        (Path(folder) / "locked").chmod(0o700)


def test_folder_without_permission_is_named(unprivileged):
    root, become_nobody = unprivileged
    put(root, "A/a.mp4", "locked/b.mp4")
    (root / "locked").chmod(0)
    become_nobody()
    with pytest.raises(StorageError, match=r"locked: cannot be listed \(Permission denied\)"):
        list_clips(Data(source=Source.folder, root=str(root)))


def test_root_below_a_folder_without_permission_is_named(unprivileged):
    root, become_nobody = unprivileged
    put(root, "locked/data/A/b.mp4")
    (root / "locked").chmod(0)
    become_nobody()
    with pytest.raises(StorageError, match=r"locked/data: cannot be read \(Permission denied\)"):
        list_clips(Data(source=Source.folder, root=str(root / "locked/data")))


def test_root_of_each_source():
    assert root_of(Data(root="/videos")) == Path("/videos")
    assert root_of(Data(source=Source.manifest, csv="/lists/a.csv")) == Path("/lists")
    assert root_of(Data(source=Source.manifest, csv="/lists/a.csv", root="/videos")) == Path("/videos")
    assert root_of(Data(source=Source.npz, npz="/arrays/a.npz")) == Path("/arrays")
    with pytest.raises(ConfigError, match=r"data\.root"):
        root_of(Data(source=Source.folder))


# Classes


def test_nclass_keeps_the_first_of_the_sorted_classes(tmp_path):
    put(tmp_path, *(f"{c}/v_{c}_g01_c01.avi" for c in ("Zebra", "apple", "Bee", "Cow")))
    listing = list_clips(ucf(tmp_path, nclass=2))
    assert listing.classes == ("Bee", "Cow")
    assert {e.label for e in listing.entries} == {"Bee", "Cow"}
    with pytest.raises(ConfigError, match=r"data\.nclass=5: the data has 4 classes only \(Bee, Cow, Zebra, apple\)"):
        list_clips(ucf(tmp_path, nclass=5))


def test_one_class_only_is_refused(tmp_path):
    put(tmp_path, "Run/v_Run_g01_c01.avi", "Run/v_Run_g02_c01.avi")
    with pytest.raises(DataError, match=r"one class only \(Run\)"):
        list_clips(ucf(tmp_path))


# Official lists


def test_official_lists_give_splits(listed):
    listing = list_clips(ucf(listed, split=Split.official))
    assert [(e.group, e.given) for e in listing.entries] == [("g01", "test"), ("g02", "train")] * 2


@pytest.mark.parametrize("where", ["root/ucfTrainTestlist", "ucfTrainTestlist", "anywhere"])
def test_official_lists_are_found_where_people_put_them(listed, tmp_path, where):
    root = put(tmp_path / "root", *(str(p.relative_to(listed)) for p in listed.glob("*/*.avi")))
    (tmp_path / where).mkdir(parents=True)
    for path in listed.glob("*.txt"):
        path.rename(tmp_path / where / path.name)
    lists = str(tmp_path / where) if where == "anywhere" else None
    assert len(list_clips(ucf(root, split=Split.official, lists=lists)).entries) == 4


def test_official_lists_fit_flat_and_converted_copies(listed, tmp_path):
    flat = put(tmp_path / "flat", *(f"{p.stem}.mp4" for p in listed.glob("*/*.avi")))
    listing = list_clips(ucf(flat, split=Split.official, lists=str(listed)))
    assert [e.given for e in listing.entries] == ["test", "train"] * 2


def test_missing_lists_say_where_was_looked(tmp_path):
    put(tmp_path, "Run/v_Run_g01_c01.avi", "Jump/v_Jump_g01_c01.avi")
    with pytest.raises(
        DataError, match=r"no classInd\.txt in .*ucfTrainTestlist.*data\.lists=FOLDER.*data\.split=group"
    ):
        list_clips(ucf(tmp_path, split=Split.official))


def test_missing_list_number_is_named(listed):
    with pytest.raises(DataError, match=r"trainlist02\.txt: no such file\. data\.list=2"):
        list_clips(ucf(listed, split=Split.official, list=2))


def test_listed_videos_that_are_not_there_are_named_and_counted(listed):
    write(listed, "testlist01.txt", *(f"Run/v_Run_g0{g}_c01.avi" for g in (1, 3, 4, 5, 6, 7, 8)))
    with pytest.raises(
        DataError, match=r"6 videos are missing that list 1 in .* names: Run/v_Run_g03_c01.avi, .* and 1 more"
    ):
        list_clips(ucf(listed, split=Split.official))


def test_listed_videos_of_classes_that_are_not_kept_may_be_missing(listed):
    write(listed, "classInd.txt", "1 Jump", "2 Run", "3 Swim")
    write(listed, "testlist01.txt", "Jump/v_Jump_g01_c01.avi", "Run/v_Run_g01_c01.avi", "Swim/v_Swim_g01_c01.avi")
    assert list_clips(ucf(listed, split=Split.official, nclass=2)).classes == ("Jump", "Run")


def test_wrong_lines_of_lists_are_all_named(listed):
    write(
        listed,
        "testlist01.txt",
        "Swim/v_Swim_g01_c01.avi",
        "Run/v_Run_g01_c01.avi 1",
        "v_Run_g01_c01.avi",
        "Jump/v_Jump_g02_c01.avi",
        "Jump/v_Run_g01_c01.avi",
    )
    with pytest.raises(DataError) as error:
        list_clips(ucf(listed, split=Split.official))
    assert str(error.value).replace(f"{listed}/", "").splitlines()[:5] == [
        "testlist01.txt:1: class 'Swim' is not in classInd.txt",
        "testlist01.txt:2: says 1, classInd.txt says 2",
        "testlist01.txt:3: not Class/v_Class_gNN_cNN.avi: 'v_Run_g01_c01.avi'",
        "testlist01.txt:4: 'Jump/v_Jump_g02_c01.avi' is in trainlist01.txt:1 already",
        "testlist01.txt:5: 'v_Run_g01_c01.avi' is not of class 'Jump'",
    ]


def test_wrong_class_index_is_named_by_line(listed):
    write(listed, "classInd.txt", "1 Jump", "Run")
    with pytest.raises(DataError, match=r"classInd\.txt:2: not a new 'number Class': 'Run'"):
        list_clips(ucf(listed, split=Split.official))


def test_clips_in_neither_list_are_left_out_with_a_note(listed):
    put(listed, "Run/v_Run_g09_c01.avi")
    listing = list_clips(ucf(listed, split=Split.official))
    assert len(listing.entries) == 4
    assert "v_Run_g09_c01" in listing.notes[0]


# Manifest


def manifest(folder: Path, text: str | bytes, **settings) -> Data:
    (folder / "clips.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return Data(source=Source.manifest, csv=str(folder / "clips.csv"), **settings)


def test_manifest_gives_labels_groups_and_splits(tmp_path):
    put(tmp_path, "a.mp4", "sub/b, c.mp4", "线.mp4")
    text = '\ufeffpath,label,group,split\r\na.mp4,Run,g1,train\r\n"sub/b, c.mp4",Jump,,test\r\n./线.mp4,Jump,g2,val\r\n'
    listing = list_clips(manifest(tmp_path, text, split=Split.official))
    assert listing.classes == ("Jump", "Run")
    assert [(e.id, e.label, e.group, e.given) for e in listing.entries] == [
        ("a.mp4", "Run", "g1", "train"),
        ("sub/b, c.mp4", "Jump", None, "test"),
        ("线.mp4", "Jump", "g2", "val"),
    ]


def test_manifest_paths_are_relative_to_the_root_and_may_be_absolute_inside_it(tmp_path):
    root = put(tmp_path / "videos", "a.mp4", "b.mp4")
    data = manifest(tmp_path, f"path,label\na.mp4,Run\n{root}/b.mp4,Jump\n", root=str(root))
    assert ids(list_clips(data)) == ["a.mp4", "b.mp4"]


def test_everything_wrong_in_a_manifest_is_named_by_line(tmp_path):
    put(tmp_path / "in", "a.mp4", "b.mp4")
    put(tmp_path, "outside.mp4")
    rows = [
        "../outside.mp4,Run,train",
        f"{tmp_path}/outside.mp4,Run,train",
        "absent.mp4,Run,train",
        "a.mp4,,train",
        ",Run,train",
        "a.mp4,Run,tset",
        "a.mp4,Run,",
        "a.mp4,Run,train,more",
        "a.mp4,Run,train",
        "a.mp4,Run,train",
    ]
    data = manifest(tmp_path / "in", "path,label,split\n" + "\n".join(rows), split=Split.official)
    with pytest.raises(DataError) as error:
        list_clips(data)
    lines = str(error.value).replace(str(tmp_path / "in/clips.csv"), "").splitlines()
    expected = [
        (":2:", "outside data.root"),
        (":3:", "outside data.root"),
        (":4:", "no file absent.mp4"),
        (":5:", "empty label"),
        (":6:", "empty path"),
        (":7:", "split is tset, must be one of train, val, test"),
        (":8:", "split is empty"),
        (":9:", "more fields"),
        (":11:", "a.mp4 is there already"),
    ]
    assert all(line.startswith(where) and what in line for line, (where, what) in zip(lines, expected, strict=False))
    assert len(lines) == len(expected) + 1


def test_only_the_first_ten_mistakes_are_listed(tmp_path):
    data = manifest(tmp_path, "path,label\n" + "".join(f"absent{i}.mp4,Run\n" for i in range(14)))
    with pytest.raises(DataError, match=r"absent9.mp4 in .*\nand 4 more\n"):
        list_clips(data)


@pytest.mark.parametrize(
    ("text", "split", "message"),
    [
        ("file,label\n", Split.group, r"clips\.csv:1: no column path; it has file, label"),
        ("", Split.group, r"no column path and no column label; it has nothing"),
        ("path,label\n", Split.official, r"no column split.*data\.split=group"),
        ("path,label\n", Split.group, "lists no videos"),
        (b"path,label\na.mp4,Run\nb.mp4,caf\xe9\n", Split.group, r"clips\.csv:3: not UTF-8"),
    ],
)
def test_unusable_manifests(tmp_path, text, split, message):
    with pytest.raises(DataError, match=message):
        list_clips(manifest(tmp_path, text, split=split))


def test_missing_manifest_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.csv: no such file\. data\.csv"):
        list_clips(Data(source=Source.manifest, csv=str(tmp_path / "absent.csv")))


def test_columns_that_are_not_used_are_noted(tmp_path):
    put(tmp_path, "a.mp4", "b.mp4")
    listing = list_clips(manifest(tmp_path, "path,label,gruop\na.mp4,Run,1\nb.mp4,Jump,2\n"))
    assert "gruop" in listing.notes[0]


# Arrays


def arrays(root: Path, **parts) -> Data:
    settings = {key: parts.pop(key) for key in ("classes", "axes", "nclass") if key in parts}
    np.savez(root / "a.npz", **parts)
    return Data(source=Source.npz, npz=str(root / "a.npz"), **settings)


X = np.zeros((4, 3, 8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    "y", [np.array([2, 0, 2, 0]), np.eye(3, dtype=np.float32)[[2, 0, 2, 0]], np.array([[2], [0], [2], [0]])]
)
def test_rows_of_arrays_are_clips_labelled_by_index_or_one_hot(tmp_path, y):
    listing = list_clips(arrays(tmp_path, X=X, Y=y))
    assert listing.classes == ("0", "2")
    assert [(e.id, e.label, e.group, e.row, e.size) for e in listing.entries[:2]] == [
        ("row-000000", "2", None, 0, 192),
        ("row-000001", "0", None, 1, 192),
    ]


def test_class_names_of_arrays_keep_the_order_of_the_indices(tmp_path):
    (tmp_path / "classes.txt").write_text("Run\nJump\nFly\n")
    data = arrays(tmp_path, X=X, Y=np.array([0, 1, 2, 0]), classes=str(tmp_path / "classes.txt"), nclass=2)
    listing = list_clips(data)
    assert listing.classes == ("Run", "Jump")
    assert [e.label for e in listing.entries] == ["Run", "Jump", "Run"]


def test_large_gaps_between_indices_cost_nothing(tmp_path):
    assert list_clips(arrays(tmp_path, X=X, Y=np.array([0, 10**12, 7, 7]))).classes == ("0", "7", "1000000000000")


def test_too_few_class_names_are_refused(tmp_path):
    (tmp_path / "classes.txt").write_text("Run\n")
    with pytest.raises(DataError, match=r"1 names \(1 different\) for the 2 classes"):
        list_clips(arrays(tmp_path, X=X, Y=np.array([0, 1, 1, 0]), classes=str(tmp_path / "classes.txt")))


@pytest.mark.parametrize(
    "y",
    [
        np.array(["a", "b", "a", "b"]),
        np.array([0.5, 1, 0, 1]),
        np.array([-1, 1, 0, 1]),
        np.array([[1, 1], [0, 1], [1, 0], [0, 1]]),
        np.array([[0, 0], [0, 1], [1, 0], [0, 1]]),
        np.zeros((4, 2, 2)),
    ],
)
def test_labels_that_are_neither_are_refused(tmp_path, y):
    with pytest.raises(DataError, match=r"Y must be class indices \(clip,\) or one-hot"):
        list_clips(arrays(tmp_path, X=X, Y=y))


def test_arrays_of_different_length_are_refused(tmp_path):
    with pytest.raises(DataError, match="X has 4 rows but Y has 3"):
        list_clips(arrays(tmp_path, X=X, Y=np.array([0, 1, 0])))


def test_missing_arrays_name_the_keys_that_are_there(tmp_path):
    with pytest.raises(DataError, match=r"no array X and no array Y; it has arr_0, labels"):
        list_clips(arrays(tmp_path, arr_0=X, labels=np.array([0, 1, 0, 1])))


def test_object_arrays_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"object"):
        list_clips(arrays(tmp_path, X=np.array([None, None]), Y=np.array([0, 1])))


def test_damaged_and_missing_array_files_are_refused(tmp_path):
    data = arrays(tmp_path, X=X, Y=np.array([0, 1, 0, 1]))
    whole = Path(data.npz).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"text", b""):
        Path(data.npz).write_bytes(damaged)
        with pytest.raises(DataError, match=r"not a readable \.npz file"):
            list_clips(data)
    Path(data.npz).unlink()
    with pytest.raises(DataError, match=r"no such file\. data\.npz"):
        list_clips(data)


def test_shape_is_read_without_the_pixels(tmp_path):
    data = arrays(tmp_path, X=np.asfortranarray(np.zeros((6, 32, 32, 10, 3), np.float32)), Y=np.zeros(6))
    assert npz_shape(Path(data.npz)) == (6, 32, 32, 10, 3)


@pytest.mark.parametrize(
    ("shape", "axes", "resolved"),
    [
        ((9, 32, 32, 10, 3), "auto", "original"),
        ((9, 10, 32, 32, 3), "auto", "videolift"),
        ((9, 32, 32, 10), "auto", "original"),
        ((9, 10, 24, 32, 1), "videolift", "videolift"),
        ((9, 16, 16, 16, 1), "original", "original"),
    ],
)
def test_axes_are_told_from_the_shape_or_taken_as_said(shape, axes, resolved):
    assert resolve_axes(shape, axes) == resolved


@pytest.mark.parametrize("shape", [(9, 16, 16, 16, 1), (9, 10, 24, 32, 1)])
def test_axes_that_cannot_be_told_are_asked_for(shape):
    with pytest.raises(DataError, match=r"data\.axes=original.*data\.axes=videolift"):
        resolve_axes(shape)


@pytest.mark.parametrize("shape", [(9, 32), (9, 10, 32, 32, 7), (9,)])
def test_arrays_that_are_no_clips_are_refused(shape):
    with pytest.raises(DataError, match=r"expected \(clip, frame, height, width, channel\)"):
        resolve_axes(shape, "videolift")
