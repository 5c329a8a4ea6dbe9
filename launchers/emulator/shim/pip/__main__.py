"""What `pip install` is in a host that cannot install: it agrees to what is there already and refuses the rest.

A job on the emulator shares this machine's Python, which it must not change.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

WITH_VALUE = {
    "-r",
    "--requirement",
    "-i",
    "--index-url",
    "--extra-index-url",
    "-c",
    "--constraint",
    "--find-links",
    "-f",
}


def main(arguments: list[str]) -> int:
    if arguments[:1] in (["--version"], ["-V"]):
        print("pip 0 (of the videolift emulator: installs nothing)")
        return 0
    if arguments[:1] != ["install"]:
        print(f"ERROR: the emulator's pip knows no {' '.join(arguments[:1])}, only install", file=sys.stderr)
        return 2
    return max((_check(text) for text in _wanted(arguments[1:])), default=0)


def _wanted(arguments: list[str]) -> list[str]:
    found: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in ("-r", "--requirement"):
            lines = Path(next(words)).read_text(encoding="utf-8").splitlines()
            found += [line.partition(" #")[0].strip() for line in lines if line.strip() and line.strip()[0] not in "#-"]
        elif word in WITH_VALUE:
            next(words)
        elif not word.startswith("-"):
            found.append(word)
    return found


def _check(text: str) -> int:
    try:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            return 0
        version = metadata.version(requirement.name)
    except InvalidRequirement as error:
        print(f"ERROR: {text}: {error}", file=sys.stderr)
        return 1
    except metadata.PackageNotFoundError:
        version = None
    if version is not None and requirement.specifier.contains(version, prereleases=True):
        print(f"Requirement already satisfied: {text} ({version})")
        return 0
    there = f"{version} is" if version else "it is not"
    print(f"ERROR: No matching distribution found for {text}: {there} installed, and nothing is added", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
