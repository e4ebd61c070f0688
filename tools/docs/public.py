"""Which public names of the Python SDK say nothing of themselves."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["undocumented"]


def undocumented(package: ModuleType) -> Iterator[str]:
    """Yield what `__all__` of the package offers without a docstring: classes, their members, functions, constants."""
    described = set(_described_constants(Path(package.__path__[0])))
    for name in package.__all__:
        value = getattr(package, name)
        if inspect.isclass(value):
            yield from _undocumented_members(name, value)
        elif not (inspect.getdoc(value) if inspect.isfunction(value) else name in described):
            yield name


def _undocumented_members(name: str, kind: type[Any]) -> Iterator[str]:
    if not kind.__dict__.get("__doc__"):
        yield name
    for member, value in vars(kind).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if not member.startswith("_") and inspect.isfunction(function) and not inspect.getdoc(getattr(kind, member)):
            yield f"{name}.{member}"


def _described_constants(folder: Path) -> Iterator[str]:
    """Yield the names that are assigned in a module and followed by a string."""
    for file in folder.rglob("*.py"):
        body = ast.parse(file.read_text()).body
        for statement, following in pairwise(body):
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                targets = (
                    statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
                )
                yield from (target.id for target in targets if isinstance(target, ast.Name))
