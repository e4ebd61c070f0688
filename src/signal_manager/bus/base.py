"""The promises of a bus: which clients are present, and how a message reaches them.

Nothing outside this package and the composition root knows an implementation. Three interfaces divide what the service
uses: the dispatcher, rooms and the management interface see `Messaging`; connections and sessions see `Presence`; `Bus`
is both, with what the composition root needs. An adapter implements `Bus` and needs nothing else of this package;
`signal_manager.testing.bus` holds the contract suite that every adapter passes.

What holds for every bus:

- **One presence.** The newest connection of a client receives its messages, over all nodes. `Presence.claim` is how a
  node asks the others for a client before it attaches it.
- **A definite outcome.** The sender learns the outcome of each message: at once if the bus knows it, otherwise once,
  within a bounded time, through `outcome`. No message is delivered twice. "Unavailable" (503) means that the message
  may be lost or may have arrived.
- **Absence is an answer.** "No node holds this client" is known after one question to the others, not after a time
  limit.
- **Ordered.** Messages from one sender to one client arrive in the order in which they were sent, on every path, and
  while the client moves from one node to another.
- **A slow reader costs only itself.** A bus never waits for a client: `Subscriber.deliver` queues or ends the client's
  session. A bus that cannot keep up with another node refuses further messages for it with 503.
- **Bounded.** Messages that wait for other nodes take up to a fixed number of bytes; beyond it senders get 503.
- **Cut off from the other nodes**, for any length of time, the clients of one node still reach each other, and messages
  to all other clients get 503. Nothing is kept for later. When the nodes meet again, a client that is present on two
  keeps the newer presence, and `on_reunion` is called on both sides, because announcements may have been missed.

Every method but `claim`, `ask_others` and the context manager returns without waiting, and all are called in the event
loop that opened the bus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeVar

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
    "Messaging",
    "NewsHandler",
    "Outcome",
    "Presence",
    "QuestionHandler",
    "ReunionHandler",
    "Sender",
    "Subscriber",
    "claims_at_once",
]


class Delivery(StrEnum):
    """The delivery of a message (docs/protocol.md, SIGNAL_ACK); PENDING means that an `Outcome` follows."""

    DELIVERED = "delivered"
    QUEUED = "queued"
    OFFLINE = "offline"
    PENDING = "pending"


# Called once, in the event loop, with the delivery of a message; never from inside the call that sent it.
Outcome = Callable[[Delivery | SignalManagerError], None]

# One of several messages that was not simply delivered: its index among them, and its delivery or error.
Exceptional = tuple[int, Delivery | SignalManagerError]

# Called with a room's id and the announced bytes.
NewsHandler = Callable[[RoomId, bytes], None]

# Called with the node whose announcements may be missing, or None when those of any node may.
ReunionHandler = Callable[[NodeId | None], None]

# Called with a node that has fallen silent: it has ended or is cut off.
GoneHandler = Callable[[NodeId], None]

# Called with the question of another node; returns the answer.
QuestionHandler = Callable[[bytes], bytes]


class Subscriber(Protocol):
    """The receiver of a client's messages: its connection, or its session while the client is away."""

    @property
    def instance_id(self) -> str | None:
        """The client's id for its running copy, the same on all its connections."""

    @property
    def taken_up_at(self) -> int:
        """When the user took up the device (ms since the epoch), before all reconnections; 0 if unknown."""

    def deliver(self, message: Message, message_id: bytes | None = None) -> Delivery:
        """Hand `message` to the client's outbound queue, in the client's own encoding, and return the delivery.

        A `message_id` of None gives the message a fresh one. The call never blocks, and messages arrive in the order of
        the calls. QUEUED means that the client is away and expected back, OFFLINE that its queue is full: a client that
        reads too slowly loses its session.

        Raises:
            TooLargeError: the message does not fit this client's framing.
            InvalidRequestError: this client's protocol has no such message.
        """

    def relay(self, sender: str, signals: Sequence[tuple[bytes, bytes]]) -> Sequence[Exceptional]:
        """Hand signals that came by `Forwarder.forward` on another node to the client's outbound queue, in this order.

        Args:
            sender: the client that sent them.
            signals: of each the first `protocol.framing.HEAD` bytes of its frame, and `signal_data` in the payload type
                that these name.

        Returns:
            The signals that were not simply delivered.
        """

    def replaced(self, *, same_instance: bool) -> None:
        """End this connection, because its client has a newer one.

        Args:
            same_instance: whether the newer connection is of the same running copy of the client.
        """


class Sender(Protocol):
    """The sender of signals to clients of other nodes: a client's connection."""

    @property
    def client_id(self) -> ClientId:
        """The client that it authenticated as."""

    def told(self, head: bytes, target: str, wants_ack: bool, result: Delivery | SignalManagerError) -> None:
        """Handle the delivery of a signal; the connection decides what to tell its client.

        The bus may call this inside the call that sends the signal.

        Args:
            head: the first `protocol.framing.HEAD` bytes of its frame.
            target: the client that the signal was for.
            wants_ack: whether the sender asked for a SIGNAL_ACK.
            result: as for an `Outcome`.
        """


class Forwarder(Protocol):
    """The fast path to clients of other nodes: signals travel as the bytes that their sender wrote."""

    def forward(
        self, sender: Sender, target: str, frame: bytes, body: bytes, *, wants_ack: bool, is_alone: bool = False
    ) -> None:
        """Forward a signal. `Subscriber.relay` gets it at its node, and `sender.told` gets its delivery.

        Signals keep their order among each other and with what `Messaging.send` sends from the same sender.

        Args:
            sender: the connection that sent it. It is told once, unless it does not want an acknowledgement and the
                signal was delivered: then a bus may leave it untold.
            target: a client that is not in `subscribers`.
            frame: the frame that it came in, or its first `protocol.framing.HEAD` bytes.
            body: `signal_data` in the payload type that these name; valid during the call, so keep `bytes(body)`.
            wants_ack: whether the sender asked for a SIGNAL_ACK.
            is_alone: whether no other signal came in the same read, so that waiting for more is pointless.

        Raises:
            TooLargeError, UnavailableError: as `Messaging.send`; then `sender` is not told.
            InvalidRequestError: `target` is not a valid client id.
        """


class Claimed(NamedTuple):
    """The result of a claim: whether the client may be attached, and the session that its former node handed over."""

    is_won: bool
    handed_over: bytes | None = None


# Called on a client's former node with what its new node asks for. It detaches the client and returns its session's
# state, or returns None if the session cannot go on there: then the bus detaches the client and calls `replaced`.
HandOver = Callable[[ClientId, bytes], bytes | None]

S = TypeVar("S", bound=Subscriber)


class Messaging(Protocol):
    """Messages to clients, and announcements and questions to nodes; the module's docstring has the promises."""

    def send(
        self, target: ClientId, message: Message, message_id: bytes | None = None, *, outcome: Outcome | None = None
    ) -> Delivery:
        """Deliver `message` to the newest connection of `target`, on whichever node that is.

        A client of this node gets it before `send` returns (`Subscriber.deliver`). A `message_id` of None gives the
        message a fresh one.

        Returns:
            DELIVERED, QUEUED or OFFLINE if this node knows; otherwise PENDING, and `outcome` is called once with one
            of the three or with an error. Without an `outcome` the sender is not told.

        Raises:
            TooLargeError, InvalidRequestError: as `Subscriber.deliver`; TooLargeError also for a message that the bus
                cannot carry.
            UnavailableError: the other nodes cannot be reached, or too much waits for them.
        """

    def announce(self, nodes: Iterable[NodeId], room_id: RoomId, news: bytes) -> None:
        """Hand `news` of a room to `on_news` of these other nodes, and of no other node.

        Announcements of one node about one room arrive at each node in their order. An announcement is sent again until
        its node has taken it, so it may arrive twice. A node that is gone or cut off misses it, and `on_reunion` is
        called when the nodes meet again.
        """

    def listen(
        self, *, on_news: NewsHandler, on_reunion: ReunionHandler, on_gone: GoneHandler = lambda node_id: None
    ) -> None:
        """Call these functions from now on: for news, for a reunion, and for a node that is gone.

        A node counts as gone if this node reaches the others and has not heard from it for some seconds. It may only be
        cut off, or slow.
        """

    def respond(self, on_question: QuestionHandler) -> None:
        """Answer the questions of other nodes (`ask_others`) with this function from now on."""

    async def ask_others(self, question: bytes) -> list[bytes]:
        """Return the answers of `on_question` of all other nodes, in any order.

        Nodes that do not answer within a bounded time are left out; without other nodes the list is empty.
        """


class Presence(Protocol[S]):
    """Which clients are on this node, and how they come, move and go.

    A client comes in two steps: `claim`, which waits for the other nodes, then `attach`, which does not.
    """

    @property
    def subscribers(self) -> Mapping[str, S]:
        """The newest connection of each client of this node, by client id.

        The relay path looks a target up here for every signal, so this is the same dictionary for the life of the bus,
        and a client that has moved to another node is not in it.
        """

    async def claim(
        self,
        client_id: ClientId,
        instance_id: str | None,
        *,
        wants: bytes | None = None,
        yields: bool = False,
        taken_up_at: int = 0,
    ) -> Claimed:
        """Make all other nodes detach a client that is about to be attached here.

        The former node calls `Subscriber.replaced`, or hands the client's session over, before the claim returns.
        Messages that this node sends to the client meanwhile wait for `attach` or `release`. A claim is lost, and the
        client must not be attached, when another node has claimed the client since. Nodes that cannot be reached, or
        do not answer within a bounded time, are not waited for.

        Follow a claim that is won by `attach`, without awaiting anything in between, or by `release`. A claim that is
        lost or cancelled needs neither.

        Args:
            client_id: a valid client id.
            instance_id: the client's id for its running copy (`Subscriber.instance_id`).
            wants: handed to the `hand_over` of the client's former node, whose answer is in the result.
            yields: whether the client comes back by itself. Such a claim is also lost to another instance of the
                client, on any node, that its user took up later.
            taken_up_at: when the user took up this instance (`Subscriber.taken_up_at`).
        """

    def release(self, client_id: ClientId) -> None:
        """Give up a claim that no `attach` follows; messages that waited for it are told OFFLINE."""

    def attach(self, client_id: ClientId, subscriber: S) -> None:
        """Make `subscriber` the newest connection of a client, and deliver what waited for it, in order.

        Connections of the client on this node that must give way get `Subscriber.replaced`: all of the same instance,
        and the oldest beyond the allowed number. Without a `claim` before it, connections on other nodes stay, until
        the client is claimed by one of them or by this one.
        """

    def swap(self, client_id: ClientId, present: S, successor: S) -> bool:
        """Replace `present` by `successor` without calling `replaced`; return whether `present` was attached."""

    def detach(self, client_id: ClientId, subscriber: S) -> None:
        """Remove a connection that has ended; ignore one that was replaced or is unknown.

        An older connection of the client on this node takes its place. If there is none, the client is offline.
        """


class Bus(Messaging, Presence[S], Protocol[S]):
    """The complete interface of a bus, which an adapter implements; an async context manager.

    Entering joins the other nodes. Leaving first sends what waits, then resolves every open `outcome` and claim, so
    that no caller waits for a closed bus. The service leaves the bus after the last connection has ended.

    Entering raises:
        ConfigurationError: the bus cannot work as configured, in one line for a person; a `node_id` that another node
            uses is one such case.
        UnavailableError: the bus does not answer now; a later start may succeed.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    @property
    def is_connected(self) -> bool:
        """Whether the other nodes can be reached; readiness and `/health` show it."""

    @property
    def is_waiting(self) -> bool:
        """Whether the delivery of a message is still open; an orderly stop waits for it."""

    @property
    def forwarder(self) -> Forwarder | None:
        """The fast path to clients of other nodes; None if signals to them go by `send`. Read once, at the start."""

    def serve_others(self, *, hand_over: HandOver, join: Callable[[], None], flush: Callable[[], None]) -> None:
        """Use these functions for claims and messages of other nodes.

        Args:
            hand_over: gives a client's session to the node that claims it.
            join, flush: writes to clients between these two calls go out together. A bus may call them around several
                deliveries that arrive at once; `flush` follows every `join` in the same turn of the event loop.
        """


def claims_at_once(bus: Presence[Any]) -> bool:
    """Tell whether a bus says of itself that `claim` waits for nothing, because there are no other nodes."""
    return bool(getattr(bus, "claims_at_once", False))
