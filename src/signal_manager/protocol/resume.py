"""What lets a session outlive its connections and prove that nothing was lost: counts, and what is not confirmed yet.

Both sides keep a `Journal`; the service keeps a `ClientSession` besides, which says whether a client may go on where it
was. docs/protocol.md, "Resume", has the rules; `gateway/sessions.py` and the client's `link.py` do the rest.
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

# What each side sends again in its own way, or only once per connection.
UNCOUNTED = frozenset({MessageType.CONNECT, MessageType.CONNECT_ACK, MessageType.HEARTBEAT, MessageType.HEARTBEAT_ACK})
# What a kept message weighs beside its bytes: the object around them and its place in the queue.
MESSAGE_OVERHEAD = 64
# What a session takes beside its messages: its ids of up to 256 bytes, its counts, and who its client is.
SESSION_OVERHEAD = 4096
# A client that has received this much since it last told `received` tells it now: well below what the service keeps
# by default, so that a buffer never overflows while its reader keeps up; at 64 per message that is 1536 messages at
# most. The service's answer tells what it has received itself; unasked it does so only where more comes than goes.
CONFIRM_WEIGHT = 98_304
SERVICE_CONFIRM_WEIGHT = 2 * CONFIRM_WEIGHT

# Which kind of frames it was matters to nobody when they are taken apart.
_ANY_FRAME = 0x82

_VERSION = 1


class Budget:
    """What the journals of one process may keep together, in bytes.

    When it is used up the journals that keep most give way, until a sixteenth of it is free: looking for them costs as
    much as there are journals, and so is not done for every message.
    """

    __slots__ = ("_journals", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._journals: dict[Journal, None] = {}

    def join(self, journal: Journal) -> None:
        """Count a journal, with what its session takes beside its messages."""
        self._journals[journal] = None
        self.used += journal.overhead
        if self.used > self.limit:
            self.make_room()

    def leave(self, journal: Journal) -> None:
        """Forget a journal that keeps nothing any more."""
        if journal in self._journals:
            del self._journals[journal]
            self.used -= journal.overhead

    def make_room(self) -> None:
        """Let the journals that keep most give way."""
        enough = self.limit - self.limit // 16
        for journal in sorted(self._journals, key=_weight_of, reverse=True):
            if self.used <= enough or not journal.weight:
                return
            journal.give_way()


def _weight_of(journal: Journal) -> int:
    return journal.weight


class _Run(NamedTuple):
    """Messages that were written in one go, as they were: in WebSocket frames. Kept and dropped as one."""

    frames: bytes
    length: int


class Journal:
    """One side's account of a session: how many messages have come, and what it sent that is not confirmed.

    A journal that outgrows its bounds drops the oldest. Until the other side has confirmed what was dropped, it cannot
    prove completeness; then it is whole again.

    Args:
        limit: the weight of what it may keep.
        budget: shared with others, or None for one of its own.
        confirm_at: the weight of what may come before the other side is told.
        overhead: what the budget counts for the session itself.
        received, sent, unconfirmed: where an earlier process left off.
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
        self.is_complete = True  # nothing was dropped that is not confirmed
        self._is_over = False
        self.overhead = overhead
        self.weight = 0
        self._owed = 0  # the weight of what has come since `received` was last told
        self._unconfirmed: deque[bytes | _Run] = deque()
        earlier = tuple(unconfirmed)
        self._confirmed = self.sent = sent - len(earlier)
        self._begun = 0  # how many messages of the oldest run are confirmed already
        self._budget.join(self)
        if earlier:  # as one, so that what was within the bounds is so again
            self.keep(b"".join(frame_head(_ANY_FRAME, len(data)) + data for data in earlier), len(earlier))

    @property
    def unconfirmed(self) -> tuple[bytes, ...]:
        """What the other side has not confirmed, oldest first."""
        messages: list[bytes] = []
        for kept in self._unconfirmed:
            messages += (kept,) if isinstance(kept, bytes) else messages_in(kept.frames)
        return tuple(messages[self._begun :])

    def take(self, size: int) -> bool:
        """Count a message of `size` bytes that has come; True when it is time to tell the other side."""
        self.received += 1
        self._owed += size + MESSAGE_OVERHEAD
        return self._owed >= self._confirm_at

    def tell(self) -> int:
        """Return how many messages have come, for the other side to know."""
        self._owed = 0
        return self.received

    def keep(self, data: bytes, run: int = 0) -> None:
        """Count a message that is sent, and keep it until it is confirmed; or so many, in their frames, as one.

        One object that is as long as all of them costs a busy service much less than one for each: memory that is
        not freed at once is no longer in the processor's caches when it is.
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
        """Drop what the other side has received.

        Raises:
            InvalidRequestError: it claims more than was sent.
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
        """Tell whether all that the other side misses is here."""
        return not self._is_over and self._confirmed <= received <= self.sent

    def has_room(self, size: int) -> bool:
        """Tell whether a message of `size` bytes can be kept without dropping any."""
        return self.weight + size + MESSAGE_OVERHEAD <= self._limit

    def give_way(self) -> None:
        """Drop all that is kept, for others."""
        self._drop_oldest(0)

    def give_up(self) -> None:
        """Keep nothing any more."""
        self._drop_oldest(0)
        self._budget.leave(self)
        self._is_over = True
        self.is_complete = False

    def _drop_oldest(self, limit: int) -> None:
        """Drop messages until so much of them is left, those that came first before the others."""
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
    """Where a session stands that may outlive its connection."""

    CONNECTED = "connected"
    AWAY = "away"
    ENDED = "ended"


class SessionInput(StrEnum):
    """What can happen to such a session."""

    DROPPED = "connection lost"
    RESUMED = "resumed"
    OVERFLOWED = "buffer overflowed"
    EXPIRED = "window over"
    LEFT = "left, refused or replaced"
    SAVED = "saved for another start"


# The legal moves, whole: nothing else assigns `ClientSession.phase`.
PHASES: dict[tuple[SessionPhase, SessionInput], SessionPhase] = {
    (SessionPhase.CONNECTED, SessionInput.DROPPED): SessionPhase.AWAY,
    # The new connection came before the old one's end was noticed.
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
    """What became of the wish to resume."""

    RESUMED = "resumed"
    UNKNOWN = "unknown"  # no such session: its window is over, it has ended, or it never was
    FORBIDDEN = "forbidden"  # another client's, or not its token
    DIFFERENT = "different"  # framing, payload type or shape have changed
    INCOMPLETE = "incomplete"  # messages are missing, or the counts cannot be


class WireFormat(NamedTuple):
    """How a connection speaks; what was kept for one manner is of no use to another."""

    framing: Framing
    payload_type: PayloadType
    shape: Shape


class ClientSession:
    """One session of one client, over all its connections.

    Args:
        token: what proves that it is the client's own; never told to anybody else, never logged.
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
        self.expires_at: float | None = None  # in time as `drop` was given it, while away
        self.is_registered = False  # whether storage has a record that this session keeps online

    def judge(self, offer: Resume, client_id: ClientId, wire_format: WireFormat) -> Outcome:
        """Say whether a client may go on from `offer`; nothing changes."""
        if self.client_id != client_id or not hmac.compare_digest(_bytes(offer.resume_token), _bytes(self.token)):
            return Outcome.FORBIDDEN
        if self.phase is SessionPhase.ENDED:
            return Outcome.UNKNOWN
        if wire_format != self.wire_format:
            return Outcome.DIFFERENT
        return Outcome.RESUMED if self.journal.can_continue_from(offer.received) else Outcome.INCOMPLETE

    def resume(self, received: int) -> tuple[bytes, ...]:
        """Go on, on a new connection, and return what the client misses; `judge` has said that it may."""
        self._turn(SessionInput.RESUMED)
        self.expires_at = None
        self.journal.confirm(received)
        return self.journal.unconfirmed

    def drop(self, now: float, *, latest: float | None = None) -> bool:
        """Take note that the connection is gone; False when the session ends with it.

        Args:
            latest: when the session ends in any case, where that is sooner than its window says.
        """
        if not self.journal.is_complete:
            self.end()
            return False
        self._turn(SessionInput.DROPPED)
        self.expires_at = now + self.window if latest is None else min(now + self.window, latest)
        return True

    def queue(self, data: bytes) -> bool:
        """Keep a message for a client that is away; False when that was one too many, and the session has ended."""
        self.journal.keep(data)
        return not self.has_overflowed()

    def has_overflowed(self) -> bool:
        """Tell whether a client that is away has lost what was kept for it, and end the session if so."""
        if self.journal.is_complete:
            return False
        self._turn(SessionInput.OVERFLOWED)
        self.journal.give_up()
        return True

    def has_expired(self, now: float) -> bool:
        """Tell whether the client has stayed away for too long, and end the session if so."""
        if self.expires_at is None or now < self.expires_at:
            return False
        self._turn(SessionInput.EXPIRED)
        self.journal.give_up()
        return True

    def end(self) -> None:
        """End the session: the client has left, was refused or replaced. An end is final, and may come twice."""
        if self.phase is not SessionPhase.ENDED:
            self._turn(SessionInput.LEFT)
        self.journal.give_up()

    def save(self) -> bytes:
        """End the session here and return it whole, for another process to `load`."""
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
        """Return a session that was saved, away from `now` on.

        Raises:
            MalformedMessageError: these are not its bytes, or they are another version's.
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
