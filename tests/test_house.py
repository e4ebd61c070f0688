"""The house stays one to live in: no class grows large unless its docstring says why, or has a retired name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import signal_manager.client

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src/signal_manager"
MOST_METHODS = 20
MOST_ATTRIBUTES = 15
REASON = "Large because"


class Size(NamedTuple):
    """A class as this test measures it."""

    name: str
    methods: int
    attributes: int
    docstring: str

    @property
    def is_large(self) -> bool:
        """Whether there is more in it than a reader keeps in mind."""
        return self.methods > MOST_METHODS or self.attributes > MOST_ATTRIBUTES

    @property
    def says_why(self) -> bool:
        """Whether a line of the docstring begins with the reason."""
        return any(line.strip().startswith(REASON) for line in self.docstring.splitlines())


def measure(tree: ast.AST, module: str) -> Iterator[Size]:
    """Yield the size of every class in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
            attributes = {
                each.target.id
                for each in node.body
                if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
            }
            for method in methods:
                attributes |= {
                    each.attr
                    for each in ast.walk(method)
                    if isinstance(each, ast.Attribute)
                    and isinstance(each.ctx, ast.Store)
                    and isinstance(each.value, ast.Name)
                    and each.value.id == "self"
                }
            names = {method.name for method in methods}
            yield Size(f"{module}:{node.name}", len(names), len(attributes), ast.get_docstring(node) or "")


def words(name: str) -> set[str]:
    """Return the words of a class name: "HTTPPort" has "HTTP" and "Port"."""
    return set(re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]+", name))


def retired() -> set[str]:
    """Return the nouns that the glossary has given up."""
    glossary = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^Retired nouns[^:]*: ([^.]+)\.$", glossary, re.MULTILINE)
    return set(re.split(r",\s+", listed))


@pytest.fixture(scope="module")
def sizes() -> list[Size]:
    """All classes of the package."""
    return [
        size
        for path in sorted(SOURCES.rglob("*.py"))
        if not path.name.endswith("_pb2.py")
        for size in measure(ast.parse(path.read_text()), path.relative_to(SOURCES).as_posix())
    ]


def test_a_large_class_says_why(sizes: list[Size]) -> None:
    grown = [
        f"{size.name} has {size.methods} methods and {size.attributes} attributes, expected at most {MOST_METHODS} and"
        f" {MOST_ATTRIBUTES}: split it, or add a line '{REASON} ...' to its docstring"
        for size in sizes
        if size.is_large and not size.says_why
    ]

    assert grown == []


def test_only_a_large_class_says_why(sizes: list[Size]) -> None:
    assert not [size.name for size in sizes if size.says_why and not size.is_large]


def test_no_class_has_a_retired_noun_in_its_name(sizes: list[Size]) -> None:
    names = {size.name.partition(":")[2] for size in sizes} - set(signal_manager.client.__all__)

    assert {name: words(name) & retired() for name in sorted(names) if words(name) & retired()} == {}


def test_retired_nouns_are_read_from_the_glossary() -> None:
    assert {"Participant", "Roster", "Trial"} <= retired()
    assert words("ParticipantView") & retired() == {"Participant"}
    assert words("HTTPPort2") == {"HTTP", "Port2"}


@pytest.mark.parametrize(
    ("body", "is_large"),
    [
        ("\n".join(f"    def m{n}(self): ..." for n in range(MOST_METHODS)), False),
        ("\n".join(f"    def m{n}(self): ..." for n in range(MOST_METHODS + 1)), True),
        ("\n".join(f"    a{n}: int" for n in range(MOST_ATTRIBUTES + 1)), True),
        ("    def m(self):\n" + "\n".join(f"        self.a{n} = 0" for n in range(MOST_ATTRIBUTES + 1)), True),
    ],
)
def test_methods_and_attributes_are_counted(body: str, is_large: bool) -> None:
    (size,) = measure(ast.parse(f"class Any:\n{body}"), "any.py")

    assert size.is_large is is_large
