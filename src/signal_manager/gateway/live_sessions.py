"""The sessions of this process as an operator sees them.

`gateway/connection.py` and `gateway/sessions.py` implement these interfaces. `admin/` uses them and sees nothing else
of the gateway.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from signal_manager.model import ClientId, SessionId

__all__ = ["LiveSession", "LiveSessions", "Phase", "RecentError"]


class Phase(StrEnum):
    """The phase of the service between start and stop."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class RecentError(NamedTuple):
    """An ERROR that was sent; `at` is in seconds since the epoch, `client_id` is None before authentication."""

    at: float
    code: int
    message: str
    client_id: ClientId | None


class LiveSession(Protocol):
    """One client's session: on an authenticated connection, or away for a while."""

    @property
    def client_id(self) -> ClientId:
        """The authenticated client."""

    @property
    def session_id(self) -> SessionId:
        """The id of the session."""

    @property
    def instance_id(self) -> str | None:
        """The name that the client gives to its running copy."""

    @property
    def is_away(self) -> bool:
        """Whether the connection is lost and the session waits for its client to return."""

    @property
    def address(self) -> str:
        """The client's address, now or on its last connection."""

    @property
    def framing(self) -> str:
        """How messages are wrapped: v1, v2 or json."""

    @property
    def encoding(self) -> str:
        """How it writes payloads, for example json or cbor."""

    @property
    def age(self) -> float:
        """Seconds since the session began on this node."""

    @property
    def received(self) -> int:
        """Messages from the client on this connection."""

    @property
    def sent(self) -> int:
        """Messages to the client on this connection."""

    def evict(self) -> None:
        """End the session with close code 4403, which tells the client not to reconnect by itself."""


class LiveSessions(Protocol):
    """All sessions of this process."""

    @property
    def phase(self) -> Phase:
        """Whether the service accepts connections."""

    @property
    def recent_errors(self) -> Sequence[RecentError]:
        """The last errors that clients were sent, oldest first; bounded."""

    def sessions(self) -> Iterable[LiveSession]:
        """Return all sessions, in no order; sessions may begin and end while the caller iterates."""
