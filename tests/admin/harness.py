"""The second port around rooms that are real, with clients that are not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from signal_manager.admin.api import Management
from signal_manager.admin.cluster import ClusterSessions
from signal_manager.admin.server import AdminServer
from signal_manager.admin.tokens import TokenIssuer
from signal_manager.model import NodeId
from tests.admin.fakes import FakeLiveSessions
from tests.rooms.harness import RoomHarness, running
from tests.web import plain_http

__all__ = ["SECRET", "AdminHarness", "opened"]

SECRET = "a secret of more than 32 bytes, for tests"


@dataclass
class AdminHarness:
    """Somewhere to manage from: `http` speaks to the second port of `harness`."""

    harness: RoomHarness
    live_sessions: FakeLiveSessions
    server: AdminServer
    http: httpx.AsyncClient

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"


@asynccontextmanager
async def opened(*, token: str = "") -> AsyncIterator[AdminHarness]:
    """Run it while the block lasts, behind a bearer token if there is to be one."""
    live_sessions = FakeLiveSessions()
    async with running(RoomHarness()) as harness:
        management = Management(
            live_sessions=live_sessions,
            storage=harness.storage,
            rooms=harness.rooms,
            bus=harness.bus,
            cluster=ClusterSessions(
                live_sessions=live_sessions,
                rooms=harness.rooms,
                node_id=NodeId("node-1"),
                others=harness.bus.ask_others,
            ),
            tokens=TokenIssuer(SECRET, default_ttl=600, clock=lambda: 1000.0),
            configuration={"server": {"port": 8080}, "auth": {"token_secret": "***"}},
            node_id=NodeId("node-1"),
            version="1.2.3",
            has_demo=True,
        )
        server = AdminServer(
            port=0,
            version="1.2.3",
            live_sessions=live_sessions,
            storage=harness.storage,
            metrics=harness.metrics,
            token=token,
            management=lambda: management,
            websocket_url="ws://127.0.0.1:8080",
        )
        async with server, plain_http(base_url=f"http://127.0.0.1:{server.port}") as http:
            yield AdminHarness(harness, live_sessions, server, http)
