"""Runs: signals of one client to another that are sent, kept and settled as one.

The signals of a busy client to one peer in one turn of the event loop form a run. They are handled one by one only if
one of them was not simply delivered.
"""

from __future__ import annotations

from functools import partial

import msgspec

from signal_manager.bus.base import Delivery, Sender
from signal_manager.bus.nats import wire
from signal_manager.bus.nats.routes import Envelope, Route

__all__ = ["Run", "alone"]


class Run(msgspec.Struct, eq=False):
    """One or more signals on their way to a client of another node."""

    sender: Sender
    entry: wire.Signals
    wants_ack: bool
    route: Route
    size: int  # bytes on the wire
    room: int  # bytes that may still be added; negative once the run is sent

    @property
    def target(self) -> str:
        """The client that the signals are for."""
        return self.entry.target

    @property
    def count(self) -> int:
        """The number of signals."""
        return len(self.entry.signals)

    def arrived(self) -> None:
        """Tell the sender that all its signals were delivered."""
        for head, _ in self.entry.signals:
            self.sender.told(head, self.target, True, Delivery.DELIVERED)

    def envelopes(self) -> list[Envelope]:
        """Return the signals one by one; from then on each is settled by itself."""
        self.route.out += self.count - 1
        return [
            alone(self.sender, self.target, head, body, wants_ack=self.wants_ack, route=self.route)
            for head, body in self.entry.signals
        ]


def alone(
    sender: Sender, target: str, head: bytes, body: bytes, *, wants_ack: bool, route: Route | None = None
) -> Envelope:
    """Return one signal as an envelope whose sender is told its result."""
    entry = wire.Signals(target, sender.client_id, [(head, body)])
    return Envelope(target, entry, wire.size_of(entry), partial(sender.told, head, target, wants_ack), route=route)
