"""Checks the arguments that applications pass to the SDK. A wrong one raises an `InvalidRequestError` that names it.

Each check returns the argument in the form that the SDK uses, or raises. `what` is the argument's name. Errors show
short values only.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from signal_manager.errors import InvalidRequestError
from signal_manager.model import NAME_RULE, is_valid_name
from signal_manager.protocol.messages import MAX_LABEL

if TYPE_CHECKING:
    from aiortc import MediaStreamTrack

__all__ = [
    "a_flag",
    "a_function",
    "a_kind",
    "a_name",
    "a_text",
    "a_time_limit",
    "a_token",
    "a_track",
    "a_url",
    "an_object",
    "instance_of",
    "maybe",
    "one_of",
    "refuse",
    "texts",
    "tracks_of",
    "whole",
]

# The most characters of a wrong value that an error shows.
_MAX_SHOWN = 80

T = TypeVar("T")
Check: TypeAlias = Callable[[object, str], T]


def refuse(value: object, what: str, expected: str) -> InvalidRequestError:
    """Return the error for a wrong value; it shows the value if that is short and simple."""
    is_short = value is None or (isinstance(value, str | bytes) and len(value) <= _MAX_SHOWN)
    is_number = isinstance(value, float | bool) or (isinstance(value, int) and abs(value) < 10**_MAX_SHOWN)
    shown = repr(value) if is_short or is_number else type(value).__name__
    return InvalidRequestError(f"{what} is {shown}, expected {expected}")


def maybe(check: Check[T], value: object, what: str) -> T | None:
    """Return None for None, and otherwise the result of `check`."""
    return None if value is None else check(value, what)


def instance_of(kind: type[T]) -> Check[T]:
    """Return the check for objects of a class."""

    def check(value: object, what: str) -> T:
        if not isinstance(value, kind):
            raise refuse(value, what, f"a {kind.__name__}")
        return value

    return check


def one_of(words: Iterable[str]) -> Check[str]:
    """Return the check for a set of words."""
    known = sorted(words)

    def check(value: object, what: str) -> str:
        if not isinstance(value, str) or value not in known:
            raise refuse(value, what, f"one of {', '.join(known)}")
        return value

    return check


def whole(least: int, most: float = math.inf) -> Check[int]:
    """Return the check for integers within bounds."""

    def check(value: object, what: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            bounds = f"of {least} or more" if most == math.inf else f"from {least} to {most}"
            raise refuse(value, what, f"an integer {bounds}")
        return value

    return check


a_kind = one_of(("audio", "video"))


def a_name(value: object, what: str) -> str:
    """Return the id of a client or room, or a track's name."""
    if not isinstance(value, str) or not is_valid_name(value):
        raise refuse(value, what, NAME_RULE)
    return value


def a_text(value: object, what: str) -> str:
    """Return a short text."""
    # A character has at most four bytes in UTF-8, so a longer text need not be encoded.
    if isinstance(value, str) and len(value) <= MAX_LABEL:
        try:
            if len(value.encode()) <= MAX_LABEL:
                return value
        except UnicodeEncodeError:
            pass
    raise refuse(value, what, f"a string of up to {MAX_LABEL} bytes")


def texts(value: object, what: str) -> list[str]:
    """Return a list of short texts; refuse a single string."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise refuse(value, what, "a list of strings")
    return [a_text(each, f"{what}[{index}]") for index, each in enumerate(value)]


def a_flag(value: object, what: str) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise refuse(value, what, "True or False")
    return value


def a_time_limit(value: object, what: str) -> float:
    """Return a number of seconds; infinity is no limit."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (0 <= value <= sys.float_info.max or value == math.inf):  # type: ignore[operator]  # a number
        raise refuse(value, what, "seconds of 0 or more")
    return value  # type: ignore[return-value]  # a number


def an_object(value: object, what: str) -> dict[str, Any]:
    """Return a JSON object."""
    if not isinstance(value, Mapping):
        raise refuse(value, what, "a mapping")
    return dict(value)


def a_function(value: object, what: str) -> Callable[..., Any]:
    """Return a function."""
    if not callable(value):
        raise refuse(value, what, "a function")
    return value


def a_url(value: object, what: str) -> str:
    """Return the URL of a service."""
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        is_right = parts is not None and parts.scheme in {"ws", "wss"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port out of range, or an incomplete IPv6 address
        is_right = False
    if not is_right or not isinstance(value, str):
        # The error does not show the URL, which may contain a token.
        raise InvalidRequestError(f"{what}: expected a URL such as ws://127.0.0.1:8080 or wss://host/ws")
    return value


def a_token(value: object, what: str) -> str | Callable[..., Any]:
    """Return a token, or the function that fetches one; an error never shows it."""
    if not isinstance(value, str) and not callable(value):
        raise InvalidRequestError(f"{what} is {type(value).__name__}, expected a string or a function")
    return value


def a_track(value: object, what: str) -> MediaStreamTrack:
    """Return a track of aiortc's; aiortc need not be installed."""
    kind = getattr(value, "kind", None)
    is_track = callable(getattr(value, "recv", None)) and callable(getattr(value, "on", None))
    if not is_track or not isinstance(kind, str) or kind not in {"audio", "video"}:
        raise refuse(value, what, "a MediaStreamTrack of kind audio or video")
    track: MediaStreamTrack = value  # type: ignore[assignment]  # looked at above
    return track


def tracks_of(value: object, what: str) -> list[MediaStreamTrack]:
    """Return a list of tracks."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise refuse(value, what, "a list of tracks")
    return [a_track(each, f"{what}[{index}]") for index, each in enumerate(value)]
