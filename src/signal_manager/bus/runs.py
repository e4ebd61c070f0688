"""Signals of one client to another that leave in one go: one entry, one thing to keep, one thing to settle.

What a busy client says to one peer in one turn of the event loop is such a run. Only where one of its signals did not
simply arrive are they looked at one by one.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import msgspec

from signal_manager.bus import wire
from signal_manager.bus.base import Delivery, Sender
from signal_manager.bus.routes import Parcel, Route

__all__ = ["Run", "alone"]


class Run(msgspec.Struct, eq=False):
    """Signals on their way to a client of another node.

    `parts` are those of `wire.encode_signals`, until `data` is made of them and it takes no more.
    """

    sender: Sender
    target: str
    wants_ack: bool
    route: Route
    room: int  # bytes that it may still take
    count: int = 0
    parts: list[bytes] = msgspec.field(default_factory=list)
    data: bytes = b""
    content: ClassVar[None] = None

    def arrived(self) -> None:
        """Tell the sender, who wants to know, that all its signals were delivered."""
        for head, _ in wire.read_signals(self.data).signals:
            self.sender.told(head, self.target, True, Delivery.DELIVERED)

    def parcels(self) -> list[Parcel]:
        """Return its signals one by one; each is settled by itself from then on."""
        self.route.out += self.count - 1
        return [
            alone(self.sender, self.target, head, body, wants_ack=self.wants_ack, route=self.route)
            for head, body in wire.read_signals(self.data).signals
        ]


def alone(
    sender: Sender, target: str, head: bytes, body: bytes, *, wants_ack: bool, route: Route | None = None
) -> Parcel:
    """Return one signal as a parcel whose sender is told what became of it."""
    data = wire.encode_signals(target, sender.client_id, 1, (wire.signal_head(head, len(body)), body))
    return Parcel(target, data, partial(sender.told, head, target, wants_ack), route=route)
