"""What a `SignalClient` tells the application, and the bounded queue in which it waits to be read.

`client.py` makes the events; an application reads them with `async for event in client` or registers callbacks.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypeVar, get_args

from signal_manager.errors import SignalManagerError
from signal_manager.protocol.messages import RoomEvent

__all__ = [
    "EVENT_NAMES",
    "EVENT_QUEUE_SIZE",
    "Connected",
    "Disconnected",
    "ErrorReceived",
    "Event",
    "EventName",
    "EventQueue",
    "GoingAway",
    "Reconnected",
    "RoomEventReceived",
    "SignalKind",
    "SignalReceived",
    "ToRoom",
]

logger = logging.getLogger(__name__)

# Holds the longest burst that a service lets a client fall behind by; an application that reads nothing at all keeps
# at most this many events in memory.
EVENT_QUEUE_SIZE = 4096
"""How many events wait at most for an application that does not keep up; then the oldest are dropped."""

SignalKind: TypeAlias = Literal["offer", "answer", "ice_candidate", "message"]
"""What a signal is."""

EventName: TypeAlias = Literal[
    SignalKind, "connected", "disconnected", "reconnected", "room_event", "error", "going_away"
]
EVENT_NAMES: frozenset[str] = frozenset(get_args(EventName))

Queued = TypeVar("Queued")


@dataclass(frozen=True, slots=True)
class SignalReceived:
    """Another client sent an offer, an answer, an ICE candidate or a message.

    Attributes:
        sender: the client id of the sender; the service vouches for it.
        kind: "offer", "answer", "ice_candidate" or "message".
        data: what the sender passed to `send_…`: a JSON value, or bytes where the two payload types carry them
            (docs/protocol.md, "Between encodings").
        room_id: the room that a message was sent to; None for one to this client alone. A client with BINARY or TEXT,
            whose layouts have no place for it, is never told.
    """

    sender: str
    kind: SignalKind
    data: Any
    room_id: str | None = None

    @property
    def name(self) -> EventName:
        """The name that `SignalClient.on` knows this event by: its kind."""
        return self.kind


@dataclass(frozen=True, slots=True)
class ToRoom:
    """In place of a client id: all other members of a room that the sender is in."""

    room_id: str


@dataclass(frozen=True, slots=True)
class RoomEventReceived:
    """A room that this client is in changed, in the protocol's own words; `Room` understands these.

    It comes to callbacks only, and is never iterated: who has a `Room` has no use for it.
    """

    event: RoomEvent

    @property
    def name(self) -> EventName:
        """The name that `SignalClient.on` knows this event by."""
        return "room_event"


@dataclass(frozen=True, slots=True)
class Connected:
    """The service accepted the client for the first time."""

    session_id: str

    @property
    def name(self) -> EventName:
        """The name that `SignalClient.on` knows this event by."""
        return "connected"


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection was lost, or the service ended it; the application's own `close()` is not reported.

    Attributes:
        code: the WebSocket close code (docs/protocol.md, "Errors and close codes"); 1006 when there was none.
        reason: one line for a person.
        will_reconnect: whether the client is trying again. When it gives up later, this event comes a second time
            with False; after False there are no more events.
        delay: seconds until it tries.
    """

    code: int
    reason: str
    will_reconnect: bool
    delay: float = 0.0

    @property
    def name(self) -> EventName:
        """The name that `SignalClient.on` knows this event by."""
        return "disconnected"


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The service accepted the client again.

    Attributes:
        session_id: the session, by the service's name for it.
        resumed: whether the session goes on where it was. Then nothing is lost: what was sent to this client in
            between follows, what it sent itself has arrived or was sent again, and requests still get their replies.
            Otherwise the session is a new one: what was on its way in either direction may be lost, requests that
            waited for a reply have failed, and what the client registered and which room it was in ended with the old
            session.
    """

    session_id: str
    resumed: bool = False

    @property
    def name(self) -> EventName:
        """The name that `SignalClient.on` knows this event by."""
        return "reconnected"


@dataclass(frozen=True, slots=True)
class ErrorReceived:
    """The service refused something that nobody is waiting for, normally a signal sent without `ack`.

    Attributes:
        error: what a waiting caller would have been raised, such as `NotFoundError`.
        target: the client that the refused signal was for; None when the error belongs to no recent signal.
    """

    error: SignalManagerError
    target: str | None

    @property
    def name(self) -> EventName:
        """The name that `SignalClient.on` knows this event by."""
        return "error"


@dataclass(frozen=True, slots=True)
class GoingAway:
    """The service is about to close; the client comes back by itself after `reconnect_after` seconds."""

    reason: str
    reconnect_after: float

    @property
    def name(self) -> EventName:
        """The name that `SignalClient.on` knows this event by."""
        return "going_away"


Event: TypeAlias = (
    SignalReceived | Connected | Disconnected | Reconnected | RoomEventReceived | ErrorReceived | GoingAway
)
"""What a client tells its application."""


class EventQueue(Generic[Queued]):
    """A queue that never blocks its writer: when it is full, the oldest event makes room and is counted.

    Pausing the socket instead would also hold back replies and heartbeats, and the service would end the connection
    as a slow consumer: an application that reads too slowly would lose its session rather than its oldest events.
    """

    def __init__(self, size: int = EVENT_QUEUE_SIZE) -> None:
        self._events: deque[Queued] = deque(maxlen=size)
        self._changed = asyncio.Event()
        self._has_ended = False
        self.dropped = 0

    def put(self, event: Queued) -> None:
        """Append an event, at the oldest one's expense when the queue is full."""
        if len(self._events) == self._events.maxlen:
            if not self.dropped:
                logger.warning("events are not read fast enough: dropping the oldest of %d", len(self._events))
            self.dropped += 1
        self._events.append(event)
        self._changed.set()

    def end(self) -> None:
        """Let `get` return None once what is queued has been read."""
        self._has_ended = True
        self._changed.set()

    async def get(self) -> Queued | None:
        """Return the oldest event, waiting for one; None after the end. Cancelling loses no event."""
        while not self._events:
            if self._has_ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._events.popleft()
