"""Every message of the protocol as a frozen struct, with the bound of each field.

`catalogue.py` says of each message who sends it, what answers it and how it is handled. A field's docstring says
what it means. `tools/protocol.py` writes the schemas, the TypeScript and the tables of docs/protocol.md from them.
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

# What fields may hold at most, in bytes of UTF-8. A message with more is malformed (docs/protocol.md, "Bounds").
MAX_LABEL = 256  # names of things, versions, reasons, ids that are not client or room names
MAX_TOKEN = 16_384  # a real one is below 4 KiB
MAX_SDP = 262_144  # of a client: some eighty m-sections as Chromium writes them
MAX_TEXT = 65_536  # what the service says in words, or passes on from others
MAX_SERVICE_SDP = 1_048_576
# Metadata as JSON, counted where it is kept: an event with it, and with 64 tracks, still fits a v1 frame.
MAX_METADATA = 16_384
# Members of one object: no more fit into `MAX_METADATA`.
_MAX_KEYS = 4096
# Items of lists that the service sends: the m-sections of one description, and the members of a room.
_MAX_RESULTS = 1024
_MAX_MEMBERS = 65_536


class MessageType(IntEnum):
    """The second byte of a frame. Values up to 0x35 and 0xFF are the original service's and may not change."""

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
    """How a payload is written (docs/protocol.md, "Payload types")."""

    BINARY = 0x01
    JSON = 0x02
    TEXT = 0x03
    PROTOBUF = 0x04
    CBOR = 0x05


class Shape(StrEnum):
    """The two shapes of a JSON (and CBOR) object; TAGGED is what the original service's clients send."""

    PLAIN = "plain"
    TAGGED = "tagged"


class Peer(StrEnum):
    """Who sent a message: BINARY and TEXT signals look different in the two directions."""

    CLIENT = "client"
    SERVICE = "service"


Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Uint16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
Places = Annotated[int, msgspec.Meta(ge=1, le=0xFFFF)]
# In HTTP's manner; bounded so that every payload type can carry it.
# What happens to a session that outlives its token.
TokenExpiry = Literal["continue", "close"]
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
    """What all messages share: a field that has its default value may be absent on the wire.

    Clients may only send words that the service knows. The service may send words of a newer version, such as an event
    or a kind of track: their fields are of type `Label`, and a client ignores the words that it does not know.
    """


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """The session that a CONNECT asks to continue, and how many of its messages the client has received."""

    session_id: Label
    """The session to go on with."""
    resume_token: Label
    """That of its CONNECT_ACK, or empty to name a lost session."""
    received: Count
    """Messages of the session that the client has received."""


class Connect(Message, frozen=True, kw_only=True):
    """A client's first message."""

    client_id: Name
    auth_token: Token
    version: Label | None = None
    """Of the protocol."""
    capabilities: Capabilities | None = None
    metadata: Metadata | None = None
    instance_id: Label | None = None
    """The same on every connection of one running client."""
    resumable: bool = False
    """Ask for a session that outlives its connection."""
    resume: Resume | None = None
    """The session to go on with."""


class ConnectAck(Message, frozen=True, kw_only=True):
    """The service's welcome. Intervals and windows are in seconds.

    `token_expires_at` is in ms since the epoch, absent when the token does not end; `token_expiry` says what happens to
    the session then.
    """

    status: Label
    """Always "success"."""
    session_id: Label
    server_version: Label | None = None
    heartbeat_interval: float | None = None
    """Seconds."""
    heartbeat_timeout: float | None = None
    """Seconds."""
    capabilities: Capabilities | None = None
    resume_token: Label | None = None
    """Proof that a later connection belongs to this session."""
    resume_window: float | None = None
    """Seconds that the session outlives a connection."""
    resumed: bool = False
    """The session of `resume` goes on."""
    received: Count | None = None
    """Messages of the session that the service has received."""
    token_expires_at: Count | None = None
    """Milliseconds since 1970; absent when the token does not end."""
    token_expiry: Label | None = None
    """What happens to the session when its token ends: "continue" or "close"."""


class TokenRenew(Message, frozen=True, kw_only=True):
    """Go on with another token, on the same connection."""

    auth_token: Token
    """Another token of the same client."""


class TokenRenewAck(Message, frozen=True, kw_only=True):
    """The new token counts; `status` is 200, `expires_at` is its end in ms since the epoch, absent when it has none."""

    status: StatusCode
    """Always 200."""
    expires_at: Count | None = None
    """Milliseconds since 1970; absent when the token does not end."""


class Disconnect(Message, frozen=True, kw_only=True):
    """A client's good-bye; an empty payload is one too."""

    client_id: Name | None = None
    reason: Label | None = None


class Heartbeat(Message, frozen=True, kw_only=True):
    """A sign of life from either side; an empty payload counts as timestamp 0."""

    timestamp: Count = 0
    """Any number; the answer repeats it."""
    received: Count | None = None
    """Messages of the session that the sender has received."""


class HeartbeatAck(Message, frozen=True, kw_only=True):
    """The answer to a HEARTBEAT, with its timestamp. `server_time` is in ms since the epoch, `received` confirms."""

    timestamp: Count
    """That of the HEARTBEAT."""
    server_time: Count | None = None
    """Milliseconds since 1970; from the service only."""
    received: Count | None = None
    """Messages of the session that the service has received."""


class GoAway(Message, frozen=True, kw_only=True):
    """The service is about to close; come back after `reconnect_after` ms."""

    reason: Label
    reconnect_after: Count
    """Milliseconds to wait before the client comes back."""


class Signal(Message, frozen=True, kw_only=True):
    """What two clients tell each other; the service adds `sender_client_id` and passes it on.

    `signal_data` is a JSON value or bytes (docs/protocol.md, "Between encodings").
    """

    target_client_id: Name | None = None
    """Required from a client, except in a SIGNAL_MESSAGE to a room."""
    sender_client_id: Name | None = None
    """Always there from the service, ignored from a client."""
    signal_data: Any
    """Any JSON value, null included, or bytes."""
    ack: bool = False
    """Answer with SIGNAL_ACK."""


class SignalOffer(Signal, frozen=True, kw_only=True):
    """An SDP offer for another client."""


class SignalAnswer(Signal, frozen=True, kw_only=True):
    """An SDP answer for another client."""


class SignalIceCandidate(Signal, frozen=True, kw_only=True):
    """A trickled ICE candidate for another client."""


class SignalMessage(Signal, frozen=True, kw_only=True):
    """Application data for another client, or for all other members of `room_id`."""

    room_id: Name | None = None
    """In place of `target_client_id`, never both."""


class SignalAck(Message, frozen=True, kw_only=True):
    """What became of a signal that asked for `ack`: "delivered", "queued" or "offline"."""

    status: Label
    """Either "delivered", "queued" or "offline"."""
    target_client_id: Name | None = None


class Register(Message, frozen=True, kw_only=True):
    """Put the client's capabilities and metadata on record."""

    version: Label = PROTOCOL_VERSION
    client_id: Name | None = None
    """The connection's own."""
    auth_token: Token | None = None
    """A valid one of the same client."""
    room_id: Name | None = None
    capabilities: Capabilities | None = None
    metadata: Metadata | None = None


class RegisterAck(Message, frozen=True, kw_only=True):
    """The answer to REGISTER; `status` is 200."""

    version: Label
    status: StatusCode
    """Always 200."""
    message: Text
    client_id: Label
    session_id: Label


class Unregister(Message, frozen=True, kw_only=True):
    """Take the client's record away again."""

    version: Label = PROTOCOL_VERSION
    client_id: Name | None = None
    """The connection's own."""
    auth_token: Token | None = None
    """A valid one of the same client."""


class UnregisterAck(Message, frozen=True, kw_only=True):
    """The answer to UNREGISTER; `status` is 200."""

    version: Label
    status: StatusCode
    """Always 200."""
    message: Text
    client_id: Label


class Request(Message, frozen=True, kw_only=True):
    """What every request about rooms may carry, and what must then be the connection's own."""

    version: Label = PROTOCOL_VERSION
    client_id: Name | None = None
    """The connection's own."""
    auth_token: Token | None = None
    """A valid one of the same client."""


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the objects inside messages share: a field that has its default value may be absent on the wire."""


class PublishedTrack(Part, frozen=True, kw_only=True):
    """A track that its publisher sends: the m-section of the publisher's offer, and the name others pull it by.

    `kind` is "audio" or "video"; the codec refuses clients any other (`build_message`).
    """

    mid: Mid
    """The m-section in the publisher's offer."""
    track_name: Name
    """The name by which others pull it."""
    kind: Label | None = None
    """What it carries: "audio" or "video"."""
    muted: bool = False
    """Silent or black by intention."""


class Simulcast(Part, frozen=True, kw_only=True):
    """Which layer of a simulcast track a subscriber wants (docs/protocol.md, "Rooms")."""

    preferred_rid: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    """The layer to receive."""
    priority_ordering: Literal["none", "asciibetical"] | None = None
    rid_not_available: Literal["none", "asciibetical"] | None = None


class TrackRequest(Part, frozen=True, kw_only=True):
    """One track of TRACKS_NEW: to publish with a `mid`, or to pull from a client or a media session."""

    mid: Mid | None = None
    """To publish: the m-section; to pull: a transceiver to reuse."""
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
    """Of a track that the client publishes."""
    muted: bool


class TrackMid(Part, frozen=True, kw_only=True):
    """One track of TRACKS_CLOSE."""

    mid: Mid


class TrackUpdate(Part, frozen=True, kw_only=True):
    """One pulled track of TRACKS_UPDATE: another simulcast layer, or another source."""

    mid: Mid
    track_name: Name | None = None
    """Another source, with `client_id` or `session_id`."""
    client_id: Name | None = None
    session_id: Name | None = None
    simulcast: Simulcast | None = None


class TrackResult(Part, frozen=True, kw_only=True):
    """What became of one track: its `mid` in the requester's own media session, or an error.

    `client_id` and `session_id` name the publisher of a pulled track.
    """

    mid: Label | None = None
    """In the client's own media session."""
    track_name: Label | None = None
    kind: Label | None = None
    """What it carries: "audio" or "video"."""
    client_id: Label | None = None
    """The publisher of a pulled track."""
    session_id: Label | None = None
    """The publisher's media session."""
    error_code: StatusCode | None = None
    """Present where the track failed."""
    error_message: Text | None = None


class DataChannelRequest(Part, frozen=True, kw_only=True):
    """One data channel to publish ("local") or to subscribe to ("remote"); `max_packet_life_time` is in ms."""

    location: Literal["local", "remote"]
    """Publish with "local", subscribe with "remote"."""
    data_channel_name: Name
    client_id: Name | None = None
    """With "remote": the publisher."""
    session_id: Name | None = None
    """With "remote": the publisher's media session."""
    ordered: bool | None = None
    max_retransmits: Uint16 | None = None
    max_packet_life_time: Uint16 | None = None
    """Milliseconds; not together with `max_retransmits`."""
    wait_for_ack: bool | None = None
    """Only with "remote"."""
    can_reply: bool | None = None
    """Only with "remote"."""


class DataChannelResult(Part, frozen=True, kw_only=True):
    """What became of one data channel: the `id` to open it with (`negotiated: true`), or an error."""

    data_channel_name: Label
    id: Uint16 | None = None
    """Open the channel with `negotiated: true` and this id."""
    location: Label | None = None
    """As asked: "local" or "remote"."""
    client_id: Label | None = None
    session_id: Label | None = None
    error_code: StatusCode | None = None
    """Present where the channel failed."""
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
    """A member of a room as the others see it; `session_id` is that of its media.

    `away`: nothing has come from it for a while, or its connection is lost; it is expected back.
    """

    client_id: Label
    role: Label
    session_id: Label | None = None
    """That of its media."""
    metadata: Metadata | None = None
    tracks: Annotated[list[PublishedTrack], Results] | None = None
    """Those that can be pulled."""
    away: bool = False
    """Nothing has come from it for a while; it is expected back."""


class RoomEntry(Request, frozen=True, kw_only=True):
    """What WEBRTC_ROOM_CREATE and WEBRTC_ROOM_JOIN share; `role` is "sender" or "receiver"."""

    role: Label
    """Either "sender" or "receiver"."""
    offer_sdp: Sdp | None = None
    """Required of a sender when the service has a media backend."""
    tracks: Annotated[list[PublishedTrack], Bounded] | None = None
    """Those of the offer."""
    metadata: Metadata | None = None
    """Shown to the other members."""


class RoomCreate(RoomEntry, frozen=True, kw_only=True):
    """Open a room and be its first member."""

    room_id: Name | None = None
    """The service makes one up when it is absent."""
    max_participants: Places | None = None


class RoomJoin(RoomEntry, frozen=True, kw_only=True):
    """Become a member of a room that is there, or of one that this request makes.

    `max_participants` is for a room that is made.
    """

    room_id: Name
    create_if_missing: bool | None = None  # so that the tagged shape, which writes defaults, stays as it was
    """Make the room when it is not there or closed."""
    max_participants: Places | None = None
    """Of a room that is made."""


class RoomAck(Message, frozen=True, kw_only=True):
    """A new member's welcome; `status` is 200, and `session_id` is empty without a media backend.

    A sender gets `answer_sdp`; a receiver gets `offer_sdp` when there is something to pull, and `tracks` with the mids.
    `participants` and `sequence` are the room with this member in it: ROOM_EVENTs go on from there.
    """

    version: Label
    status: StatusCode
    """Always 200."""
    message: Text
    room_id: Label
    session_id: Label
    """This member's media session; empty without a media backend."""
    app_id: Label
    """Empty where there is none."""
    stun_url: Text
    """Empty where there is none."""
    ice_servers: Annotated[list[IceServer], Bounded]
    connection_info: ConnectionInfo
    answer_sdp: ServiceSdp | None = None
    """The SFU's answer to the sender's offer."""
    offer_sdp: ServiceSdp | None = None
    """The SFU's offer to a receiver."""
    requires_renegotiation: bool = False
    """Answer `offer_sdp` with RENEGOTIATE."""
    participants: Annotated[list[Member], msgspec.Meta(max_length=_MAX_MEMBERS)]
    """This one included."""
    tracks: Annotated[list[TrackResult], Results]
    """Published by the sender, or pulled."""
    sequence: Count
    """The room's, with this member's coming."""


class RoomCreateAck(RoomAck, frozen=True, kw_only=True):
    """The answer to WEBRTC_ROOM_CREATE."""


class RoomJoinAck(RoomAck, frozen=True, kw_only=True):
    """The answer to WEBRTC_ROOM_JOIN; `created` is true when the request has made the room, absent otherwise."""

    created: bool | None = None
    """This request has made the room."""


class RoomLeave(Request, frozen=True, kw_only=True):
    """Leave a room; the others are told the `reason`."""

    room_id: Name
    reason: Label | None = None
    """Shown to the others."""


class RoomLeaveAck(Message, frozen=True, kw_only=True):
    """The answer to WEBRTC_ROOM_LEAVE; `status` is 200."""

    version: Label
    status: StatusCode
    """Always 200."""
    message: Text
    room_id: Label
    client_id: Label


class RoomEvent(Message, frozen=True, kw_only=True):
    """One change of a room, told to all its members in the order of `sequence`.

    An `event` that a client does not know is a change all the same: it counts, and is otherwise ignored.
    `participant` is the member it is about, as it is after the change; `tracks` are those published or unpublished, or
    those that a replaced media session is about to publish. `metadata` is the room's, where that has changed.
    """

    room_id: Label
    sequence: Count
    """The room's, after the change."""
    event: Label
    """One of the [room events](#rooms)."""
    participant: Member | None = None
    """The member that the event is about, as it is after the change."""
    tracks: Annotated[list[PublishedTrack], Results] | None = None
    """Those that the event is about."""
    reason: Label | None = None
    metadata: Metadata | None = None
    """The room's, in a metadata_changed without `participant`."""


class RoomState(Request, frozen=True, kw_only=True):
    """Ask for the whole of a room that one is in."""

    room_id: Name


class RoomStateAck(Message, frozen=True, kw_only=True):
    """A room as it was at `sequence`; `created_at` is in ms since the epoch."""

    room_id: Label
    sequence: Count
    participants: Annotated[list[Member], msgspec.Meta(max_length=_MAX_MEMBERS)]
    metadata: Metadata
    """The room's."""
    max_participants: Count
    created_at: Count | None = None
    """Milliseconds since 1970."""


class MetadataUpdate(Request, frozen=True, kw_only=True):
    """Replace one's own metadata as the other members see it, or the room's."""

    room_id: Name
    metadata: Metadata
    """Up to 16,384 bytes as JSON."""
    scope: Literal["participant", "room"] = "participant"
    """The client's own metadata, or the room's."""


class MetadataUpdateAck(Message, frozen=True, kw_only=True):
    """The room's `sequence` after the change."""

    sequence: Count
    """The room's, after the change."""


class TracksNew(Request, frozen=True, kw_only=True):
    """Publish tracks with an offer, or pull tracks without one; with an offer and no tracks the SFU names them."""

    room_id: Name
    tracks: Annotated[list[TrackRequest], Bounded]
    offer_sdp: Sdp | None = None
    """Present: publish; absent: pull."""


class TracksNewAck(Message, frozen=True, kw_only=True):
    """The answer to one's offer, or the SFU's offer to answer with RENEGOTIATE."""

    tracks: Annotated[list[TrackResult], Results]
    answer_sdp: ServiceSdp | None = None
    """The SFU's answer to the client's offer."""
    offer_sdp: ServiceSdp | None = None
    """The SFU's offer."""
    requires_renegotiation: bool = False
    """Answer `offer_sdp` with RENEGOTIATE."""


class Renegotiate(Request, frozen=True, kw_only=True):
    """Answer the SFU's last offer with `answer_sdp`, or begin a new media session with `tracks`.

    A new session publishes `tracks` of `offer_sdp`, which a new peer connection has made; with no tracks, nothing.
    """

    room_id: Name
    answer_sdp: Sdp | None = None
    """The answer to the SFU's last offer."""
    offer_sdp: Sdp | None = None
    """Of a new peer connection, with `tracks` that are not empty."""
    tracks: Annotated[list[PublishedTrack], Bounded] | None = None
    """In place of `answer_sdp`: begin a [new media session](#rooms) with these, perhaps none."""


class RenegotiateAck(Message, frozen=True, kw_only=True):
    """The SFU has accepted the answer, or there is a new media session; `status` is 200."""

    status: StatusCode
    """Always 200."""
    session_id: Label | None = None
    """The new media session."""
    answer_sdp: ServiceSdp | None = None
    """The SFU's answer to `offer_sdp`."""
    tracks: Annotated[list[TrackResult], Results] | None = None
    """Those of the new media session."""


class TracksClose(Request, frozen=True, kw_only=True):
    """Stop tracks that one publishes or pulls: at once, or by negotiation with an offer.

    The others are told the `reason`: "closed" unless there is another one, "ended" for a track that ended by itself.
    """

    room_id: Name
    tracks: Annotated[list[TrackMid], Bounded]
    offer_sdp: Sdp | None = None
    """Present: close by negotiation; absent: close at once."""
    reason: Label | None = None
    """Shown to the others: "ended" for a track that ended by itself; absent: "closed"."""


class TracksCloseAck(Message, frozen=True, kw_only=True):
    """What became of each track, and the answer to the offer if there was one."""

    tracks: Annotated[list[TrackResult], Results]
    answer_sdp: ServiceSdp | None = None
    """The SFU's answer to the client's offer."""


class TracksUpdate(Request, frozen=True, kw_only=True):
    """Switch pulled tracks to another simulcast layer or source, without negotiation."""

    room_id: Name
    tracks: Annotated[list[TrackUpdate], Bounded]
    """Each with `simulcast` or a new source."""


class TracksUpdateAck(Message, frozen=True, kw_only=True):
    """What became of each track."""

    tracks: Annotated[list[TrackResult], Results]


class TracksMute(Request, frozen=True, kw_only=True):
    """Say of tracks that one publishes whether they are silent or black by intention."""

    room_id: Name
    tracks: Annotated[list[TrackMute], Bounded]


class TracksMuteAck(Message, frozen=True, kw_only=True):
    """What became of each track."""

    tracks: Annotated[list[TrackResult], Results]


class DataChannelsNew(Request, frozen=True, kw_only=True):
    """Open data channels; with none, negotiate the transport for them, with one's own offer or the SFU's."""

    room_id: Name
    data_channels: Annotated[list[DataChannelRequest], Bounded]
    """Empty: negotiate the transport for data channels."""
    offer_sdp: Sdp | None = None
    """Only with an empty `data_channels`."""


class DataChannelsNewAck(Message, frozen=True, kw_only=True):
    """What became of each data channel, or what completes the negotiation of their transport."""

    data_channels: Annotated[list[DataChannelResult], Results]
    answer_sdp: ServiceSdp | None = None
    """The SFU's answer to the client's offer."""
    offer_sdp: ServiceSdp | None = None
    """The SFU's offer."""
    requires_renegotiation: bool = False
    """Answer `offer_sdp` with RENEGOTIATE."""


class IceServers(Request, frozen=True, kw_only=True):
    """Ask for STUN and TURN servers; an empty payload does too."""


class IceServersAck(Message, frozen=True, kw_only=True):
    """Servers as RTCPeerConnection wants them; `expires_at` is in ms since the epoch, absent when nothing expires."""

    ice_servers: Annotated[list[IceServer], Bounded]
    expires_at: Count | None = None
    """Milliseconds since 1970: ask again before; absent when nothing in them expires."""


class ErrorMessage(Message, frozen=True, kw_only=True):
    """A refusal (docs/protocol.md, "Errors and close codes")."""

    error_code: StatusCode
    error_message: Text
    details: Metadata | None = None
    retryable: bool = False
