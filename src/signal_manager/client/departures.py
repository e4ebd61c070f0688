"""Rooms that a client has left, until the service knows.

`joining.py` notes a departure. It outlives lost connections, unlike the call that asked for it. A resumed session sends
it before anything new. In a new session, which is in no room, the service answers it with 404.
"""

from __future__ import annotations

import asyncio
import logging
import math

from signal_manager.client.ports import Requester
from signal_manager.errors import RateLimitedError, SignalManagerError
from signal_manager.protocol.messages import RoomLeave, RoomLeaveAck

__all__ = ["Departures"]

logger = logging.getLogger(__name__)

# Seconds before a departure is sent again after the rate limit refused it.
_RETRY = 1.0


class Departures:
    """The departures of one client that the service does not know yet."""

    def __init__(self, client: Requester) -> None:
        self._client = client
        self._by_room: dict[str, asyncio.Task[None]] = {}

    def note(self, room_id: str, reason: str | None) -> None:
        """Leave a room as soon as the service can be reached; return at once."""
        before = self._by_room.get(room_id)
        task = asyncio.create_task(self._say(room_id, reason, before), name=f"leave {room_id}")
        self._by_room[room_id] = task
        task.add_done_callback(lambda done: self._forget(room_id, done))

    async def settle(self, limit: float) -> None:
        """Return once the service knows all departures, or after `limit` seconds."""
        if self._by_room:
            await asyncio.wait(tuple(self._by_room.values()), timeout=limit)

    async def _say(self, room_id: str, reason: str | None, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        while True:
            try:
                await self._client.request(RoomLeave(room_id=room_id, reason=reason), RoomLeaveAck, timeout=math.inf)
            except RateLimitedError:
                await asyncio.sleep(_RETRY)
                continue
            except SignalManagerError as error:
                # The client was not in the room, its session was lost with all memberships, or the client has ended.
                logger.info("leaving room %s: %s", room_id, error.message)
            return

    def _forget(self, room_id: str, task: asyncio.Task[None]) -> None:
        if self._by_room.get(room_id) is task:
            del self._by_room[room_id]
