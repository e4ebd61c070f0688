"""How a process stops: every client is told, every session is saved, every connection ends, all within a time limit."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Coroutine, Mapping, Sequence
from itertools import islice
from typing import Any

import structlog

from signal_manager.gateway.live_sessions import Phase
from signal_manager.gateway.ports import RegisteredConnection
from signal_manager.gateway.registry import ConnectionRegistry
from signal_manager.gateway.sessions import ResumableSession
from signal_manager.model import SessionId

__all__ = ["Drain"]

log = structlog.get_logger(__name__)

# The share of a drain's time that each step may take. The rest is for rooms and storage to stop.
_ANSWER_SHARE = 0.1
_ROOMS_SHARE = 0.15
_SAVE_SHARE = 0.3
_CLOSE_SHARE = 0.1
# How long (s) messages still flow after GOAWAY, and as a share of the drain's time.
_MOMENT = 0.2
_MOMENT_SHARE = 0.02
_ANSWER_POLL = 0.01
# Sessions that one storage call saves, and calls that run at the same time.
_SAVED_AT_ONCE = 50
_SAVERS = 4
# GOAWAY's delays: a new process needs this long to start (s), and authenticates this many clients in a second.
_SHORTEST_ABSENCE = 0.1
_RETURNS_PER_SECOND = 1000


class Drain:
    """End all connections and background work of a registry.

    Args:
        registry: what ends.
        timeout: seconds for the whole drain. Each step has a share of it and leaves undone what takes longer.
        close_timeout: seconds for clients to answer our close frames before their sockets are cut.
    """

    def __init__(self, registry: ConnectionRegistry, *, timeout: float, close_timeout: float) -> None:
        self._registry = registry
        self._timeout = timeout
        self._close_timeout = close_timeout

    async def run(self) -> None:
        """Send every client away, save the sessions, and end all background work."""
        registry = self._registry
        registry.phase = Phase.DRAINING
        if registry.connections or any(registry.session_store.away()):
            await self._send_clients_away()
        await self._emptied(min(self._close_timeout, self._timeout * _CLOSE_SHARE))
        for connection in tuple(registry.connections):
            connection.cut()
        await self._emptied(self._timeout * _CLOSE_SHARE)  # the event loop closes the sockets in its next turn
        await registry.background.stop()

    async def _send_clients_away(self) -> None:
        registry = self._registry
        self._announce()
        await asyncio.sleep(min(_MOMENT, self._timeout * _MOMENT_SHARE))
        await self._within(_ANSWER_SHARE, self._answered(), "requests not answered in time")
        await self._within(_ROOMS_SHARE, registry.dispatcher.restart_rooms(), "rooms not left in time")
        # From here on no message counts. A client keeps what it has sent since, because we do not confirm it.
        connections = tuple(registry.connections)
        carriers = {connection.session_id: connection for connection in connections if connection.is_established}
        for connection in connections:
            connection.conversation.freeze()
        sessions = registry.session_store.freeze()
        kept = {session.session_id for session in sessions}
        for connection in connections:
            if carriers.get(connection.session_id) is not connection or connection.session_id not in kept:
                connection.conversation.part()
        await self._within(_SAVE_SHARE, self._save(sessions, carriers), "sessions not saved in time")
        for connection in connections:
            connection.conversation.part()

    def _announce(self) -> None:
        """Send GOAWAY to every client, with delays that spread their return."""
        connections = tuple(self._registry.connections)
        spread = max(1.0, len(connections) / _RETURNS_PER_SECOND)
        for connection in connections:
            connection.conversation.go_away(int(1000 * random.uniform(_SHORTEST_ABSENCE, spread)))  # noqa: S311 - no secret

    async def _save(
        self, sessions: Sequence[ResumableSession], carriers: Mapping[SessionId, RegisteredConnection]
    ) -> None:
        """Save sessions in batches, and close the connection of each session that is saved."""
        waiting = iter(sessions)
        unsaved = len(sessions)

        async def work() -> None:
            nonlocal unsaved
            while batch := list(islice(waiting, _SAVED_AT_ONCE)):
                await self._registry.session_store.save(batch)
                unsaved -= len(batch)
                for session in batch:
                    if session.session_id in carriers:
                        carriers[session.session_id].conversation.part()

        try:
            await asyncio.gather(*(work() for _ in range(_SAVERS)))
        except asyncio.CancelledError:
            log.error("sessions not saved", sessions=unsaved, reason="storage took too long")
            raise

    async def _answered(self) -> None:
        """Wait until all requests are answered and other nodes have reported the outcome of all signals."""
        while self._is_answering():  # noqa: ASYNC110 - no event reports it
            await asyncio.sleep(_ANSWER_POLL)

    def _is_answering(self) -> bool:
        registry = self._registry
        return registry.bus.is_waiting or any(
            connection.conversation.is_answering for connection in registry.connections
        )

    async def _emptied(self, timeout: float) -> None:
        """Wait until all connections have ended, for at most `timeout` seconds."""
        occupancy = self._registry.occupancy
        if occupancy.connections:
            occupancy.is_empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(occupancy.is_empty.wait(), timeout)

    async def _within(self, share: float, step: Coroutine[Any, Any, None], too_late: str) -> None:
        """Give a step its share of the time, and log `too_late` if it takes longer."""
        timeout = self._timeout * share
        try:
            await asyncio.wait_for(step, timeout)
        except TimeoutError:
            log.warning(too_late, timeout=timeout)
