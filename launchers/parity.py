"""Library versions in the images of a run against those on this machine."""

from __future__ import annotations

import csv
import io
import platform
from collections.abc import Mapping

from launchers.provenance import versions

NOTABLE = ("python", "tensorflow", "keras", "numpy", "opencv-python-headless", "av", "matplotlib")
PARITY_FILE = "parity.csv"
ABSENT = "-"

Table = list[list[str]]


def parity_table(environments: Mapping[str, Mapping[str, str]]) -> Table:
    """Return a row a library, after a head: its name, its version here and in each environment."""
    here = {"python": platform.python_version(), **versions(NOTABLE)}
    rows = [
        [name, here.get(name, ABSENT), *(versions_there.get(name, ABSENT) for versions_there in environments.values())]
        for name in NOTABLE
    ]
    return [["library", "here", *environments], *rows]


def differences(table: Table) -> list[str]:
    """Return in words where an environment has another version than this machine; what one side lacks is none."""
    head, *rows = table
    return [
        f"{name} is {there} in the {where}, {here} here"
        for name, here, *others in rows
        for where, there in zip(head[2:], others, strict=True)
        if ABSENT not in (here, there) and not _same(name, here, there)
    ]


def _same(name: str, here: str, there: str) -> bool:
    # Patch releases of Python change no result; those of libraries may.
    return here.split(".")[:2] == there.split(".")[:2] if name == "python" else here == there


def to_csv(table: Table) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    return text.getvalue()
