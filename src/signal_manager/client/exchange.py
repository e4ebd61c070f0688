"""The state of a client that may outlive a connection: requests without a reply yet, and the session's journal.

`connection.py` fills it. `link.py` decides whether the next connection resumes it.
"""

from __future__ import annotations

import asyncio

from signal_manager.errors import SignalManagerError, UnavailableError
from signal_manager.protocol.journal import Journal
from signal_manager.protocol.messages import Message, Resume

__all__ = ["KEPT_BYTES", "MAX_PENDING_REQUESTS", "Exchange", "settle"]

# Requests that wait for their reply at the same time; further callers wait for a place within their time limit.
MAX_PENDING_REQUESTS = 1024
# The journal keeps so many bytes of sent messages until the service confirms them, at the latest every 192 KiB. This is
# room for a burst; after a larger one the session cannot be resumed.
KEPT_BYTES = 4 * 1024 * 1024


class Exchange:
    """The requests of one client, and the state that lets another connection resume its session."""

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(MAX_PENDING_REQUESTS)
        # None for a session that ends with its connection.
        self.journal: Journal | None = None
        self._session_id = ""
        self._token = ""
        self._pending: dict[bytes, asyncio.Future[Message]] = {}

    @property
    def offer(self) -> Resume | None:
        """The session for CONNECT to resume; None when none can be."""
        journal = self.journal
        if journal is None or not journal.is_complete:
            return None
        return Resume(session_id=self._session_id, resume_token=self._token, received=journal.received)

    @property
    def former(self) -> Resume | None:
        """The session that CONNECT names: the one to resume, or the last one, so that a newer device keeps the client.

        Without its token the service does not resume the last one.
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
        """Resume the session, and return the messages that the service misses; None when the journal lacks some."""
        journal = self.journal
        if journal is None or not journal.can_continue_from(received):
            return None
        journal.confirm(received)
        return journal.unconfirmed

    def confirm(self, received: int) -> None:
        """Drop messages that the service has received.

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
        """Stop waiting for a reply."""
        self._pending.pop(message_id, None)

    def resolve(self, message_id: bytes, reply: Message | SignalManagerError) -> bool:
        """Give a request its reply; return whether a request waited for it."""
        future = self._pending.get(message_id)
        return future is not None and settle(future, reply)

    def fail(self, reason: str) -> None:
        """Fail all requests that wait for a reply."""
        for future in self._pending.values():
            if not future.done():
                future.set_exception(UnavailableError(reason))

    def abandon(self) -> None:
        """Give the session up after the service refused it or contradicted the journal."""
        self.journal = None


def settle(future: asyncio.Future[Message], reply: Message | SignalManagerError) -> bool:
    """Give a waiting request its reply; return whether it still waited."""
    if future.done():
        return False
    if isinstance(reply, SignalManagerError):
        future.set_exception(reply)
    else:
        future.set_result(reply)
    return True
