"""The table of the protocol: message types, room events and leave reasons, with who sends and answers each.

The connection state machine's inputs, the dispatcher's routes and the codecs follow from this table.
`python -m tools.protocol` generates from it the Protobuf schema, the browser SDK's types and rules, the tables of
docs/protocol.md, docs/asyncapi.yaml and the lists in docs/vectors.json. `messages.py` has the structs and bounds,
`errors.py` the error classes, `close_codes.py` the close codes.

A new message type needs a struct, a row here and a vector. A request also needs a handler in the dispatcher.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from signal_manager.protocol.messages import (
    Connect,
    ConnectAck,
    DataChannelsNew,
    DataChannelsNewAck,
    Disconnect,
    ErrorMessage,
    GoAway,
    Heartbeat,
    HeartbeatAck,
    IceServers,
    IceServersAck,
    Message,
    MessageType,
    MetadataUpdate,
    MetadataUpdateAck,
    Peer,
    Register,
    RegisterAck,
    Renegotiate,
    RenegotiateAck,
    RoomCreate,
    RoomCreateAck,
    RoomEvent,
    RoomJoin,
    RoomJoinAck,
    RoomLeave,
    RoomLeaveAck,
    RoomState,
    RoomStateAck,
    SignalAck,
    SignalAnswer,
    SignalIceCandidate,
    SignalMessage,
    SignalOffer,
    TokenRenew,
    TokenRenewAck,
    TracksClose,
    TracksCloseAck,
    TracksMute,
    TracksMuteAck,
    TracksNew,
    TracksNewAck,
    TracksUpdate,
    TracksUpdateAck,
    Unregister,
    UnregisterAck,
)

__all__ = [
    "LEAVE_REASONS",
    "ROOM_EVENTS",
    "SIGNAL_TYPES",
    "SPECS",
    "Handling",
    "RoomEventSpec",
    "Spec",
    "spec_of",
]


class Handling(StrEnum):
    """What the service does with a message from a client."""

    CONNECT = "authenticate"
    DISCONNECT = "close"
    HEARTBEAT = "echo"
    HEARTBEAT_ACK = "take as a sign of life"
    REQUEST = "dispatch to a handler, which answers"
    SIGNAL = "relay to another client"
    REFUSE = "refuse: only the service sends it"


class Spec(NamedTuple):
    """One message type.

    `variant` is the name of the type in the tagged shape. The service never sends a type without a variant to a tagged
    connection. `sent_by` is None for a type that either side sends. Later messages of a connection wait until an
    exclusive request is answered. After its token has expired, a connection is refused a request that needs a valid
    token.
    """

    message_type: MessageType
    struct: type[Message]
    variant: str | None
    sent_by: Peer | None
    handling: Handling
    answered_by: MessageType | None = None
    is_exclusive: bool = False
    needs_valid_token: bool = False
    is_read_before_connect: bool = False


def _request(
    message_type: MessageType,
    struct: type[Message],
    variant: str | None,
    *,
    is_exclusive: bool = False,
    needs_valid_token: bool = False,
) -> Spec:
    """Return the row of a request, which the type of the same name with `_ACK` answers."""
    return Spec(
        message_type,
        struct,
        variant,
        Peer.CLIENT,
        Handling.REQUEST,
        answered_by=MessageType[f"{message_type.name}_ACK"],
        is_exclusive=is_exclusive,
        needs_valid_token=needs_valid_token,
    )


def _signal(message_type: MessageType, struct: type[Message], variant: str | None) -> Spec:
    """Return the row of a message that one client sends another."""
    return Spec(message_type, struct, variant, None, Handling.SIGNAL, answered_by=MessageType.SIGNAL_ACK)


def _told(message_type: MessageType, struct: type[Message], variant: str | None) -> Spec:
    """Return the row of a message that only the service sends."""
    return Spec(message_type, struct, variant, Peer.SERVICE, Handling.REFUSE)


SPECS: dict[MessageType, Spec] = {
    spec.message_type: spec
    for spec in (
        Spec(
            MessageType.CONNECT,
            Connect,
            "Connect",
            Peer.CLIENT,
            Handling.CONNECT,
            answered_by=MessageType.CONNECT_ACK,
            is_read_before_connect=True,
        ),
        _told(MessageType.CONNECT_ACK, ConnectAck, "ConnectAck"),
        Spec(
            MessageType.DISCONNECT,
            Disconnect,
            "Disconnect",
            Peer.CLIENT,
            Handling.DISCONNECT,
            is_read_before_connect=True,
        ),
        Spec(
            MessageType.HEARTBEAT,
            Heartbeat,
            "Heartbeat",
            None,
            Handling.HEARTBEAT,
            answered_by=MessageType.HEARTBEAT_ACK,
            is_read_before_connect=True,
        ),
        Spec(MessageType.HEARTBEAT_ACK, HeartbeatAck, "HeartbeatAck", None, Handling.HEARTBEAT_ACK),
        _told(MessageType.GOAWAY, GoAway, None),
        _request(MessageType.TOKEN_RENEW, TokenRenew, None, is_exclusive=True),
        _told(MessageType.TOKEN_RENEW_ACK, TokenRenewAck, None),
        _signal(MessageType.SIGNAL_OFFER, SignalOffer, "SignalOffer"),
        _signal(MessageType.SIGNAL_ANSWER, SignalAnswer, "SignalAnswer"),
        _signal(MessageType.SIGNAL_ICE_CANDIDATE, SignalIceCandidate, "SignalIceCandidate"),
        _signal(MessageType.SIGNAL_MESSAGE, SignalMessage, None),
        _told(MessageType.SIGNAL_ACK, SignalAck, None),
        _request(MessageType.REGISTER, Register, "Register", is_exclusive=True, needs_valid_token=True),
        _told(MessageType.REGISTER_ACK, RegisterAck, "RegisterAck"),
        _request(MessageType.UNREGISTER, Unregister, "Unregister", is_exclusive=True),
        _told(MessageType.UNREGISTER_ACK, UnregisterAck, "UnregisterAck"),
        _request(
            MessageType.WEBRTC_ROOM_CREATE, RoomCreate, "WebRTCRoomCreate", is_exclusive=True, needs_valid_token=True
        ),
        _told(MessageType.WEBRTC_ROOM_CREATE_ACK, RoomCreateAck, "WebRTCRoomCreateAck"),
        _request(MessageType.WEBRTC_ROOM_JOIN, RoomJoin, "WebRTCRoomJoin", is_exclusive=True, needs_valid_token=True),
        _told(MessageType.WEBRTC_ROOM_JOIN_ACK, RoomJoinAck, "WebRTCRoomJoinAck"),
        _request(MessageType.WEBRTC_ROOM_LEAVE, RoomLeave, "WebRTCRoomLeave", is_exclusive=True),
        _told(MessageType.WEBRTC_ROOM_LEAVE_ACK, RoomLeaveAck, "WebRTCRoomLeaveAck"),
        _told(MessageType.ROOM_EVENT, RoomEvent, None),
        _request(MessageType.ROOM_STATE, RoomState, None),
        _told(MessageType.ROOM_STATE_ACK, RoomStateAck, None),
        _request(MessageType.METADATA_UPDATE, MetadataUpdate, None),
        _told(MessageType.METADATA_UPDATE_ACK, MetadataUpdateAck, None),
        # RENEGOTIATE must overtake a TRACKS_NEW that waits for it, so neither is exclusive.
        _request(MessageType.TRACKS_NEW, TracksNew, None),
        _told(MessageType.TRACKS_NEW_ACK, TracksNewAck, None),
        _request(MessageType.RENEGOTIATE, Renegotiate, None),
        _told(MessageType.RENEGOTIATE_ACK, RenegotiateAck, None),
        _request(MessageType.TRACKS_CLOSE, TracksClose, None),
        _told(MessageType.TRACKS_CLOSE_ACK, TracksCloseAck, None),
        _request(MessageType.TRACKS_UPDATE, TracksUpdate, None),
        _told(MessageType.TRACKS_UPDATE_ACK, TracksUpdateAck, None),
        _request(MessageType.DATACHANNELS_NEW, DataChannelsNew, None),
        _told(MessageType.DATACHANNELS_NEW_ACK, DataChannelsNewAck, None),
        _request(MessageType.ICE_SERVERS, IceServers, None, needs_valid_token=True),
        _told(MessageType.ICE_SERVERS_ACK, IceServersAck, None),
        _request(MessageType.TRACKS_MUTE, TracksMute, None),
        _told(MessageType.TRACKS_MUTE_ACK, TracksMuteAck, None),
        _told(MessageType.ERROR, ErrorMessage, "Error"),
    )
}

_BY_STRUCT: dict[type[Message], Spec] = {spec.struct: spec for spec in SPECS.values()}

SIGNAL_TYPES = frozenset(spec.message_type for spec in SPECS.values() if spec.handling is Handling.SIGNAL)


class RoomEventSpec(NamedTuple):
    """One kind of ROOM_EVENT. Each attribute describes the field of that name; "" means that the event lacks it."""

    participant: str = ""
    tracks: str = ""
    reason: str = ""
    metadata: str = ""


# Reasons for leaving a room, used when a WEBRTC_ROOM_LEAVE gives no other.
LEAVE_REASONS: dict[str, str] = {
    "left": "the member left without giving a reason",
    "connection lost": "the member lost its connection and did not come back in time",
    "replaced": "a newer session of the same client took the member's place",
    "removed": "an operator removed the member",
    "restarting": "the service restarts; the member joins again by itself",
    "service stopped": "the service stops",
}

ROOM_EVENTS: dict[str, RoomEventSpec] = {
    "participant_joined": RoomEventSpec("the new member"),
    "participant_left": RoomEventSpec(
        "the member that left, with its tracks",
        reason="the reason in WEBRTC_ROOM_LEAVE, or one of the leave reasons",
    ),
    "participant_away": RoomEventSpec("the member that has fallen silent and is expected back"),
    "participant_back": RoomEventSpec("the member that is back"),
    "tracks_published": RoomEventSpec("the publisher with all its tracks", "the new tracks"),
    "tracks_unpublished": RoomEventSpec(
        "the publisher with its remaining tracks",
        "the removed tracks",
        '"closed", the reason in TRACKS_CLOSE, "media lost" or "media session lost"',
    ),
    "tracks_muted": RoomEventSpec("the publisher with all its tracks", "the tracks that are now muted"),
    "tracks_unmuted": RoomEventSpec("the publisher with all its tracks", "the tracks that are no longer muted"),
    "media_replaced": RoomEventSpec(
        "the publisher with its new `session_id`", "the tracks that it is about to publish"
    ),
    "metadata_changed": RoomEventSpec(
        "the member whose metadata changed; absent when the room's metadata changed",
        metadata="the room's new metadata, when `participant` is absent",
    ),
    "room_closed": RoomEventSpec(reason='"expired", "restarting" or another'),
}


def spec_of(message: Message) -> Spec:
    """Return the table row of a message object."""
    return _BY_STRUCT[type(message)]
