"""The emulator with containers for hosts."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launchers.emulator.client import Emulator
from launchers.emulator.hosts_in_containers import LABEL
from tests.containers import Containers, docker
from tests.emulators import Account, running_emulator
from tests.engine import BASE_IMAGE
from tests.waiting import HANG_S

READY = "import time; print('ready', flush=True); time.sleep(600)"


@pytest.fixture
def emulator(containers: Containers, tmp_path: Path) -> Iterator[Emulator]:
    images = {"*/tensorflow-training:*": BASE_IMAGE}
    with running_emulator(tmp_path / "e", hosts="containers", grace_s=3, images=images) as emulator:
        yield emulator


def left() -> list[str]:
    of_emulators = ("--quiet", "--filter", f"label={LABEL}")
    return [*docker("ps", "--all", *of_emulators).split(), *docker("network", "ls", *of_emulators).split()]


def test_two_containers_reach_each_other_by_name_and_upload_their_model(emulator: Emulator) -> None:
    account = Account(emulator)
    code = (
        "import json, os, pathlib, socket\n"
        "host = socket.gethostname()\n"
        "other = {'algo-1': 'algo-2', 'algo-2': 'algo-1'}[host]\n"
        "with socket.create_server(('', 5000)) as server:\n"
        "    for _ in range(600):\n"
        "        try:\n"
        "            socket.create_connection((other, 5000)).close()\n"
        "            break\n"
        "        except OSError:\n"
        "            import time; time.sleep(0.1)\n"
        "    server.accept()\n"
        "pathlib.Path('/opt/ml/model', host).write_text('reached ' + other)\n"
        "print(os.getpid(), sorted(n for n in os.environ if 'KEY' in n or 'ENDPOINT' in n))"
    )
    account.train("t-pair", code, hosts=2)
    ended = account.ended("Training", "t-pair")
    assert ended["TrainingJobStatus"] == "Completed", account.log("Training", "t-pair")
    assert account.archive("jobs/t-pair/output/model.tar.gz") == {
        "algo-1": "reached algo-2",
        "algo-2": "reached algo-1",
    }
    assert account.log("Training", "t-pair") == {"algo-1": ["1 []"], "algo-2": ["1 []"]}
    assert left() == []


def test_a_container_is_stopped_as_docker_stop_does(emulator: Emulator) -> None:
    account = Account(emulator)
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('heard', flush=True)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)"
    )
    account.process("p-stop", code)
    account.log("Processing", "p-stop", lambda lines: "ready" in lines.get("algo-1", []))
    pid = int((emulator.root / "jobs" / "p-stop" / "algo-1.pid").read_text())
    assert "stage.py" in psutil.Process(pid).cmdline()[-1]
    account.sagemaker.stop_processing_job(ProcessingJobName="p-stop")
    assert account.ended("Processing", "p-stop")["ProcessingJobStatus"] == "Stopped"
    assert account.log("Processing", "p-stop")["algo-1"] == ["ready", "heard"]
    assert left() == []


def test_an_image_that_is_not_here_fails_the_job(emulator: Emulator) -> None:
    account = Account(emulator)
    account.put("scripts/p-no-image/stage.py")
    image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/videolift-preprocess:000000000000"
    account.process("p-no-image", "", AppSpecification={"ImageUri": image})
    reason = account.ended("Processing", "p-no-image")["FailureReason"]
    assert reason.startswith("ClientError: Cannot pull algorithm container") and "videolift-preprocess:0" in reason


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_container_outlives_the_emulator(emulator: Emulator, number: signal.Signals) -> None:
    account = Account(emulator)
    account.train("t-left", READY, hosts=2)
    account.log("Training", "t-left", lambda lines: all("ready" in lines.get(h, []) for h in ("algo-1", "algo-2")))
    assert len(left()) == 3
    pids = [int(file.read_text()) for file in emulator.root.glob("jobs/t-left/*.pid")]
    processes = [psutil.Process(pid) for pid in pids]
    assert emulator.process is not None
    children = psutil.Process(emulator.process.pid).children(recursive=True)
    (guard,) = (one for one in children if "launchers.emulator.guard" in one.cmdline())
    emulator.process.send_signal(number)
    emulator.process.wait(60)
    assert not psutil.wait_procs([*processes, guard], timeout=HANG_S)[1]
    assert left() == []
