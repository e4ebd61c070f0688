"""The request and response bodies of the management interface; OpenAPI describes them.

`api.py` has the routes. No body contains a token's hash, and only that of a new token contains a token.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from signal_manager.gateway.live_sessions import LiveSession, RecentError
from signal_manager.model import NAME_RULE, ClientRecord, Grants, MemberRecord, Room, Track

__all__ = [
    "ClientDetails",
    "ClientView",
    "Close",
    "Delivered",
    "Done",
    "ErrorView",
    "Failure",
    "NewMessage",
    "NewMetadata",
    "NewToken",
    "PageOf",
    "RoomDetails",
    "RoomView",
    "SessionView",
    "Token",
    "Version",
]

ItemT = TypeVar("ItemT")

# The bound of the reason in WEBRTC_ROOM_LEAVE (docs/protocol.md), which members see in the same field.
_LONGEST_REASON = 256
_LONGEST_TTL = 3650 * 86400.0  # ten years; the command line has the same bound
_LONGEST_PATTERN = 256
_MOST_PATTERNS = 100

Moment = Annotated[float | None, Field(description="Seconds since the epoch.")]
Patterns = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=_LONGEST_PATTERN)]] | None, Field(max_length=_MOST_PATTERNS)
]


class Failure(BaseModel):
    """The body of every error on this port."""

    error_code: int = Field(description="The HTTP status.")
    error_message: str = Field(description="The expected value and the one received.")


class PageOf(BaseModel, Generic[ItemT]):
    """One page of a list."""

    items: list[ItemT]
    next: str | None = Field(description="Send this as `after` to get the next page; null on the last page.")


class SessionView(BaseModel):
    """A client's session on any node."""

    session_id: str
    client_id: str
    instance_id: str | None = Field(description="The client's id for its running copy.")
    node_id: str = Field(description="The node that holds it.")
    room_id: str | None
    is_away: bool = Field(description="Whether the connection is lost and the client may still come back.")
    address: str
    framing: str
    encoding: str
    age: float = Field(
        description="Seconds since the connection was opened; for an away session, since the session began."
    )
    received: int = Field(description="Number of messages from the client.")
    sent: int = Field(description="Messages to the client.")

    @classmethod
    def of(cls, session: LiveSession, room_id: str | None, node_id: str) -> SessionView:
        """Return the view of a session."""
        return cls(
            session_id=session.session_id,
            client_id=session.client_id,
            instance_id=session.instance_id,
            node_id=node_id,
            room_id=room_id,
            is_away=session.is_away,
            address=session.address,
            framing=session.framing,
            encoding=session.encoding,
            age=round(session.age, 1),
            received=session.received,
            sent=session.sent,
        )


class TrackView(BaseModel):
    """A track that a member publishes."""

    mid: str
    track_name: str
    kind: str | None

    @classmethod
    def of(cls, track: Track) -> TrackView:
        """Return the view of a track."""
        return cls(mid=track.mid, track_name=track.track_name, kind=track.kind)


class ClientView(BaseModel):
    """A client that is connected, has a record, or both."""

    client_id: str
    is_connected: bool = Field(description="Whether the client is connected to any node.")
    is_registered: bool = Field(description="Whether storage has a record of the client.")
    status: str | None = Field(description="The status in the record: online or offline.")
    room_id: str | None
    role: str | None
    last_seen_at: Moment

    @classmethod
    def of(cls, client_id: str, record: ClientRecord | None, *, is_connected: bool) -> ClientView:
        """Return the view of a client."""
        return cls(
            client_id=client_id,
            is_connected=is_connected,
            is_registered=record is not None,
            status=record.status if record else None,
            room_id=record.room_id if record else None,
            role=record.role if record else None,
            last_seen_at=record.last_seen_at if record else None,
        )


class ClientDetails(ClientView):
    """Everything about one client."""

    sessions: list[SessionView]
    capabilities: list[str]
    metadata: dict[str, Any]
    tracks: list[TrackView]
    registered_at: Moment
    expires_at: Moment
    node_id: str | None

    @classmethod
    def from_record(cls, client_id: str, record: ClientRecord | None, sessions: list[SessionView]) -> ClientDetails:
        """Return the details of a client."""
        view = ClientView.of(client_id, record, is_connected=bool(sessions))
        return cls(
            **view.model_dump(),
            sessions=sessions,
            capabilities=list(record.capabilities) if record else [],
            metadata=record.metadata if record else {},
            tracks=[TrackView.of(track) for track in record.tracks] if record else [],
            registered_at=record.registered_at if record else None,
            expires_at=record.expires_at if record else None,
            node_id=record.node_id if record else None,
        )


class RoomView(BaseModel):
    """A room, active or closed."""

    room_id: str
    is_active: bool
    participants: int = Field(description="Number of members, or their number when the room closed.")
    tracks: int = Field(description="Number of tracks that the members publish.")
    max_participants: int | None
    created_at: Moment
    updated_at: Moment
    closed_at: Moment
    close_reason: str | None

    @classmethod
    def of(cls, room: Room) -> RoomView:
        """Return the view of a room."""
        created_at = room.metadata.get("created_at")
        return cls(
            room_id=room.room_id,
            is_active=room.is_active,
            participants=len(room.participants),
            tracks=sum(len(member.tracks) for member in room.participants),
            max_participants=room.max_participants,
            # The original service stores it there, in milliseconds.
            created_at=created_at / 1000 if isinstance(created_at, int | float) else None,
            updated_at=room.updated_at,
            closed_at=room.closed_at,
            close_reason=room.close_reason,
        )


class MemberView(BaseModel):
    """A client's membership in a room."""

    client_id: str
    role: str
    joined_at: Moment
    media_session_id: str | None
    node_id: str | None
    metadata: dict[str, Any]
    away: bool = Field(description="Whether the member has fallen silent and is expected back.")
    tracks: list[TrackView]

    @classmethod
    def of(cls, member: MemberRecord) -> MemberView:
        """Return the view of a member."""
        return cls(
            client_id=member.client_id,
            role=member.role,
            joined_at=member.joined_at,
            media_session_id=member.session_id,
            node_id=member.node_id,
            metadata=member.metadata,
            away=member.away,
            tracks=[TrackView.of(track) for track in member.tracks],
        )


class RoomDetails(RoomView):
    """Everything about one room."""

    sequence: int
    expires_at: Moment
    metadata: dict[str, Any]
    members: list[MemberView]

    @classmethod
    def from_record(cls, room: Room) -> RoomDetails:
        """Return the details of a room."""
        return cls(
            **RoomView.of(room).model_dump(),
            sequence=room.sequence,
            expires_at=room.expires_at,
            metadata=room.metadata,
            members=[MemberView.of(member) for member in room.participants],
        )


class ErrorView(BaseModel):
    """An ERROR that the service sent to a client."""

    at: float
    code: int
    message: str
    client_id: str | None

    @classmethod
    def of(cls, error: RecentError) -> ErrorView:
        """Return the view of an error."""
        return cls(at=round(error.at, 3), code=error.code, message=error.message, client_id=error.client_id)


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Close(_Asked):
    """The body of a request to close a room."""

    reason: Annotated[str, Field(min_length=1, max_length=_LONGEST_REASON)] = Field(
        default="closed by an operator", description="Shown to the members."
    )


class NewMetadata(_Asked):
    """New metadata of a room or a member."""

    metadata: dict[str, Any] = Field(description="Replaces all earlier metadata.")


class NewMessage(_Asked):
    """Application data for clients."""

    data: JsonValue = Field(description="Arrives as `signal_data`; as text for clients that use BINARY or TEXT.")


class NewToken(_Asked):
    """The client, lifetime and grants of a new token. Absent grants allow everything except `admin`."""

    client_id: str = Field(description=f"{NAME_RULE}.")
    ttl: Annotated[float, Field(gt=0, le=_LONGEST_TTL)] | None = Field(
        default=None, description="Seconds; `auth.token_expiry` when absent."
    )
    rooms: Patterns = Field(default=None, description="Rooms that the client may enter, as shell-style patterns.")
    roles: Annotated[list[str], Field(max_length=2)] | None = Field(default=None, description='"sender", "receiver".')
    signal_to: Patterns = Field(
        default=None, description="Clients that the client may signal, as shell-style patterns."
    )
    publish: bool = True
    subscribe: bool = True
    admin: bool = False

    def grants(self) -> Grants:
        """Return the grants of the token."""
        return Grants(
            rooms=_frozen(self.rooms),
            roles=_frozen(self.roles),
            signal_to=_frozen(self.signal_to),
            publish=self.publish,
            subscribe=self.subscribe,
            admin=self.admin,
        )


class Done(BaseModel):
    """The number of connections or members that an action ended."""

    ended: int


class Delivered(BaseModel):
    """The number of clients that got a message, and of those that could not."""

    delivered: int
    undelivered: int


class Token(BaseModel):
    """A new token."""

    client_id: str
    token: str
    expires_at: float = Field(description="Seconds since the epoch.")


class Version(BaseModel):
    """The version, uptime and phase of the service."""

    version: str
    node_id: str
    uptime: float = Field(description="Seconds since the second port was opened.")
    phase: str = Field(description="starting, serving or draining.")
    has_demo: bool = Field(description="Whether the demo page is at /demo/.")


def _frozen(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)
