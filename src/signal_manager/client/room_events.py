"""The events of a `Room`, and the members and tracks that they are about.

An application reads events with `async for event in room`, or registers callbacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, get_args

from signal_manager.errors import SignalManagerError

if TYPE_CHECKING:
    from aiortc import MediaStreamTrack

__all__ = [
    "ROOM_EVENT_NAMES",
    "Participant",
    "ParticipantAway",
    "ParticipantBack",
    "ParticipantChanged",
    "ParticipantJoined",
    "ParticipantLeft",
    "PublicationEnded",
    "RemoteTrack",
    "RoomChanged",
    "RoomClosed",
    "RoomEventName",
    "RoomHappening",
    "RoomReconnected",
    "RoomReconnecting",
    "SelfChanged",
    "TrackAdded",
    "TrackFailed",
    "TrackKind",
    "TrackMuted",
    "TrackRemoved",
    "TrackUnmuted",
]

TrackKind: TypeAlias = Literal["audio", "video"]


class RemoteTrack(Protocol):
    """A track that another member publishes."""

    @property
    def muted(self) -> bool:
        """Whether its publisher sends silence or black by intention."""

    @property
    def name(self) -> str:
        """The name to pull the track by."""

    @property
    def kind(self) -> TrackKind | None:
        """Sound or picture, where the publisher says so."""

    @property
    def track(self) -> MediaStreamTrack | None:
        """The receiving end; None until it is pulled."""


class Participant(Protocol):
    """Another member of a room."""

    @property
    def client_id(self) -> str:
        """The member's client id."""

    @property
    def role(self) -> str:
        """The role in which it joined: "sender" or "receiver"."""

    @property
    def away(self) -> bool:
        """Whether the service hears nothing from it, or its connection is lost; it is expected back."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata that it has set."""

    @property
    def tracks(self) -> Mapping[str, RemoteTrack]:
        """The tracks that it publishes, by name."""


@dataclass(frozen=True, slots=True)
class ParticipantJoined:
    """Another member joined the room."""

    name: ClassVar = "participant_joined"
    participant: Participant


@dataclass(frozen=True, slots=True)
class ParticipantLeft:
    """Another member left the room."""

    name: ClassVar = "participant_left"
    participant: Participant
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ParticipantAway:
    """The service hears nothing from a member; `ParticipantBack` or `ParticipantLeft` follows."""

    name: ClassVar = "participant_away"
    participant: Participant


@dataclass(frozen=True, slots=True)
class ParticipantBack:
    """The service hears from an away member again."""

    name: ClassVar = "participant_back"
    participant: Participant


@dataclass(frozen=True, slots=True)
class ParticipantChanged:
    """A member's metadata changed."""

    name: ClassVar = "participant_changed"
    participant: Participant


@dataclass(frozen=True, slots=True)
class PublicationEnded:
    """A track of this client's has ended by itself, and is unpublished."""

    name: ClassVar = "publication_ended"
    track_name: str
    track: MediaStreamTrack


@dataclass(frozen=True, slots=True)
class RoomChanged:
    """The room's metadata changed."""

    name: ClassVar = "room_changed"
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SelfChanged:
    """The metadata of this client changed, by `set_metadata` or by an operator."""

    name: ClassVar = "self_changed"
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TrackAdded:
    """A track is received: `await track.recv()` gives its frames.

    After a reconnect it comes again with another `track`, and `TrackRemoved` for the old one just before.
    """

    name: ClassVar = "track"
    participant: Participant
    track_name: str
    track: MediaStreamTrack


@dataclass(frozen=True, slots=True)
class TrackRemoved:
    """A received track has ended; the service gives the reason, such as "ended" for one that ended by itself."""

    name: ClassVar = "track_removed"
    participant: Participant
    track_name: str
    track: MediaStreamTrack
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class TrackMuted:
    """The publisher of a track sends silence or black in it."""

    name: ClassVar = "track_muted"
    participant: Participant
    track_name: str


@dataclass(frozen=True, slots=True)
class TrackUnmuted:
    """The publisher of a track sends it again."""

    name: ClassVar = "track_unmuted"
    participant: Participant
    track_name: str


@dataclass(frozen=True, slots=True)
class TrackFailed:
    """Pulling a track of another member failed for good."""

    name: ClassVar = "error"
    error: Exception
    client_id: str
    track_name: str


@dataclass(frozen=True, slots=True)
class RoomReconnecting:
    """Media stopped; the SDK joins the room again."""

    name: ClassVar = "reconnecting"
    error: Exception


@dataclass(frozen=True, slots=True)
class RoomReconnected:
    """The room was joined again."""

    name: ClassVar = "reconnected"


@dataclass(frozen=True, slots=True)
class RoomClosed:
    """The room is over for this client; the last event. Without `error` it left by itself or was asked to."""

    name: ClassVar = "closed"
    reason: str
    error: SignalManagerError | None = None


RoomHappening: TypeAlias = (
    ParticipantJoined
    | ParticipantLeft
    | ParticipantAway
    | ParticipantBack
    | ParticipantChanged
    | PublicationEnded
    | RoomChanged
    | SelfChanged
    | TrackAdded
    | TrackRemoved
    | TrackMuted
    | TrackUnmuted
    | TrackFailed
    | RoomReconnecting
    | RoomReconnected
    | RoomClosed
)
"""What a room tells its application."""
RoomEventName: TypeAlias = Literal[
    "participant_joined",
    "participant_left",
    "participant_away",
    "participant_back",
    "participant_changed",
    "publication_ended",
    "room_changed",
    "self_changed",
    "track",
    "track_removed",
    "track_muted",
    "track_unmuted",
    "error",
    "reconnecting",
    "reconnected",
    "closed",
]
ROOM_EVENT_NAMES: frozenset[str] = frozenset(get_args(RoomEventName))
