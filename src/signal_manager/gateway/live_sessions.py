"""Who is connected to this process, as an operator sees it, and what an operator may do about it.

`gateway/connection.py` and `gateway/sessions.py` fulfil these promises; `admin/` relies on them and knows nothing else
of sockets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from signal_manager.model import ClientId, SessionId

__all__ = ["LiveSession", "LiveSessions", "Phase", "RecentError"]


class Phase(StrEnum):
    """Where the service stands between start and stop."""

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
    """One client's session: on a connection that has proved who it is, or away for a while."""

    @property
    def client_id(self) -> ClientId:
        """The client that it proved to be."""

    @property
    def session_id(self) -> SessionId:
        """The session that it carries."""

    @property
    def instance_id(self) -> str | None:
        """What the client calls the running copy of itself."""

    @property
    def is_away(self) -> bool:
        """Whether its connection is lost, and it waits for its client to come back."""

    @property
    def address(self) -> str:
        """Where it comes from, or came from last."""

    @property
    def framing(self) -> str:
        """How its messages are wrapped: v1, v2 or json."""

    @property
    def encoding(self) -> str:
        """How it writes payloads, for example json or cbor."""

    @property
    def age(self) -> float:
        """Seconds since it was opened."""

    @property
    def received(self) -> int:
        """Messages from the client on this connection."""

    @property
    def sent(self) -> int:
        """Messages to the client on this connection."""

    def evict(self) -> None:
        """End the session, with close code 4403, which tells its client not to come back by itself."""


class LiveSessions(Protocol):
    """All sessions of this process."""

    @property
    def phase(self) -> Phase:
        """Whether the service takes connections."""

    @property
    def recent_errors(self) -> Sequence[RecentError]:
        """The last errors that clients were sent, oldest first; bounded."""

    def sessions(self) -> Iterable[LiveSession]:
        """Return every session there is now, in no order; it may be iterated while sessions come and go."""
