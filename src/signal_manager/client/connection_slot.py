"""The place of the present connection, where callers wait for one that takes messages."""

from __future__ import annotations

import asyncio

from signal_manager.client.connection import Connection
from signal_manager.errors import SignalManagerError, UnavailableError, error_from_wire

__all__ = ["ConnectionSlot"]


class ConnectionSlot:
    """Hold the present connection, or the error that ended the link.

    Attributes:
        connection: the one that the service accepted last.
        ended: the error that ended the link; None while the link lives.
        accepted: set with the next accepted connection, and at the end.
    """

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.ended: SignalManagerError | None = UnavailableError("not connected: enter 'async with client' first")
        self.accepted = asyncio.Event()
        self._settled = asyncio.Event()  # set while connected, and once the link has ended

    @property
    def is_up(self) -> bool:
        """Whether there is a connection, as far as this side knows."""
        return self.connection is not None and not self.connection.is_closed

    def accept(self) -> None:
        """Let callers use the connection, which the service has accepted."""
        self.ended = None
        self._wake()

    def end(self, error: SignalManagerError) -> None:
        """Fail all callers, now and later."""
        self.ended = error
        self._wake()

    def check(self) -> None:
        """Raise the error that ended the link, if it has ended."""
        if self.ended is not None:
            # A fresh copy: raising one exception twice would join the stacks of two callers.
            raise error_from_wire(self.ended.code, self.ended.message)

    async def ready(self) -> Connection:
        """Return a connection once it can take a message; raise the error that ended the link."""
        while True:
            self.check()
            connection = self.connection
            if connection is None or connection.is_closed:
                self._settled.clear()
                await self._settled.wait()
            elif connection.is_writable:
                return connection
            else:
                await connection.wait_writable()

    def _wake(self) -> None:
        self._settled.set()
        self.accepted.set()
        self.accepted = asyncio.Event()
