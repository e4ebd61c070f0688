"""Sessions that are only there to be looked at, where a test is not about the WebSocket port."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from signal_manager.gateway.live_sessions import Phase, RecentError
from signal_manager.model import ClientId, SessionId

__all__ = ["FakeLiveSessions", "FakeSession"]


@dataclass
class FakeSession:
    client_id: ClientId
    session_id: SessionId
    instance_id: str | None = None
    address: str = "192.0.2.7"
    framing: str = "v1"
    encoding: str = "json"
    age: float = 60.0
    received: int = 3
    sent: int = 4
    is_away: bool = False
    is_evicted: bool = False

    def evict(self) -> None:
        self.is_evicted = True


@dataclass
class FakeLiveSessions:
    phase: Phase = Phase.SERVING
    recent_errors: list[RecentError] = field(default_factory=list)
    connected: list[FakeSession] = field(default_factory=list)

    def sessions(self) -> Iterator[FakeSession]:
        return iter(self.connected)
