"""The documents say what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"


def test_the_picture_of_the_session_is_made_from_its_table() -> None:
    spec = importlib.util.spec_from_file_location("transitions", DOCS / "transitions.py")
    assert spec is not None
    assert spec.loader is not None
    transitions = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(transitions)

    page = (DOCS / "architecture.md").read_text()

    assert transitions.page_with_picture(page) == page, "run: python docs/transitions.py"


def test_every_test_that_the_operations_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (DOCS / "operations.md").read_text()))
    defined = {name for file in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())}

    assert named
    assert not named - defined
