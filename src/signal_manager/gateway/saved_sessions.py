"""Sessions in storage, where they wait for the next start of the service or for another node."""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog

from signal_manager.errors import MalformedMessageError, SignalManagerError
from signal_manager.model import SavedSession, SessionId
from signal_manager.protocol.journal import Budget
from signal_manager.protocol.resume import ClientSession, SessionPhase
from signal_manager.storage.base import Storage

__all__ = ["SavedSessions"]

log = structlog.get_logger(__name__)


class SavedSessions:
    """Write sessions to storage and read them back.

    Args:
        storage: keeps them; None for a service whose sessions end with it.
        budget: bounds the buffers of all sessions.
        window: seconds that a session waits for its client.
        limit: bytes that one session may keep.
    """

    def __init__(self, storage: Storage | None, *, budget: Budget, window: float, limit: int) -> None:
        self._storage = storage
        self._budget = budget
        self._window = window
        self._limit = limit

    @property
    def is_kept(self) -> bool:
        """Whether sessions outlive the service."""
        return self._storage is not None

    async def take(self, session_id: SessionId) -> SavedSession | None:
        """Remove a session from storage and return it; None if it is not there.

        Raises:
            UnavailableError: the store does not answer.
        """
        return None if self._storage is None else await self._storage.take_session(session_id, now=time.time())

    async def take_page(self) -> Sequence[SavedSession]:
        """Remove some sessions from storage and return them; an empty page means that none are left.

        Raises:
            UnavailableError: the store does not answer.
        """
        return () if self._storage is None else await self._storage.take_sessions(now=time.time())

    async def put_back(self, saved: SavedSession) -> None:
        """Return a session to storage.

        Raises:
            UnavailableError: the store does not answer.
        """
        if self._storage is not None:
            await self._storage.save_sessions([saved])

    async def save(self, sessions: Sequence[ClientSession]) -> None:
        """Write sessions to storage. Sessions that cannot be written are lost, and the log says so."""
        if self._storage is None:
            return
        expires_at = time.time() + self._window
        records = [
            SavedSession(
                session_id=session.session_id,
                client_id=session.client_id,
                state=session.save(),
                expires_at=expires_at,
            )
            for session in sessions
        ]
        try:
            refused = await self._storage.save_sessions(records)
        except SignalManagerError as error:
            log.error("sessions not saved", sessions=len(records), reason=error.message)
            return
        if refused:
            log.warning("sessions too large to be saved", sessions=len(refused))

    def load(self, saved: SavedSession) -> ClientSession | None:
        """Return the session of a record; None if it cannot be read, or is larger than a session may be here."""
        try:
            session = ClientSession.load(
                saved.state, window=self._window, limit=self._limit, budget=self._budget, now=time.monotonic()
            )
        except MalformedMessageError as error:
            log.warning("saved session not readable", session_id=saved.session_id, reason=error.message)
            return None
        return session if session.phase is SessionPhase.AWAY else None
