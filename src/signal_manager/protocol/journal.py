"""What one side of a session has received, and what it sent that is not confirmed yet.

Each side keeps a `Journal`. docs/protocol.md, "Resume", has the rules; `resume.py` decides whether a client may resume.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from signal_manager.errors import InvalidRequestError
from signal_manager.protocol.websocket import frame_head, messages_in

__all__ = ["CONFIRM_WEIGHT", "MESSAGE_OVERHEAD", "SERVICE_CONFIRM_WEIGHT", "Budget", "Journal"]

# Bytes that a kept message costs beside its content: the object and its place in the queue.
MESSAGE_OVERHEAD = 64
# A client confirms with `received` after this many bytes, which include `MESSAGE_OVERHEAD` per message (at most 1536
# messages). This is well below what the service keeps by default, so a buffer does not overflow while the client keeps
# up. The service confirms in each HEARTBEAT_ACK, and by itself after twice as many bytes.
CONFIRM_WEIGHT = 98_304
SERVICE_CONFIRM_WEIGHT = 2 * CONFIRM_WEIGHT


# The opcode of stored frames does not matter: only their payloads are read.
_ANY_FRAME = 0x82


class Budget:
    """The bytes that all journals of one process may keep together.

    When the budget is used up, the largest journals drop their messages until a sixteenth of it is free. The search for
    them visits every journal, so it must not run for every message.
    """

    __slots__ = ("_journals", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._journals: dict[Journal, None] = {}

    def join(self, journal: Journal) -> None:
        """Add a journal and count its `overhead`."""
        self._journals[journal] = None
        self.used += journal.overhead
        if self.used > self.limit:
            self.make_room()

    def leave(self, journal: Journal) -> None:
        """Remove a journal, which keeps no messages any more."""
        if journal in self._journals:
            del self._journals[journal]
            self.used -= journal.overhead

    def make_room(self) -> None:
        """Make the largest journals drop their messages."""
        enough = self.limit - self.limit // 16
        for journal in sorted(self._journals, key=_weight_of, reverse=True):
            if self.used <= enough or not journal.weight:
                return
            journal.give_way()


def _weight_of(journal: Journal) -> int:
    return journal.weight


class _Run(NamedTuple):
    """Messages of one write, in their WebSocket frames; kept and dropped as one."""

    frames: bytes
    length: int


class Journal:
    """One side's record of a session: the count of received messages, and the sent messages that are not confirmed.

    A journal beyond its limit drops its oldest messages. It is then incomplete until the other side has confirmed the
    dropped messages.

    Args:
        limit: bytes of messages to keep, with `MESSAGE_OVERHEAD` for each.
        budget: shared with other journals; None for a budget of its own.
        confirm_at: bytes to receive before this side confirms.
        overhead: bytes that the budget counts for the session itself.
        received, sent, unconfirmed: the state that an earlier process saved.
    """

    __slots__ = (
        "_begun",
        "_budget",
        "_confirm_at",
        "_confirmed",
        "_is_over",
        "_limit",
        "_owed",
        "_unconfirmed",
        "is_complete",
        "overhead",
        "received",
        "sent",
        "weight",
    )

    def __init__(
        self,
        *,
        limit: int,
        budget: Budget | None = None,
        confirm_at: int = CONFIRM_WEIGHT,
        overhead: int = 0,
        received: int = 0,
        sent: int = 0,
        unconfirmed: Iterable[bytes] = (),
    ) -> None:
        self._limit = limit
        self._budget = budget or Budget(limit + overhead)
        self._confirm_at = confirm_at
        self.received = received
        self.is_complete = True  # no unconfirmed message was dropped
        self._is_over = False
        self.overhead = overhead
        self.weight = 0
        self._owed = 0  # bytes received since the last confirmation
        self._unconfirmed: deque[bytes | _Run] = deque()
        earlier = tuple(unconfirmed)
        self._confirmed = self.sent = sent - len(earlier)
        self._begun = 0  # confirmed messages of the oldest run
        self._budget.join(self)
        if earlier:  # as one run, so that messages within the limit stay within it
            self.keep(b"".join(frame_head(_ANY_FRAME, len(data)) + data for data in earlier), len(earlier))

    @property
    def unconfirmed(self) -> tuple[bytes, ...]:
        """The messages that the other side has not confirmed, oldest first."""
        messages: list[bytes] = []
        for kept in self._unconfirmed:
            messages += (kept,) if isinstance(kept, bytes) else messages_in(kept.frames)
        return tuple(messages[self._begun :])

    def take(self, size: int) -> bool:
        """Count a received message of `size` bytes; return True when it is time to confirm."""
        self.received += 1
        self._owed += size + MESSAGE_OVERHEAD
        return self._owed >= self._confirm_at

    def tell(self) -> int:
        """Return the count of received messages, to send to the other side as a confirmation."""
        self._owed = 0
        return self.received

    def keep(self, data: bytes, run: int = 0) -> None:
        """Count a sent message and keep it until it is confirmed.

        With `run`, `data` is the frames of that many messages, kept as one object. That costs a busy service much less
        than one object per message: memory that is freed late is out of the processor's caches by then.
        """
        self.sent += run or 1
        if self._is_over:
            return
        self._unconfirmed.append(_Run(data, run) if run else data)
        added = len(data) + MESSAGE_OVERHEAD
        self.weight = weight = self.weight + added
        budget = self._budget
        budget.used = used = budget.used + added
        if weight > self._limit or used > budget.limit:
            self._drop_oldest(self._limit)
            if budget.used > budget.limit:
                budget.make_room()

    def confirm(self, received: int) -> None:
        """Drop the messages that the other side has received.

        Raises:
            InvalidRequestError: the other side claims more messages than were sent.
        """
        if received > self.sent:
            raise InvalidRequestError(f"received is {received}, expected at most the {self.sent} messages sent so far")
        if received <= self._confirmed and (self.is_complete or received < self._confirmed):
            return
        kept = self._unconfirmed
        begun, weight = self._begun + received - self._confirmed, 0
        while kept:
            oldest = kept[0]
            data, count = (oldest, 1) if isinstance(oldest, bytes) else oldest
            if count > begun:
                break
            kept.popleft()
            begun -= count
            weight += len(data) + MESSAGE_OVERHEAD
        self._begun, self._confirmed = begun, received
        self.weight -= weight
        self._budget.used -= weight
        self.is_complete = not self._is_over

    def can_continue_from(self, received: int) -> bool:
        """Tell whether this journal has every message after the first `received`."""
        return not self._is_over and self._confirmed <= received <= self.sent

    def has_room(self, size: int) -> bool:
        """Tell whether the limit allows another message of `size` bytes."""
        return self.weight + size + MESSAGE_OVERHEAD <= self._limit

    def give_way(self) -> None:
        """Drop all messages, to make room for other journals."""
        self._drop_oldest(0)

    def give_up(self) -> None:
        """Drop all messages, and keep none from now on."""
        self._drop_oldest(0)
        self._budget.leave(self)
        self._is_over = True
        self.is_complete = False

    def _drop_oldest(self, limit: int) -> None:
        """Drop the oldest messages until at most `limit` bytes are left."""
        kept, first, weight = self._unconfirmed, self._confirmed - self._begun, self.weight
        while kept and weight > limit:
            oldest = kept.popleft()
            data, count = (oldest, 1) if isinstance(oldest, bytes) else oldest
            first += count
            weight -= len(data) + MESSAGE_OVERHEAD
        if weight < self.weight:
            self._budget.used -= self.weight - weight
            self.weight, self._confirmed, self._begun = weight, first, 0
            self.is_complete = False
