"""What this node listens to, under the numbers that the subscriptions have on the connection of now."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from signal_manager.bus.nats.protocol import Arrival

__all__ = ["Handler", "Subscriptions"]

# Called with each message to a subject.
Handler = Callable[[Arrival], None]


class Subscriptions:
    """The handlers by subject, over all connections, and by number on this one.

    Attributes:
        by_number: the handlers of this connection.
    """

    def __init__(self) -> None:
        self.by_number: dict[bytes, Handler] = {}
        self._handlers: dict[str, Handler] = {}  # by subject
        self._numbers: dict[str, bytes] = {}  # of subscriptions on this connection, by subject
        self._next_number = 1

    def __iter__(self) -> Iterator[str]:
        return iter(self._handlers)

    def add(self, subject: str, handler: Handler) -> bool:
        """Add a subject; return False if it has a handler, which it keeps."""
        if subject in self._handlers:
            return False
        self._handlers[subject] = handler
        return True

    def remove(self, subject: str) -> bytes | None:
        """Remove a subject; return its number, which goes on to have a handler, or None if it has none."""
        self._handlers.pop(subject, None)
        return self._numbers.pop(subject, None)

    def begin(self) -> None:
        """Forget all numbers, because another connection begins."""
        self._numbers.clear()
        self.by_number = {}

    def number(self, subject: str) -> bytes:
        """Give a subject a number on this connection."""
        number = b"%d" % self._next_number
        self._next_number += 1
        self._numbers[subject] = number
        self.by_number[number] = self._handlers[subject]
        return number
