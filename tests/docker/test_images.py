"""The images, built for real and without a network."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from launchers.building import before_building, build
from launchers.docker import DockerError
from launchers.image import IMAGES, PURPOSES, libraries_of, probe, source_of
from launchers.recipe import Recipe
from tests.containers import Containers, docker
from tests.engine import BASE_IMAGE, REPOSITORY
from videolift.provenance import FOLDER, LIBRARIES, library_versions


@pytest.fixture
def wheels(containers: Containers) -> Path:
    (folder,) = (s.partition("=")[2] for s in containers.settings if s.startswith("backend.build.wheels="))
    return Path(folder)


@pytest.fixture
def scratch() -> Iterator[list[str]]:
    """Names of images that a test makes for itself."""
    images: list[str] = []
    yield images
    if images:
        docker("image", "rm", "--force", *images)


def made(recipe: Recipe) -> str:
    """Build an image and return what was shown."""
    shown = io.StringIO()
    build(recipe, Console(file=shown))
    return shown.getvalue()


def layers(image: str) -> list[str]:
    found: list[str] = json.loads(docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", image))
    return found


def in_image(image: str, *command: str) -> str:
    return docker("run", "--rm", "--network", "none", "--entrypoint", command[0], image, *command[1:])


@pytest.mark.parametrize(("purpose", "most_bytes"), [("preprocess", 700_000_000), ("train", 2_800_000_000)])
def test_an_image_holds_what_is_locked_and_nothing_else(purpose: str, most_bytes: int, wheels: Path) -> None:
    recipe = Recipe(purpose, BASE_IMAGE, own_source=True, wheels=wheels)
    made(recipe)
    image = probe(recipe.tag)
    for stage in (stage for stage in LIBRARIES if PURPOSES[stage] == purpose):
        assert libraries_of(image.contents, stage) == library_versions(stage)
    assert image.source == source_of()
    assert in_image(recipe.tag, "find", "/", "-xdev", "-name", "*.whl", "-size", "+100k") == ""
    assert in_image(recipe.tag, "find", "/opt/videolift/src", "-not", "-name", "*.py", "-type", "f") == ""
    assert in_image(recipe.tag, "id", "-u") == "0"
    # Of all layers, also those that a later one hides.
    sizes = docker("history", "--human=false", "--format", "{{.Size}}", recipe.tag).split()
    assert sum(map(int, sizes)) < most_bytes


def test_an_image_runs_as_the_service_starts_it_and_says_what_it_lacks(wheels: Path) -> None:
    recipe = Recipe("preprocess", BASE_IMAGE, own_source=True, wheels=wheels)
    made(recipe)
    for arguments in ([], ["train"]):
        run = ["docker", "run", "--rm", "--network", "none", recipe.tag, *arguments]
        ended = subprocess.run(run, capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        assert ended.stderr.startswith("VideoliftError: /opt/ml: no job here")


def test_libraries_come_without_a_program_or_our_source(wheels: Path) -> None:
    recipe = Recipe("preprocess", BASE_IMAGE, own_source=False, wheels=wheels)
    made(recipe)
    assert docker("image", "inspect", "--format", "{{json .Config.Entrypoint}}", recipe.tag) in ("null", "[]")
    assert probe(recipe.tag).source is None
    assert in_image(recipe.tag, "python3", "-c", "import av, cv2; print(cv2.__version__)").startswith("5.")


def test_a_change_of_our_source_is_another_image_on_the_same_libraries(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scratch: list[str]
) -> None:
    before = Recipe("preprocess", BASE_IMAGE, own_source=True, wheels=wheels)
    made(before)
    again = probe(before.tag).id
    made(before)
    assert probe(before.tag).id == again
    shutil.copytree(FOLDER, tmp_path / "videolift")
    (tmp_path / "videolift" / "video.py").write_text("# changed\n")
    monkeypatch.setattr("launchers.recipe.FOLDER", tmp_path / "videolift")
    after = Recipe("preprocess", BASE_IMAGE, own_source=True, wheels=wheels)
    scratch.append(after.tag)
    assert "installing" not in made(after)
    assert after.tag != before.tag
    assert probe(after.tag).source == source_of(tmp_path / "videolift") != source_of()
    assert layers(after.tag)[:-1] == layers(before.tag)[:-1]


def test_what_a_base_image_has_is_neither_replaced_nor_doubled(
    wheels: Path, tmp_path: Path, scratch: list[str]
) -> None:
    metadata = "Metadata-Version: 2.1\\nName: opencv-contrib-python\\nVersion: 4.10.0.84\\n"
    folder = "/usr/lib/python3/dist-packages/opencv_contrib_python-4.10.0.84.dist-info"
    (tmp_path / "Dockerfile").write_text(
        f"FROM {BASE_IMAGE}\nENV PYTHONPATH=/own\nRUN mkdir {folder} && printf '{metadata}' > {folder}/METADATA\n"
        f'LABEL made-for="{tmp_path}"\n'  # an engine that has seen this test has all of its steps in its cache
    )
    base = "videolift-test-base:opencv"
    docker("build", "--network", "none", "--tag", base, str(tmp_path))
    recipe = Recipe("preprocess", base, own_source=True, wheels=wheels)
    scratch += [base, recipe.tag]
    assert "kept from the base image in its own version: opencv-python-headless 4.10.0.84" in made(recipe)
    assert probe(recipe.tag).versions["opencv-python-headless"] == "4.10.0.84"
    assert "cv2" not in in_image(recipe.tag, "ls", "/opt/videolift/lib").split()
    path = in_image(recipe.tag, "python3", "-c", "import sys; print(sys.path)")
    assert path.index("/opt/videolift/src") < path.index("/own") < path.index("/opt/videolift/lib")


def test_a_missing_wheel_is_named(wheels: Path, tmp_path: Path) -> None:
    for file in wheels.glob("numpy-*.whl"):
        shutil.copy(file, tmp_path)
    recipe = Recipe("preprocess", BASE_IMAGE, own_source=True, wheels=tmp_path)
    with pytest.raises(DockerError) as caught:
        made(recipe)
    assert f"wheels are missing; fill it on Linux with python3.11 -m pip download --no-deps --dest {tmp_path}" in str(
        caught.value
    )
    assert "no wheel of the locked version in wheels: av, opencv-python-headless, psutil" in str(caught.value)


def test_an_image_without_python_cannot_be_built_from_or_asked(
    wheels: Path, tmp_path: Path, scratch: list[str]
) -> None:
    with tarfile.open(tmp_path / "empty.tar", "w") as archive:
        for name, text in (("etc/passwd", b"root:x:0:0::/:/bin/sh\n"), ("etc/group", b"root:x:0:\n")):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    image = "videolift-test-base:empty"
    docker("import", str(tmp_path / "empty.tar"), image)
    scratch.append(image)
    with pytest.raises(DockerError, match=f"{image}: has no program python3"):
        probe(image)
    with pytest.raises(DockerError, match=f"{image} does not have the Python that the libraries need"):
        made(Recipe("preprocess", image, own_source=True, wheels=wheels))


def test_an_image_can_be_built_by_hand_and_is_sent_no_more_than_it_needs(
    wheels: Path, tmp_path: Path, scratch: list[str]
) -> None:
    shutil.copy(REPOSITORY / ".dockerignore", tmp_path)
    shutil.copytree(IMAGES, tmp_path / "launchers" / "images")
    shutil.copytree(FOLDER, tmp_path / "src" / "videolift", ignore=shutil.ignore_patterns("__pycache__"))
    junk = ("secret.env", "src/secret.py", "src/videolift/secret.env", "src/videolift/__pycache__/secret.pyc")
    for name in (*junk, "launchers/secret.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("secret")
    recipe = Recipe("preprocess", BASE_IMAGE, own_source=True, wheels=wheels)
    for name, path in recipe.wheel_files.items():
        shutil.copy(path, tmp_path / name)
    image = "videolift-test:by-hand"
    scratch.append(image)
    # All that the context holds, seen by a stage that copies all of it.
    everything = "\nFROM libraries AS context\nCOPY . /context\n"
    dockerfile = tmp_path / "launchers" / "images" / "preprocess.Dockerfile"
    dockerfile.write_text(dockerfile.read_text() + everything)
    by_hand = ["build", "--network", "none", "--build-arg", f"BASE_IMAGE={BASE_IMAGE}", "--tag", image]
    by_hand += ["--file", str(dockerfile)]
    docker(*by_hand, "--target", "job", str(tmp_path))
    assert probe(image).source == source_of()
    assert probe(image).versions == probe(recipe.tag).versions
    docker(*by_hand, str(tmp_path))
    sent = in_image(image, "find", "/context", "-type", "f").splitlines()
    assert [name for name in sent if "/secret." in name] == []
    assert "/context/src/videolift/entry.py" in sent


def test_all_is_ready_for_building_here(wheels: Path) -> None:
    assert before_building(Recipe("preprocess", BASE_IMAGE, own_source=True, wheels=wheels)) is None
