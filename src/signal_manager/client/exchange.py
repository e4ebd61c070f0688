"""What a client has going that may outlive a connection: requests without a reply yet, and the session's journal.

`gateway/connection.py` fills it and `link.py` decides what becomes of it when a connection ends.
"""

from __future__ import annotations

import asyncio

from signal_manager.errors import SignalManagerError, UnavailableError
from signal_manager.protocol.messages import Message, Resume
from signal_manager.protocol.resume import Journal

__all__ = ["KEPT_BYTES", "MAX_PENDING_REQUESTS", "Exchange", "settle"]

# Requests that wait for their reply at the same time; further callers wait for a place within their time limit.
MAX_PENDING_REQUESTS = 1024
# Kept of what was sent until the service confirms it. It does so every 192 KiB at the latest; this is room for a burst,
# beyond which the session cannot be resumed.
KEPT_BYTES = 4 * 1024 * 1024


class Exchange:
    """The requests of one client, and what its session needs to go on with another connection."""

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(MAX_PENDING_REQUESTS)
        # None for a session that ends with its connection.
        self.journal: Journal | None = None
        self._session_id = ""
        self._token = ""
        self._pending: dict[bytes, asyncio.Future[Message]] = {}

    @property
    def offer(self) -> Resume | None:
        """What CONNECT says of the session to go on with; None when there is none that could."""
        journal = self.journal
        if journal is None or not journal.is_complete:
            return None
        return Resume(session_id=self._session_id, resume_token=self._token, received=journal.received)

    @property
    def former(self) -> Resume | None:
        """What CONNECT names: the session to go on with, or else the last one, so that a newer device keeps the client.

        Without its token that one is not gone on with.
        """
        if self.offer is not None or not self._session_id:
            return self.offer
        return Resume(session_id=self._session_id, resume_token="", received=0)

    @property
    def is_waiting(self) -> bool:
        """Whether a request waits for its reply."""
        return bool(self._pending)

    def begin(self, session_id: str, token: str | None) -> None:
        """Begin a new session; one without a token ends with its connection."""
        self.fail("the service has begun a new session, in which nobody will answer")
        self._session_id = session_id
        self._token = token or ""
        self.journal = None if token is None else Journal(limit=KEPT_BYTES)

    def resume(self, received: int) -> tuple[bytes, ...] | None:
        """Go on with the session, and return what the service misses; None when that cannot be all."""
        journal = self.journal
        if journal is None or not journal.can_continue_from(received):
            return None
        journal.confirm(received)
        return journal.unconfirmed

    def confirm(self, received: int) -> None:
        """Take the service's word for what it has received.

        Raises:
            InvalidRequestError: it claims more than was sent.
        """
        if self.journal is not None:
            self.journal.confirm(received)

    def expect(self, message_id: bytes) -> asyncio.Future[Message]:
        """Return the future reply to a request that is about to be sent."""
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._pending[message_id] = future
        return future

    def forget(self, message_id: bytes) -> None:
        """Wait no longer for a reply."""
        self._pending.pop(message_id, None)

    def resolve(self, message_id: bytes, reply: Message | SignalManagerError) -> bool:
        """Give a request its reply; tell whether anybody was waiting for one."""
        future = self._pending.get(message_id)
        return future is not None and settle(future, reply)

    def fail(self, reason: str) -> None:
        """Tell everybody who waits for a reply that none will come."""
        for future in self._pending.values():
            if not future.done():
                future.set_exception(UnavailableError(reason))

    def abandon(self) -> None:
        """Give the session up: it was refused, or what the service says of it cannot be."""
        self.journal = None


def settle(future: asyncio.Future[Message], reply: Message | SignalManagerError) -> bool:
    """Give whoever waits for a reply this one; tell whether anybody was."""
    if future.done():
        return False
    if isinstance(reply, SignalManagerError):
        future.set_exception(reply)
    else:
        future.set_result(reply)
    return True
