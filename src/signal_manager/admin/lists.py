"""Filtered pages of clients and rooms, from storage and from the connected sessions.

A page costs a bounded number of reads, even if the filter drops most items.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from signal_manager.admin.cluster import ClusterSessions
from signal_manager.admin.views import ClientView, PageOf, RoomView
from signal_manager.model import ClientId, Room
from signal_manager.storage.base import Page, Storage

__all__ = ["list_clients", "list_rooms"]

ItemT = TypeVar("ItemT")

# The most reads of storage for one page. A filter that matches less continues on the next page.
_READS = 20


async def list_clients(
    cluster: ClusterSessions,
    storage: Storage,
    *,
    is_connected: bool | None,
    contains: str,
    after: str | None,
    limit: int,
) -> PageOf[ClientView]:
    """Return a page of clients that have a record or are connected, ordered by id."""

    async def read(after: str | None, limit: int) -> Page[ClientView]:
        page = await storage.list_clients(after=after, limit=limit)
        connected = await cluster.connected(after=after or "", limit=2 * limit)
        end = min((each for each in (page.next, connected.until) if each is not None), default=None)
        views = {
            each.client_id: ClientView.of(each.client_id, each, is_connected=each.client_id in connected.clients)
            for each in page.items
        }
        for client_id in connected.clients - views.keys():
            views[ClientId(client_id)] = ClientView.of(client_id, None, is_connected=True)
        return Page(tuple(views[each] for each in sorted(views) if end is None or each <= end), end)

    def fits(client: ClientView) -> bool:
        return contains in client.client_id and is_connected in (None, client.is_connected)

    items, following = await _filtered(read, fits, lambda client: client.client_id, after, limit)
    return PageOf(items=items, next=following)


async def list_rooms(
    storage: Storage, *, is_active: bool | None, contains: str, after: str | None, limit: int
) -> PageOf[RoomView]:
    """Return a page of rooms, ordered by id."""

    async def read(after: str | None, limit: int) -> Page[Room]:
        return await storage.list_rooms(is_active=is_active, after=after, limit=limit)

    items, following = await _filtered(
        read, lambda room: contains in room.room_id, lambda room: room.room_id, after, limit
    )
    return PageOf(items=[RoomView.of(room) for room in items], next=following)


async def _filtered(
    read: Callable[[str | None, int], Awaitable[Page[ItemT]]],
    fits: Callable[[ItemT], bool],
    id_of: Callable[[ItemT], str],
    after: str | None,
    limit: int,
) -> tuple[list[ItemT], str | None]:
    """Return the first `limit` items that match, and the cursor for the next page."""
    found: list[ItemT] = []
    for _ in range(_READS):
        page = await read(after, limit)
        found += filter(fits, page.items)
        if len(found) > limit:
            return found[:limit], id_of(found[limit - 1])
        after = page.next
        if after is None or len(found) == limit:
            return found, after
    return found, after
