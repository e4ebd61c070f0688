"""Names that other packages keep private stand in one module each, and docs/upstream.md says what would end that."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src/signal_manager"


class Use(NamedTuple):
    """A private name of another package, and the one module that uses it."""

    module: str
    name: str


# Each has a section in docs/upstream.md, and its module's test fails with a helpful sentence when upstream moves.
ALLOWED = {
    Use("client/ice_path.py", "_connection"),
    Use("client/ice_path.py", "_nominated"),
    Use("sfu/sctp.py", "_handle_data"),
    Use("sfu/srtp_buffer.py", "_buffer"),
    Use("sfu/srtp_buffer.py", "_cdata"),
    Use("sfu/srtp_buffer.py", "_srtp"),
    Use("storage/firestore.py", "_firestore_api_internal"),
}
# The public interface of named tuples.
NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}

_ATTRIBUTE_FUNCTIONS = {"getattr", "setattr", "hasattr", "delattr"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in NAMED_TUPLES


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the private names that a module imports, from wherever."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            paths = [node.module or "", *(alias.name for alias in node.names)]
        else:
            continue
        yield from (part for path in paths for part in path.split(".") if is_private(part))


def reached(tree: ast.AST, defined: frozenset[str]) -> Iterator[str]:
    """Yield the private attributes that a module takes from others than `self`, or that no class of ours defines."""
    classes = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = node.value.func if isinstance(node.value, ast.Call) else node.value
            name = owner.id if isinstance(owner, ast.Name) else ""
            if name not in {"self", "cls", "super", *classes} or node.attr not in defined:
                yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ATTRIBUTE_FUNCTIONS:
            [_, name, *_] = [*node.args, None, None]
            if isinstance(name, ast.Constant) and is_private(str(name.value)):
                yield str(name.value)


def defines(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a module gives to anything."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def uses(source: str, defined: frozenset[str] = frozenset()) -> set[str]:
    tree = ast.parse(source)
    return {*imported(tree), *reached(tree, defined | set(defines(tree)))}


@cache
def found() -> frozenset[Use]:
    texts = {
        path.relative_to(SOURCES).as_posix(): path.read_text()
        for path in SOURCES.rglob("*.py")
        if not path.name.endswith("_pb2.py")
    }
    defined = frozenset(name for text in texts.values() for name in defines(ast.parse(text)))
    return frozenset(Use(module, name) for module, text in texts.items() for name in uses(text, defined))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a._b", {"_b"}),
        ("from a._b import c", {"_b"}),
        ("from a import _b", {"_b"}),
        ("from a import __version__", set()),
        ("a._b", {"_b"}),
        ("self._a._b", {"_a", "_b"}),  # `_a` because nothing defines it here
        ("self._a = 1\nself._a", set()),
        ("class A:\n    def _b(self): self._b()\n    c = lambda a: A._b(a)", set()),
        ("self._inherited", {"_inherited"}),
        ("super()._inherited()", {"_inherited"}),
        ("a()._b", {"_b"}),
        ("getattr(a, '_b', None)", {"_b"}),
        ("getattr(a, 'b')", set()),
        ("a._replace(b=1)", set()),
    ],
)
def test_the_scan_finds_private_names(source: str, expected: set[str]) -> None:
    assert uses(source) == expected


def test_private_names_of_other_packages_stand_in_one_module_each() -> None:
    more = found() - ALLOWED

    assert not more, (
        f"these modules use private names: {sorted(more)}. Use public ones; or put the name into one module, with a "
        "test that says what to do when upstream moves and a section in docs/upstream.md, and add it to ALLOWED"
    )
    assert found() == ALLOWED, f"no longer used, take them out of the table: {sorted(ALLOWED - found())}"


@pytest.mark.parametrize("use", sorted(ALLOWED), ids=".".join)
def test_the_docs_say_what_would_make_each_private_name_needless(use: Use) -> None:
    text = (ROOT / "docs/upstream.md").read_text()

    assert f"`{use.module}`" in text
    assert use.name in text
    test = f"tests/{use.module.rpartition('/')[0]}/test_{use.module.rpartition('/')[2]}"
    assert f"`{test}`" in text
    assert (ROOT / test).is_file()
