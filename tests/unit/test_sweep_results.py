from __future__ import annotations

import csv
import io
import math
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from launchers.config import Goal
from launchers.records import Status
from launchers.sweeps.description import description
from launchers.sweeps.measured import Measured, measure
from launchers.sweeps.parent_run import swept
from launchers.sweeps.record import Child, State, SweepRecord
from launchers.sweeps.results import best_command, columns, ranked, rows, same_command, to_csv, to_html
from tests.recorded_runs import FakeRun, new_run

SECRET = "hunter2"
NASTY = 'a,"b"\r\n<script>alert(1)</script> 视频 `x` {0}'


def child(number: int, value: float | None = None, **fields: Any) -> Child:
    given: dict[str, Any] = {
        "label": f"model.batch={2**number}",
        "parameters": {"model.batch": str(2**number)},
        "identity": f"identity-{number}",
        "overrides": ["data=folder", f"model.batch={2**number}"],
        "state": State.finished,
        "value": value,
    }
    return Child(number, **{**given, **fields})


def sweep(*children: Child, **fields: Any) -> SweepRecord:
    given: dict[str, Any] = {"metric": "val_accuracy", "goal": Goal.maximize, "sampler": "grid"}
    given |= {"name": "batches", "command": ["data=folder", "model.batch=1,2"], "experiment": "videolift"}
    return SweepRecord("a1b2c3", children=list(children), **{**given, **fields})


def read_csv(record: SweepRecord) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(record), newline=""), strict=True))


class Page(HTMLParser):
    """What a browser would see: cells by row, links, names of all tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.classes: list[str | None] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attrs)
        if tag == "tr":
            self.rows.append([])
            self.classes.append(found.get("class"))
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self._cell = self._cell or tag in ("td", "th")
        if tag == "a":
            self.links.append(found["href"] or "")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data


def nowhere(_child: Child) -> None:
    return None


# What a child has reached


def trained(outputs: Path, *epochs: dict[str, float], chosen: int | None) -> FakeRun:
    run = new_run(outputs)
    for epoch, metrics in enumerate(epochs, start=1):
        run.metrics(metrics, step=epoch)
    if chosen is not None:
        run.metrics({"chosen_epoch": chosen})
    run.end()
    return run


def test_a_value_is_that_of_the_epoch_whose_weights_are_kept(tmp_path: Path) -> None:
    epochs = [
        {"loss": 3.0, "val_accuracy": 0.5},
        {"loss": 2.0, "val_accuracy": 0.9},
        {"loss": 1.0, "val_accuracy": 0.8},
    ]
    run = trained(tmp_path, *epochs, chosen=2)
    run.metrics({"test_accuracy": 0.75, "test_video_accuracy": 0.7, "parameters": 1e6})
    others = {"loss": 2.0, "val_accuracy": 0.9, "test_accuracy": 0.75, "test_video_accuracy": 0.7}
    assert measure(run.record, "val_accuracy") == Measured(0.9, 2, others)
    assert measure(run.record, "test_accuracy").value == 0.75


def test_an_epoch_that_was_done_again_counts_as_it_was_the_last_time(tmp_path: Path) -> None:
    run = trained(tmp_path, {"val_loss": 9.0}, {"val_loss": 5.0}, chosen=2)
    run.metrics({"val_loss": 4.0}, step=2)
    assert measure(run.record, "val_loss").value == 4.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_none(tmp_path: Path, value: float) -> None:
    run = trained(tmp_path, {"val_loss": value, "loss": 1.0}, chosen=1)
    assert measure(run.record, "val_loss") == Measured(None, 1, {"loss": 1.0})


def test_a_run_that_kept_no_weights_has_no_value(tmp_path: Path) -> None:
    run = trained(tmp_path, {"val_accuracy": 0.5}, {"val_accuracy": 0.6}, chosen=None)
    assert measure(run.record, "val_accuracy") == Measured()


def test_a_metric_that_was_never_told_has_no_value(tmp_path: Path) -> None:
    run = trained(tmp_path, {"loss": 0.5}, chosen=1)
    assert measure(run.record, "val_accuracy") == Measured(None, 1, {"loss": 0.5})
    run.record.stages.clear()
    assert measure(run.record, "loss") == Measured()


# The table


def test_the_table_has_a_row_a_child_and_a_column_a_parameter() -> None:
    record = sweep(
        child(0, 0.1 + 0.2, epoch=3, metrics={"val_accuracy": 0.3, "test_accuracy": 0.5, "odd": 1.0, "loss": 2.0}),
        child(1, state=State.failed, parameters={"seed": "7"}, error="TrainingError: the loss\n became nan"),
    )
    record.children[0].started, record.children[0].ended, record.children[0].host = 100.0, 190.0, "here"
    record.children[0].run = "run-0"
    assert columns(record) == [
        *("number", "state", "model.batch", "seed", "val_accuracy", "epoch", "loss", "test_accuracy", "odd"),
        *("minutes", "host", "run_id", "error"),
    ]
    assert rows(record) == [
        [0, "finished", "1", None, 0.1 + 0.2, 3, 2.0, 0.5, 1.0, 1.5, "here", "run-0", None],
        [1, "failed", None, "7", *[None] * 8, "TrainingError: the loss became nan"],
    ]


def test_the_csv_keeps_every_digit_and_every_letter() -> None:
    record = sweep(child(0, 0.1 + 0.2, parameters={NASTY: NASTY}), child(1, parameters={NASTY: ""}))
    first, second = read_csv(record)
    assert float(first["val_accuracy"]) == 0.1 + 0.2 and first[NASTY] == NASTY
    assert (second["val_accuracy"], second["error"], second["number"]) == ("", "", "1")
    assert to_csv(sweep(child(0))).count("\r\n") == 2 and "\n" not in to_csv(sweep(child(0))).replace("\r\n", "")


def test_no_table_shows_credentials() -> None:
    address = f"data.root=s3://me:{SECRET}@host/videos"
    fields: dict[str, Any] = {"error": f"http://me:{SECRET}@host does not answer", "overrides": [address]}
    record = sweep(child(0, 0.5, parameters={"data.root": address}, **fields), name=address, command=[address])
    told = [to_csv(record), to_html(record, nowhere), description(record, nowhere), str(best_command(record))]
    failed = sweep(child(0, state=State.failed, label=address, **fields))
    told += [to_csv(failed), to_html(failed, nowhere), description(failed, nowhere)]
    assert not [text for text in told if SECRET in text]


def test_the_best_comes_first_and_what_failed_last() -> None:
    children = [child(0, 0.5), child(1, state=State.failed), child(2, 0.9), child(3), child(4, 0.9), child(5, 0.7)]
    assert [c.number for c in ranked(sweep(*children))] == [2, 4, 5, 0, 3, 1]
    assert [c.number for c in ranked(sweep(*children, goal=Goal.minimize))] == [0, 5, 2, 4, 3, 1]


@pytest.mark.parametrize("goal", Goal)
def test_the_best_row_is_the_one_that_the_record_calls_the_best(goal: Goal) -> None:
    record = sweep(child(0, 0.5), child(1, 0.25), child(2, 0.75), child(3, 0.25), child(4, 0.75), goal=goal)
    page = Page(to_html(record, nowhere))
    assert [kind for kind in page.classes if kind] == ["best"] and page.classes[1] == "best"
    assert record.best is ranked(record)[0]
    assert page.rows[1][0].split() == [str(record.best.number), "★"]


def test_the_page_says_what_the_table_says() -> None:
    record = sweep(child(0, 0.123456789, epoch=2), child(1, state=State.failed, error=NASTY), name=NASTY)
    text = to_html(record, lambda c: f"http://host/#/{c.number}?a=1&b=2" if c.number == 0 else None)
    page = Page(text)
    assert page.rows[0] == ["number", "state", "model.batch", "val_accuracy", "epoch", "error"]
    assert page.rows[1] == ["0 ★", "finished", "1", "0.1235", "2", ""]
    assert page.rows[2][:5] == ["1", "failed", "2", "", ""] and "<script>alert(1)</script>" in page.rows[2][5]
    assert page.links == ["http://host/#/0?a=1&b=2"] * 2
    assert not page.tags & {"script", "img", "link", "iframe"} and "src=" not in text


def test_a_page_without_children_is_a_page() -> None:
    assert Page(to_html(sweep(), nowhere)).rows == [["number", "state", "val_accuracy"]]


def test_the_best_childs_command_is_one_that_a_shell_takes_apart_again() -> None:
    words = ["data.root=/videos/camera 'motions' (1)", "model.args={a:1,b:[x,y]}", "$HOME"]
    record = sweep(child(0, 0.5, overrides=["seed=0"]), child(1, 0.6, overrides=words))
    assert shlex.split(str(best_command(record))) == ["python", "run.py", *words]
    assert best_command(sweep(child(0), child(1, state=State.failed))) is None
    assert same_command(record) == "python run.py -m data=folder model.batch=1,2"


def test_a_command_has_no_quotes_that_change_nothing() -> None:
    words = ["name='first-sweep'", "outputs='/tmp/a b'", "tags.a='true'", "tags.b='1e3'", "data.root='/视频/x.y'"]
    command = shlex.split(str(best_command(sweep(child(0, 0.5, overrides=words)))))[2:]
    assert command == ["name=first-sweep", "outputs='/tmp/a b'", "tags.a='true'", "tags.b='1e3'", "data.root=/视频/x.y"]
    kept = [command[0], *command[1:4]]
    parser = OverridesParser.create()
    assert [o.value() for o in parser.parse_overrides(kept)] == [o.value() for o in parser.parse_overrides(words[:4])]


# The description


def test_the_description_leads_to_the_best_child_and_to_what_failed() -> None:
    record = sweep(
        child(0, 0.5),
        child(1, 0.875, epoch=4),
        child(2, state=State.failed, error="TrainingError: `the loss`\nbecame nan"),
        child(3, state=State.pruned),
    )
    text = description(record, lambda c: f"#/experiments/1/runs/r{c.number}")
    assert "2 of 4 finished, 1 failed, 1 pruned" in text
    assert "[child 1](#/experiments/1/runs/r1)** with `val_accuracy` 0.875 at epoch 4" in text
    assert "```\npython run.py data=folder model.batch=2\n```" in text
    assert "- [child 2](#/experiments/1/runs/r2), `model.batch=4`: `` TrainingError: `the loss` became nan ``" in text
    assert "```\npython run.py -m data=folder model.batch=1,2\n```" in text


def test_a_long_command_is_told_in_lines_that_are_one_to_a_shell() -> None:
    words = [f"model.args.number_{n}=a '{n}'" for n in range(20)]
    text = description(sweep(child(0, 0.5, overrides=words)), nowhere)
    command = text.partition("```\n")[2].partition("\n```")[0]
    assert max(map(len, command.splitlines())) <= 80
    assert shlex.split(command.replace("\\\n", "")) == ["python", "run.py", *words]


def test_the_description_of_many_failures_stays_short() -> None:
    text = description(sweep(*(child(n, state=State.failed, error="x" * 1000) for n in range(200))), nowhere)
    assert len(text) < 6000 and "and 190 more" in text and "**Best" not in text


# Params


def test_swept_values_are_told_once_each_and_many_as_a_span() -> None:
    children = [child(n, parameters={"model.batch": str(16 * (1 + n % 2)), "rate": repr(0.5**n)}) for n in range(40)]
    told = swept(sweep(*children, status=Status.FINISHED))
    assert told == {"model.batch": "16, 32", "rate": f"{0.5**39!r} ... 1.0 (40 values)"}
