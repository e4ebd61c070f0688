"""A service with rooms on a free port, put together by hand: with any SFU, and limits that no configuration has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from signal_manager.auth.authenticators import StaticKeys
from signal_manager.bus.local import LocalBus
from signal_manager.gateway.dispatcher import Dispatcher
from signal_manager.gateway.limits import Limits
from signal_manager.gateway.listener import listen
from signal_manager.gateway.ports import RelayTarget
from signal_manager.gateway.server import Server
from signal_manager.media.base import MediaBackend
from signal_manager.media.closing import Closings
from signal_manager.model import NodeId
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.state_machine import SessionSettings
from signal_manager.records.registrations import Registrations
from signal_manager.rooms import RoomService, RoomSettings
from signal_manager.storage.base import Storage
from signal_manager.storage.memory import MemoryStorage

__all__ = ["Served", "serving_rooms"]


class Served(NamedTuple):
    """Where a service is, and its rooms."""

    url: str
    rooms: RoomService


@asynccontextmanager
async def serving_rooms(
    *,
    media: MediaBackend,
    clients: Iterable[tuple[str, str]],
    settings: RoomSettings,
    storage: Storage | None = None,
    closings: Closings | None = None,
) -> AsyncIterator[Served]:
    """Run a service while the block lasts; `clients` are the names and tokens that it knows."""
    async with AsyncExitStack() as stack:
        bus: LocalBus[RelayTarget] = LocalBus()
        storage = storage or MemoryStorage()
        rooms = await stack.enter_async_context(
            RoomService(
                storage=storage,
                bus=bus,
                media=media,
                metrics=Metrics(),
                node_id=NodeId("node"),
                settings=settings,
                closings=closings,
            )
        )
        dispatcher = Dispatcher(
            authenticator=StaticKeys([":".join(client) for client in clients]),
            bus=bus,
            registrations=Registrations(storage=storage, node_id=NodeId("node")),
            rooms=rooms,
        )
        server = Server(
            dispatcher=dispatcher,
            bus=bus,
            listening=stack.enter_context(listen("127.0.0.1", 0)),
            version="1",
            limits=Limits(),
            session=SessionSettings(),
            metrics=Metrics(),
        )
        await server.start()
        stack.push_async_callback(server.stop)
        yield Served(f"ws://127.0.0.1:{server.port}", rooms)
