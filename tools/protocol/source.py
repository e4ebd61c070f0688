"""Read the protocol's source: messages, their fields, and the docstrings that say what the fields mean."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import inspect as shapes

from signal_manager.protocol import messages
from signal_manager.protocol.catalogue import SPECS, Spec

__all__ = ["Field", "Group", "groups", "objects", "own_fields", "struct_fields"]


@dataclass(frozen=True)
class Field:
    """One field of a struct.

    `shape` is its type without None; `default` is None for a field that is required or simply absent.
    """

    name: str
    shape: shapes.Type
    is_required: bool
    default: Any
    meaning: str

    @property
    def plain_meaning(self) -> str:
        """The meaning for other files than docs/protocol.md, whose headings it links to."""
        return re.sub(r"\[([^\]]+)\]\(#[^)]*\)", r"\1", self.meaning)


@dataclass(frozen=True)
class Group:
    """A struct with fields of its own, and the message types that have these fields."""

    struct: type[Any]
    specs: tuple[Spec, ...]

    @property
    def meaning(self) -> str:
        """The struct's summary line."""
        return summary_of(self.struct)


def summary_of(struct: type[Any]) -> str:
    """Return the first line of a class's docstring."""
    return (inspect.getdoc(struct) or "").partition("\n")[0]


def _field_docs() -> dict[tuple[str, str], str]:
    """Return what the string below each field says, by class and field."""
    found: dict[tuple[str, str], str] = {}
    for each in ast.parse(inspect.getsource(messages)).body:
        if not isinstance(each, ast.ClassDef):
            continue
        for field, text in zip(each.body, each.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                found[each.name, field.target.id] = text.value.value
    return found


_DOCS = _field_docs()


def _meaning(struct: type[Any], name: str) -> str:
    return next((_DOCS[base.__name__, name] for base in struct.__mro__ if (base.__name__, name) in _DOCS), "")


def struct_fields(struct: type[Any]) -> list[Field]:
    """Return all fields of a struct, inherited ones first."""
    found = []
    for each in msgspec.structs.fields(struct):
        shape = shapes.type_info(each.type)
        if isinstance(shape, shapes.UnionType):
            (shape,) = (part for part in shape.types if not isinstance(part, shapes.NoneType))
        default = None if each.default is msgspec.NODEFAULT else each.default
        found.append(Field(each.name, shape, each.required, default, _meaning(struct, each.name)))
    return found


def own_fields(struct: type[Any]) -> list[Field]:
    """Return the fields that a struct adds to those of its base."""
    inherited = set(getattr(struct.__base__, "__struct_fields__", ()))
    return [each for each in struct_fields(struct) if each.name not in inherited]


def groups() -> list[Group]:
    """Return every struct that adds fields to messages, in the order of the module, with the types that have them."""
    found = []
    for struct in _classes(messages.Message):
        specs = tuple(spec for spec in SPECS.values() if issubclass(spec.struct, struct))
        if specs and struct is not messages.Message and own_fields(struct):
            found.append(Group(struct, specs))
    return found


def objects() -> list[type[Any]]:
    """Return the structs inside messages, in the order of the module."""
    return [each for each in _classes(msgspec.Struct) if not issubclass(each, messages.Message) and own_fields(each)]


def _classes(base: type[Any]) -> Iterator[type[Any]]:
    for each in vars(messages).values():
        if isinstance(each, type) and issubclass(each, base) and each.__module__ == messages.__name__:
            yield each
