"""The code blocks of documentation pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["DOCS", "TAUGHT", "Block", "blocks", "program"]

DOCS = Path(__file__).parents[2] / "docs"
TAUGHT = [DOCS / "tutorial.md", *sorted((DOCS / "guides").glob("*.md"))]

_BLOCK = re.compile(r'^( *)```(\w+)(?: title="([^"]+)")?\n(.*?)^\1```$', re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A block, and the file that it is to be saved as."""

    language: str
    title: str
    text: str


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """Return the code blocks of a page, of one language or of all."""
    found = []
    for indent, kind, title, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        lines = [line.removeprefix(indent) for line in text.splitlines(keepends=True)]
        found.append(Block(kind, title, "".join(lines)))
    return [block for block in found if language in (None, block.language)]


def program(page: str, title: str, **replacements: str) -> str:
    """Return the text of the block with this title, with the page's addresses replaced by a test's own.

    Each replacement is `name="old=>new"`; the old text has to be there.
    """
    [text] = [block.text for block in blocks(DOCS / page) if block.title == title]
    for each in replacements.values():
        old, _, new = each.partition("=>")
        assert old in text, old
        text = text.replace(old, new)
    return text
