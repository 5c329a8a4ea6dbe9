"""A sweep as a table: CSV for machines, a page for people, and the command that repeats the best child."""

from __future__ import annotations

import csv
import html
import io
import math
import re
import shlex
from collections.abc import Callable, Iterator, Sequence

from launchers.config import Goal
from launchers.mlflow_store import cut
from launchers.redaction import redacted, redacted_text, redacted_words
from launchers.sweeps.measured import SHOWN
from launchers.sweeps.record import Child, State, SweepRecord

Cell = str | int | float | None
Link = Callable[[Child], str | None]

MAX_ERROR = 300  # characters
LONG = 40  # characters of a cell, above which it has several lines
ALWAYS = ("number", "state")  # columns that a page shows even if they are empty
QUOTED = re.compile(r"(?P<key>[^='\"]+)='(?P<text>[A-Za-z/][\w./-]*)'")
NOT_TEXTS = ("null", "true", "false", "nan", "inf")  # without quotes
ORDER = (
    State.finished,
    State.pruned,
    State.detached,
    State.running,
    State.stopped,
    State.failed,
    State.waiting,
)
COUNTED = (State.failed, State.pruned, State.stopped, State.detached, State.running, State.waiting)  # besides finished
BETTER = {Goal.maximize: "higher is better", Goal.minimize: "lower is better"}


def columns(record: SweepRecord) -> list[str]:
    """Return the names of the table's columns."""
    others = metrics_besides(record)
    return [
        "number",
        "state",
        *record.parameters,
        record.metric,
        "epoch",
        *others,
        "minutes",
        "host",
        "run_id",
        "error",
    ]


def rows(record: SweepRecord, children: Sequence[Child] | None = None) -> list[list[Cell]]:
    """Return a row a child, in their order unless others are given; a cell that has nothing to tell is None."""
    parameters, others = record.parameters, metrics_besides(record)
    return [_row(child, parameters, others) for child in (record.children if children is None else children)]


def ranked(record: SweepRecord) -> list[Child]:
    """Return the children by state, the finished ones first, and in each the best ones first."""
    sign = -1 if record.goal is Goal.maximize else 1

    def rank(child: Child) -> tuple[int, float, int]:
        return ORDER.index(child.state), math.inf if child.value is None else sign * child.value, child.number

    return sorted(record.children, key=rank)


def metrics_besides(record: SweepRecord) -> list[str]:
    """Return the names of the other metrics that children have: the usual ones in their usual order first."""
    found = {key for child in record.children for key in child.metrics} - {record.metric}
    return [*(key for key in SHOWN if key in found), *sorted(found - set(SHOWN))]


def minutes(child: Child) -> float | None:
    """Return how long a child that has ended took."""
    if child.started is None or child.ended is None:
        return None
    return max(0.0, child.ended - child.started) / 60


def one_line(text: str) -> str:
    """Return a reason without credentials and line breaks, cut where it is long."""
    return cut(" ".join(redacted_text(text).split()), MAX_ERROR)


def counts(record: SweepRecord) -> str:
    """Return how many children there are in each state, as a sentence's part: ``3 of 5 finished, 1 failed``."""
    of_all = f" of {len(record.children)}" if record.sampler == "grid" else ""  # a sampler's number is not known here
    others = [f"{n} {state.value}" for state in COUNTED if (n := record.count(state))]
    return ", ".join([f"{record.count(State.finished)}{of_all} finished", *others])


def best_command(record: SweepRecord) -> str | None:
    """Return what one types to make the best child's run alone; None where no child has a value."""
    best = record.best
    return None if best is None else own_command(best)


def own_command(child: Child) -> str:
    """Return what one types to make a child's run alone."""
    return shlex.join(["python", "run.py", *map(_unquoted, redacted_words(child.overrides))])


def _unquoted(override: str) -> str:
    """Return an override without quotes of Hydra's around a text that is the same text without them."""
    quoted = QUOTED.fullmatch(override)
    if quoted is None or quoted["text"].lower() in NOT_TEXTS:
        return override
    return f"{quoted['key']}={quoted['text']}"


def same_command(record: SweepRecord) -> str:
    """Return what one types to go on with a sweep."""
    words = redacted_words([word for word in record.command if word not in ("-m", "--multirun")])
    return shlex.join(["python", "run.py", "-m", *words])


def to_csv(record: SweepRecord) -> str:
    """Return the table as RFC 4180 has it, with a header, in full precision."""
    text = io.StringIO()
    writer = csv.writer(text)  # its dialect ends lines with CR LF and quotes where it must
    writer.writerow([redacted_text(name) for name in columns(record)])
    writer.writerows([["" if cell is None else cell for cell in row] for row in rows(record)])
    return text.getvalue()


def to_html(record: SweepRecord, link: Link) -> str:
    """Return the table as a page that needs nothing else, the best child first.

    Args:
        link: returns the address of what is known of a child, None where there is none.
    """
    names, children = columns(record), ranked(record)
    table = rows(record, children)
    needed = {*ALWAYS, *record.parameters, record.metric}
    shown = [i for i, name in enumerate(names) if name in needed or any(row[i] not in (None, "") for row in table)]
    best = record.best
    body = (_tr(c, [row[i] for i in shown], link, best=c is best) for c, row in zip(children, table, strict=True))
    title = html.escape(redacted_text(record.name))
    head = "".join(f"<th>{html.escape(redacted_text(names[i]))}</th>" for i in shown)
    about = f"{html.escape(counts(record))} · {html.escape(record.metric)}, {BETTER[record.goal]}"
    return PAGE.format(
        title=title, about=about, best=_best(record, link), head=head, body="\n".join(body), style=STYLE.strip()
    )


def _row(child: Child, parameters: Sequence[str], others: Sequence[str]) -> list[Cell]:
    values = (redacted(child.parameters.get(key), key) for key in parameters)
    cells: list[Cell] = [child.number, child.state.value, *values]
    cells += [child.value, child.epoch, *(child.metrics.get(key) for key in others)]
    cells += [minutes(child), child.host or None, child.run, one_line(child.error) or None]
    return [redacted_text(cell) if isinstance(cell, str) else cell for cell in cells]


def _best(record: SweepRecord, link: Link) -> str:
    best, command = record.best, best_command(record)
    if best is None or command is None:
        return ""
    name = _linked(f"#{best.number}", link(best))
    return f"<p>Best: {name}, {html.escape(record.metric)} {best.value:.4g}</p>\n<pre>{html.escape(command)}</pre>"


def _tr(child: Child, cells: Sequence[Cell], link: Link, *, best: bool) -> str:
    mark = ' class="best"' if best else ""
    return f"<tr{mark}>{''.join(_tds(child, cells, link, best=best))}</tr>"


def _tds(child: Child, cells: Sequence[Cell], link: Link, *, best: bool) -> Iterator[str]:
    number, state, *others = cells
    star = ' <span title="the best one">★</span>' if best else ""
    yield f'<td class="n">{_linked(str(number), link(child))}{star}</td>'
    yield f'<td><span class="state {child.state.value}">{html.escape(str(state))}</span></td>'
    for cell in others:
        if isinstance(cell, float):
            yield f'<td class="n" title="{cell!r}">{cell:.4g}</td>'
        elif cell is None:
            yield "<td></td>"
        else:
            yield f"<td{_kind(str(cell))}>{html.escape(str(cell))}</td>"


def _kind(text: str) -> str:
    if _is_number(text):
        return ' class="n"'
    return ' class="long"' if len(text) > LONG else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _linked(text: str, address: str | None) -> str:
    if address is None:
        return html.escape(text)
    return f'<a href="{html.escape(address)}" target="_blank" rel="noopener">{html.escape(text)}</a>'


STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #1f2328; margin: 1.5rem; }
h1 { font-size: 1.15rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .4rem 0; }
pre { background: #f4f6f8; padding: .6rem .8rem; border-radius: 4px; white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; }
th { position: sticky; top: 0; background: #fff; text-align: left; border-bottom: 2px solid #d0d7de; }
th, td { padding: .3rem .7rem; vertical-align: top; }
td { border-bottom: 1px solid #e7eaee; white-space: nowrap; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
td.long { white-space: normal; overflow-wrap: anywhere; min-width: 24rem; }
tr.best td { background: #fff6d9; font-weight: 600; }
a { color: #0b63c5; }
.state { padding: 0 .5em; border-radius: 1em; background: #e7eaee; font-weight: 400; }
.state.finished { background: #d7f2de; }
.state.failed { background: #fbdcda; }
.state.running, .state.detached { background: #d8e9fb; }
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{about}</p>
{best}
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</body>
</html>
"""
