"""Which connections there are, and which of them give way when there are too many."""

from __future__ import annotations

import asyncio
from collections.abc import Set
from typing import Protocol

from signal_manager.gateway.limits import Holdings, Limits, Usage
from signal_manager.gateway.ports import RegisteredConnection

__all__ = ["Holder", "Occupancy"]


class Holder(Protocol):
    """What holds incomplete messages of one connection."""

    def give_up(self) -> None:
        """Close the connection, because its incomplete messages take the most memory."""


class Occupancy:
    """All connections of one process, and the limits that they share.

    A stranger is a connection that is not authenticated. A connection that is takes a seat, one of `max_connections`.

    Args:
        limits: what the service allows.

    Attributes:
        strangers: those that are not authenticated, oldest first. A CONNECT moves a stranger to the end.
        usage: counts seats, addresses and authentications.
        is_empty: set while a drain waits for it and the last connection has ended.
    """

    def __init__(self, limits: Limits) -> None:
        # A table takes half the memory of a set.
        self._connections: dict[RegisteredConnection, None] = {}
        self.strangers: dict[RegisteredConnection, None] = {}
        self.usage = Usage(limits)
        self.is_empty = asyncio.Event()
        self._max_strangers = limits.max_strangers
        self._holdings: Holdings[Holder] = Holdings(limits.half_read_bytes)

    @property
    def connections(self) -> Set[RegisteredConnection]:
        """All connections."""
        return self._connections.keys()

    def enter(self, connection: RegisteredConnection) -> str | None:
        """Add a connection; return why it must leave again, or None.

        If there are too many strangers, the oldest one gives way.
        """
        self._connections[connection] = None
        if len(self.strangers) >= self._max_strangers:
            oldest = next(iter(self.strangers))
            del self.strangers[oldest]
            oldest.give_way()
        self.strangers[connection] = None
        return self.usage.enter(connection.source)

    def introduced(self, connection: RegisteredConnection) -> None:
        """Move a stranger that has sent CONNECT behind those that have sent nothing."""
        if connection in self.strangers:
            del self.strangers[connection]
            self.strangers[connection] = None

    def take_seat(self, connection: RegisteredConnection) -> bool:
        """Give an authenticated client a seat; return whether there is one."""
        if connection not in self._connections:
            return True  # it has ended meanwhile, which the caller finds by itself
        if not self.usage.take_seat():
            return False
        self.strangers.pop(connection, None)
        connection.has_seat = True
        return True

    def count_incomplete(self, holder: Holder, size: int) -> None:
        """Count the bytes of incomplete messages; if all take too much, the largest holder closes."""
        largest = self._holdings.hold(holder, size)
        if largest is not None:
            largest.give_up()

    def leave(self, connection: RegisteredConnection) -> None:
        """Remove a connection whose socket is closed."""
        self._connections.pop(connection, None)
        self.strangers.pop(connection, None)
        self.usage.leave(connection.source, has_seat=connection.has_seat)
        connection.has_seat = False
        if not self._connections:
            self.is_empty.set()
