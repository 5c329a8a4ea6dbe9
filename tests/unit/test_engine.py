"""How the tests' own Docker engine is started and ended, with programs that pretend to be dockerd."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import containers, engine
from tests.engine import Engine, EngineError

ANSWERS = f"""\
    #!{sys.executable}
    import http.server, os, pathlib, signal, socketserver, sys
    options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    pathlib.Path(options["--pidfile"]).write_text(str(os.getpid()))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
        def address_string(self):
            return "somebody"
    socketserver.UnixStreamServer(options["--host"].removeprefix("unix://"), Answer).serve_forever()
    """


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that come before the real ones; its docker has no engine to talk to."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    pretend(folder, "#!/bin/sh\nexit 1", "docker")
    return folder


@pytest.fixture
def own(tmp_path: Path, programs: Path) -> Iterator[Engine]:
    own = Engine(tmp_path / ".engine")
    yield own
    own.remove()


def pretend(programs: Path, text: str, name: str = "dockerd") -> None:
    (programs / name).write_text(textwrap.dedent(text))
    (programs / name).chmod(0o755)


def test_the_exit_code_and_the_end_of_the_log_say_why_it_ended(own: Engine, programs: Path) -> None:
    pretend(programs, "#!/bin/sh\necho started >> ../times\necho no cgroups here >&2\nexit 3")
    with pytest.raises(EngineError, match=r"exit code 3; .*dockerd.log ends:\n  no cgroups here"):
        own.start()
    assert (own.folder.parent / "times").read_text() == "started\n" * 2


def test_an_engine_that_ends_by_itself_is_started_once_more(own: Engine, programs: Path) -> None:
    pretend(programs, ANSWERS, "answers")
    pretend(programs, f"#!/bin/sh\n[ -e ../once ] && exec '{programs}/answers' \"$@\"\ntouch ../once\nexit 1")
    assert own.start()
    assert own.running


def test_one_that_never_answers_is_ended(own: Engine, programs: Path) -> None:
    pretend(programs, "#!/bin/sh\necho $$ > ../process\necho loading\nexec sleep 100")
    with pytest.raises(EngineError, match=r"did not answer within 3 s; .*ends:\n  loading"):
        own.start(seconds=3)
    process = int((own.folder.parent / "process").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_two_starts_at_once_make_one_engine(own: Engine, programs: Path) -> None:
    pretend(programs, ANSWERS)
    other = Engine(own.folder)
    with ThreadPoolExecutor() as threads:
        begun = list(threads.map(Engine.start, (own, other)))
    assert sorted(begun) == [False, True]
    assert own.host == other.host
    (own if begun[0] else other).stop()
    assert not own.running


def test_an_engine_is_ended_by_whoever_did_not_start_it(own: Engine, programs: Path) -> None:
    pretend(programs, ANSWERS)
    code = "import sys, pathlib, tests.engine as e; print(e.Engine(pathlib.Path(sys.argv[1])).start())"
    command = [sys.executable, "-c", code, str(own.folder)]
    started = subprocess.run(command, cwd=engine.REPOSITORY, check=True, capture_output=True, text=True)
    assert started.stdout == "True\n"
    assert own.running
    own.stop()
    assert not own.running


def test_a_process_that_has_an_old_engines_number_is_left_alone(own: Engine, programs: Path) -> None:
    pretend(programs, ANSWERS)
    own.start()
    own.stop()
    with subprocess.Popen(["sleep", "100"]) as stranger:
        (own.folder / "run" / "docker.pid").resolve().write_text(str(stranger.pid))
        own.stop()
        assert own.start()
        own.stop()
        assert stranger.poll() is None
        stranger.kill()


def test_a_folder_too_long_for_sockets_has_them_elsewhere(tmp_path: Path, programs: Path) -> None:
    pretend(programs, ANSWERS)
    own = Engine(tmp_path / ("x" * 120) / ".engine")
    own.folder.parent.mkdir()
    own.start()
    sockets = (own.folder / "run").resolve()
    assert own.running
    assert len(own.host) < 100
    own.remove()
    assert not sockets.exists()
    assert not own.folder.exists()


@pytest.mark.parametrize("sign", list(",:\\"))
def test_a_folder_that_overlay2_cannot_take(tmp_path: Path, sign: str) -> None:
    with pytest.raises(EngineError, match="overlay2 takes no path with"):
        Engine(tmp_path / f"a{sign}b" / ".engine").start()


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "environment", lambda: {"PATH": str(tmp_path)})
    assert engine.missing_for_engine() == (
        "missing: docker, dockerd, mmdebstrap (Debian's docker.io and mmdebstrap have them)."
    )
    pretend(tmp_path, "", "docker")
    pretend(tmp_path, "", "mmdebstrap")
    assert engine.missing_for_base() is None
    pretend(tmp_path, "", "dockerd")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert engine.missing_for_engine() == "a Docker engine of our own needs root."


def test_what_is_missing_skips_a_test_and_fails_it_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    containers.skip_without(None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no dockerd"):
        containers.skip_without("no dockerd")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no dockerd"):
        containers.skip_without("no dockerd")


def test_only_an_engine_on_this_machine_is_found(programs: Path) -> None:
    pretend(programs, '#!/bin/sh\necho "$MADE_UP_HOST"', "docker")
    for host, found in (("unix:///run/some.sock", "unix:///run/some.sock"), ("tcp://other:2375", None)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MADE_UP_HOST", host)
            assert engine.found_engine() == found


REQUIREMENTS = f"""\
# made by a tool
--only-binary :all:
old==1 ; python_full_version < '3.12' \\
    --hash=sha256:{"a" * 64} \\
    --hash=sha256:{"b" * 64}
new==2 ; python_full_version >= '3.12' \\
    --hash=sha256:{"c" * 64}
    # via old
"""


def test_requirements_are_read_for_the_image_not_for_this_python(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text(REQUIREMENTS)
    assert engine.pinned(file) == {"old==1": {"a" * 64, "b" * 64}}


def test_a_requirement_without_hash_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("some==1\n")
    with pytest.raises(EngineError, match="some==1 has no hash"):
        engine.pinned(file)


def test_only_wheels_that_are_not_there_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, set[str]]] = []
    monkeypatch.setattr(engine, "download", lambda _folder, wanted: asked.append(wanted))
    there = tmp_path / "there-1-py3-none-any.whl"
    there.write_text("a wheel")
    file = tmp_path / "requirements.txt"
    file.write_text(f"there==1 --hash=sha256:{engine.digest(there)}\n")
    assert not engine.download_wheels(tmp_path, file)
    file.write_text(file.read_text() + f"other==1 --hash=sha256:{'a' * 64}\n")
    assert engine.download_wheels(tmp_path, file)
    assert asked == [{"other==1": {"a" * 64}}]
