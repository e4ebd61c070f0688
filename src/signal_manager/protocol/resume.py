"""The pure part of resuming a session: counts of messages, and the messages that are not confirmed yet.

Each side keeps a `Journal`. The service also keeps a `ClientSession`, which decides whether a client may resume.
docs/protocol.md, "Resume", has the rules; `gateway/sessions.py` and the client's `link.py` do the I/O.
"""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

import msgspec

from signal_manager.errors import InvalidRequestError, MalformedMessageError
from signal_manager.model import ClientId, SessionId
from signal_manager.protocol.framing import Framing
from signal_manager.protocol.messages import MessageType, PayloadType, Resume, Shape
from signal_manager.protocol.websocket import frame_head, messages_in

__all__ = [
    "CONFIRM_WEIGHT",
    "MESSAGE_OVERHEAD",
    "PHASES",
    "SERVICE_CONFIRM_WEIGHT",
    "SESSION_OVERHEAD",
    "UNCOUNTED",
    "Budget",
    "ClientSession",
    "Journal",
    "Outcome",
    "SessionInput",
    "SessionPhase",
    "WireFormat",
]

# Types that no journal counts: each side repeats them by itself, or sends them once per connection.
UNCOUNTED = frozenset({MessageType.CONNECT, MessageType.CONNECT_ACK, MessageType.HEARTBEAT, MessageType.HEARTBEAT_ACK})
# Bytes that a kept message costs beside its content: the object and its place in the queue.
MESSAGE_OVERHEAD = 64
# Bytes that a session costs beside its messages: ids of up to 256 bytes, counts, and its identity.
SESSION_OVERHEAD = 4096
# A client confirms with `received` after this many bytes, which include `MESSAGE_OVERHEAD` per message (at most 1536
# messages). This is well below what the service keeps by default, so a buffer does not overflow while the client keeps
# up. The service confirms in each HEARTBEAT_ACK, and by itself after twice as many bytes.
CONFIRM_WEIGHT = 98_304
SERVICE_CONFIRM_WEIGHT = 2 * CONFIRM_WEIGHT

# The opcode of stored frames does not matter: only their payloads are read.
_ANY_FRAME = 0x82

_VERSION = 1


class Budget:
    """The bytes that all journals of one process may keep together.

    When the budget is used up, the largest journals drop their messages until a sixteenth of it is free. The search for
    them visits every journal, so it must not run for every message.
    """

    __slots__ = ("_journals", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._journals: dict[Journal, None] = {}

    def join(self, journal: Journal) -> None:
        """Add a journal and count its `overhead`."""
        self._journals[journal] = None
        self.used += journal.overhead
        if self.used > self.limit:
            self.make_room()

    def leave(self, journal: Journal) -> None:
        """Remove a journal, which keeps no messages any more."""
        if journal in self._journals:
            del self._journals[journal]
            self.used -= journal.overhead

    def make_room(self) -> None:
        """Make the largest journals drop their messages."""
        enough = self.limit - self.limit // 16
        for journal in sorted(self._journals, key=_weight_of, reverse=True):
            if self.used <= enough or not journal.weight:
                return
            journal.give_way()


def _weight_of(journal: Journal) -> int:
    return journal.weight


class _Run(NamedTuple):
    """Messages of one write, in their WebSocket frames; kept and dropped as one."""

    frames: bytes
    length: int


class Journal:
    """One side's record of a session: the count of received messages, and the sent messages that are not confirmed.

    A journal beyond its limit drops its oldest messages. It is then incomplete until the other side has confirmed the
    dropped messages.

    Args:
        limit: bytes of messages to keep, with `MESSAGE_OVERHEAD` for each.
        budget: shared with other journals; None for a budget of its own.
        confirm_at: bytes to receive before this side confirms.
        overhead: bytes that the budget counts for the session itself.
        received, sent, unconfirmed: the state that an earlier process saved.
    """

    __slots__ = (
        "_begun",
        "_budget",
        "_confirm_at",
        "_confirmed",
        "_is_over",
        "_limit",
        "_owed",
        "_unconfirmed",
        "is_complete",
        "overhead",
        "received",
        "sent",
        "weight",
    )

    def __init__(
        self,
        *,
        limit: int,
        budget: Budget | None = None,
        confirm_at: int = CONFIRM_WEIGHT,
        overhead: int = 0,
        received: int = 0,
        sent: int = 0,
        unconfirmed: Iterable[bytes] = (),
    ) -> None:
        self._limit = limit
        self._budget = budget or Budget(limit + overhead)
        self._confirm_at = confirm_at
        self.received = received
        self.is_complete = True  # no unconfirmed message was dropped
        self._is_over = False
        self.overhead = overhead
        self.weight = 0
        self._owed = 0  # bytes received since the last confirmation
        self._unconfirmed: deque[bytes | _Run] = deque()
        earlier = tuple(unconfirmed)
        self._confirmed = self.sent = sent - len(earlier)
        self._begun = 0  # confirmed messages of the oldest run
        self._budget.join(self)
        if earlier:  # as one run, so that messages within the limit stay within it
            self.keep(b"".join(frame_head(_ANY_FRAME, len(data)) + data for data in earlier), len(earlier))

    @property
    def unconfirmed(self) -> tuple[bytes, ...]:
        """The messages that the other side has not confirmed, oldest first."""
        messages: list[bytes] = []
        for kept in self._unconfirmed:
            messages += (kept,) if isinstance(kept, bytes) else messages_in(kept.frames)
        return tuple(messages[self._begun :])

    def take(self, size: int) -> bool:
        """Count a received message of `size` bytes; return True when it is time to confirm."""
        self.received += 1
        self._owed += size + MESSAGE_OVERHEAD
        return self._owed >= self._confirm_at

    def tell(self) -> int:
        """Return the count of received messages, to send to the other side as a confirmation."""
        self._owed = 0
        return self.received

    def keep(self, data: bytes, run: int = 0) -> None:
        """Count a sent message and keep it until it is confirmed.

        With `run`, `data` is the frames of that many messages, kept as one object. That costs a busy service much less
        than one object per message: memory that is freed late is out of the processor's caches by then.
        """
        self.sent += run or 1
        if self._is_over:
            return
        self._unconfirmed.append(_Run(data, run) if run else data)
        added = len(data) + MESSAGE_OVERHEAD
        self.weight = weight = self.weight + added
        budget = self._budget
        budget.used = used = budget.used + added
        if weight > self._limit or used > budget.limit:
            self._drop_oldest(self._limit)
            if budget.used > budget.limit:
                budget.make_room()

    def confirm(self, received: int) -> None:
        """Drop the messages that the other side has received.

        Raises:
            InvalidRequestError: the other side claims more messages than were sent.
        """
        if received > self.sent:
            raise InvalidRequestError(f"received is {received}, expected at most the {self.sent} messages sent so far")
        if received <= self._confirmed and (self.is_complete or received < self._confirmed):
            return
        kept = self._unconfirmed
        begun, weight = self._begun + received - self._confirmed, 0
        while kept:
            oldest = kept[0]
            data, count = (oldest, 1) if isinstance(oldest, bytes) else oldest
            if count > begun:
                break
            kept.popleft()
            begun -= count
            weight += len(data) + MESSAGE_OVERHEAD
        self._begun, self._confirmed = begun, received
        self.weight -= weight
        self._budget.used -= weight
        self.is_complete = not self._is_over

    def can_continue_from(self, received: int) -> bool:
        """Tell whether this journal has every message after the first `received`."""
        return not self._is_over and self._confirmed <= received <= self.sent

    def has_room(self, size: int) -> bool:
        """Tell whether the limit allows another message of `size` bytes."""
        return self.weight + size + MESSAGE_OVERHEAD <= self._limit

    def give_way(self) -> None:
        """Drop all messages, to make room for other journals."""
        self._drop_oldest(0)

    def give_up(self) -> None:
        """Drop all messages, and keep none from now on."""
        self._drop_oldest(0)
        self._budget.leave(self)
        self._is_over = True
        self.is_complete = False

    def _drop_oldest(self, limit: int) -> None:
        """Drop the oldest messages until at most `limit` bytes are left."""
        kept, first, weight = self._unconfirmed, self._confirmed - self._begun, self.weight
        while kept and weight > limit:
            oldest = kept.popleft()
            data, count = (oldest, 1) if isinstance(oldest, bytes) else oldest
            first += count
            weight -= len(data) + MESSAGE_OVERHEAD
        if weight < self.weight:
            self._budget.used -= self.weight - weight
            self.weight, self._confirmed, self._begun = weight, first, 0
            self.is_complete = False


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
