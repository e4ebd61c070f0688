"""Housekeeping of storage: leases, records of nodes that are gone, and expired records.

One lease covers all records of a node. If a node dies, its lease runs out, and the first node that notices cleans up
after it, once. `service/app.py` runs this beside the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

import structlog

from signal_manager.errors import SignalManagerError
from signal_manager.model import NodeId
from signal_manager.storage.base import Expired, Storage

__all__ = ["LEASE", "CleanUp", "Housekeeping"]

log = structlog.get_logger(__name__)

# Seconds of a lease: long enough to outlast a short outage of the store, and short enough that members of a crashed
# node leave their rooms within 30 s, including the time until another node notices.
LEASE = 20.0
_RENEWALS_PER_LEASE = 3
# Seconds between two searches for media that is due to be closed at the SFU.
MEDIA_INTERVAL = 5.0

# Cleans up after a node that is gone; it must be repeatable, because another node may have started.
CleanUp = Callable[[NodeId], Awaitable[object]]

# Removes expired records at this time (seconds since the epoch).
Expire = Callable[[float], Awaitable[Expired]]

# Closes media that is due at this time.
CloseMedia = Callable[[float], Awaitable[object]]


class Housekeeping:
    """Holds this node's lease and cleans up.

    Args:
        storage: the store to clean up.
        node_id: this node.
        clean_ups: functions to run for a node that is gone.
        expire: removes expired records and tells the members of expired rooms.
        close_media: closes media that is due in the ledger.
        is_alone: whether this is the only node; then every lease found at the start is of a dead node.
        cleanup_interval: seconds between two searches for expired records.
        lease: seconds of a lease.
        stop_timeout: seconds for the clean-up at the end; another node does the rest after the lease.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        node_id: NodeId,
        clean_ups: Sequence[CleanUp],
        expire: Expire,
        close_media: CloseMedia,
        is_alone: bool = False,
        cleanup_interval: float = 300.0,
        lease: float = LEASE,
        stop_timeout: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._storage = storage
        self._node_id = node_id
        self._clean_ups = tuple(clean_ups)
        self._expire = expire
        self._close_media = close_media
        self._is_alone = is_alone
        self._cleanup_interval = cleanup_interval
        self._lease = lease
        self._stop_timeout = stop_timeout
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        # A node with a fixed id may have left records when it crashed. It cleans up at once, without waiting for the
        # lease.
        await self._clean_up_after(self._node_id)
        # No live node's lease lasts longer than this. A returning client must not find its earlier membership.
        await self._take_over(leases_until=self._clock() + (self._lease if self._is_alone else 0.0))
        await self._storage.hold_lease(self._node_id, until=self._clock() + self._lease)
        self._tasks = [
            asyncio.create_task(self._every(self._lease / _RENEWALS_PER_LEASE, self.keep), name="lease"),
            asyncio.create_task(self._every(self._cleanup_interval, self.expire), name="expire"),
            asyncio.create_task(self._every(MEDIA_INTERVAL, self.close_media), name="close media"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(self._stop_timeout):
                await self._clean_up_after(self._node_id)
                await self._storage.release_lease(self._node_id)
        except SignalManagerError as failure:
            # Another node, or the next start of this one, cleans up after the lease.
            log.warning("records left to the lease", reason=failure.message)
        except TimeoutError:
            log.warning("records left to the lease", reason=f"storage took longer than {self._stop_timeout:g} s")

    async def keep(self) -> None:
        """Renew the lease, and clean up after nodes that did not renew theirs."""
        if not await self._storage.renew_lease(self._node_id, until=self._clock() + self._lease):
            # This node was stopped for longer than its lease. Other nodes consider it gone and have cleaned up its
            # records.
            log.error("lease lost", node_id=self._node_id)
            await self._storage.hold_lease(self._node_id, until=self._clock() + self._lease)
        await self._take_over(leases_until=self._clock())

    async def _take_over(self, *, leases_until: float) -> None:
        """Clean up after every node whose lease ends by this time."""
        while True:
            node_id = await self._storage.take_over(now=leases_until, until=leases_until + self._lease)
            if node_id is None:
                return
            await self._clean_up_after(node_id)
            await self._storage.release_lease(node_id)
            log.info("cleaned up after a node", node_id=node_id)

    async def expire(self) -> None:
        """Remove expired records and close expired rooms."""
        while True:
            expired = await self._expire(self._clock())
            if expired.closed_rooms or expired.removed_rooms or expired.removed_clients or expired.removed_sessions:
                log.info(
                    "expired",
                    rooms_closed=len(expired.closed_rooms),
                    rooms_removed=expired.removed_rooms,
                    clients=expired.removed_clients,
                    sessions=expired.removed_sessions,
                )
            if expired.is_complete:
                return

    async def close_media(self) -> None:
        """Close media that is due at the SFU."""
        await self._close_media(self._clock())

    async def _clean_up_after(self, node_id: NodeId) -> None:
        for clean_up in self._clean_ups:
            await clean_up(node_id)

    async def _every(self, interval: float, duty: Callable[[], Awaitable[None]]) -> None:
        """Repeat a duty for ever; log an outage of the store and continue."""
        while True:
            await asyncio.sleep(interval)
            try:
                await duty()
            except SignalManagerError as error:
                log.warning("housekeeping failed", duty=duty.__name__, reason=error.message)
            except Exception:
                log.exception("housekeeping failed", duty=duty.__name__)
