"""The pure part of resuming a session: a `ClientSession` of the service decides whether a client may resume.

Each side keeps a `Journal` (`journal.py`).
docs/protocol.md, "Resume", has the rules; `gateway/sessions.py` and the client's `link.py` do the I/O.
"""

from __future__ import annotations

import hmac
from enum import StrEnum
from typing import NamedTuple

import msgspec

from signal_manager.errors import MalformedMessageError
from signal_manager.model import ClientId, SessionId
from signal_manager.protocol.framing import Framing
from signal_manager.protocol.journal import SERVICE_CONFIRM_WEIGHT, Budget, Journal
from signal_manager.protocol.messages import MessageType, PayloadType, Resume, Shape

__all__ = [
    "PHASES",
    "SESSION_OVERHEAD",
    "UNCOUNTED",
    "ClientSession",
    "Outcome",
    "SessionInput",
    "SessionPhase",
    "WireFormat",
]

# Types that no journal counts: each side repeats them by itself, or sends them once per connection.
UNCOUNTED = frozenset({MessageType.CONNECT, MessageType.CONNECT_ACK, MessageType.HEARTBEAT, MessageType.HEARTBEAT_ACK})
# Bytes that a session costs beside its messages: ids of up to 256 bytes, counts, and its identity.
SESSION_OVERHEAD = 4096

_VERSION = 1


class SessionPhase(StrEnum):
    """The phases of a session that may outlive its connection."""

    CONNECTED = "connected"
    AWAY = "away"
    ENDED = "ended"


class SessionInput(StrEnum):
    """The events in the life of such a session."""

    DROPPED = "connection lost"
    RESUMED = "resumed"
    OVERFLOWED = "buffer overflowed"
    EXPIRED = "window over"
    LEFT = "left, refused or replaced"
    SAVED = "saved for another start"


# All legal moves; `ClientSession.phase` changes in no other way.
PHASES: dict[tuple[SessionPhase, SessionInput], SessionPhase] = {
    (SessionPhase.CONNECTED, SessionInput.DROPPED): SessionPhase.AWAY,
    # The client came back before the service noticed the end of the old connection.
    (SessionPhase.CONNECTED, SessionInput.RESUMED): SessionPhase.CONNECTED,
    (SessionPhase.CONNECTED, SessionInput.LEFT): SessionPhase.ENDED,
    (SessionPhase.CONNECTED, SessionInput.SAVED): SessionPhase.ENDED,
    (SessionPhase.AWAY, SessionInput.RESUMED): SessionPhase.CONNECTED,
    (SessionPhase.AWAY, SessionInput.OVERFLOWED): SessionPhase.ENDED,
    (SessionPhase.AWAY, SessionInput.EXPIRED): SessionPhase.ENDED,
    (SessionPhase.AWAY, SessionInput.LEFT): SessionPhase.ENDED,
    (SessionPhase.AWAY, SessionInput.SAVED): SessionPhase.ENDED,
}


class Outcome(StrEnum):
    """The result of an attempt to resume."""

    RESUMED = "resumed"
    UNKNOWN = "unknown"  # no such session: it has expired, has ended or never existed
    FORBIDDEN = "forbidden"  # the session is another client's, or the token is wrong
    DIFFERENT = "different"  # framing, payload type or shape has changed
    INCOMPLETE = "incomplete"  # messages are missing, or the counts are impossible


class WireFormat(NamedTuple):
    """The framing, payload type and shape of a connection. Kept messages fit one wire format only."""

    framing: Framing
    payload_type: PayloadType
    shape: Shape


class ClientSession:
    """One session of one client, over all its connections.

    Args:
        token: proves that a client owns the session; it goes to that client only, and never into the log.
        window: seconds for which the session outlives its connection.
    """

    __slots__ = (
        "client_id",
        "expires_at",
        "instance_id",
        "is_registered",
        "journal",
        "phase",
        "session_id",
        "token",
        "window",
        "wire_format",
    )

    def __init__(
        self,
        *,
        session_id: SessionId,
        client_id: ClientId,
        instance_id: str | None,
        token: str,
        wire_format: WireFormat,
        window: float,
        journal: Journal,
    ) -> None:
        self.session_id = session_id
        self.client_id = client_id
        self.instance_id = instance_id
        self.token = token
        self.wire_format = wire_format
        self.window = window
        self.journal = journal
        self.phase = SessionPhase.CONNECTED
        self.expires_at: float | None = None  # on the clock of `drop`, while away
        self.is_registered = False  # whether storage has a record that this session marks as online

    def judge(self, offer: Resume, client_id: ClientId, wire_format: WireFormat) -> Outcome:
        """Return whether a client may resume with `offer`; nothing changes."""
        if self.client_id != client_id or not hmac.compare_digest(_bytes(offer.resume_token), _bytes(self.token)):
            return Outcome.FORBIDDEN
        if self.phase is SessionPhase.ENDED:
            return Outcome.UNKNOWN
        if wire_format != self.wire_format:
            return Outcome.DIFFERENT
        return Outcome.RESUMED if self.journal.can_continue_from(offer.received) else Outcome.INCOMPLETE

    def resume(self, received: int) -> tuple[bytes, ...]:
        """Resume on a new connection, after `judge` allowed it, and return the messages that the client misses."""
        self._turn(SessionInput.RESUMED)
        self.expires_at = None
        self.journal.confirm(received)
        return self.journal.unconfirmed

    def drop(self, now: float, *, latest: float | None = None) -> bool:
        """Handle the end of the connection; return False if the session ends with it.

        Args:
            latest: when the session ends at the latest, even if its window is longer.
        """
        if not self.journal.is_complete:
            self.end()
            return False
        self._turn(SessionInput.DROPPED)
        self.expires_at = now + self.window if latest is None else min(now + self.window, latest)
        return True

    def queue(self, data: bytes) -> bool:
        """Keep a message for a client that is away; return False if it did not fit and the session has ended."""
        self.journal.keep(data)
        return not self.has_overflowed()

    def has_overflowed(self) -> bool:
        """Tell whether messages for a client that is away were dropped; if so, end the session."""
        if self.journal.is_complete:
            return False
        self._turn(SessionInput.OVERFLOWED)
        self.journal.give_up()
        return True

    def has_expired(self, now: float) -> bool:
        """Tell whether the client has stayed away for too long; if so, end the session."""
        if self.expires_at is None or now < self.expires_at:
            return False
        self._turn(SessionInput.EXPIRED)
        self.journal.give_up()
        return True

    def end(self) -> None:
        """End the session, because the client has left, was refused or was replaced. A second call does nothing."""
        if self.phase is not SessionPhase.ENDED:
            self._turn(SessionInput.LEFT)
        self.journal.give_up()

    def save(self) -> bytes:
        """End the session in this process and return its state, for another process to `load`."""
        journal = self.journal
        self._turn(SessionInput.SAVED)
        state = _Saved(
            version=_VERSION,
            session_id=self.session_id,
            client_id=self.client_id,
            instance_id=self.instance_id,
            token=self.token,
            framing=self.wire_format.framing,
            payload_type=self.wire_format.payload_type,
            shape=self.wire_format.shape,
            received=journal.received,
            sent=journal.sent,
            unconfirmed=journal.unconfirmed,
            is_registered=self.is_registered,
        )
        journal.give_up()
        return _encode(state)

    @classmethod
    def load(cls, data: bytes, *, window: float, limit: int, budget: Budget, now: float) -> ClientSession:
        """Return a saved session, which is away from `now` on.

        Raises:
            MalformedMessageError: the bytes are not a saved session of this version.
        """
        try:
            saved = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedMessageError(f"not a saved session: {error}") from error
        if saved.version != _VERSION:
            raise MalformedMessageError(f"a saved session of version {saved.version}, expected {_VERSION}")
        journal = Journal(
            limit=limit,
            budget=budget,
            confirm_at=SERVICE_CONFIRM_WEIGHT,
            overhead=SESSION_OVERHEAD,
            received=saved.received,
            sent=saved.sent,
            unconfirmed=saved.unconfirmed,
        )
        client_session = cls(
            session_id=saved.session_id,
            client_id=saved.client_id,
            instance_id=saved.instance_id,
            token=saved.token,
            wire_format=WireFormat(saved.framing, saved.payload_type, saved.shape),
            window=window,
            journal=journal,
        )
        client_session.is_registered = saved.is_registered
        client_session.drop(now)
        return client_session

    def _turn(self, turn: SessionInput) -> None:
        self.phase = PHASES[self.phase, turn]


def _bytes(token: str) -> bytes:
    """Encode a token, which may hold surrogates that strict UTF-8 refuses."""
    return token.encode("utf-8", "surrogatepass")


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    session_id: SessionId
    client_id: ClientId
    instance_id: str | None
    token: str
    framing: Framing
    payload_type: PayloadType
    shape: Shape
    received: int
    sent: int
    unconfirmed: tuple[bytes, ...]
    is_registered: bool


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Saved).decode
