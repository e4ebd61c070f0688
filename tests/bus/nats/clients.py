"""Clients at both ends of the bus, for tests without nats-server."""

from __future__ import annotations

from collections.abc import Sequence

from signal_manager.bus.base import Delivery, Exceptional
from signal_manager.errors import SignalManagerError
from signal_manager.model import ClientId
from signal_manager.protocol.framing import HEAD
from signal_manager.protocol.messages import Message

__all__ = ["Caller", "Phone", "frame"]


def frame(name: str) -> bytes:
    """Return the head of a signal's frame."""
    return name.encode().ljust(HEAD, b".")


class Caller:
    """A client that sends signals, and what it was told of each."""

    def __init__(self, client_id: str = "alice") -> None:
        self.client_id = ClientId(client_id)
        self.heard: list[tuple[str, Delivery | str]] = []
        self.is_broken = False

    def told(self, head: bytes, target: str, wants_ack: bool, result: Delivery | SignalManagerError) -> None:
        """Note the result of a signal."""
        if self.is_broken:
            raise ZeroDivisionError
        said = result.message if isinstance(result, SignalManagerError) else result
        self.heard.append((head.rstrip(b".").decode(), said))


class Phone:
    """A client that takes signals and messages, and fails where the test says so."""

    instance_id: str | None = None
    taken_up_at: int = 0

    def __init__(self) -> None:
        self.got: list[object] = []
        self.exceptional: Sequence[Exceptional] = ()
        self.result: Delivery | Exception = Delivery.DELIVERED

    def deliver(self, message: Message, message_id: bytes | None = None) -> Delivery:
        """Take a message."""
        if isinstance(self.result, Exception):
            raise self.result
        self.got.append(message)
        return self.result

    def relay(self, sender: str, signals: Sequence[tuple[bytes, bytes]]) -> Sequence[Exceptional]:
        """Take signals."""
        if isinstance(self.result, Exception):
            raise self.result
        self.got += [(sender, body) for _, body in signals]
        return self.exceptional
