"""What a room uses of its client, so that rooms need not import the client that makes them."""

from __future__ import annotations

from typing import Protocol, TypeVar

from signal_manager.protocol.messages import Message

__all__ = ["Requester"]

Reply = TypeVar("Reply", bound=Message)


class Requester(Protocol):
    """Sends requests to the service; `SignalClient` is one."""

    client_id: str

    @property
    def is_connected(self) -> bool:
        """Whether the client is connected and authenticated, as far as it knows."""

    async def request(self, message: Message, expected: type[Reply], *, timeout: float | None = None) -> Reply:
        """Send a request and return its reply."""
