"""The text, in Markdown, that MLflow shows above a sweep's run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from launchers.redaction import redacted_text
from launchers.sweeps.record import Child, State, SweepRecord
from launchers.sweeps.results import BETTER, Link, best_command, counts, one_line, ranked, same_command

BEST = 5  # children
FAILED = 10  # children
WIDTH = 72  # characters of a command's line


def description(record: SweepRecord, link: Link) -> str:
    """Return what a person wants to know first: the best child, what failed, and how to go on.

    Args:
        link: returns the address of a child's run, None where it has none.
    """
    return redacted_text("\n\n".join(_paragraphs(record, link)))


def code(text: str) -> str:
    """Return a text as it is, whatever Markdown would make of it."""
    fence = "`" * (max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def block(command: str) -> str:
    """Return a command to be copied, in lines that a shell takes for one: a longer one would widen MLflow's page."""
    lines = [""]
    for word in map(shlex.quote, shlex.split(command)):
        if lines[-1] and len(lines[-1]) + len(word) > WIDTH:
            lines.append(" ")
        lines[-1] += f" {word}" if lines[-1] else word
    text = " \\\n".join(lines)
    fence = "`" * max(3, max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    return f"{fence}\n{text}\n{fence}"


def _paragraphs(record: SweepRecord, link: Link) -> Iterator[str]:
    best, command = record.best, best_command(record)
    if best is not None and command is not None:
        # The first line is the one that MLflow leaves uncovered, with links to be clicked, before "Show more".
        yield f"**Best: {_linked(best, link)}** with {code(record.metric)} {best.value:.4g}{_at(best)}. Alone:"
        yield block(command)
    made_by = "" if record.sampler == "grid" else f", chosen by {record.sampler}"
    yield (
        f"Sweep {code(record.id)}: {len(record.children)} runs{made_by}; {counts(record)}. "
        f"Compared by {code(record.metric)}, {BETTER[record.goal]}."
    )
    yield from _next_best(record, link)
    yield from _failures(record, link)
    yield "The same command goes on with what is missing or failed:"
    yield block(same_command(record))


def _at(child: Child) -> str:
    return "" if child.epoch is None else f" at epoch {child.epoch}"


def _linked(child: Child, link: Link) -> str:
    address = link(child)
    return f"child {child.number}" if address is None else f"[child {child.number}]({address})"


def _next_best(record: SweepRecord, link: Link) -> Iterator[str]:
    others = [child for child in ranked(record)[1:BEST] if child.state is State.finished and child.value is not None]
    if others:
        yield "Next: " + ", ".join(f"{_linked(child, link)} {child.value:.4g}" for child in others) + "."


def _failures(record: SweepRecord, link: Link) -> Iterator[str]:
    failed = [child for child in record.children if child.state is State.failed]
    if not failed:
        return
    told = [f"- {_linked(c, link)}, {code(c.label)}: {code(one_line(c.error) or 'no reason told')}" for c in failed]
    more = [f"- and {len(failed) - FAILED} more, see `sweep/results.html`"] if len(failed) > FAILED else []
    yield "Failed:"
    yield "\n".join(told[:FAILED] + more)
