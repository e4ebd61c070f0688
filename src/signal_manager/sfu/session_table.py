"""All sessions of one SFU, from their opening to the end of their closing."""

from __future__ import annotations

import asyncio
import secrets

import structlog

from signal_manager.sfu.connection import Resources
from signal_manager.sfu.errors import RefusedError
from signal_manager.sfu.metrics import Gauges
from signal_manager.sfu.sessions import Session

__all__ = ["SessionTable"]

_log = structlog.get_logger(__name__)


class SessionTable:
    """Opens sessions, lets them work on time, and closes them.

    Args:
        resources: what all sessions share.

    Attributes:
        by_id: the sessions that are not closed.
    """

    def __init__(self, resources: Resources) -> None:
        self.by_id: dict[str, Session] = {}
        self._resources = resources
        self._closing: set[asyncio.Task[None]] = set()

    def open(self, room: str = "") -> Session:
        """Return a new session, for a room if that is known.

        Raises:
            RefusedError: the SFU has the most sessions that it may have, or no capacity is left (503).
        """
        self._resources.load.check_join()
        if len(self.by_id) >= self._resources.settings.max_sessions:
            raise RefusedError(
                503,
                "temporarily_unavailable_error",
                f"the SFU has its {self._resources.settings.max_sessions} sessions",
            )
        prefix = self._resources.prefix
        session_id = prefix + secrets.token_hex(16)[len(prefix) :]
        session = Session(session_id, room=room, resources=self._resources, sessions=self.by_id)
        self.by_id[session_id] = session
        self._resources.counters.sessions_opened += 1
        return session

    def gauges(self) -> Gauges:
        """Return the present numbers of sessions, tracks and channels."""
        sessions = list(self.by_id.values())
        return Gauges(
            sessions=len(sessions),
            connected_sessions=sum(session.is_connected for session in sessions),
            publications=sum(len(session.tracks.published) for session in sessions),
            subscriptions=sum(len(session.tracks.router.subscriptions) for session in sessions),
            data_channels=sum(len(session.channels.channels) for session in sessions),
            pending_handshakes=self._resources.handshakes.pending,
        )

    def tick(self, now: float) -> None:
        """Let each session work, and retire those that are over; one session's fault ends that session alone."""
        for session in list(self.by_id.values()):
            try:
                if session.is_expired(now):
                    self._resources.counters.sessions_expired += 1
                    self.retire(session.id)
                else:
                    session.tick(now)
            except Exception:  # a background task's edge
                _log.exception("media session failed", session=session.id)
                self.retire(session.id)

    async def close(self) -> None:
        """Close all sessions, and wait until they are."""
        for session_id in list(self.by_id):
            self.retire(session_id)
        if self._closing:
            await asyncio.wait(self._closing)

    def retire(self, session_id: str) -> None:
        """Remove a session and close it in the background, so that a failure there delays no other session."""
        session = self.by_id.pop(session_id, None)
        if session is not None:
            task = asyncio.create_task(session.close(), name="sfu-close-session")
            self._closing.add(task)
            task.add_done_callback(self._retired)

    def _retired(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("media session did not close", error=type(error).__name__)
