"""WebSocket close codes: what each says, and what it asks of the client; the one table of docs/protocol.md's.

The session closes with these, the conversation asks which of them leave the session alive, and the SDKs which of them a
client may come back from. docs/vectors.json carries the table to other SDKs.
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
    """Whether a client comes back by itself, and when."""

    NO = "no"
    AT_ONCE = "yes"
    WITH_BACKOFF = "yes, with backoff"
    WHEN_TOLD = "yes, after GOAWAY's delay where one was sent"


class Ending(NamedTuple):
    """What a close code means."""

    meaning: str
    returns: Return
    keeps_session: bool  # a session that can be resumed outlives this end (docs/protocol.md, "Resume")
    error_code: int  # that of the error which a waiting caller gets


CLOSE_CODES: dict[int, Ending] = {
    CloseCode.NORMAL: Ending("asked for", Return.NO, keeps_session=False, error_code=503),
    CloseCode.PROTOCOL: Ending("the WebSocket protocol was broken", Return.NO, keeps_session=False, error_code=400),
    CloseCode.NOT_TEXT: Ending("text that is not UTF-8", Return.NO, keeps_session=False, error_code=400),
    CloseCode.TOO_LARGE: Ending(
        "message larger than `server.max_message_size`", Return.NO, keeps_session=False, error_code=413
    ),
    CloseCode.INTERNAL: Ending("internal error", Return.WITH_BACKOFF, keeps_session=False, error_code=503),
    CloseCode.RESTARTING: Ending("restarting or draining", Return.WHEN_TOLD, keeps_session=True, error_code=503),
    CloseCode.MALFORMED: Ending("too many malformed messages", Return.NO, keeps_session=False, error_code=400),
    CloseCode.UNAUTHENTICATED: Ending("authentication failed", Return.NO, keeps_session=False, error_code=401),
    CloseCode.TOKEN_EXPIRED: Ending(
        "the token has expired: come back with a new one", Return.AT_ONCE, keeps_session=True, error_code=401
    ),
    CloseCode.EVICTED: Ending("disconnected by an operator", Return.NO, keeps_session=False, error_code=403),
    CloseCode.TIMED_OUT: Ending(
        "no CONNECT in time, heartbeats stopped, or continued on another connection",
        Return.AT_ONCE,
        keeps_session=True,
        error_code=408,
    ),
    CloseCode.REPLACED: Ending(
        "replaced by a newer session of the same client", Return.NO, keeps_session=False, error_code=409
    ),
    CloseCode.SLOW_CONSUMER: Ending(
        "slow consumer: its outbound queue is full", Return.AT_ONCE, keeps_session=True, error_code=503
    ),
    CloseCode.RATE_LIMITED: Ending(
        "rate limit exceeded for too long, or too many failed authentications",
        Return.WITH_BACKOFF,
        keeps_session=True,
        error_code=429,
    ),
    CloseCode.FULL: Ending(
        "the service is full, or has too many connections of this address",
        Return.WITH_BACKOFF,
        keeps_session=False,
        error_code=503,
    ),
}

# Any other code, and none at all, comes from a network or a proxy and not from the service, which may be well.
RETURN_OF_OTHERS = Return.WITH_BACKOFF
