"""The documents say what the code does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_picture_of_the_session_is_made_from_its_table() -> None:
    spec = importlib.util.spec_from_file_location("transitions", DOCS / "transitions.py")
    assert spec is not None
    assert spec.loader is not None
    transitions = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(transitions)

    page = (DOCS / "architecture.md").read_text()

    assert transitions.page_with_picture(page) == page, "run: python docs/transitions.py"
