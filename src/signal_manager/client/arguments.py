"""What applications hand to the SDK, checked: whatever is wrong with it is an `InvalidRequestError` that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from signal_manager.errors import InvalidRequestError
from signal_manager.model import NAME_RULE, is_valid_name

__all__ = ["a_name", "a_time_limit", "an_object", "texts"]


def a_name(value: object, what: str) -> str:
    """Return the id of a client or room, or a track's name."""
    if not isinstance(value, str) or not is_valid_name(value):
        raise InvalidRequestError(f"{what} is {value!r}, expected {NAME_RULE}")
    return value


def a_time_limit(value: object, what: str) -> float:
    """Return a number of seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise InvalidRequestError(f"{what} is {value!r}, expected seconds of 0 or more")
    return value


def an_object(value: Mapping[str, Any] | None, what: str) -> dict[str, Any] | None:
    """Return a JSON object, if there is one."""
    if value is not None and not isinstance(value, Mapping):
        raise InvalidRequestError(f"{what} is {type(value).__name__}, expected a mapping")
    return None if value is None else dict(value)


def texts(values: Sequence[str] | None, what: str) -> list[str] | None:
    """Return a list of strings, if there is one; a single string is none."""
    if values is None:
        return None
    if isinstance(values, str) or not isinstance(values, Sequence) or not all(isinstance(each, str) for each in values):
        raise InvalidRequestError(f"{what} is {values!r}, expected a list of strings")
    return list(values)
