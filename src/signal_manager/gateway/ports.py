"""Every interface of a connection and of its conversation, named for the part of the gateway that sees it.

`Connection` (`connection.py`) implements these. Each part imports the one that lists what it uses:

- `RelayTarget`: the bus and the relay path of other connections. A session whose client is away implements it too.
- `SessionConnection`: the session that the connection carries (`sessions.py`).
- `RegisteredConnection`: the registry, the occupancy, the drain and metrics.
- `ConversationConnection`: the conversation and sign-in.
- `FramedConnection`: the frame handler (`frames.py`).
- `ReceivingConnection`: what the connection has received (`inbound.py`).
- `BufferedConnection`: the read buffer (`picows_protocol.py`).

`Conversation` (`conversation.py`) implements these:

- `SessionConversation`: the session that the connection carries.
- `DrainedConversation`: the drain and metrics.
- `FramedConversation`: the frame handler and what the connection has received.

The bus adds `Subscriber` and `Sender` (`bus/base.py`). The second port sees a `LiveSession` (`live_sessions.py`).
"""

from __future__ import annotations

from typing import Protocol

from picows import WSMsgType

from signal_manager.bus.base import Subscriber
from signal_manager.gateway.limits import ClientAddress
from signal_manager.gateway.live_sessions import LiveSession
from signal_manager.gateway.outgoing import Outgoing
from signal_manager.gateway.write_batch import WriteBatch
from signal_manager.protocol.close_codes import CloseCode
from signal_manager.protocol.journal import Journal
from signal_manager.protocol.messages import Connect
from signal_manager.protocol.relay import RelayEnd
from signal_manager.protocol.state_machine import Received

__all__ = [
    "BufferedConnection",
    "ConversationConnection",
    "DrainedConversation",
    "FramedConnection",
    "FramedConversation",
    "ReceivingConnection",
    "RegisteredConnection",
    "RelayTarget",
    "SessionConnection",
    "SessionConversation",
]


class SessionConversation(Protocol):
    """A conversation as its session sees it."""

    def handed_over(self) -> None:
        """Close, because the session continues elsewhere; ignore all further input."""

    def answered(self, request: Received, reply: bytes, *, exclusive: bool) -> None:
        """Send the reply to a request; handle the messages that waited if the request was `exclusive`."""


class DrainedConversation(SessionConversation, Protocol):
    """A conversation as the drain and metrics see it."""

    @property
    def is_answering(self) -> bool:
        """Whether requests of the client await their answers."""

    @property
    def pending_requests(self) -> int:
        """The number of requests that await their answers."""

    def go_away(self, reconnect_after: int) -> None:
        """Tell the client that the service stops, and after how many milliseconds to reconnect."""

    def freeze(self) -> None:
        """Ignore all further input, because the session is about to be saved; `part` closes the connection."""

    def part(self) -> None:
        """Send the last messages of a frozen connection and close it."""


class FramedConversation(Protocol):
    """A conversation as the frame handler sees it."""

    @property
    def is_established(self) -> bool:
        """Whether the client is authenticated and this connection represents it."""

    def hung_up(self, *, may_return: bool) -> None:
        """End the session because the client closed the connection; ignore all further input."""

    def broken(self, code: CloseCode, reason: str) -> None:
        """End the session because what the client sent cannot be handled."""

    def insistent(self) -> None:
        """End the session because the client has exceeded its rate for too long."""


class RelayTarget(Subscriber, Protocol):
    """A subscriber that the relay path can write to without decoding the signal."""

    @property
    def relay_end(self) -> RelayEnd | None:
        """How relayed signals are written for this client; None if only the codec can write them."""

    def write(self, data: bytes, batch: WriteBatch | None = None) -> None:
        """Send one encoded message: with the others of `batch`, or at once if there is none."""


class SessionConnection(RelayTarget, Protocol):
    """A connection as the session that it carries sees it."""

    @property
    def address(self) -> str:
        """The client's address."""

    @property
    def conversation(self) -> SessionConversation:
        """The decoded messages of the connection."""

    def evict(self) -> None:
        """End the connection because an operator asked for it."""


class RegisteredConnection(SessionConnection, LiveSession, Protocol):
    """A connection as the registry, the drain and metrics see it.

    Attributes:
        has_seat: whether it takes one of `max_connections`; `Occupancy` keeps it here.
    """

    has_seat: bool

    @property
    def source(self) -> ClientAddress:
        """The client's address, with the networks that it counts for."""

    @property
    def is_established(self) -> bool:
        """Whether the client is authenticated and this connection represents it."""

    @property
    def conversation(self) -> DrainedConversation:
        """The decoded messages of the connection."""

    @property
    def outgoing(self) -> Outgoing:
        """The messages to the client."""

    def tick(self, now: float) -> None:
        """Send pings and enforce the time limits that have passed at `now`."""

    def give_way(self) -> None:
        """Close the socket at once to make room for other connections."""

    def cut(self) -> None:
        """Close the socket without waiting for the client."""


class ConversationConnection(RegisteredConnection, Protocol):
    """A connection as its conversation sees it."""

    def write(self, data: bytes, batch: WriteBatch | None = None, *, counts: bool = True) -> None:
        """Send one encoded message, and keep it in the session's journal if it `counts`.

        A message that does not count is sent at once, even if there is a `batch`.
        """

    def ping(self) -> None:
        """Send a WebSocket ping."""

    def close(self, code: CloseCode, reason: str) -> None:
        """Start the closing handshake."""

    def hold(self) -> None:
        """Hold back the messages that arrive from now on."""

    def release(self) -> None:
        """Handle the messages that were held back."""

    def identified(self, connect: Connect, *, relays: bool) -> None:
        """Treat the client as authenticated; `relays` lets its signals take the relay path."""

    def restrict(self, *, relays: bool) -> None:
        """Change whether the client's signals take the relay path."""

    def keep_in(self, journal: Journal) -> None:
        """Count and keep all messages in this journal."""

    def let_go(self) -> None:
        """Detach from the client: stop counting input and stop relaying."""


class FramedConnection(Protocol):
    """A connection as its frame handler sees it."""

    def message(self, data: bytes, frame_type: WSMsgType) -> None:
        """Handle a complete message."""


class ReceivingConnection(Protocol):
    """A connection as the messages that it has received see it."""

    @property
    def received(self) -> int:
        """Messages from the client."""

    def handle(self, data: bytes, frame_type: WSMsgType) -> None:
        """Handle a message that nothing holds back."""


class BufferedConnection(Protocol):
    """A connection as its read buffer sees it."""

    @property
    def is_established(self) -> bool:
        """Whether the client is authenticated."""

    def buffered(self, size: int) -> None:
        """Check a read buffer that has grown and now has `size` bytes free."""
