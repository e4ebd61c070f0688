"""The promises of a bus: who is present, and how a message reaches them.

`router.py` sees this interface only; `server.py` attaches its connections to the implementation that `app.py` chose.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from signal_manager.model import ClientId
from signal_manager.protocol.messages import Message

__all__ = ["Bus", "Delivery", "Subscriber"]


class Delivery(StrEnum):
    """What became of a message (docs/protocol.md, SIGNAL_ACK)."""

    DELIVERED = "delivered"
    QUEUED = "queued"
    OFFLINE = "offline"


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

    def replaced(self, *, same_instance: bool) -> None:
        """End this connection, since its client has a newer one."""


class Bus(Protocol):
    """Presence and delivery.

    A client has at most the configured number of subscribers; the newest one receives its messages. Messages from one
    sender to one client arrive in the order they were sent.
    """

    def send(self, target: ClientId, message: Message, message_id: bytes | None = None) -> Delivery:
        """Deliver `message` to `target`, or queue it; OFFLINE at once when nobody holds that client.

        Raises:
            TooLargeError, InvalidRequestError: as `Subscriber.deliver`.
        """
