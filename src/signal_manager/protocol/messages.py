"""Every message of the protocol as a frozen struct, with the bound of each field.

`catalogue.py` adds who sends each message, what answers it and how the service handles it. `python -m tools.protocol`
generates the schemas, the TypeScript and the tables of docs/protocol.md; a field's docstring becomes its text there.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Annotated, Any, Literal

import msgspec

from signal_manager.model import NAME_PATTERN

__all__ = [
    "MAX_ITEMS",
    "MAX_LABEL",
    "MAX_METADATA",
    "MAX_SDP",
    "MAX_TIMESTAMP",
    "MAX_TOKEN",
    "PROTOCOL_VERSION",
    "Connect",
    "ConnectAck",
    "ConnectionInfo",
    "DataChannelRequest",
    "DataChannelResult",
    "DataChannelsNew",
    "DataChannelsNewAck",
    "Disconnect",
    "ErrorMessage",
    "GoAway",
    "Heartbeat",
    "HeartbeatAck",
    "IceServer",
    "IceServers",
    "IceServersAck",
    "Member",
    "Message",
    "MessageType",
    "MetadataUpdate",
    "MetadataUpdateAck",
    "PayloadType",
    "Peer",
    "PublishedTrack",
    "Register",
    "RegisterAck",
    "Renegotiate",
    "RenegotiateAck",
    "Request",
    "Resume",
    "RoomAck",
    "RoomCreate",
    "RoomCreateAck",
    "RoomEntry",
    "RoomEvent",
    "RoomJoin",
    "RoomJoinAck",
    "RoomLeave",
    "RoomLeaveAck",
    "RoomState",
    "RoomStateAck",
    "Shape",
    "Signal",
    "SignalAck",
    "SignalAnswer",
    "SignalIceCandidate",
    "SignalMessage",
    "SignalOffer",
    "Simulcast",
    "TokenExpiry",
    "TokenRenew",
    "TokenRenewAck",
    "TrackMid",
    "TrackMute",
    "TrackRequest",
    "TrackResult",
    "TrackUpdate",
    "TracksClose",
    "TracksCloseAck",
    "TracksMute",
    "TracksMuteAck",
    "TracksNew",
    "TracksNewAck",
    "TracksUpdate",
    "TracksUpdateAck",
    "Unregister",
    "UnregisterAck",
]

PROTOCOL_VERSION = "1.0.0"

# `timestamp` is any u64.
MAX_TIMESTAMP = 2**64 - 1

# Tracks or data channels in one request: what Cloudflare Realtime takes at once.
MAX_ITEMS = 64

# The longest value of a field in bytes of UTF-8. A message with a longer one is malformed (docs/protocol.md, "Bounds").
MAX_LABEL = 256  # names, versions, reasons, and ids other than those of clients and rooms
MAX_TOKEN = 16_384  # a real one is below 4 KiB
MAX_SDP = 262_144  # from a client: about eighty m-sections as Chromium writes them
MAX_TEXT = 65_536  # text of the service, or text that it passes on from others
MAX_SERVICE_SDP = 1_048_576
# Metadata as JSON, checked where it is stored. A ROOM_EVENT with metadata of this size and 64 tracks fits a v1 frame.
MAX_METADATA = 16_384
# Keys of one metadata object: no more fit into `MAX_METADATA`.
_MAX_KEYS = 4096
# Longest lists that the service sends: the m-sections of one description, and the members of a room.
_MAX_RESULTS = 1024
_MAX_MEMBERS = 65_536


class MessageType(IntEnum):
    """The second byte of a frame. Values up to 0x35, and 0xFF, belong to the original service and never change."""

    CONNECT = 0x01
    CONNECT_ACK = 0x02
    DISCONNECT = 0x03
    HEARTBEAT = 0x04
    HEARTBEAT_ACK = 0x05
    GOAWAY = 0x06
    TOKEN_RENEW = 0x07
    TOKEN_RENEW_ACK = 0x08
    SIGNAL_OFFER = 0x10
    SIGNAL_ANSWER = 0x11
    SIGNAL_ICE_CANDIDATE = 0x12
    SIGNAL_MESSAGE = 0x13
    SIGNAL_ACK = 0x14
    REGISTER = 0x20
    REGISTER_ACK = 0x21
    UNREGISTER = 0x22
    UNREGISTER_ACK = 0x23
    WEBRTC_ROOM_CREATE = 0x30
    WEBRTC_ROOM_CREATE_ACK = 0x31
    WEBRTC_ROOM_JOIN = 0x32
    WEBRTC_ROOM_JOIN_ACK = 0x33
    WEBRTC_ROOM_LEAVE = 0x34
    WEBRTC_ROOM_LEAVE_ACK = 0x35
    ROOM_EVENT = 0x36
    ROOM_STATE = 0x38
    ROOM_STATE_ACK = 0x39
    METADATA_UPDATE = 0x3A
    METADATA_UPDATE_ACK = 0x3B
    TRACKS_NEW = 0x40
    TRACKS_NEW_ACK = 0x41
    RENEGOTIATE = 0x42
    RENEGOTIATE_ACK = 0x43
    TRACKS_CLOSE = 0x44
    TRACKS_CLOSE_ACK = 0x45
    TRACKS_UPDATE = 0x46
    TRACKS_UPDATE_ACK = 0x47
    DATACHANNELS_NEW = 0x48
    DATACHANNELS_NEW_ACK = 0x49
    ICE_SERVERS = 0x4A
    ICE_SERVERS_ACK = 0x4B
    TRACKS_MUTE = 0x4C
    TRACKS_MUTE_ACK = 0x4D
    ERROR = 0xFF


class PayloadType(IntEnum):
    """The encoding of a payload (docs/protocol.md, "Payload types")."""

    BINARY = 0x01
    JSON = 0x02
    TEXT = 0x03
    PROTOBUF = 0x04
    CBOR = 0x05


class Shape(StrEnum):
    """The two shapes of a JSON or CBOR object; clients of the original service send TAGGED."""

    PLAIN = "plain"
    TAGGED = "tagged"


class Peer(StrEnum):
    """The side that sent a message. BINARY and TEXT signals look different in the two directions."""

    CLIENT = "client"
    SERVICE = "service"


Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Uint16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
Places = Annotated[int, msgspec.Meta(ge=1, le=0xFFFF)]
# What happens to a session that outlives its token.
TokenExpiry = Literal["continue", "close"]
# A code as HTTP has them, bounded so that every payload type can carry it.
StatusCode = Uint16
# The identification tag of an m-section (RFC 5888); clients choose short ones.
Mid = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Label = Annotated[str, msgspec.Meta(max_length=MAX_LABEL)]
Token = Annotated[str, msgspec.Meta(max_length=MAX_TOKEN)]
Sdp = Annotated[str, msgspec.Meta(max_length=MAX_SDP)]
ServiceSdp = Annotated[str, msgspec.Meta(max_length=MAX_SERVICE_SDP)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Metadata = Annotated[dict[str, Any], msgspec.Meta(max_length=_MAX_KEYS)]
Bounded = msgspec.Meta(max_length=MAX_ITEMS)
Capabilities = Annotated[list[Label], Bounded]
Results = msgspec.Meta(max_length=_MAX_RESULTS)
Kind = Literal["audio", "video"]


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The base of all messages: a field with its default value may be absent on the wire.

    A client sends only the words that the service knows. The service may send words of a newer version, such as a new
    room event or a new kind of track. Such a field has the type `Label`; a client ignores words that it does not know.
    """


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """The session that a CONNECT asks to resume, and how many of its messages the client has received."""

    session_id: Label
    """The session to resume."""
    resume_token: Label
    """The `resume_token` of its CONNECT_ACK; empty to name a session that cannot be resumed."""
    received: Count
    """How many messages of the session the client has received."""


class Connect(Message, frozen=True, kw_only=True):
    """A client's first message."""

    client_id: Name
    auth_token: Token
    version: Label | None = None
    """The protocol version of the client."""
    capabilities: Capabilities | None = None
    metadata: Metadata | None = None
    instance_id: Label | None = None
    """Identifies one running client; the same on all its connections."""
    resumable: bool = False
    """Asks for a session that outlives its connection."""
    resume: Resume | None = None
    """The session to resume."""


class ConnectAck(Message, frozen=True, kw_only=True):
    """The service accepts a CONNECT. Intervals, time-outs and the resume window are in seconds."""

    status: Label
    """Always "success"."""
    session_id: Label
    server_version: Label | None = None
    heartbeat_interval: float | None = None
    """Seconds of silence after which the service sends a ping."""
    heartbeat_timeout: float | None = None
    """Seconds of silence after which the service closes the connection."""
    capabilities: Capabilities | None = None
    resume_token: Label | None = None
    """Proves that a later connection belongs to this session."""
    resume_window: float | None = None
    """Seconds for which the session outlives a lost connection."""
    resumed: bool = False
    """True when the service has resumed the session that `resume` names."""
    received: Count | None = None
    """How many messages of the session the service has received."""
    token_expires_at: Count | None = None
    """Milliseconds since 1970; absent when the token does not expire."""
    token_expiry: Label | None = None
    """What happens to the session when its token expires: "continue" or "close"."""


class TokenRenew(Message, frozen=True, kw_only=True):
    """Replace the token of a connection without reconnecting."""

    auth_token: Token
    """A new token for the same client."""


class TokenRenewAck(Message, frozen=True, kw_only=True):
    """The service accepts the new token."""

    status: StatusCode
    """Always 200."""
    expires_at: Count | None = None
    """Milliseconds since 1970; absent when the token does not expire."""


class Disconnect(Message, frozen=True, kw_only=True):
    """The client closes the connection on purpose. The payload may be empty."""

    client_id: Name | None = None
    reason: Label | None = None


class Heartbeat(Message, frozen=True, kw_only=True):
    """A sign of life from either side. An empty payload means timestamp 0."""

    timestamp: Count = 0
    """Any number; the HEARTBEAT_ACK repeats it."""
    received: Count | None = None
    """How many messages of the session the sender has received."""


class HeartbeatAck(Message, frozen=True, kw_only=True):
    """The answer to a HEARTBEAT. It confirms the messages that the service has received."""

    timestamp: Count
    """The timestamp of the HEARTBEAT."""
    server_time: Count | None = None
    """Milliseconds since 1970; from the service only."""
    received: Count | None = None
    """How many messages of the session the service has received."""


class GoAway(Message, frozen=True, kw_only=True):
    """The service is about to close the connection; the client reconnects after `reconnect_after`."""

    reason: Label
    reconnect_after: Count
    """Milliseconds that the client waits before it reconnects."""


class Signal(Message, frozen=True, kw_only=True):
    """One client's message to another. The service adds `sender_client_id` and relays the rest unchanged.

    `signal_data` is a JSON value or bytes (docs/protocol.md, "Between encodings").
    """

    target_client_id: Name | None = None
    """Required from a client, except in a SIGNAL_MESSAGE to a room."""
    sender_client_id: Name | None = None
    """Always present from the service; ignored from a client."""
    signal_data: Any
    """Any JSON value, null included, or bytes."""
    ack: bool = False
    """Asks the service to answer with SIGNAL_ACK."""


class SignalOffer(Signal, frozen=True, kw_only=True):
    """An SDP offer for another client."""


class SignalAnswer(Signal, frozen=True, kw_only=True):
    """An SDP answer for another client."""


class SignalIceCandidate(Signal, frozen=True, kw_only=True):
    """A trickled ICE candidate for another client."""


class SignalMessage(Signal, frozen=True, kw_only=True):
    """Application data for another client, or for all other members of `room_id`."""

    room_id: Name | None = None
    """Present instead of `target_client_id`, never with it."""


class SignalAck(Message, frozen=True, kw_only=True):
    """The fate of a signal that asked for `ack`."""

    status: Label
    """One of "delivered", "queued" or "offline"."""
    target_client_id: Name | None = None


class Register(Message, frozen=True, kw_only=True):
    """Store the client's capabilities and metadata."""

    version: Label = PROTOCOL_VERSION
    client_id: Name | None = None
    """When present, equal to the connection's client id."""
    auth_token: Token | None = None
    """When present, a valid token of the same client."""
    room_id: Name | None = None
    capabilities: Capabilities | None = None
    metadata: Metadata | None = None


class RegisterAck(Message, frozen=True, kw_only=True):
    """The answer to REGISTER."""

    version: Label
    status: StatusCode
    """Always 200."""
    message: Text
    client_id: Label
    session_id: Label


class Unregister(Message, frozen=True, kw_only=True):
    """Remove what REGISTER stored."""

    version: Label = PROTOCOL_VERSION
    client_id: Name | None = None
    """When present, equal to the connection's client id."""
    auth_token: Token | None = None
    """When present, a valid token of the same client."""


class UnregisterAck(Message, frozen=True, kw_only=True):
    """The answer to UNREGISTER."""

    version: Label
    status: StatusCode
    """Always 200."""
    message: Text
    client_id: Label


class Request(Message, frozen=True, kw_only=True):
    """The fields that every request about rooms may carry."""

    version: Label = PROTOCOL_VERSION
    client_id: Name | None = None
    """When present, equal to the connection's client id."""
    auth_token: Token | None = None
    """When present, a valid token of the same client."""


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The base of objects inside messages: a field with its default value may be absent on the wire."""


class PublishedTrack(Part, frozen=True, kw_only=True):
    """A track that a publisher sends.

    The service may send kinds of a newer version. From clients the codec accepts only "audio" and "video"
    (`build_message`).
    """

    mid: Mid
    """The mid of the m-section in the publisher's offer."""
    track_name: Name
    """The name by which subscribers pull it."""
    kind: Label | None = None
    """Either "audio" or "video"."""
    muted: bool = False
    """True when the publisher sends silence or black on purpose."""


class Simulcast(Part, frozen=True, kw_only=True):
    """The layer of a simulcast track that a subscriber wants (docs/protocol.md, "Rooms")."""

    preferred_rid: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    """The rid of the layer to receive."""
    priority_ordering: Literal["none", "asciibetical"] | None = None
    rid_not_available: Literal["none", "asciibetical"] | None = None


class TrackRequest(Part, frozen=True, kw_only=True):
    """One track of TRACKS_NEW, either to publish or to pull."""

    mid: Mid | None = None
    """To publish: the m-section in the offer. To pull: a transceiver to reuse."""
    track_name: Name
    kind: Kind | None = None
    """Only to publish."""
    client_id: Name | None = None
    """To pull: the publisher."""
    session_id: Name | None = None
    """To pull: the publisher's media session."""
    simulcast: Simulcast | None = None
    """Only to pull."""
    muted: bool = False
    """Only to publish."""


class TrackMute(Part, frozen=True, kw_only=True):
    """One track of TRACKS_MUTE."""

    mid: Mid
    """The mid of a track that the client publishes."""
    muted: bool


class TrackMid(Part, frozen=True, kw_only=True):
    """One track of TRACKS_CLOSE."""

    mid: Mid


class TrackUpdate(Part, frozen=True, kw_only=True):
    """One pulled track of TRACKS_UPDATE, with another simulcast layer or another source."""

    mid: Mid
    track_name: Name | None = None
    """The track to receive instead, with `client_id` or `session_id`."""
    client_id: Name | None = None
    session_id: Name | None = None
    simulcast: Simulcast | None = None


class TrackResult(Part, frozen=True, kw_only=True):
    """The result for one track: its `mid`, or an error."""

    mid: Label | None = None
    """The mid in the media session of the client that asked."""
    track_name: Label | None = None
    kind: Label | None = None
    """Either "audio" or "video"."""
    client_id: Label | None = None
    """The publisher of a pulled track."""
    session_id: Label | None = None
    """The publisher's media session."""
    error_code: StatusCode | None = None
    """Present when the track failed."""
    error_message: Text | None = None


class DataChannelRequest(Part, frozen=True, kw_only=True):
    """One data channel to publish or to subscribe to."""

    location: Literal["local", "remote"]
    """Either "local" to publish or "remote" to subscribe."""
    data_channel_name: Name
    client_id: Name | None = None
    """With "remote": the publisher."""
    session_id: Name | None = None
    """With "remote": the publisher's media session."""
    ordered: bool | None = None
    max_retransmits: Uint16 | None = None
    max_packet_life_time: Uint16 | None = None
    """Milliseconds; never with `max_retransmits`."""
    wait_for_ack: bool | None = None
    """Only with "remote"."""
    can_reply: bool | None = None
    """Only with "remote"."""


class DataChannelResult(Part, frozen=True, kw_only=True):
    """The result for one data channel: its `id`, or an error."""

    data_channel_name: Label
    id: Uint16 | None = None
    """Open the channel with `negotiated: true` and this id."""
    location: Label | None = None
    """The location that the client asked for: "local" or "remote"."""
    client_id: Label | None = None
    session_id: Label | None = None
    error_code: StatusCode | None = None
    """Present when the data channel failed."""
    error_message: Text | None = None


class IceServer(Part, frozen=True, kw_only=True):
    """One entry of RTCPeerConnection's `iceServers`."""

    urls: Annotated[list[Text], Bounded]
    username: Text | None = None
    credential: Text | None = None


class ConnectionInfo(Part, frozen=True, kw_only=True):
    """The original service's summary of a membership."""

    room_id: Label
    role: Label
    app_id: Label
    session_id: Label
    status: Label
    metadata: Metadata


class Member(Part, frozen=True, kw_only=True):
    """A member of a room as the other members see it."""

    client_id: Label
    role: Label
    session_id: Label | None = None
    """The id of its media session."""
    metadata: Metadata | None = None
    tracks: Annotated[list[PublishedTrack], Results] | None = None
    """The tracks that subscribers can pull."""
    away: bool = False
    """True when the member is silent for a while or has lost its connection, and the service expects it back."""


class RoomEntry(Request, frozen=True, kw_only=True):
    """The fields that WEBRTC_ROOM_CREATE and WEBRTC_ROOM_JOIN share."""

    role: Label
    """Either "sender" or "receiver"."""
    offer_sdp: Sdp | None = None
    """Required from a sender when the service has a media backend."""
    tracks: Annotated[list[PublishedTrack], Bounded] | None = None
    """The tracks of the offer."""
    metadata: Metadata | None = None
    """Shown to the other members."""


class RoomCreate(RoomEntry, frozen=True, kw_only=True):
    """Create a room and become its first member."""

    room_id: Name | None = None
    """When absent, the service chooses an id."""
    max_participants: Places | None = None


class RoomJoin(RoomEntry, frozen=True, kw_only=True):
    """Become a member of a room that exists, or of a room that this request creates."""

    room_id: Name
    create_if_missing: bool | None = None  # so that the tagged shape, which writes defaults, stays as it was
    """Creates the room when it does not exist or is closed."""
    max_participants: Places | None = None
    """The limit of a room that this request creates."""


class RoomAck(Message, frozen=True, kw_only=True):
    """The service accepts a new member.

    A sender gets `answer_sdp`. A receiver gets `offer_sdp` when there is something to pull, and `tracks` with the mids.
    `participants` and `sequence` describe the room with the new member in it; the next ROOM_EVENT has `sequence` + 1.
    """

    version: Label
    status: StatusCode
    """Always 200."""
    message: Text
    room_id: Label
    session_id: Label
    """The new member's media session; empty without a media backend."""
    app_id: Label
    """Empty when there is none."""
    stun_url: Text
    """Empty when there is none."""
    ice_servers: Annotated[list[IceServer], Bounded]
    connection_info: ConnectionInfo
    answer_sdp: ServiceSdp | None = None
    """The SFU's answer to the sender's offer."""
    offer_sdp: ServiceSdp | None = None
    """The SFU's offer to a receiver."""
    requires_renegotiation: bool = False
    """True when the client must answer `offer_sdp` with RENEGOTIATE."""
    participants: Annotated[list[Member], msgspec.Meta(max_length=_MAX_MEMBERS)]
    """All members, the new one included."""
    tracks: Annotated[list[TrackResult], Results]
    """The tracks that the sender publishes, or those that the receiver pulls."""
    sequence: Count
    """The room's sequence number after this join."""


class RoomCreateAck(RoomAck, frozen=True, kw_only=True):
    """The answer to WEBRTC_ROOM_CREATE."""


class RoomJoinAck(RoomAck, frozen=True, kw_only=True):
    """The answer to WEBRTC_ROOM_JOIN."""

    created: bool | None = None
    """True when this request created the room; absent otherwise."""


class RoomLeave(Request, frozen=True, kw_only=True):
    """Leave a room."""

    room_id: Name
    reason: Label | None = None
    """Shown to the other members."""


class RoomLeaveAck(Message, frozen=True, kw_only=True):
    """The answer to WEBRTC_ROOM_LEAVE."""

    version: Label
    status: StatusCode
    """Always 200."""
    message: Text
    room_id: Label
    client_id: Label


class RoomEvent(Message, frozen=True, kw_only=True):
    """One change of a room. The service sends it to all members in the order of `sequence`.

    A client counts an `event` that it does not know, and ignores the rest of it.
    """

    room_id: Label
    sequence: Count
    """The room's sequence number after the change."""
    event: Label
    """One of the [room events](#rooms)."""
    participant: Member | None = None
    """The member that the event is about, as it is after the change."""
    tracks: Annotated[list[PublishedTrack], Results] | None = None
    """The tracks that the event is about."""
    reason: Label | None = None
    metadata: Metadata | None = None
    """The room's metadata, in a metadata_changed without `participant`."""


class RoomState(Request, frozen=True, kw_only=True):
    """Ask for the complete state of a room that the client is in."""

    room_id: Name


class RoomStateAck(Message, frozen=True, kw_only=True):
    """The state of a room at `sequence`."""

    room_id: Label
    sequence: Count
    participants: Annotated[list[Member], msgspec.Meta(max_length=_MAX_MEMBERS)]
    metadata: Metadata
    """The room's metadata."""
    max_participants: Count
    created_at: Count | None = None
    """Milliseconds since 1970."""


class MetadataUpdate(Request, frozen=True, kw_only=True):
    """Replace the metadata of the client in this room, or that of the room."""

    room_id: Name
    metadata: Metadata
    """At most 16,384 bytes as JSON."""
    scope: Literal["participant", "room"] = "participant"
    """What to replace: the client's metadata or the room's."""


class MetadataUpdateAck(Message, frozen=True, kw_only=True):
    """The answer to METADATA_UPDATE."""

    sequence: Count
    """The room's sequence number after the change."""


class TracksNew(Request, frozen=True, kw_only=True):
    """Publish tracks with an offer, or pull tracks without one. An offer with no tracks lets the SFU name them."""

    room_id: Name
    tracks: Annotated[list[TrackRequest], Bounded]
    offer_sdp: Sdp | None = None
    """Present to publish, absent to pull."""


class TracksNewAck(Message, frozen=True, kw_only=True):
    """The SFU's answer to the client's offer, or an offer of its own."""

    tracks: Annotated[list[TrackResult], Results]
    answer_sdp: ServiceSdp | None = None
    """The SFU's answer to the client's offer."""
    offer_sdp: ServiceSdp | None = None
    """The SFU's offer."""
    requires_renegotiation: bool = False
    """True when the client must answer `offer_sdp` with RENEGOTIATE."""


class Renegotiate(Request, frozen=True, kw_only=True):
    """Answer the SFU's last offer with `answer_sdp`, or start a new media session with `tracks`.

    A new media session publishes `tracks`; `offer_sdp` comes from a new peer connection. It publishes nothing when
    `tracks` is empty.
    """

    room_id: Name
    answer_sdp: Sdp | None = None
    """The client's answer to the SFU's last offer."""
    offer_sdp: Sdp | None = None
    """The offer of a new peer connection; required when `tracks` has items."""
    tracks: Annotated[list[PublishedTrack], Bounded] | None = None
    """Present instead of `answer_sdp` to start a [new media session](#rooms) with these tracks; may be empty."""


class RenegotiateAck(Message, frozen=True, kw_only=True):
    """The SFU has accepted the answer, or the new media session has started."""

    status: StatusCode
    """Always 200."""
    session_id: Label | None = None
    """The new media session."""
    answer_sdp: ServiceSdp | None = None
    """The SFU's answer to `offer_sdp`."""
    tracks: Annotated[list[TrackResult], Results] | None = None
    """The tracks of the new media session."""


class TracksClose(Request, frozen=True, kw_only=True):
    """Close tracks that the client publishes or pulls, at once or by negotiation."""

    room_id: Name
    tracks: Annotated[list[TrackMid], Bounded]
    offer_sdp: Sdp | None = None
    """Present to close by negotiation, absent to close at once."""
    reason: Label | None = None
    """Shown to the other members: "ended" for a track that ended by itself; "closed" when absent."""


class TracksCloseAck(Message, frozen=True, kw_only=True):
    """The result for each track."""

    tracks: Annotated[list[TrackResult], Results]
    answer_sdp: ServiceSdp | None = None
    """The SFU's answer to the client's offer."""


class TracksUpdate(Request, frozen=True, kw_only=True):
    """Switch pulled tracks to another simulcast layer or source without negotiation."""

    room_id: Name
    tracks: Annotated[list[TrackUpdate], Bounded]
    """Each has `simulcast` or a new source."""


class TracksUpdateAck(Message, frozen=True, kw_only=True):
    """The result for each track."""

    tracks: Annotated[list[TrackResult], Results]


class TracksMute(Request, frozen=True, kw_only=True):
    """Mark published tracks as muted or unmuted."""

    room_id: Name
    tracks: Annotated[list[TrackMute], Bounded]


class TracksMuteAck(Message, frozen=True, kw_only=True):
    """The result for each track."""

    tracks: Annotated[list[TrackResult], Results]


class DataChannelsNew(Request, frozen=True, kw_only=True):
    """Open data channels, or negotiate their transport with an offer of the client or of the SFU."""

    room_id: Name
    data_channels: Annotated[list[DataChannelRequest], Bounded]
    """Empty to negotiate the transport for data channels."""
    offer_sdp: Sdp | None = None
    """Only with an empty `data_channels`."""


class DataChannelsNewAck(Message, frozen=True, kw_only=True):
    """The result for each data channel, or the SFU's part of the negotiation of their transport."""

    data_channels: Annotated[list[DataChannelResult], Results]
    answer_sdp: ServiceSdp | None = None
    """The SFU's answer to the client's offer."""
    offer_sdp: ServiceSdp | None = None
    """The SFU's offer."""
    requires_renegotiation: bool = False
    """True when the client must answer `offer_sdp` with RENEGOTIATE."""


class IceServers(Request, frozen=True, kw_only=True):
    """Ask for STUN and TURN servers. The payload may be empty."""


class IceServersAck(Message, frozen=True, kw_only=True):
    """STUN and TURN servers in the form that RTCPeerConnection takes."""

    ice_servers: Annotated[list[IceServer], Bounded]
    expires_at: Count | None = None
    """Milliseconds since 1970; the client asks again before then. Absent when nothing expires."""


class ErrorMessage(Message, frozen=True, kw_only=True):
    """The service or the SFU refuses a message or a request (docs/protocol.md, "Errors and close codes")."""

    error_code: StatusCode
    error_message: Text
    details: Metadata | None = None
    retryable: bool = False
