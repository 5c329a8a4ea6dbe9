"""What an image holds, found out without Docker: the probe's script runs in this Python, the lock files are read."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from launchers.image import WANTED, Image, _remedy, libraries_of, locked_versions, requirement_file, source_of
from launchers.images import install, probe
from videolift.errors import StageError
from videolift.provenance import FOLDER, LIBRARIES, library_versions

ROOT = Path(__file__).parents[2]
PURPOSES = {"preprocess": ("preprocess",), "train": ("train", "evaluate", "visualize")}
SCRIPT = Path(probe.__file__).read_text(encoding="utf-8")


def told(script: str, *options: str, path: Path = FOLDER.parent) -> dict[str, object]:
    """Run the probe's script as an image's Python would."""
    wanted = json.dumps({name: list(install.ALIASES.get(name, ())) for name in WANTED})
    done = subprocess.run(
        [sys.executable, *options, "-c", script, wanted],
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def distribution(folder: Path, name: str, version: str) -> None:
    (folder / f"{name}-{version}.dist-info").mkdir()
    (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")


@pytest.mark.parametrize("stage", LIBRARIES)
def test_the_probe_finds_what_a_stage_here_is_identified_by(stage: str) -> None:
    image = Image(reference="here", id="", **told(SCRIPT))  # type: ignore[arg-type]
    assert libraries_of(image.contents, stage) == library_versions(stage)
    assert image.source == source_of()
    assert image.python == platform.python_version()


def test_a_library_under_another_name_is_found_under_ours(tmp_path: Path) -> None:
    distribution(tmp_path, "opencv_contrib_python", "4.10.0.84")
    distribution(tmp_path, "tensorflow_cpu", "2.19.0")
    answer = told(SCRIPT, "-S", path=tmp_path)
    assert answer["versions"] == {"opencv-python-headless": "4.10.0.84", "tensorflow": "2.19.0"}
    assert answer["source"] is None


def test_a_python_that_is_too_old_says_only_how_old(tmp_path: Path) -> None:
    script = SCRIPT.replace("OLDEST = (3, 11)", "OLDEST = (3, 99)")
    assert told(script) == {"python": platform.python_version(), "machine": platform.machine()}


def test_the_source_is_its_modules_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    before = source_of(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.cpython-311.pyc").write_text("x")
    (tmp_path / "notes.txt").write_text("x")
    assert source_of(tmp_path) == before
    (tmp_path / "a.py").write_text("2")
    changed = source_of(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({before, changed, source_of(tmp_path)}) == 3


def blocks(file: Path) -> dict[str, str]:
    """Return a lock file's requirements with their hashes, by their first line."""
    lines = file.read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    return {" ".join(line.split(" --hash")[0].split()): line for line in lines if not line.startswith("#")}


@pytest.mark.parametrize("purpose", PURPOSES)
def test_an_images_lock_is_part_of_the_lock(purpose: str) -> None:
    everything = blocks(ROOT / "requirements.lock")
    part = blocks(requirement_file(purpose))
    assert part == {name: everything.get(name) for name in part}
    names = {install.normalised(re.split("==", name)[0]) for name in part}
    assert {name for stage in PURPOSES[purpose] for name in LIBRARIES[stage]} | {"psutil"} <= names
    foreign = {"preprocess": {"tensorflow", "keras"}, "train": {"av", "opencv-python-headless"}}
    assert names & (foreign[purpose] | {"mlflow", "hydra-core", "boto3"}) == set()


def test_what_builds_an_image_takes_the_pythons_of_the_lock() -> None:
    required = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    pythons = tuple((3, minor) for minor in range(5, 30) if f"3.{minor}.0" in required)
    assert pythons == install.PYTHONS
    assert pythons[0] == probe.OLDEST


def test_what_the_base_image_has_stays_as_it_is() -> None:
    base = Image("aws", "", "3.12.4", "x86_64", {"keras": "3.10.0", "av": "12.0"}, None)
    assert locked_versions("train", base)["keras"] == "3.10.0"
    assert "av" not in locked_versions("train", base)  # in the image, but no business of training's
    newer = locked_versions("preprocess", Image("slim", "", "3.12.4", "x86_64", {}, None))
    assert newer["numpy"] != locked_versions("preprocess")["numpy"]


def test_a_library_that_an_image_lacks_is_named() -> None:
    with pytest.raises(StageError, match="mine:1: lacks keras, tensorflow, which train needs") as caught:
        libraries_of({"numpy": "2.4.6", "machine": "x86_64"}, "train", "mine:1")
    assert "backend.train.base_image=IMAGE" in str(caught.value)


RUNC = "OCI runtime create failed: runc create failed: unable to start container process:"


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        (f'docker run --rm: {RUNC} exec: "python3": executable file not found in $PATH: unknown', "no program python3"),
        (
            "docker run --rm: exec /usr/bin/python3: exec format error",
            "another processor; use an image for linux/amd64",
        ),
        ("docker run --rm: no reason given", "its Python cannot be run: docker run --rm: no reason given"),
    ],
)
def test_an_image_that_cannot_be_asked(said: str, remedy: str) -> None:
    assert remedy in _remedy(said)


LOCKED = (
    "av==18.1.0 ; python_full_version < '3.12' \\\n    --hash=sha256:00\n"
    "av==19.0.2 ; python_full_version >= '3.12' \\\n    --hash=sha256:01\n"
    "Ruamel.Yaml==1.0 \\\n    --hash=sha256:02\n"
)


def installing(tmp_path: Path, *wheels: str) -> subprocess.CompletedProcess[str]:
    """Run the installer with a Python that has nothing but what is in ``here``."""
    for folder in ("here", "wheels"):
        (tmp_path / folder).mkdir(exist_ok=True)
    for name in wheels:
        (tmp_path / "wheels" / name).write_text("")
    (tmp_path / "locked.txt").write_text(LOCKED)
    return subprocess.run(
        [sys.executable, "-S", install.__file__, "locked.txt", "--wheels", "wheels", "--target", "lib"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "here")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_is_installed_over_what_the_base_image_has(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    distribution(tmp_path / "here", "av", "19.0.2")
    distribution(tmp_path / "here", "ruamel_yaml", "0.9")
    done = installing(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "videolift: kept from the base image: av 19.0.2",
        "videolift: kept from the base image in its own version: ruamel-yaml 0.9 (locked: 1.0)",
    ]
    assert list((tmp_path / "lib").iterdir()) == []


def test_every_missing_wheel_is_named_before_anything_is_installed(tmp_path: Path) -> None:
    done = installing(tmp_path, "av-17.0.0-cp311-cp311-manylinux_2_28_x86_64.whl")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "videolift: error: no wheel of the locked version in wheels: av, ruamel-yaml\n"


def test_an_image_with_another_python_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "PYTHONS", ((3, 98), (3, 99)))
    monkeypatch.setattr(sys, "argv", ["install.py", "x.txt", "--wheels", ".", "--target", str(tmp_path / "lib")])
    assert install.main() == 1
    python = ".".join(platform.python_version_tuple()[:2])
    assert f"has Python {python}, the locked libraries are for 3.98 or 3.99" in capsys.readouterr().err
