"""How images are built and fetched, without Docker: what is sent, what it is called, and what failures mean."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from launchers import building
from launchers.building import (
    Layers,
    Sent,
    SentLayers,
    build,
    build_command,
    build_remedy,
    pull,
    pull_remedy,
    push_remedy,
    recipe_of,
    send,
    step_of,
)
from launchers.config import Backend, Build, Mode, TrainJob
from launchers.docker import DockerError
from launchers.recipe import Recipe
from tests.waiting import HANG_S, wait_until
from videolift.errors import ConfigError
from videolift.provenance import FOLDER

BASE = "debian:none"
WHEELS = (
    "av-18.1.0-cp311-abi3-manylinux_2_28_x86_64.whl",
    "opencv_python_headless-5.0.0.93-cp37-abi3-manylinux_2_28_x86_64.whl",
    "av-17.0.0-cp311-abi3-manylinux_2_28_x86_64.whl",  # of another version
    "keras-3.15.1-py3-none-any.whl",  # of another image
)


def recipe(purpose: str = "preprocess", *, own_source: bool = True, wheels: Path | None = None) -> Recipe:
    return Recipe(purpose, BASE, own_source, wheels=wheels)


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in WHEELS:
        (folder / name).write_bytes(os.urandom(100))
    return folder


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of our source that may be changed."""
    folder = tmp_path / "videolift"
    shutil.copytree(FOLDER, folder)
    (folder / "__pycache__").mkdir(exist_ok=True)
    (folder / "__pycache__" / "train.cpython-311.pyc").write_bytes(b"x")
    (folder / "secret.env").write_text("x")
    monkeypatch.setattr("launchers.recipe.FOLDER", folder)
    return folder


def sent(one: Recipe) -> bytes:
    stream = io.BytesIO()
    building.write_context(one, stream)
    return stream.getvalue()


def names(context: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(context)) as archive:
        return set(archive.getnames())


def test_the_tag_is_another_one_as_soon_as_the_source_is(source: Path) -> None:
    image, libraries = recipe().tag, recipe(own_source=False).tag
    (source / "secret.env").write_text("y")
    assert (recipe().tag, recipe(own_source=False).tag) == (image, libraries)
    (source / "video.py").write_text("# changed\n")
    assert recipe().tag != image
    assert recipe(own_source=False).tag == libraries


def test_where_libraries_come_from_is_not_what_they_are(wheels: Path) -> None:
    mirrored = Recipe("preprocess", BASE, True, "https://mirror.test/simple", "mirror.test", wheels)
    assert mirrored.tag == recipe().tag


def test_only_what_the_image_is_made_of_is_sent(source: Path, wheels: Path) -> None:
    files = {"preprocess.Dockerfile", "install.py", "preprocess.txt", "wheels/.gitignore"}
    fitting = {f"wheels/{name}" for name in WHEELS[:2]}
    modules = {f"src/videolift/{path.name}" for path in FOLDER.glob("*.py")}
    of_images = {f"launchers/images/{name}" for name in files}
    assert names(sent(recipe(own_source=False))) == of_images
    assert names(sent(recipe(wheels=wheels))) == of_images | modules | {f"launchers/images/{name}" for name in fitting}


def test_the_same_files_are_sent_as_the_same_bytes(source: Path) -> None:
    before = sent(recipe())
    for path in source.glob("*.py"):
        path.chmod(0o600)
        os.utime(path, (1, 1))
    assert sent(recipe()) == before


def test_a_file_that_changes_while_it_is_built_is_sent_as_it_was_named(source: Path) -> None:
    one = recipe()
    tag, before = one.tag, sent(one)
    (source / "video.py").write_text("# changed\n")
    assert (one.tag, sent(one)) == (tag, before)


def test_building_from_wheels_needs_no_network(wheels: Path) -> None:
    command = build_command(recipe(wheels=wheels))
    assert command[command.index("--network") + 1] == "none"
    assert "--network" not in build_command(recipe())


def test_build_arguments_are_given_only_where_they_are_set() -> None:
    given = [part for part in build_command(recipe()) if "=" in part]
    assert given == [f"videolift.recipe={recipe().digest}", f"BASE_IMAGE={BASE}"]
    mirrored = build_command(Recipe("train", BASE, False, "https://mirror.test/simple", "mirror.test"))
    assert {"PIP_INDEX_URL=https://mirror.test/simple", "PIP_TRUSTED_HOST=mirror.test"} < set(mirrored)
    assert mirrored[mirrored.index("--target") + 1] == "libraries"


@pytest.mark.parametrize("index", ["https://me:hunter2@mirror.test/simple", "https://hunter2@mirror.test/simple"])
def test_an_index_with_a_password_is_never_built_with(index: str) -> None:
    with pytest.raises(ConfigError, match=r"backend\.build\.pip_index_url") as caught:
        build(Recipe("train", BASE, True, index), Console(file=io.StringIO()))
    assert "hunter2" not in str(caught.value)


RUN = "RUN install.py preprocess.txt"


@pytest.mark.parametrize(
    ("line", "step"),
    [
        (f"Step 9/21 : {RUN}", f"step 9/21: {RUN}"),
        ("Step 3/21 : USER root", None),
        (" ---> Running in 8949697e85d3", None),
        (f"#8 [install 5/5] {RUN}", f"step 5/5: {RUN}"),
        ("#8 sha256:4217cfc50ec7bccaf6f52201b56301d8a792c1374378e14b6f5214f6b38eb1a8", None),
        ("#5 CACHED", None),
        ("videolift: installing from wheels: av, numpy", "installing from wheels: av, numpy"),
        ("#8 0.094 videolift: installing from wheels: av, numpy", "installing from wheels: av, numpy"),
    ],
)
def test_progress_is_read_from_both_builders(line: str, step: str | None) -> None:
    assert step_of(line) == step


# What Docker 20.10 (classic and BuildKit) and pip 23 really said.
NO_PYTHON = (
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
    'exec: "python3": executable file not found in $PATH: unknown'
)
NO_REGISTRY = (
    'Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io on 10.0.0.2:53: no such host'
)
NO_REGISTRY_BUILDKIT = (
    "failed to solve with frontend dockerfile.v0: failed to create LLB definition: failed to do request: "
    'Head "https://registry-1.docker.io/v2/library/python/manifests/3.11-slim": dial tcp 127.0.0.1:9: '
    "connect: connection refused"
)
NO_INDEX = (
    "WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection broken "
    "by 'NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f5f226a4a10>: Failed to "
    "establish a new connection: [Errno -3] Temporary failure in name resolution')': /simple/av/\n"
    "ERROR: Could not find a version that satisfies the requirement av==18.1.0 (from versions: none)\n"
    "ERROR: No matching distribution found for av==18.1.0\n"
    "videolift: error: pip could not install them (Python 3.11, x86_64); its reason is above"
)
OTHER_HASH = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."
MISSING = "videolift: error: no wheel of the locked version in wheels: av, opencv-python-headless"
OLD_PYTHON = "videolift: error: this base image has Python 3.9, the locked libraries are for 3.11 or 3.12"
NO_BUILDX = "ERROR: BuildKit is enabled but the buildx component is missing or broken."
FULL = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
NO_MANIFEST = "Error response from daemon: manifest for 127.0.0.1:5055/a/b:2 not found: manifest unknown"
NO_LOGIN = 'Error response from daemon: Head "http://127.0.0.1:5056/v2/a/b/manifests/1": no basic auth credentials'


@pytest.mark.parametrize(
    ("output", "remedies"),
    [
        (NO_REGISTRY, (f"base image {BASE} cannot be fetched", "cannot be reached", "preprocess.base_image=IMAGE")),
        (NO_REGISTRY_BUILDKIT, ("registry cannot be reached", "backend.preprocess.base_image=IMAGE")),
        (NO_MANIFEST, ("its registry has no such image", "backend.preprocess.base_image=IMAGE")),
        (NO_INDEX, ("pip_index_url=MIRROR", "backend.build.wheels=FOLDER", "python3.11 -m pip download")),
        (OTHER_HASH, ("not the file that the lock file names",)),
        (MISSING, ("wheels are missing", "python3.11 -m pip download")),
        (OLD_PYTHON, (f"{BASE} does not have the Python", "3.11 or 3.12 and pip")),
        ("/usr/bin/python3: No module named pip", (f"{BASE} does not have the Python",)),
        (NO_PYTHON, (f"{BASE} does not have the Python",)),
        (NO_BUILDX, ("unset it",)),
        (FULL, ("docker system prune",)),
        ("something else", ("the last lines",)),
    ],
)
def test_why_a_build_failed(output: str, remedies: tuple[str, ...]) -> None:
    told = build_remedy(recipe(), output)
    assert [part for part in remedies if part not in told] == []


def test_wheels_that_do_not_fit_are_no_matter_of_the_index(wheels: Path) -> None:
    told = build_remedy(recipe(wheels=wheels), "ERROR: No matching distribution found for numpy==2.4.6")
    assert "wheels do not fit" in told and f"--dest {wheels}" in told


ECR = "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn"


@pytest.mark.parametrize(
    ("reference", "output", "remedy"),
    [
        ("127.0.0.1:5055/a/b:2", NO_MANIFEST, "has no such image; check its name and tag"),
        ("127.0.0.1:5056/a/b:1", NO_LOGIN, "log in: docker login 127.0.0.1:5056"),
        ("mine:1", "pull access denied for mine, repository does not exist or may require", "log in: docker login"),
        (
            f"{ECR}/mine:1",
            NO_LOGIN,
            "aws ecr get-login-password --region cn-north-1 | docker login --username AWS --password-stdin " + ECR,
        ),
        ("mine:1", NO_REGISTRY, "registry cannot be reached; check the network"),
        ("mine:1", "write /data/x: no space left on device", "docker system prune"),
        ("Mine:1", "invalid reference format: repository name (library/Mine) must be lowercase", "the last lines"),
    ],
)
def test_why_an_image_was_not_fetched(reference: str, output: str, remedy: str) -> None:
    assert remedy in pull_remedy(reference, output)


def test_layers_are_counted_as_they_arrive() -> None:
    lines = ("1: Pulling from a/b", "aa: Already exists", "bb: Pulling fs layer", "cc: Pulling fs layer")
    layers = Layers()
    said = [layers.after(line) for line in (*lines, "cc: Download complete", "cc: Pull complete", "bb: Pull complete")]
    assert [text for text in said if text] == ["2 of 3 layers", "3 of 3 layers"]


# What Docker 28 (client) and 20.10 (engine) really printed, with a tag that looks like a layer; digests shortened.
SENT = """The push refers to repository [127.0.0.1:36699/videolift-preprocess]
826bed417f2e: Preparing
a6c96eb80bdc: Preparing
82f9ff2ca9ee: Preparing
826bed417f2e: Mounted from videolift-train
82f9ff2ca9ee: Pushed
a6c96eb80bdc: Layer already exists
a6c96eb80bdc: Layer already exists
9126ec03704b: digest: sha256:{digest} size: 951"""


def test_layers_are_counted_as_they_are_sent() -> None:
    layers = SentLayers()
    said = [layers.after(line) for line in SENT.format(digest=64 * "0").splitlines()]
    assert [text for text in said if text] == ["1 of 3 layers", "2 of 3 layers", "3 of 3 layers"]
    assert (layers.known, layers.new) == (3, 1)


DENIED = (
    "denied: User: arn:aws:iam::123456789012:user/me is not authorized to perform: ecr:InitiateLayerUpload on "
    "resource: arn:aws:ecr:us-east-1:123456789012:repository/mine because no identity-based policy allows the action"
)
TAKEN = (
    "tag invalid: The image tag '1' already exists in the 'mine' repository and cannot be overwritten because the tag "
    "is immutable."
)


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        (DENIED, "ecr:InitiateLayerUpload is not allowed; docs/iam/person.json"),
        (TAKEN, "has another image of that name already"),
        ("denied: Your authorization token has expired. Reauthenticate and try again.", "say the same again"),
        ("no basic auth credentials", f"{ECR} does not let you in"),
        ("name unknown: The repository with name 'mine' does not exist in the registry", "deleted in the meantime"),
        ("write /data/x: no space left on device", "docker system prune"),
        ("toomanyrequests: Rate exceeded", "takes no more for now"),
        (f'Put "https://{ECR}/v2/": dial tcp: lookup {ECR}: no such host', f"{ECR} cannot be reached"),
        ("something else", "the last lines"),
    ],
)
def test_why_an_image_was_not_sent(output: str, remedy: str) -> None:
    assert remedy in push_remedy(f"{ECR}/mine:1", output)


def test_a_recipe_is_what_the_settings_say(wheels: Path) -> None:
    settings = Backend(
        train=TrainJob(mode=Mode.byos, base_image=BASE),
        build=Build(pip_index_url="https://mirror.test/simple", pip_trusted_host="mirror.test", wheels=str(wheels)),
    )
    assert recipe_of(settings, "train") == Recipe(
        "train", BASE, False, "https://mirror.test/simple", "mirror.test", wheels
    )
    assert recipe_of(settings, "preprocess").base_image == settings.preprocess.base_image
    assert recipe_of(Backend(), "preprocess").wheels is None


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that stands for ``docker``, to be written."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    file = folder / "docker"
    file.touch(mode=0o755)
    return file


def test_a_failed_build_shows_its_last_lines(program: Path) -> None:
    noise = "for i in $(seq 30); do printf '\\033[91mline %s of https://me:hunter2@host/\\033[0m\\n' $i; done"
    program.write_text(f"#!/bin/sh\ncat >/dev/null\n{noise}\necho 'no space left on device' >&2\nexit 1\n")
    shown = io.StringIO()
    with pytest.raises(DockerError) as caught:
        build(recipe(), Console(file=shown))
    head, *lines = str(caught.value).splitlines()
    assert "was not built: Docker's disk is full" in head
    assert len(lines) == building.LAST_LINES
    assert lines[-2:] == ["  line 30 of https://***@host/", "  no space left on device"]
    assert shown.getvalue() == f"building {recipe().tag}\n"  # and not how long it took


def test_what_was_sent_is_read_from_what_docker_prints(program: Path) -> None:
    text = SENT.format(digest=64 * "0")
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    assert send("mine:1", Console(file=io.StringIO())) == Sent(f"sha256:{64 * '0'}", layers=3, new_layers=1)


def test_an_image_that_was_not_sent_is_told_with_the_last_lines(program: Path) -> None:
    program.write_text(f"#!/bin/sh\necho '82f9ff2ca9ee: Preparing'\necho \"{DENIED}\" >&2\nexit 1\n")
    with pytest.raises(DockerError) as caught:
        send("mine:1", Console(file=io.StringIO()))
    head, *lines = str(caught.value).splitlines()
    assert head.startswith("mine:1: was not sent: ecr:InitiateLayerUpload is not allowed")
    assert lines == ["  82f9ff2ca9ee: Preparing", f"  {DENIED}"]


def test_a_docker_that_does_not_say_what_it_sent_is_not_believed(program: Path) -> None:
    program.write_text("#!/bin/sh\necho done\n")
    with pytest.raises(DockerError, match="Docker does not say what it sent"):
        send("mine:1", Console(file=io.StringIO()))


def test_a_builder_that_reads_nothing_says_why(program: Path, wheels: Path) -> None:
    (wheels / WHEELS[0]).write_bytes(bytes(5_000_000))  # more than a pipe holds
    program.write_text(f"#!/bin/sh\nexec <&-\necho '{NO_BUILDX}' >&2\nexit 1\n")
    with pytest.raises(DockerError, match="unset it"):
        build(recipe(wheels=wheels), Console(file=io.StringIO()))


def test_progress_without_a_terminal_is_a_line_a_step(program: Path) -> None:
    steps = "echo 'Step 1/2 : FROM x'; echo '#5 [install 1/2] FROM x'; echo '#5 [install 1/2] FROM x'; echo Collecting"
    program.write_text(f"#!/bin/sh\ncat >/dev/null\n{steps}\n")
    shown = io.StringIO()
    build(recipe(), Console(file=shown))
    first, second, last = shown.getvalue().splitlines()
    assert (first, second) == (f"building {recipe().tag}", "  step 1/2: FROM x")
    assert last.startswith(f"{first}: ")


def test_progress_on_a_terminal_fits_its_line(program: Path) -> None:
    program.write_text('#!/bin/sh\ncat >/dev/null\necho \'Step 1/2 : RUN ["a", "b"]\'; sleep 0.3\n')
    shown = io.StringIO()
    build(recipe(), Console(file=shown, force_terminal=True, width=200))
    assert 'step 1/2: RUN ["a", "b"]' in shown.getvalue()


def group(leader: int) -> list[str]:
    """Return the processes of a group that still run."""
    table = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return [line for line in table.splitlines() if line.split()[0] == str(leader) and "Z" not in line.split()[1]]


def test_nothing_of_an_interrupted_build_is_left(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "END_GRACE_S", HANG_S)  # nothing has to be killed after it
    # It has a child, as Docker has when buildx does the work.
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nsleep 600 &\nsleep 600\n")
    pid = tmp_path / "pid"

    def interrupt() -> None:
        while not pid.is_file() or not pid.read_text().endswith("\n"):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pull("mine:1", Console(file=io.StringIO()))
    assert time.monotonic() - started < HANG_S
    wait_until(lambda: group(int(pid.read_text())) == [])
