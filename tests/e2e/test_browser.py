from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from launchers.config import Tracking
from launchers.mlflow_store import tracking_uri
from launchers.records import Status
from launchers.sweeps.record import State
from tests.browser import Browser, browser, missing_programs
from tests.mlflow_server import mlflow_server
from tests.mlflow_ui import (
    open_best_child,
    open_children,
    open_experiment,
    open_metrics,
    open_picture,
    open_results,
    open_run,
    open_system_metrics,
    take_screenshots,
    take_sweep_screenshots,
)
from tests.recorded_runs import new_run
from tests.recorded_sweeps import FakeSweep, new_sweep

NAME = "cnn3d, 视频 & co"
WIDTH = 320  # pixels


def png(width: int, height: int, rgb: tuple[int, int, int]) -> bytes:
    """Return a picture of one colour (PNG specification: signature, header, data, end)."""
    rows = zlib.compress((b"\0" + bytes(rgb) * width) * height)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out puts")
    run = new_run(folder, NAME)
    tracker = run.tracker()
    tracker.start(run.record)
    tracker.stage(run.stage)
    run.epochs(*range(1, 21))
    run.picture(png(WIDTH, 200, (200, 120, 40)))
    run.tell(tracker)
    run.finish(tracker)
    assert tracker.problem is None
    return folder


@pytest.fixture(scope="module")
def sweep(outputs: Path) -> FakeSweep:
    """Six children, the third of which is the best one, and the fifth failed."""
    made = new_sweep(outputs)
    parent = made.parent()
    parent.open(made.record)
    for number, accuracy in enumerate((0.52, 0.61, 0.874, 0.71, None, 0.83)):
        made.child(number, accuracy, state=State.failed if accuracy is None else State.finished)
        parent.update(made.record)
    made.end(Status.FAILED)
    parent.close(made.record)
    assert parent.problem is None
    return made


@pytest.fixture(scope="module")
def address(outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with mlflow_server(tracking_uri(Tracking(), outputs), log) as server:
        yield server.uri


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Browser]:
    if missing := missing_programs():
        assert not os.environ.get("CI"), (
            f"CI has no {', '.join(missing)}: .ci/run installs chromium and chromium-driver"
        )
        pytest.skip(f"no {', '.join(missing)}; apt-get install chromium chromium-driver")
    with browser(tmp_path / "profile") as opened:
        yield opened


def test_a_run_is_found_with_its_chart_and_its_pictures(page: Browser, address: str, tmp_path: Path) -> None:
    try:
        open_experiment(page, address, "videolift")
        open_run(page, NAME)
        open_metrics(page, "val_loss", 2)
        open_system_metrics(page, "system/train")
        open_picture(page, "pictures", "contact_sheet.png", WIDTH)
    finally:
        page.screenshot(Path(os.environ.get("SCREENSHOTS", tmp_path)) / "last_page.png")


def test_pictures_for_the_documentation_are_taken(page: Browser, address: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    for picture in take_screenshots(page, address, "videolift", NAME, folder):
        assert picture.stat().st_size > 10_000


def test_a_sweep_shows_its_children_its_results_and_the_best_of_them(
    page: Browser, address: str, sweep: FakeSweep, tmp_path: Path
) -> None:
    best = sweep.record.children[2]
    try:
        open_experiment(page, address, "videolift")
        for child in sweep.record.children:
            assert not page.sees(f"//a[normalize-space()='{child.label}']")
        open_children(page, sweep.record.name, best.label)
        open_run(page, sweep.record.name)
        open_picture(page, "sweep", "parallel_coordinates.png", 800)
        open_picture(page, "sweep", "val_accuracy_vs_model.batch.png", 800)
        open_results(page, "2 ★")
        page.click("//button[@role='tab'][normalize-space()='Overview']")
        open_best_child(page, best.number, best.label)
    finally:
        page.screenshot(Path(os.environ.get("SCREENSHOTS", tmp_path)) / "last_page_of_a_sweep.png")


def test_pictures_of_a_sweep_for_the_documentation_are_taken(
    page: Browser, address: str, sweep: FakeSweep, tmp_path: Path
) -> None:
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    label = sweep.record.children[2].label
    for picture in take_sweep_screenshots(page, address, "videolift", sweep.record.name, label, folder):
        assert picture.stat().st_size > 10_000
