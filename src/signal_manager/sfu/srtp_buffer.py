"""Encrypts in pylibsrtp's own buffer: the one module that uses names private to pylibsrtp.

`Session.protect` makes a new length for every packet and looks up what never changes. That is a third of what
encrypting costs, and encrypting is most of what forwarding costs. Where the names are gone, or mean something else,
`in_place` returns the public method: slower, and as right. docs/upstream.md says what would make this module
unnecessary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import pylibsrtp
from pylibsrtp import Policy, Session

__all__ = ["in_place", "why_not"]

# libsrtp itself: pylibsrtp does not count it among its names.
_SRTP: Any = pylibsrtp

Operation = Literal["protect", "unprotect"]


def in_place(session: Session, operation: Operation) -> Callable[[bytes], bytes]:
    """Return a session's method, without its overhead where that is possible."""
    method: Callable[[bytes], bytes] = getattr(session, operation)
    return method if why_not() else _InPlace(session, operation)


@cache
def why_not() -> str:
    """Return why this pylibsrtp cannot be used so; an empty text where it can."""
    packet = b"\x80\x60" + bytes(10) + bytes(range(100))
    try:
        protected = _InPlace(_sample(Policy.SSRC_ANY_OUTBOUND), "protect")(packet)
        unprotected = _InPlace(_sample(Policy.SSRC_ANY_INBOUND), "unprotect")(protected)
    except (AttributeError, TypeError, ValueError, LookupError, pylibsrtp.Error) as error:
        return f"{type(error).__name__}: {error}"
    same = protected == _sample(Policy.SSRC_ANY_OUTBOUND).protect(packet) and unprotected == packet
    return "" if same else "what it encrypts is not what Session.protect encrypts"


def _sample(direction: int) -> Session:
    return Session(Policy(key=bytes(range(30)), ssrc_type=direction))


class _InPlace:
    """One operation of a session, on RTP."""

    def __init__(self, session: Any, operation: Operation) -> None:
        self._session = session  # keeps what libsrtp has alive
        self._srtp = session._srtp[0]
        self._data = session._cdata
        self._buffer = session._buffer
        self._length = _SRTP.ffi.new("int *")
        self._run = getattr(_SRTP.lib, f"srtp_{operation}")
        self._longest = len(session._cdata) - (_SRTP.SRTP_MAX_TRAILER_LEN if operation == "protect" else 0)

    def __call__(self, packet: bytes) -> bytes:
        size, length = len(packet), self._length
        if size > self._longest:
            raise ValueError("packet is too long")
        length[0] = size
        self._buffer[0:size] = packet
        error = self._run(self._srtp, self._data, length)
        if error:
            raise pylibsrtp.Error(_SRTP.ERRORS[error])
        result: bytes = self._buffer[0 : length[0]]
        return result
