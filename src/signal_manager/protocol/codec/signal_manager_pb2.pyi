from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StringList(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, items: _Optional[_Iterable[str]] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ("session_id", "resume_token", "received")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    resume_token: str
    received: int
    def __init__(self, session_id: _Optional[str] = ..., resume_token: _Optional[str] = ..., received: _Optional[int] = ...) -> None: ...

class PublishedTrack(_message.Message):
    __slots__ = ("mid", "track_name", "kind", "muted")
    MID_FIELD_NUMBER: _ClassVar[int]
    TRACK_NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MUTED_FIELD_NUMBER: _ClassVar[int]
    mid: str
    track_name: str
    kind: str
    muted: bool
    def __init__(self, mid: _Optional[str] = ..., track_name: _Optional[str] = ..., kind: _Optional[str] = ..., muted: _Optional[bool] = ...) -> None: ...

class PublishedTrackList(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[PublishedTrack]
    def __init__(self, items: _Optional[_Iterable[_Union[PublishedTrack, _Mapping]]] = ...) -> None: ...

class Simulcast(_message.Message):
    __slots__ = ("preferred_rid", "priority_ordering", "rid_not_available")
    PREFERRED_RID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_ORDERING_FIELD_NUMBER: _ClassVar[int]
    RID_NOT_AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    preferred_rid: str
    priority_ordering: str
    rid_not_available: str
    def __init__(self, preferred_rid: _Optional[str] = ..., priority_ordering: _Optional[str] = ..., rid_not_available: _Optional[str] = ...) -> None: ...

class TrackRequest(_message.Message):
    __slots__ = ("mid", "track_name", "kind", "client_id", "session_id", "simulcast", "muted")
    MID_FIELD_NUMBER: _ClassVar[int]
    TRACK_NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SIMULCAST_FIELD_NUMBER: _ClassVar[int]
    MUTED_FIELD_NUMBER: _ClassVar[int]
    mid: str
    track_name: str
    kind: str
    client_id: str
    session_id: str
    simulcast: Simulcast
    muted: bool
    def __init__(self, mid: _Optional[str] = ..., track_name: _Optional[str] = ..., kind: _Optional[str] = ..., client_id: _Optional[str] = ..., session_id: _Optional[str] = ..., simulcast: _Optional[_Union[Simulcast, _Mapping]] = ..., muted: _Optional[bool] = ...) -> None: ...

class TrackRequestList(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[TrackRequest]
    def __init__(self, items: _Optional[_Iterable[_Union[TrackRequest, _Mapping]]] = ...) -> None: ...

class TrackMute(_message.Message):
    __slots__ = ("mid", "muted")
    MID_FIELD_NUMBER: _ClassVar[int]
    MUTED_FIELD_NUMBER: _ClassVar[int]
    mid: str
    muted: bool
    def __init__(self, mid: _Optional[str] = ..., muted: _Optional[bool] = ...) -> None: ...

class TrackMuteList(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[TrackMute]
    def __init__(self, items: _Optional[_Iterable[_Union[TrackMute, _Mapping]]] = ...) -> None: ...

class TrackMid(_message.Message):
    __slots__ = ("mid",)
    MID_FIELD_NUMBER: _ClassVar[int]
    mid: str
    def __init__(self, mid: _Optional[str] = ...) -> None: ...

class TrackMidList(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[TrackMid]
    def __init__(self, items: _Optional[_Iterable[_Union[TrackMid, _Mapping]]] = ...) -> None: ...

class TrackUpdate(_message.Message):
    __slots__ = ("mid", "track_name", "client_id", "session_id", "simulcast")
    MID_FIELD_NUMBER: _ClassVar[int]
    TRACK_NAME_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SIMULCAST_FIELD_NUMBER: _ClassVar[int]
    mid: str
    track_name: str
    client_id: str
    session_id: str
    simulcast: Simulcast
    def __init__(self, mid: _Optional[str] = ..., track_name: _Optional[str] = ..., client_id: _Optional[str] = ..., session_id: _Optional[str] = ..., simulcast: _Optional[_Union[Simulcast, _Mapping]] = ...) -> None: ...

class TrackUpdateList(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[TrackUpdate]
    def __init__(self, items: _Optional[_Iterable[_Union[TrackUpdate, _Mapping]]] = ...) -> None: ...

class TrackResult(_message.Message):
    __slots__ = ("mid", "track_name", "kind", "client_id", "session_id", "error_code", "error_message")
    MID_FIELD_NUMBER: _ClassVar[int]
    TRACK_NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    mid: str
    track_name: str
    kind: str
    client_id: str
    session_id: str
    error_code: int
    error_message: str
    def __init__(self, mid: _Optional[str] = ..., track_name: _Optional[str] = ..., kind: _Optional[str] = ..., client_id: _Optional[str] = ..., session_id: _Optional[str] = ..., error_code: _Optional[int] = ..., error_message: _Optional[str] = ...) -> None: ...

class TrackResultList(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[TrackResult]
    def __init__(self, items: _Optional[_Iterable[_Union[TrackResult, _Mapping]]] = ...) -> None: ...

class DataChannelRequest(_message.Message):
    __slots__ = ("location", "data_channel_name", "client_id", "session_id", "ordered", "max_retransmits", "max_packet_life_time", "wait_for_ack", "can_reply")
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    DATA_CHANNEL_NAME_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ORDERED_FIELD_NUMBER: _ClassVar[int]
    MAX_RETRANSMITS_FIELD_NUMBER: _ClassVar[int]
    MAX_PACKET_LIFE_TIME_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_ACK_FIELD_NUMBER: _ClassVar[int]
    CAN_REPLY_FIELD_NUMBER: _ClassVar[int]
    location: str
    data_channel_name: str
    client_id: str
    session_id: str
    ordered: bool
    max_retransmits: int
    max_packet_life_time: int
    wait_for_ack: bool
    can_reply: bool
    def __init__(self, location: _Optional[str] = ..., data_channel_name: _Optional[str] = ..., client_id: _Optional[str] = ..., session_id: _Optional[str] = ..., ordered: _Optional[bool] = ..., max_retransmits: _Optional[int] = ..., max_packet_life_time: _Optional[int] = ..., wait_for_ack: _Optional[bool] = ..., can_reply: _Optional[bool] = ...) -> None: ...

class DataChannelRequestList(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[DataChannelRequest]
    def __init__(self, items: _Optional[_Iterable[_Union[DataChannelRequest, _Mapping]]] = ...) -> None: ...

class DataChannelResult(_message.Message):
    __slots__ = ("data_channel_name", "id", "location", "client_id", "session_id", "error_code", "error_message")
    DATA_CHANNEL_NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    data_channel_name: str
    id: int
    location: str
    client_id: str
    session_id: str
    error_code: int
    error_message: str
    def __init__(self, data_channel_name: _Optional[str] = ..., id: _Optional[int] = ..., location: _Optional[str] = ..., client_id: _Optional[str] = ..., session_id: _Optional[str] = ..., error_code: _Optional[int] = ..., error_message: _Optional[str] = ...) -> None: ...

class DataChannelResultList(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[DataChannelResult]
    def __init__(self, items: _Optional[_Iterable[_Union[DataChannelResult, _Mapping]]] = ...) -> None: ...

class IceServer(_message.Message):
    __slots__ = ("urls", "username", "credential")
    URLS_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    urls: StringList
    username: str
    credential: str
    def __init__(self, urls: _Optional[_Union[StringList, _Mapping]] = ..., username: _Optional[str] = ..., credential: _Optional[str] = ...) -> None: ...

class IceServerList(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[IceServer]
    def __init__(self, items: _Optional[_Iterable[_Union[IceServer, _Mapping]]] = ...) -> None: ...

class ConnectionInfo(_message.Message):
    __slots__ = ("room_id", "role", "app_id", "session_id", "status", "metadata")
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    room_id: str
    role: str
    app_id: str
    session_id: str
    status: str
    metadata: str
    def __init__(self, room_id: _Optional[str] = ..., role: _Optional[str] = ..., app_id: _Optional[str] = ..., session_id: _Optional[str] = ..., status: _Optional[str] = ..., metadata: _Optional[str] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("client_id", "role", "session_id", "metadata", "tracks", "away")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    TRACKS_FIELD_NUMBER: _ClassVar[int]
    AWAY_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    role: str
    session_id: str
    metadata: str
    tracks: PublishedTrackList
    away: bool
    def __init__(self, client_id: _Optional[str] = ..., role: _Optional[str] = ..., session_id: _Optional[str] = ..., metadata: _Optional[str] = ..., tracks: _Optional[_Union[PublishedTrackList, _Mapping]] = ..., away: _Optional[bool] = ...) -> None: ...

class MemberList(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, items: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...

class Connect(_message.Message):
    __slots__ = ("client_id", "auth_token", "version", "capabilities", "metadata", "instance_id", "resumable", "resume")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    RESUMABLE_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    auth_token: str
    version: str
    capabilities: StringList
    metadata: str
    instance_id: str
    resumable: bool
    resume: Resume
    def __init__(self, client_id: _Optional[str] = ..., auth_token: _Optional[str] = ..., version: _Optional[str] = ..., capabilities: _Optional[_Union[StringList, _Mapping]] = ..., metadata: _Optional[str] = ..., instance_id: _Optional[str] = ..., resumable: _Optional[bool] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ...) -> None: ...

class ConnectAck(_message.Message):
    __slots__ = ("status", "session_id", "server_version", "heartbeat_interval", "heartbeat_timeout", "capabilities", "resume_token", "resume_window", "resumed", "received", "token_expires_at", "token_expiry")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RESUME_WINDOW_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_EXPIRY_FIELD_NUMBER: _ClassVar[int]
    status: str
    session_id: str
    server_version: str
    heartbeat_interval: float
    heartbeat_timeout: float
    capabilities: StringList
    resume_token: str
    resume_window: float
    resumed: bool
    received: int
    token_expires_at: int
    token_expiry: str
    def __init__(self, status: _Optional[str] = ..., session_id: _Optional[str] = ..., server_version: _Optional[str] = ..., heartbeat_interval: _Optional[float] = ..., heartbeat_timeout: _Optional[float] = ..., capabilities: _Optional[_Union[StringList, _Mapping]] = ..., resume_token: _Optional[str] = ..., resume_window: _Optional[float] = ..., resumed: _Optional[bool] = ..., received: _Optional[int] = ..., token_expires_at: _Optional[int] = ..., token_expiry: _Optional[str] = ...) -> None: ...

class Disconnect(_message.Message):
    __slots__ = ("client_id", "reason")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    reason: str
    def __init__(self, client_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("timestamp", "received")
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    timestamp: int
    received: int
    def __init__(self, timestamp: _Optional[int] = ..., received: _Optional[int] = ...) -> None: ...

class HeartbeatAck(_message.Message):
    __slots__ = ("timestamp", "server_time", "received")
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    timestamp: int
    server_time: int
    received: int
    def __init__(self, timestamp: _Optional[int] = ..., server_time: _Optional[int] = ..., received: _Optional[int] = ...) -> None: ...

class GoAway(_message.Message):
    __slots__ = ("reason", "reconnect_after")
    REASON_FIELD_NUMBER: _ClassVar[int]
    RECONNECT_AFTER_FIELD_NUMBER: _ClassVar[int]
    reason: str
    reconnect_after: int
    def __init__(self, reason: _Optional[str] = ..., reconnect_after: _Optional[int] = ...) -> None: ...

class TokenRenew(_message.Message):
    __slots__ = ("auth_token",)
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    auth_token: str
    def __init__(self, auth_token: _Optional[str] = ...) -> None: ...

class TokenRenewAck(_message.Message):
    __slots__ = ("status", "expires_at")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    status: int
    expires_at: int
    def __init__(self, status: _Optional[int] = ..., expires_at: _Optional[int] = ...) -> None: ...

class SignalOffer(_message.Message):
    __slots__ = ("target_client_id", "sender_client_id", "signal_bytes", "signal_json", "ack")
    TARGET_CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SENDER_CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_JSON_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    target_client_id: str
    sender_client_id: str
    signal_bytes: bytes
    signal_json: str
    ack: bool
    def __init__(self, target_client_id: _Optional[str] = ..., sender_client_id: _Optional[str] = ..., signal_bytes: _Optional[bytes] = ..., signal_json: _Optional[str] = ..., ack: _Optional[bool] = ...) -> None: ...

class SignalAnswer(_message.Message):
    __slots__ = ("target_client_id", "sender_client_id", "signal_bytes", "signal_json", "ack")
    TARGET_CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SENDER_CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_JSON_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    target_client_id: str
    sender_client_id: str
    signal_bytes: bytes
    signal_json: str
    ack: bool
    def __init__(self, target_client_id: _Optional[str] = ..., sender_client_id: _Optional[str] = ..., signal_bytes: _Optional[bytes] = ..., signal_json: _Optional[str] = ..., ack: _Optional[bool] = ...) -> None: ...

class SignalIceCandidate(_message.Message):
    __slots__ = ("target_client_id", "sender_client_id", "signal_bytes", "signal_json", "ack")
    TARGET_CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SENDER_CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_JSON_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    target_client_id: str
    sender_client_id: str
    signal_bytes: bytes
    signal_json: str
    ack: bool
    def __init__(self, target_client_id: _Optional[str] = ..., sender_client_id: _Optional[str] = ..., signal_bytes: _Optional[bytes] = ..., signal_json: _Optional[str] = ..., ack: _Optional[bool] = ...) -> None: ...

class SignalMessage(_message.Message):
    __slots__ = ("target_client_id", "sender_client_id", "signal_bytes", "signal_json", "ack", "room_id")
    TARGET_CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SENDER_CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_JSON_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    target_client_id: str
    sender_client_id: str
    signal_bytes: bytes
    signal_json: str
    ack: bool
    room_id: str
    def __init__(self, target_client_id: _Optional[str] = ..., sender_client_id: _Optional[str] = ..., signal_bytes: _Optional[bytes] = ..., signal_json: _Optional[str] = ..., ack: _Optional[bool] = ..., room_id: _Optional[str] = ...) -> None: ...

class SignalAck(_message.Message):
    __slots__ = ("status", "target_client_id")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TARGET_CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    status: str
    target_client_id: str
    def __init__(self, status: _Optional[str] = ..., target_client_id: _Optional[str] = ...) -> None: ...

class Register(_message.Message):
    __slots__ = ("version", "client_id", "auth_token", "room_id", "capabilities", "metadata")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    version: str
    client_id: str
    auth_token: str
    room_id: str
    capabilities: StringList
    metadata: str
    def __init__(self, version: _Optional[str] = ..., client_id: _Optional[str] = ..., auth_token: _Optional[str] = ..., room_id: _Optional[str] = ..., capabilities: _Optional[_Union[StringList, _Mapping]] = ..., metadata: _Optional[str] = ...) -> None: ...

class RegisterAck(_message.Message):
    __slots__ = ("version", "status", "message", "client_id", "session_id")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    version: str
    status: int
    message: str
    client_id: str
    session_id: str
    def __init__(self, version: _Optional[str] = ..., status: _Optional[int] = ..., message: _Optional[str] = ..., client_id: _Optional[str] = ..., session_id: _Optional[str] = ...) -> None: ...

class Unregister(_message.Message):
    __slots__ = ("version", "client_id", "auth_token")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    version: str
    client_id: str
    auth_token: str
    def __init__(self, version: _Optional[str] = ..., client_id: _Optional[str] = ..., auth_token: _Optional[str] = ...) -> None: ...

class UnregisterAck(_message.Message):
    __slots__ = ("version", "status", "message", "client_id")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    version: str
    status: int
    message: str
    client_id: str
    def __init__(self, version: _Optional[str] = ..., status: _Optional[int] = ..., message: _Optional[str] = ..., client_id: _Optional[str] = ...) -> None: ...

class RoomCreate(_message.Message):
    __slots__ = ("version", "client_id", "auth_token", "role", "offer_sdp", "tracks", "metadata", "room_id", "max_participants")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    OFFER_SDP_FIELD_NUMBER: _ClassVar[int]
    TRACKS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_PARTICIPANTS_FIELD_NUMBER: _ClassVar[int]
    version: str
    client_id: str
    auth_token: str
    role: str
    offer_sdp: str
    tracks: PublishedTrackList
    metadata: str
    room_id: str
    max_participants: int
    def __init__(self, version: _Optional[str] = ..., client_id: _Optional[str] = ..., auth_token: _Optional[str] = ..., role: _Optional[str] = ..., offer_sdp: _Optional[str] = ..., tracks: _Optional[_Union[PublishedTrackList, _Mapping]] = ..., metadata: _Optional[str] = ..., room_id: _Optional[str] = ..., max_participants: _Optional[int] = ...) -> None: ...

class RoomCreateAck(_message.Message):
    __slots__ = ("version", "status", "message", "room_id", "session_id", "app_id", "stun_url", "ice_servers", "connection_info", "answer_sdp", "offer_sdp", "requires_renegotiation", "participants", "tracks", "sequence")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    STUN_URL_FIELD_NUMBER: _ClassVar[int]
    ICE_SERVERS_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_INFO_FIELD_NUMBER: _ClassVar[int]
    ANSWER_SDP_FIELD_NUMBER: _ClassVar[int]
    OFFER_SDP_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_RENEGOTIATION_FIELD_NUMBER: _ClassVar[int]
    PARTICIPANTS_FIELD_NUMBER: _ClassVar[int]
    TRACKS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    version: str
    status: int
    message: str
    room_id: str
    session_id: str
    app_id: str
    stun_url: str
    ice_servers: IceServerList
    connection_info: ConnectionInfo
    answer_sdp: str
    offer_sdp: str
    requires_renegotiation: bool
    participants: MemberList
    tracks: TrackResultList
    sequence: int
    def __init__(self, version: _Optional[str] = ..., status: _Optional[int] = ..., message: _Optional[str] = ..., room_id: _Optional[str] = ..., session_id: _Optional[str] = ..., app_id: _Optional[str] = ..., stun_url: _Optional[str] = ..., ice_servers: _Optional[_Union[IceServerList, _Mapping]] = ..., connection_info: _Optional[_Union[ConnectionInfo, _Mapping]] = ..., answer_sdp: _Optional[str] = ..., offer_sdp: _Optional[str] = ..., requires_renegotiation: _Optional[bool] = ..., participants: _Optional[_Union[MemberList, _Mapping]] = ..., tracks: _Optional[_Union[TrackResultList, _Mapping]] = ..., sequence: _Optional[int] = ...) -> None: ...

class RoomJoin(_message.Message):
    __slots__ = ("version", "client_id", "auth_token", "role", "offer_sdp", "tracks", "metadata", "room_id", "create_if_missing", "max_participants")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    OFFER_SDP_FIELD_NUMBER: _ClassVar[int]
    TRACKS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    CREATE_IF_MISSING_FIELD_NUMBER: _ClassVar[int]
    MAX_PARTICIPANTS_FIELD_NUMBER: _ClassVar[int]
    version: str
    client_id: str
    auth_token: str
    role: str
    offer_sdp: str
    tracks: PublishedTrackList
    metadata: str
    room_id: str
    create_if_missing: bool
    max_participants: int
    def __init__(self, version: _Optional[str] = ..., client_id: _Optional[str] = ..., auth_token: _Optional[str] = ..., role: _Optional[str] = ..., offer_sdp: _Optional[str] = ..., tracks: _Optional[_Union[PublishedTrackList, _Mapping]] = ..., metadata: _Optional[str] = ..., room_id: _Optional[str] = ..., create_if_missing: _Optional[bool] = ..., max_participants: _Optional[int] = ...) -> None: ...

class RoomJoinAck(_message.Message):
    __slots__ = ("version", "status", "message", "room_id", "session_id", "app_id", "stun_url", "ice_servers", "connection_info", "answer_sdp", "offer_sdp", "requires_renegotiation", "participants", "tracks", "sequence", "created")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    STUN_URL_FIELD_NUMBER: _ClassVar[int]
    ICE_SERVERS_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_INFO_FIELD_NUMBER: _ClassVar[int]
    ANSWER_SDP_FIELD_NUMBER: _ClassVar[int]
    OFFER_SDP_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_RENEGOTIATION_FIELD_NUMBER: _ClassVar[int]
    PARTICIPANTS_FIELD_NUMBER: _ClassVar[int]
    TRACKS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    version: str
    status: int
    message: str
    room_id: str
    session_id: str
    app_id: str
    stun_url: str
    ice_servers: IceServerList
    connection_info: ConnectionInfo
    answer_sdp: str
    offer_sdp: str
    requires_renegotiation: bool
    participants: MemberList
    tracks: TrackResultList
    sequence: int
    created: bool
    def __init__(self, version: _Optional[str] = ..., status: _Optional[int] = ..., message: _Optional[str] = ..., room_id: _Optional[str] = ..., session_id: _Optional[str] = ..., app_id: _Optional[str] = ..., stun_url: _Optional[str] = ..., ice_servers: _Optional[_Union[IceServerList, _Mapping]] = ..., connection_info: _Optional[_Union[ConnectionInfo, _Mapping]] = ..., answer_sdp: _Optional[str] = ..., offer_sdp: _Optional[str] = ..., requires_renegotiation: _Optional[bool] = ..., participants: _Optional[_Union[MemberList, _Mapping]] = ..., tracks: _Optional[_Union[TrackResultList, _Mapping]] = ..., sequence: _Optional[int] = ..., created: _Optional[bool] = ...) -> None: ...

class RoomLeave(_message.Message):
    __slots__ = ("version", "client_id", "auth_token", "room_id", "reason")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    version: str
    client_id: str
    auth_token: str
    room_id: str
    reason: str
    def __init__(self, version: _Optional[str] = ..., client_id: _Optional[str] = ..., auth_token: _Optional[str] = ..., room_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RoomLeaveAck(_message.Message):
    __slots__ = ("version", "status", "message", "room_id", "client_id")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    version: str
    status: int
    message: str
    room_id: str
    client_id: str
    def __init__(self, version: _Optional[str] = ..., status: _Optional[int] = ..., message: _Optional[str] = ..., room_id: _Optional[str] = ..., client_id: _Optional[str] = ...) -> None: ...

class RoomEvent(_message.Message):
    __slots__ = ("room_id", "sequence", "event", "participant", "tracks", "reason", "metadata")
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    PARTICIPANT_FIELD_NUMBER: _ClassVar[int]
    TRACKS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    room_id: str
    sequence: int
    event: str
    participant: Member
    tracks: PublishedTrackList
    reason: str
    metadata: str
    def __init__(self, room_id: _Optional[str] = ..., sequence: _Optional[int] = ..., event: _Optional[str] = ..., participant: _Optional[_Union[Member, _Mapping]] = ..., tracks: _Optional[_Union[PublishedTrackList, _Mapping]] = ..., reason: _Optional[str] = ..., metadata: _Optional[str] = ...) -> None: ...

class RoomState(_message.Message):
    __slots__ = ("version", "client_id", "auth_token", "room_id")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    version: str
    client_id: str
    auth_token: str
    room_id: str
    def __init__(self, version: _Optional[str] = ..., client_id: _Optional[str] = ..., auth_token: _Optional[str] = ..., room_id: _Optional[str] = ...) -> None: ...

class RoomStateAck(_message.Message):
    __slots__ = ("room_id", "sequence", "participants", "metadata", "max_participants", "created_at")
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PARTICIPANTS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    MAX_PARTICIPANTS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    room_id: str
    sequence: int
    participants: MemberList
    metadata: str
    max_participants: int
    created_at: int
    def __init__(self, room_id: _Optional[str] = ..., sequence: _Optional[int] = ..., participants: _Optional[_Union[MemberList, _Mapping]] = ..., metadata: _Optional[str] = ..., max_participants: _Optional[int] = ..., created_at: _Optional[int] = ...) -> None: ...

class MetadataUpdate(_message.Message):
    __slots__ = ("version", "client_id", "auth_token", "room_id", "metadata", "scope")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    version: str
    client_id: str
    auth_token: str
    room_id: str
    metadata: str
    scope: str
    def __init__(self, version: _Optional[str] = ..., client_id: _Optional[str] = ..., auth_token: _Optional[str] = ..., room_id: _Optional[str] = ..., metadata: _Optional[str] = ..., scope: _Optional[str] = ...) -> None: ...

class MetadataUpdateAck(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    def __init__(self, sequence: _Optional[int] = ...) -> None: ...

class TracksNew(_message.Message):
    __slots__ = ("version", "client_id", "auth_token", "room_id", "tracks", "offer_sdp")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    TRACKS_FIELD_NUMBER: _ClassVar[int]
    OFFER_SDP_FIELD_NUMBER: _ClassVar[int]
    version: str
    client_id: str
    auth_token: str
    room_id: str
    tracks: TrackRequestList
    offer_sdp: str
    def __init__(self, version: _Optional[str] = ..., client_id: _Optional[str] = ..., auth_token: _Optional[str] = ..., room_id: _Optional[str] = ..., tracks: _Optional[_Union[TrackRequestList, _Mapping]] = ..., offer_sdp: _Optional[str] = ...) -> None: ...

class TracksNewAck(_message.Message):
    __slots__ = ("tracks", "answer_sdp", "offer_sdp", "requires_renegotiation")
    TRACKS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_SDP_FIELD_NUMBER: _ClassVar[int]
    OFFER_SDP_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_RENEGOTIATION_FIELD_NUMBER: _ClassVar[int]
    tracks: TrackResultList
    answer_sdp: str
    offer_sdp: str
    requires_renegotiation: bool
    def __init__(self, tracks: _Optional[_Union[TrackResultList, _Mapping]] = ..., answer_sdp: _Optional[str] = ..., offer_sdp: _Optional[str] = ..., requires_renegotiation: _Optional[bool] = ...) -> None: ...

class Renegotiate(_message.Message):
    __slots__ = ("version", "client_id", "auth_token", "room_id", "answer_sdp", "offer_sdp", "tracks")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    ANSWER_SDP_FIELD_NUMBER: _ClassVar[int]
    OFFER_SDP_FIELD_NUMBER: _ClassVar[int]
    TRACKS_FIELD_NUMBER: _ClassVar[int]
    version: str
    client_id: str
    auth_token: str
    room_id: str
    answer_sdp: str
    offer_sdp: str
    tracks: PublishedTrackList
    def __init__(self, version: _Optional[str] = ..., client_id: _Optional[str] = ..., auth_token: _Optional[str] = ..., room_id: _Optional[str] = ..., answer_sdp: _Optional[str] = ..., offer_sdp: _Optional[str] = ..., tracks: _Optional[_Union[PublishedTrackList, _Mapping]] = ...) -> None: ...

class RenegotiateAck(_message.Message):
    __slots__ = ("status", "session_id", "answer_sdp", "tracks")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ANSWER_SDP_FIELD_NUMBER: _ClassVar[int]
    TRACKS_FIELD_NUMBER: _ClassVar[int]
    status: int
    session_id: str
    answer_sdp: str
    tracks: TrackResultList
    def __init__(self, status: _Optional[int] = ..., session_id: _Optional[str] = ..., answer_sdp: _Optional[str] = ..., tracks: _Optional[_Union[TrackResultList, _Mapping]] = ...) -> None: ...

class TracksClose(_message.Message):
    __slots__ = ("version", "client_id", "auth_token", "room_id", "tracks", "offer_sdp", "reason")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    TRACKS_FIELD_NUMBER: _ClassVar[int]
    OFFER_SDP_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    version: str
    client_id: str
    auth_token: str
    room_id: str
    tracks: TrackMidList
    offer_sdp: str
    reason: str
    def __init__(self, version: _Optional[str] = ..., client_id: _Optional[str] = ..., auth_token: _Optional[str] = ..., room_id: _Optional[str] = ..., tracks: _Optional[_Union[TrackMidList, _Mapping]] = ..., offer_sdp: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class TracksCloseAck(_message.Message):
    __slots__ = ("tracks", "answer_sdp")
    TRACKS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_SDP_FIELD_NUMBER: _ClassVar[int]
    tracks: TrackResultList
    answer_sdp: str
    def __init__(self, tracks: _Optional[_Union[TrackResultList, _Mapping]] = ..., answer_sdp: _Optional[str] = ...) -> None: ...

class TracksUpdate(_message.Message):
    __slots__ = ("version", "client_id", "auth_token", "room_id", "tracks")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    TRACKS_FIELD_NUMBER: _ClassVar[int]
    version: str
    client_id: str
    auth_token: str
    room_id: str
    tracks: TrackUpdateList
    def __init__(self, version: _Optional[str] = ..., client_id: _Optional[str] = ..., auth_token: _Optional[str] = ..., room_id: _Optional[str] = ..., tracks: _Optional[_Union[TrackUpdateList, _Mapping]] = ...) -> None: ...

class TracksUpdateAck(_message.Message):
    __slots__ = ("tracks",)
    TRACKS_FIELD_NUMBER: _ClassVar[int]
    tracks: TrackResultList
    def __init__(self, tracks: _Optional[_Union[TrackResultList, _Mapping]] = ...) -> None: ...

class DataChannelsNew(_message.Message):
    __slots__ = ("version", "client_id", "auth_token", "room_id", "data_channels", "offer_sdp")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    OFFER_SDP_FIELD_NUMBER: _ClassVar[int]
    version: str
    client_id: str
    auth_token: str
    room_id: str
    data_channels: DataChannelRequestList
    offer_sdp: str
    def __init__(self, version: _Optional[str] = ..., client_id: _Optional[str] = ..., auth_token: _Optional[str] = ..., room_id: _Optional[str] = ..., data_channels: _Optional[_Union[DataChannelRequestList, _Mapping]] = ..., offer_sdp: _Optional[str] = ...) -> None: ...

class DataChannelsNewAck(_message.Message):
    __slots__ = ("data_channels", "answer_sdp", "offer_sdp", "requires_renegotiation")
    DATA_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_SDP_FIELD_NUMBER: _ClassVar[int]
    OFFER_SDP_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_RENEGOTIATION_FIELD_NUMBER: _ClassVar[int]
    data_channels: DataChannelResultList
    answer_sdp: str
    offer_sdp: str
    requires_renegotiation: bool
    def __init__(self, data_channels: _Optional[_Union[DataChannelResultList, _Mapping]] = ..., answer_sdp: _Optional[str] = ..., offer_sdp: _Optional[str] = ..., requires_renegotiation: _Optional[bool] = ...) -> None: ...

class IceServers(_message.Message):
    __slots__ = ("version", "client_id", "auth_token")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    version: str
    client_id: str
    auth_token: str
    def __init__(self, version: _Optional[str] = ..., client_id: _Optional[str] = ..., auth_token: _Optional[str] = ...) -> None: ...

class IceServersAck(_message.Message):
    __slots__ = ("ice_servers", "expires_at")
    ICE_SERVERS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    ice_servers: IceServerList
    expires_at: int
    def __init__(self, ice_servers: _Optional[_Union[IceServerList, _Mapping]] = ..., expires_at: _Optional[int] = ...) -> None: ...

class TracksMute(_message.Message):
    __slots__ = ("version", "client_id", "auth_token", "room_id", "tracks")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ROOM_ID_FIELD_NUMBER: _ClassVar[int]
    TRACKS_FIELD_NUMBER: _ClassVar[int]
    version: str
    client_id: str
    auth_token: str
    room_id: str
    tracks: TrackMuteList
    def __init__(self, version: _Optional[str] = ..., client_id: _Optional[str] = ..., auth_token: _Optional[str] = ..., room_id: _Optional[str] = ..., tracks: _Optional[_Union[TrackMuteList, _Mapping]] = ...) -> None: ...

class TracksMuteAck(_message.Message):
    __slots__ = ("tracks",)
    TRACKS_FIELD_NUMBER: _ClassVar[int]
    tracks: TrackResultList
    def __init__(self, tracks: _Optional[_Union[TrackResultList, _Mapping]] = ...) -> None: ...

class ErrorMessage(_message.Message):
    __slots__ = ("error_code", "error_message", "details", "retryable")
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    error_code: int
    error_message: str
    details: str
    retryable: bool
    def __init__(self, error_code: _Optional[int] = ..., error_message: _Optional[str] = ..., details: _Optional[str] = ..., retryable: _Optional[bool] = ...) -> None: ...
