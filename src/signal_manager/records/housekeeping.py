"""What keeps storage true while nobody asks: leases, records of nodes that are gone, records past their time.

A node vouches for its records with one lease. When it ends without a word its lease runs out, and whichever node sees
that first cleans up after it, once. `service/app.py` runs this beside the server.
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

# Seconds that a node's word holds: long enough for a store that is away for a while, and short enough that members of a
# crashed node have left their rooms within 30 s, the time until another node looks included.
LEASE = 20.0
_RENEWALS_PER_LEASE = 3
# Seconds between two looks for media that is due to be closed at the SFU.
MEDIA_INTERVAL = 5.0

# Cleans up what a node that is gone has left; it must be repeatable, since another node may have begun.
CleanUp = Callable[[NodeId], Awaitable[object]]

# Removes what is past its time, at a time in seconds since the epoch.
Expire = Callable[[float], Awaitable[Expired]]

# Closes media that is due at that time.
CloseMedia = Callable[[float], Awaitable[object]]


class Housekeeping:
    """Hold this node's lease, and clean up.

    Args:
        storage: what is kept true.
        node_id: this node.
        clean_ups: what to do for a node that is gone.
        expire: removes what is past its time, and tells whom that concerns.
        close_media: closes what the ledger of media says is due.
        is_alone: whether there can be no other node, so that every lease found at the start is a dead one's.
        cleanup_interval: seconds between two searches for records past their time.
        lease: seconds.
        stop_timeout: seconds for what is left to do at the end; the lease sees to the rest.
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
        # A node whose id is fixed may have left something when it crashed; nobody else has to wait for the lease.
        await self._clean_up_after(self._node_id)
        # No living node's lease lasts longer than this; a client that comes back must not meet its former self.
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
            # Another node, or this one's next start, does it when the lease has run out.
            log.warning("records left to the lease", reason=failure.message)
        except TimeoutError:
            log.warning("records left to the lease", reason=f"storage took longer than {self._stop_timeout:g} s")

    async def keep(self) -> None:
        """Renew the lease, and look for nodes that did not renew theirs."""
        if not await self._storage.renew_lease(self._node_id, until=self._clock() + self._lease):
            # This node was away for longer than its lease: the others believe it gone, and its records are cleaned up.
            log.error("lease lost", node_id=self._node_id)
            await self._storage.hold_lease(self._node_id, until=self._clock() + self._lease)
        await self._take_over(leases_until=self._clock())

    async def _take_over(self, *, leases_until: float) -> None:
        """Clean up after every node whose lease ends by then."""
        while True:
            node_id = await self._storage.take_over(now=leases_until, until=leases_until + self._lease)
            if node_id is None:
                return
            await self._clean_up_after(node_id)
            await self._storage.release_lease(node_id)
            log.info("cleaned up after a node", node_id=node_id)

    async def expire(self) -> None:
        """Remove and close what is past its time."""
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
        """Close what is due at the SFU."""
        await self._close_media(self._clock())

    async def _clean_up_after(self, node_id: NodeId) -> None:
        for clean_up in self._clean_ups:
            await clean_up(node_id)

    async def _every(self, interval: float, duty: Callable[[], Awaitable[None]]) -> None:
        """Do a duty again and again; a store that is away for a while is no reason to stop."""
        while True:
            await asyncio.sleep(interval)
            try:
                await duty()
            except SignalManagerError as error:
                log.warning("housekeeping failed", duty=duty.__name__, reason=error.message)
            except Exception:
                log.exception("housekeeping failed", duty=duty.__name__)
