"""Signals of one client to another that leave in one go: one entry, one thing to keep, one thing to settle.

What a busy client says to one peer in one turn of the event loop is such a run. Only where one of its signals did not
simply arrive are they looked at one by one.
"""

from __future__ import annotations

from functools import partial

import msgspec

from signal_manager.bus.base import Delivery, Sender
from signal_manager.bus.nats import wire
from signal_manager.bus.nats.routes import Envelope, Route

__all__ = ["Run", "alone"]


class Run(msgspec.Struct, eq=False):
    """Signals on their way to a client of another node, of which there is at least one."""

    sender: Sender
    entry: wire.Signals
    wants_ack: bool
    route: Route
    size: int  # bytes that it takes
    room: int  # bytes that it may still take; below zero once it is on its way

    @property
    def target(self) -> str:
        """Whom they are for."""
        return self.entry.target

    @property
    def count(self) -> int:
        """How many they are."""
        return len(self.entry.signals)

    def arrived(self) -> None:
        """Tell the sender, who wants to know, that all its signals were delivered."""
        for head, _ in self.entry.signals:
            self.sender.told(head, self.target, True, Delivery.DELIVERED)

    def envelopes(self) -> list[Envelope]:
        """Return its signals one by one; each is settled by itself from then on."""
        self.route.out += self.count - 1
        return [
            alone(self.sender, self.target, head, body, wants_ack=self.wants_ack, route=self.route)
            for head, body in self.entry.signals
        ]


def alone(
    sender: Sender, target: str, head: bytes, body: bytes, *, wants_ack: bool, route: Route | None = None
) -> Envelope:
    """Return one signal as a parcel whose sender is told what became of it."""
    entry = wire.Signals(target, sender.client_id, [(head, body)])
    return Envelope(target, entry, wire.size_of(entry), partial(sender.told, head, target, wants_ack), route=route)
