"""The promises of a bus: who is present, and how a message reaches them.

`router.py` and `rooms/` see this interface only; `connection.py` attaches its connections to the implementation that
`app.py` chose, and `signal_manager.testing.bus` holds the contract suite that every implementation passes.

What holds for every bus:

- **One presence.** A client has at most the configured number of subscribers, over all nodes; the newest one receives
  its messages. `claim` is how a node asks the others for a client, before it attaches it.
- **Told, or delivered.** Whoever sends learns what became of the message: at once where the bus knows, otherwise once,
  within a bounded time, through `outcome`. Nothing is delivered twice. "Unavailable" (503) is said of what may have
  been lost on the way; it may have arrived.
- **At once, where nobody is there.** That no node holds a client is known after one question to the others, not after
  a time limit.
- **Ordered.** Messages from one sender to one client arrive in the order in which they were sent, whatever way they
  take and while the client moves from one node to another.
- **Bounded.** What waits for other nodes takes up to a fixed number of bytes; beyond that senders are told 503.
- **Cut off from the other nodes**, for however long, clients of this node go on reaching each other, and messages to
  all others are refused with 503. Nothing is kept to be delivered later. When the others can be reached again, a
  client that is present on two nodes keeps the newer presence, and `on_reunion` is called on both sides, so that
  whatever was announced meanwhile can be looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from signal_manager.errors import SignalManagerError
from signal_manager.model import ClientId, NodeId, RoomId
from signal_manager.protocol.messages import Message

__all__ = [
    "Bus",
    "Claimed",
    "Delivery",
    "Exceptional",
    "Forwarder",
    "GoneHandler",
    "HandOver",
    "NewsHandler",
    "Outcome",
    "QuestionHandler",
    "ReunionHandler",
    "Sender",
    "Subscriber",
]


class Delivery(StrEnum):
    """What became of a message (docs/protocol.md, SIGNAL_ACK); PENDING is said later, through an `Outcome`."""

    DELIVERED = "delivered"
    QUEUED = "queued"
    OFFLINE = "offline"
    PENDING = "pending"


# Called once, in the event loop, with what became of a message; never from inside the call that sent it.
Outcome = Callable[[Delivery | SignalManagerError], None]

# What became of one of several messages, by its place among them, where it was not simply delivered.
Exceptional = tuple[int, Delivery | SignalManagerError]

# Called with a room's id and the bytes that were announced of it.
NewsHandler = Callable[[RoomId, bytes], None]

# Called with the node whose announcements may be missing, or None when anybody's may.
ReunionHandler = Callable[[NodeId | None], None]


# Called with a node that is not heard of any more; it may be gone, or only cut off.
GoneHandler = Callable[[NodeId], None]

# Called with what another node asks of all others; returns the answer.
QuestionHandler = Callable[[bytes], bytes]


class Subscriber(Protocol):
    """A client's connection, or its session while it is away, as far as a bus knows it."""

    @property
    def instance_id(self) -> str | None:
        """What the client calls the running copy of itself, over all its connections."""

    def deliver(self, message: Message, message_id: bytes | None = None) -> Delivery:
        """Hand `message` to the client's outbound queue, in the client's own encoding, and return what became of it.

        A `message_id` of None gives the message a fresh one. Never blocks; messages handed over one after the other
        arrive in that order. QUEUED is for a client that is away and expected back, OFFLINE for one whose queue is
        full: then its session has ended.

        Raises:
            TooLargeError: the message does not fit this client's framing.
            InvalidRequestError: this client's protocol has no such message.
        """

    def relay(self, sender: str, signals: Sequence[tuple[bytes, bytes]]) -> Sequence[Exceptional]:
        """Hand signals that another node has taken apart to the client's outbound queue, in this order.

        Args:
            sender: the client that sent them.
            signals: of each the frame as its sender wrote it up to the payload type (`protocol.relay.HEAD` bytes), and
                `signal_data` in that payload type.

        Returns:
            Those that were not simply delivered, by their place, and what became of them.
        """

    def replaced(self, *, same_instance: bool) -> None:
        """End this connection, since its client has a newer one."""


class Sender(Protocol):
    """A client's connection, as far as a bus knows it that sends its signals on to other nodes."""

    @property
    def client_id(self) -> ClientId:
        """The client that it proved to be."""

    def told(self, head: bytes, target: str, wants_ack: bool, result: Delivery | SignalManagerError) -> None:
        """Tell the client what became of a signal, if anything is to be told; maybe inside the call that sends it.

        Args:
            head: the first `protocol.relay.HEAD` bytes of its frame.
            target: whom it was for.
            wants_ack: whether its sender asked to be told that it was delivered.
            result: as an `Outcome` is given it.
        """


class Forwarder(Protocol):
    """What reaches other nodes, as far as the relay path knows it (`bus.batches.Batches`)."""

    @property
    def is_waiting(self) -> bool:
        """Whether a sender is still to be told what became of a signal."""

    def forward(
        self, sender: Sender, target: str, frame: bytes, body: bytes, *, wants_ack: bool, is_alone: bool = False
    ) -> None:
        """Send a signal on in the bytes in which it came; `sender` is told what became of it.

        Args:
            target: not in `subscribers`.
            frame: what it came in, or its first `protocol.relay.HEAD` bytes.
            body: `signal_data` in the payload type that these name.
            wants_ack: whether the sender asked to be told that it was delivered, and should not wait for that.
            is_alone: whether no more come with it, in the same read.

        Raises:
            TooLargeError, UnavailableError: as `Bus.send`.
            InvalidRequestError: no client can be called `target`.
        """


class Claimed(NamedTuple):
    """What came of a claim: whether the client may be attached, and what its former node handed over of it."""

    is_won: bool
    handed_over: bytes | None = None


# Called on a client's former node with what its new node wants to go on with; returns that, or None. Whatever it
# returns, the client is not this node's any more.
HandOver = Callable[[ClientId, bytes], bytes | None]


class Bus(Protocol):
    """Presence and delivery; the module's docstring has the promises."""

    def send(
        self, target: ClientId, message: Message, message_id: bytes | None = None, *, outcome: Outcome | None = None
    ) -> Delivery:
        """Deliver `message` to `target`, or queue it.

        Returns:
            DELIVERED, QUEUED or OFFLINE where this node knows; otherwise PENDING, and `outcome` is called with one of
            the three or with an error. Without an `outcome` nobody is told.

        Raises:
            TooLargeError, InvalidRequestError: as `Subscriber.deliver`.
            UnavailableError: the other nodes cannot be reached, or too much waits for them.
        """

    def announce(self, nodes: Iterable[NodeId], room_id: RoomId, news: bytes) -> None:
        """Hand `news` of a room to `on_news` of these other nodes, and of no other node.

        What one node announces of one room arrives at each node in that order. It is sent again until the node has
        taken it, and may therefore arrive twice. A node that is gone, or cut off, does not get it.
        """

    def respond(self, on_question: QuestionHandler) -> None:
        """Have this answer what other nodes ask (`ask_others`)."""

    def listen(
        self, *, on_news: NewsHandler, on_reunion: ReunionHandler, on_gone: GoneHandler = lambda node_id: None
    ) -> None:
        """Have these called from now on: with what others announce, when some may have been missed, and who is gone.

        A node is gone when this one, which reaches the others, has heard nothing of it for some seconds.
        """

    async def ask_others(self, question: bytes) -> list[bytes]:
        """Return what `on_question` of all other nodes answers; those that are too slow are left out."""
