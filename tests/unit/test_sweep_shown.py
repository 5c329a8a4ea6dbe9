from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from launchers.base import Described
from launchers.config import Goal
from launchers.sweeps.record import Child, State, SweepFolder, SweepRecord
from launchers.sweeps.shown import (
    Column,
    PlannedRow,
    SharedStage,
    children_text,
    clock,
    counts_text,
    number_text,
    print_plan,
    print_results,
    short_names,
    table_of,
)


def child(number: int, state: State = State.waiting, value: float | None = None, **parameters: str) -> Child:
    label = " ".join(f"{key.replace('__', '.')}={value}" for key, value in parameters.items())
    differs = {key.replace("__", "."): value for key, value in parameters.items()}
    return Child(number, label, differs, f"{number:04}", label.split(), state=state, value=value)


def record(*children: Child, goal: Goal = Goal.maximize, sampler: str = "grid") -> SweepRecord:
    return SweepRecord("1f3a", "grid", [], "videolift", "val_accuracy", goal, sampler, list(children))


def printed(show: Callable[[Console], None], width: int = 120, *, terminal: bool = False) -> str:
    out = io.StringIO()
    show(Console(file=out, width=width, force_terminal=terminal, color_system="truecolor" if terminal else None))
    return out.getvalue()


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def table(text: str, head: str) -> list[list[str]]:
    """Return the cells of the table whose head has a word, the head first; empty cells are left out."""
    rows = lines(text)
    start = next(n for n, line in enumerate(rows) if head in line.split())
    found = []
    for line in rows[start:]:
        if not line or (found and not re.match(r"\s*(best +)?\d", line)):
            break
        found.append(re.split(r"\s{2,}", line.strip()))
    return found


# Words


def test_settings_are_called_by_their_last_word() -> None:
    assert short_names(["model.batch", "preprocess.interval", "model"]) == {
        "model.batch": "batch",
        "preprocess.interval": "interval",
        "model": "model",
    }


def test_settings_with_the_same_last_word_keep_as_much_as_tells_them_apart() -> None:
    names = ["backend.train.instance_count", "backend.preprocess.instance_count", "model", "other.model"]
    assert list(short_names(names).values()) == [
        "train.instance_count",
        "preprocess.instance_count",
        "model",
        "other.model",
    ]


@given(st.sets(st.from_regex(r"[ab](\.[ab]){0,3}", fullmatch=True), min_size=1))
def test_short_names_are_never_the_same(names: set[str]) -> None:
    short = short_names(sorted(names))
    assert len(set(short.values())) == len(names)
    assert all(name == end or name.endswith(f".{end}") for name, end in short.items())


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], ""),
        ([2, 0, 1], "#0 #1 #2"),
        ([0, 1, 2, 3, 7], "#0-#3 #7"),
        (list(range(200)), "#0-#199"),
        (list(range(0, 60, 2)), "#0 #2 #4 #6 #8 #10 #12 #14 #16 #18 #20 #22 ... 30 in all"),
    ],
)
def test_children_that_follow_each_other_are_a_range(numbers: list[int], text: str) -> None:
    assert children_text(numbers) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.8123, "0.812"), (0.0, "0.000"), (-1.5, "-1.500"), (1.23e-5, "1.2e-05"), (123456.0, "1.2e+05"), (None, "")],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert number_text(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (83.9, "1:23"), (3600 + 62, "1:01:02"), (-3, "0:00")])
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_counts_name_only_states_that_there_are_and_the_best_child() -> None:
    children = [child(0, State.finished, 0.5), child(1, State.finished, 0.931), child(2, State.failed)]
    children += [child(n) for n in range(3, 6)]
    assert counts_text(record(*children)) == "2 of 6 finished, 1 failed, 3 waiting · best #1 val_accuracy 0.931"
    assert counts_text(record(*children, goal=Goal.minimize)).endswith("best #0 val_accuracy 0.500")
    assert counts_text(record(child(0))) == "0 of 1 finished, 1 waiting"


def test_how_many_trials_a_sampler_will_make_is_not_claimed() -> None:
    assert counts_text(record(child(0, State.pruned), sampler="optuna")) == "0 finished, 1 pruned"


# A table that fits


@given(
    width=st.integers(24, 200),
    names=st.lists(st.text("ab据", min_size=1, max_size=12), min_size=1, max_size=4),
    long=st.integers(1, 80),
    fold=st.booleans(),
)
def test_a_table_is_never_wider_than_the_terminal(width: int, names: list[str], long: int, fold: bool) -> None:
    columns = [Column(name, [Text("x" * (3 * n)), Text("1")], dispensable=n + 1) for n, name in enumerate(names)]
    columns.append(Column("what", [Text("数" * long), Text("")], gives_way=True))
    text = printed(lambda console: console.print(table_of(columns, width, fold=fold)), width)
    assert max(map(cell_len, text.splitlines())) <= width
    whole = "".join(text.split()).count("数") == long
    assert whole if fold else whole or "…" in text


def test_what_matters_least_is_left_out_first() -> None:
    columns = [
        Column("kept", [Text("1")]),
        Column("gone", [Text("x" * 30)], dispensable=2),
        Column("later", [Text("x" * 30)], dispensable=1),
    ]
    assert lines(printed(lambda c: c.print(table_of(columns, 40)), 40))[0].split() == ["kept", "later"]
    assert lines(printed(lambda c: c.print(table_of(columns, 20)), 20))[0].split() == ["kept"]
    assert lines(printed(lambda c: c.print(table_of(columns, 80)), 80))[0].split() == ["kept", "gone", "later"]


# The plan

STAGES = {"preprocess": "would run", "train": "would run"}


def planned(number: int, state: str = "waiting", **stages: str) -> PlannedRow:
    parameters = {"model.batch": str(8 * (number + 1)), "preprocess.interval": "2"}
    label = " ".join(f"{key}={value}" for key, value in parameters.items())
    return PlannedRow(number, label, {**STAGES, **stages}, state, parameters)


def plan(rows: list[PlannedRow], *shared: SharedStage, width: int = 120, costs: tuple[Described, ...] = ()) -> str:
    return printed(lambda console: print_plan(console, "sweep 1f3a: grid", rows, shared, costs), width)


def test_a_plan_has_a_row_a_child_with_its_parameters_and_what_happens_to_its_stages() -> None:
    text = plan([planned(0), planned(1, preprocess="shared with #0"), planned(2, train="cached")])
    assert lines(text)[0] == "sweep 1f3a: grid"
    assert table(text, "batch") == [
        ["#", "batch", "interval", "preprocess", "train"],
        ["0", "8", "2", "would run", "would run"],
        ["1", "16", "2", "with #0", "would run"],
        ["2", "24", "2", "would run", "cached"],
    ]
    assert "to compute: 2 preprocess, 2 train · shared: 1 preprocess · from the cache: 1 train" in lines(text)


def test_a_plan_says_what_is_shared_by_whom_and_what_it_can_cost() -> None:
    text = plan(
        [planned(0), planned(1)],
        SharedStage("preprocess", "preprocess-1f3a55e7d4c2b1a0", [0, 1, 2], cached=False),
        SharedStage("preprocess", "preprocess-99aa55e7d4c2b1a0", [3, 4], cached=True),
        costs=(Described("cost", [("job", "usd"), ("training", "23.04")], "at most 23.04 US dollars"),),
    )
    assert "preprocess 1f3a55e7 computed once for #0 #1 #2" in lines(text)
    assert "preprocess 99aa55e7 is in the cache for #3 #4" in lines(text)
    assert "at most 23.04 US dollars" in text and "training  23.04" in text


def test_a_sweep_that_goes_on_shows_how_far_each_child_is() -> None:
    assert "state" not in plan([planned(0), planned(1)])
    assert table(plan([planned(0, "failed"), planned(1)]), "batch")[1:] == [
        ["0", "8", "2", "would run", "would run", "failed"],
        ["1", "16", "2", "would run", "would run", "waiting"],
    ]


def test_of_200_children_20_are_shown_and_the_others_summed_up() -> None:
    rows = [planned(n, preprocess="shared with #0" if n else "would run") for n in range(200)]
    rows[50:60] = [replace(row, stages=dict.fromkeys(STAGES, "cached"), state="finished") for row in rows[50:60]]
    text = plan(rows)
    assert [row[0] for row in table(text, "batch")[1:]] == [str(n) for n in range(20)]
    assert "and 180 more:" in lines(text)
    assert "  170  preprocess shared; train would run  (#20-#49 #60-#199)" in lines(text)
    assert "  10  finished; preprocess, train cached  (#50-#59)" in lines(text)
    assert "to compute: 1 preprocess, 190 train · shared: 189 preprocess · from the cache: 10 preprocess, 10 train" in (
        lines(text)
    )
    assert len(lines(text)) < 30


def test_nothing_of_a_plan_is_lost_on_a_narrow_terminal() -> None:
    row = PlannedRow(0, "", STAGES, "waiting", {f"model.setting_{n}": f"value-{n}" for n in range(8)})
    text = "".join(plan([row], width=60).split())
    assert "what differs" in plan([row], width=60)
    assert all(f"value-{n}" in text for n in range(8))


def test_markup_in_a_value_is_shown_as_it_is() -> None:
    rows = [PlannedRow(0, "", STAGES, "waiting", {"name": "[red]a[/red]"})]
    assert "[red]a[/red]" in plan(rows)


# The results

FINISHED = [
    child(0, State.finished, 0.5, model__batch="8"),
    child(1, State.failed, model__batch="16"),
    child(2, State.finished, 0.9, model__batch="32"),
    child(3, State.pruned, 0.95, model__batch="64"),
]
FINISHED[1].error = "TrainingError: the loss became nan in epoch 3\n  more of it"
FINISHED[2].epoch, FINISHED[2].metrics = 17, {"test_accuracy": 0.875}
FINISHED[2].started, FINISHED[2].ended = 100.0, 190.0


def results(found: SweepRecord, command: str | None = "python run.py model.batch=32", width: int = 120) -> str:
    return printed(lambda console: print_results(console, found, command, SweepFolder(Path("sweeps/1f3a"))), width)


def test_results_put_the_best_child_first_and_mark_it() -> None:
    rows = table(results(record(*FINISHED)), "batch")
    assert rows[0] == ["#", "batch", "state", "val_accuracy", "epoch", "test_accuracy", "minutes", "error"]
    assert rows[1] == ["best", "2", "32", "finished", "0.900", "17", "0.875", "1.5"]
    assert [row[0] for row in rows[2:]] == ["0", "3", "1"]
    assert rows[-1][-1] == "TrainingError: the loss became nan in epoch 3"


def test_where_less_is_better_the_lowest_value_comes_first() -> None:
    rows = table(results(record(*FINISHED, goal=Goal.minimize)), "batch")
    assert [row[0] for row in rows[1:]] == ["best", "2", "3", "1"]


def test_results_end_with_the_best_command_the_reasons_of_failures_and_what_is_next() -> None:
    text = lines(results(record(*FINISHED)))
    assert "  python run.py model.batch=32" in text
    assert "best: #2 model.batch=32; to make it alone:" in text
    reason = "TrainingError: the loss became nan in epoch 3"
    assert f"#1 model.batch=16: failed, {reason} (sweeps/1f3a/children/0001.log)" in text
    assert text[-1] == "the same command runs the failed child again"


def test_what_the_same_command_would_do_is_told_for_every_state() -> None:
    states = [State.failed, State.failed, State.stopped, State.detached, State.detached, State.waiting]
    text = results(record(*(child(n, state) for n, state in enumerate(states))))
    assert lines(text)[-1] == (
        "the same command runs the 2 failed children again, goes on with the stopped child, "
        "follows the 2 detached children again and starts the waiting child"
    )


def test_after_a_complete_sweep_nothing_is_next() -> None:
    text = results(record(child(0, State.finished, 0.5), child(1, State.pruned)), None)
    assert "same command" not in text and "python run.py" not in text
    assert "as it is" in text


def test_of_200_results_the_20_best_are_shown() -> None:
    children = [child(n, State.finished, n / 1000, model__batch=str(n)) for n in range(170)]
    children += [child(n, State.failed, model__batch=str(n)) for n in range(170, 200)]
    text = results(record(*children))
    assert [row[-3] for row in table(text, "batch")[1:]] == [str(n) for n in range(169, 149, -1)]
    assert "and 150 more finished, val_accuracy 0.000 to 0.149" in lines(text)
    assert "and 10 more failed: #190-#199" in lines(text)
    assert len(lines(text)) < 60


def test_the_command_is_in_one_line_however_narrow_the_terminal() -> None:
    command = "python run.py " + " ".join(f"model.setting_{n}=value" for n in range(20))
    assert f"  {command}" in lines(results(record(*FINISHED), command, width=40))
