"""Every command that a document shows is one that run.py accepts, and every file it points to is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from launchers.compose import check
from videolift.errors import ConfigError

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("conf/**/*.yaml")])
COMMAND = re.compile(r"(?:^\s*|`|# +|: )python run\.py((?: [^`\n]*)?)(?:`|$)", re.MULTILINE)
PLACEHOLDERS = {"MODEL": "cnn3d", "SEED": "0"}
WRONG_ON_PURPOSE = "model.epochs=3"


def commands() -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        for match in COMMAND.finditer(document.read_text(encoding="utf-8")):
            text = re.split(r"\s#\s", match.group(1))[0].strip()
            if "..." not in text and "--" not in text and WRONG_ON_PURPOSE not in text:
                found.append((str(document.relative_to(ROOT)), text))
    return found


def test_there_are_commands_to_check() -> None:
    assert {document for document, _ in commands()} >= {"README.md", "docs/guide.md", "conf/preprocess/dense.yaml"}


@pytest.mark.parametrize(("document", "command"), commands())
def test_a_documented_command_is_accepted(document: str, command: str) -> None:
    for placeholder, value in PLACEHOLDERS.items():
        command = command.replace(f"={placeholder}", f"={value}")
    words = shlex.split(command)
    assert check([w for w in words if w != "-m"], multirun="-m" in words).jobs, document


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d.suffix == ".md"], ids=str)
def test_a_documents_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_mistakes_that_the_readme_shows_are_what_is_printed() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- printed by `python run.py (model.epochs.*?)` -->\n((?:    .*\n)+)", text)
    assert shown
    with pytest.raises(ConfigError) as error:
        check(shlex.split(shown.group(1)))
    assert str(error.value) == "\n".join(line.removeprefix("    ") for line in shown.group(2).splitlines())


def test_the_rejected_secret_that_the_guide_for_scripts_shows_is_what_is_printed() -> None:
    text = (ROOT / "docs" / "migrate.md").read_text(encoding="utf-8")
    shown = re.search(r"    python run.py (.*)\n\n<!-- printed by the command above -->\n((?:    .*\n)+)", text)
    assert shown
    with pytest.raises(ConfigError) as error:
        check(shlex.split(shown.group(1)))
    assert str(error.value) == "\n".join(line.removeprefix("    ") for line in shown.group(2).splitlines())
