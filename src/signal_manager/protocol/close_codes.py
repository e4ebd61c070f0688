"""WebSocket close codes: what each one means, and whether the client reconnects (docs/protocol.md).

The connection state machine closes with these codes. The conversation looks up whether a session outlives the close,
and the SDKs whether they reconnect. docs/vectors.json carries the table to other SDKs.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import NamedTuple

__all__ = ["CLOSE_CODES", "RETURN_OF_OTHERS", "CloseCode", "Ending", "Return"]


class CloseCode(IntEnum):
    """The close codes that the service sends."""

    NORMAL = 1000
    PROTOCOL = 1002
    NOT_TEXT = 1007
    TOO_LARGE = 1009
    INTERNAL = 1011
    RESTARTING = 1012
    MALFORMED = 4400
    UNAUTHENTICATED = 4401
    TOKEN_EXPIRED = 4402
    EVICTED = 4403
    TIMED_OUT = 4408
    REPLACED = 4409
    SLOW_CONSUMER = 4413
    RATE_LIMITED = 4429
    FULL = 4503


class Return(StrEnum):
    """Whether a client reconnects by itself, and when."""

    NO = "no"
    AT_ONCE = "yes"
    WITH_BACKOFF = "yes, with backoff"
    WHEN_TOLD = "yes, after GOAWAY's delay where one was sent"


class Ending(NamedTuple):
    """What a close code means."""

    meaning: str
    returns: Return
    keeps_session: bool  # a resumable session outlives the connection (docs/protocol.md, "Resume")
    error_code: int  # code of the error that waiting callers of an SDK get


CLOSE_CODES: dict[int, Ending] = {
    CloseCode.NORMAL: Ending(
        "the client or the service closed on purpose", Return.NO, keeps_session=False, error_code=503
    ),
    CloseCode.PROTOCOL: Ending(
        "the client broke the WebSocket protocol", Return.NO, keeps_session=False, error_code=400
    ),
    CloseCode.NOT_TEXT: Ending("a text message was not valid UTF-8", Return.NO, keeps_session=False, error_code=400),
    CloseCode.TOO_LARGE: Ending(
        "a message was larger than `server.max_message_size`", Return.NO, keeps_session=False, error_code=413
    ),
    CloseCode.INTERNAL: Ending("internal error", Return.WITH_BACKOFF, keeps_session=False, error_code=503),
    CloseCode.RESTARTING: Ending(
        "the service restarts or drains", Return.WHEN_TOLD, keeps_session=True, error_code=503
    ),
    CloseCode.MALFORMED: Ending("too many malformed messages", Return.NO, keeps_session=False, error_code=400),
    CloseCode.UNAUTHENTICATED: Ending("authentication failed", Return.NO, keeps_session=False, error_code=401),
    CloseCode.TOKEN_EXPIRED: Ending(
        "the token has expired; reconnect with a new one", Return.AT_ONCE, keeps_session=True, error_code=401
    ),
    CloseCode.EVICTED: Ending("an operator disconnected the client", Return.NO, keeps_session=False, error_code=403),
    CloseCode.TIMED_OUT: Ending(
        "no CONNECT in time, no heartbeat in time, or the session continues on another connection",
        Return.AT_ONCE,
        keeps_session=True,
        error_code=408,
    ),
    CloseCode.REPLACED: Ending(
        "a newer session of the same client replaced this one", Return.NO, keeps_session=False, error_code=409
    ),
    CloseCode.SLOW_CONSUMER: Ending(
        "the client reads too slowly: its outbound queue is full", Return.AT_ONCE, keeps_session=True, error_code=503
    ),
    CloseCode.RATE_LIMITED: Ending(
        "the rate limit was exceeded for too long, or too many authentications failed",
        Return.WITH_BACKOFF,
        keeps_session=True,
        error_code=429,
    ),
    CloseCode.FULL: Ending(
        "the service is full, or has too many connections from this address",
        Return.WITH_BACKOFF,
        keeps_session=False,
        error_code=503,
    ),
}

# Any other code, or no code, comes from a network or a proxy. The service itself may be healthy.
RETURN_OF_OTHERS = Return.WITH_BACKOFF
