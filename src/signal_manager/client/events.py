"""The events of a `SignalClient`, and the bounded queue that holds them until the application reads them.

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

# Enough for the longest burst that a service queues for a client. An application that reads no events keeps at most
# this many in memory.
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
        room_id: the room that a message was sent to; None for a message to this client alone, and always None with
            BINARY or TEXT, whose layouts have no field for it.
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
    """A target in place of a client id: all other members of a room that the sender is in."""

    room_id: str


@dataclass(frozen=True, slots=True)
class RoomEventReceived:
    """A change of a room that this client is in, as the protocol describes it; `Room` interprets these.

    Only callbacks receive it; iterating does not, because an application with a `Room` does not need it.
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
        session_id: the service's id of the session.
        resumed: True if the session continues without loss: messages for this client follow, its own messages have
            arrived or were sent again, and open requests still get their replies. False if the session is new:
            messages under way in either direction may be lost, open requests have failed, and the client's
            registration and room membership ended with the old session.
    """

    session_id: str
    resumed: bool = False

    @property
    def name(self) -> EventName:
        """The name that `SignalClient.on` knows this event by."""
        return "reconnected"


@dataclass(frozen=True, slots=True)
class ErrorReceived:
    """The service refused a message whose result no caller awaits, normally a signal sent without `ack`.

    Attributes:
        error: the error that a waiting caller would have got, such as `NotFoundError`.
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
    """The service is about to close; the client reconnects by itself after `reconnect_after` seconds."""

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
    """A queue that never blocks its writer: when it is full, it drops the oldest event and counts it.

    Pausing the socket instead would also hold back replies and heartbeats. The service would end the connection as a
    slow consumer, and a slow application would lose its session rather than its oldest events.
    """

    def __init__(self, size: int = EVENT_QUEUE_SIZE) -> None:
        self._events: deque[Queued] = deque(maxlen=size)
        self._changed = asyncio.Event()
        self._has_ended = False
        self.dropped = 0

    def put(self, event: Queued) -> None:
        """Append an event; drop the oldest one if the queue is full."""
        if len(self._events) == self._events.maxlen:
            if not self.dropped:
                logger.warning("the application reads events too slowly: dropping the oldest of %d", len(self._events))
            self.dropped += 1
        self._events.append(event)
        self._changed.set()

    def end(self) -> None:
        """Let `get` return None once all queued events have been read."""
        self._has_ended = True
        self._changed.set()

    async def get(self) -> Queued | None:
        """Return the oldest event, wait for one if there is none, or return None after the end.

        Cancelling loses no event.
        """
        while not self._events:
            if self._has_ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._events.popleft()
