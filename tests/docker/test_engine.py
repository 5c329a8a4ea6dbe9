"""The engine that every test against containers stands on."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from tests.containers import Containers, docker, skip_without
from tests.engine import BASE_IMAGE, FOLDER, REPOSITORY, missing_for_engine


def test_the_engine_answers_where_the_environment_says(containers: Containers) -> None:
    assert docker("version", "--format", "{{.Server.Version}}") == docker(
        "version", "--format", "{{.Server.Version}}", host=containers.host
    )


def test_the_base_image_has_python(containers: Containers) -> None:
    printed = docker("run", "--rm", "--network", "none", BASE_IMAGE, "python3", "--version", host=containers.host)
    assert printed.startswith("Python 3.11")


def test_wheels_for_the_images_are_there(containers: Containers) -> None:
    assert list((FOLDER / "wheels").glob("tensorflow-*.whl"))
    assert f"backend.build.wheels={FOLDER / 'wheels'}" in containers.settings


def test_a_contributor_has_an_engine_of_their_own_and_gets_rid_of_it(containers: Containers, tmp_path: Path) -> None:
    """From a folder too long for a socket, with no stdin: two starts at once, a network, a stop, nothing left."""
    skip_without(missing_for_engine())
    clone = tmp_path / ("a folder " + "x" * 100)
    (clone / "tests").mkdir(parents=True)
    (clone / "tests" / "__init__.py").touch()
    (clone / "tests" / "engine.py").write_bytes((REPOSITORY / "tests" / "engine.py").read_bytes())
    command = f"exec {shlex.quote(sys.executable)} -m tests.engine"
    starts = [
        subprocess.Popen(f"{command} start <&-", shell=True, cwd=clone, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        lines = [start.communicate()[0].strip() for start in starts]
        assert [start.returncode for start in starts] == [0, 0]
        assert lines[0] == lines[1]
        host = lines[0].removeprefix("export DOCKER_HOST=")
        assert host != containers.host
        network = docker("network", "create", "--internal", "of-the-test", host=host)
        assert (Path("/sys/class/net") / f"br-{network[:12]}").exists()
        runtime = (clone / ".engine" / "run").resolve()
    finally:
        subprocess.run(f"{command} remove <&-", shell=True, cwd=clone, check=True)
    assert not (Path("/sys/class/net") / f"br-{network[:12]}").exists()
    assert not runtime.exists()
    assert not (clone / ".engine").exists()
    assert docker("version", host=containers.host)
