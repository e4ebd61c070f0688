"""The Python SDK: a client of the signaling service for asyncio.

`SignalClient` is all that most applications need; the other names are what it takes and what it gives back.
"""

from signal_manager.client.client import SignalClient
from signal_manager.client.events import (
    EVENT_QUEUE_SIZE,
    Connected,
    Disconnected,
    ErrorReceived,
    Event,
    GoingAway,
    Reconnected,
    RoomEventReceived,
    SignalKind,
    SignalReceived,
    ToRoom,
)
from signal_manager.client.publications import Publication
from signal_manager.client.room import Room
from signal_manager.client.room_events import (
    Participant,
    ParticipantAway,
    ParticipantBack,
    ParticipantChanged,
    ParticipantJoined,
    ParticipantLeft,
    PublicationEnded,
    RemoteTrack,
    RoomChanged,
    RoomClosed,
    RoomHappening,
    RoomReconnected,
    RoomReconnecting,
    SelfChanged,
    TrackAdded,
    TrackFailed,
    TrackMuted,
    TrackRemoved,
    TrackUnmuted,
)
from signal_manager.client.timing import Clock, RetryPolicy
from signal_manager.protocol.framing import Framing
from signal_manager.protocol.messages import PayloadType

__all__ = [
    "EVENT_QUEUE_SIZE",
    "Clock",
    "Connected",
    "Disconnected",
    "ErrorReceived",
    "Event",
    "Framing",
    "GoingAway",
    "Participant",
    "ParticipantAway",
    "ParticipantBack",
    "ParticipantChanged",
    "ParticipantJoined",
    "ParticipantLeft",
    "PayloadType",
    "Publication",
    "PublicationEnded",
    "Reconnected",
    "RemoteTrack",
    "RetryPolicy",
    "Room",
    "RoomChanged",
    "RoomClosed",
    "RoomEventReceived",
    "RoomHappening",
    "RoomReconnected",
    "RoomReconnecting",
    "SelfChanged",
    "SignalClient",
    "SignalKind",
    "SignalReceived",
    "ToRoom",
    "TrackAdded",
    "TrackFailed",
    "TrackMuted",
    "TrackRemoved",
    "TrackUnmuted",
]
