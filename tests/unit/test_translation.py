"""The Chinese README is in step with the English one: the same headings, commands, settings, pictures and links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
EACH_OTHER = {"README.md", "README.zh-CN.md"}  # how readers change the language


def headings(text: str) -> list[int]:
    return [len(level) for level in re.findall(r"^(#+) ", text, re.MULTILINE)]


def commands(text: str) -> list[str]:
    """Return the lines of code without their comments, which are translated."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [*"".join(fenced).splitlines(), *re.findall(r"^ {4}(.+)$", text, re.MULTILINE)]
    return [re.split(r"\s+#\s", line)[0].rstrip() for line in lines]


def rows(text: str) -> list[list[str]]:
    """Return what stands as code in the rows of tables."""
    return [re.findall(r"`[^`]+`", line) for line in text.splitlines() if line.startswith("|")]


def links(text: str) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)]+)\)", text) if link not in EACH_OTHER]


@pytest.mark.parametrize("part", [headings, commands, rows, links])
def test_both_readmes_have_the_same(part: object) -> None:
    assert callable(part)
    english, chinese = part(README), part(CHINESE)
    assert english
    assert chinese == english


def test_the_chinese_readme_is_in_chinese() -> None:
    prose = [line for line in CHINESE.splitlines() if not line.startswith((" ", "|", "```", "<!--", "!["))]
    assert sum(bool(re.search(r"[一-鿿]", line)) for line in prose if len(line) > 40) > 20


def test_each_leads_to_the_other() -> None:
    assert "(README.zh-CN.md)" in README and "(README.md)" in CHINESE
