"""Pages of sessions, clients and rooms: what is on record and what is connected, put together and filtered.

A page costs a bounded number of reads, whatever the filter leaves out.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable
from typing import TypeVar

from signal_manager.admin.views import ClientView, PageOf, RoomView, SessionView
from signal_manager.model import Room
from signal_manager.presence import LiveSession, LiveSessions
from signal_manager.rooms import RoomService
from signal_manager.storage.base import Page, Storage

__all__ = ["list_clients", "list_rooms", "list_sessions"]

ItemT = TypeVar("ItemT")

# Reads of storage for one page; a filter that fits nothing in so many goes on with the next page.
_READS = 20


def list_sessions(
    presence: LiveSessions,
    rooms: RoomService,
    *,
    client_id: str | None,
    contains: str,
    after: str | None,
    limit: int,
) -> PageOf[SessionView]:
    """Return sessions in the order of their clients' ids."""
    fitting = (
        (place, session)
        for session in presence.sessions()
        if (client_id is None or session.client_id == client_id) and contains in session.client_id
        if (place := _place(session)) > (after or "")
    )
    found = heapq.nsmallest(limit + 1, fitting, key=lambda pair: pair[0])
    return PageOf(
        items=[SessionView.of(session, rooms.room_of(session.session_id)) for _, session in found[:limit]],
        next=found[limit - 1][0] if len(found) > limit else None,
    )


def _place(session: LiveSession) -> str:
    return f"{session.client_id}/{session.session_id}"


async def list_clients(
    presence: LiveSessions,
    storage: Storage,
    *,
    is_connected: bool | None,
    contains: str,
    after: str | None,
    limit: int,
) -> PageOf[ClientView]:
    """Return clients that are on record or connected, in the order of their ids."""
    here = {session.client_id for session in presence.sessions()}

    async def read(after: str | None, limit: int) -> Page[ClientView]:
        page = await storage.list_clients(after=after, limit=limit)
        views = {
            each.client_id: ClientView.of(each.client_id, each, is_connected=each.client_id in here)
            for each in page.items
        }
        for client_id in here:
            if client_id not in views and client_id > (after or "") and (page.next is None or client_id <= page.next):
                views[client_id] = ClientView.of(client_id, None, is_connected=True)
        return Page(tuple(views[client_id] for client_id in sorted(views)), page.next)

    def fits(client: ClientView) -> bool:
        return contains in client.client_id and is_connected in (None, client.is_connected)

    items, following = await _filtered(read, fits, lambda client: client.client_id, after, limit)
    return PageOf(items=items, next=following)


async def list_rooms(
    storage: Storage, *, is_active: bool | None, contains: str, after: str | None, limit: int
) -> PageOf[RoomView]:
    """Return rooms in the order of their ids."""

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
    """Return the first `limit` items that fit, and where to go on."""
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
