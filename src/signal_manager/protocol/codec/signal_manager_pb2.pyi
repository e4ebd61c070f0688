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
    __slots__ = ("status", "session_id", "server_version", "heartbeat_interval", "heartbeat_timeout", "capabilities", "resume_token", "resume_window", "resumed", "received")
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
    def __init__(self, status: _Optional[str] = ..., session_id: _Optional[str] = ..., server_version: _Optional[str] = ..., heartbeat_interval: _Optional[float] = ..., heartbeat_timeout: _Optional[float] = ..., capabilities: _Optional[_Union[StringList, _Mapping]] = ..., resume_token: _Optional[str] = ..., resume_window: _Optional[float] = ..., resumed: _Optional[bool] = ..., received: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("timestamp", "server_time")
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_FIELD_NUMBER: _ClassVar[int]
    timestamp: int
    server_time: int
    def __init__(self, timestamp: _Optional[int] = ..., server_time: _Optional[int] = ...) -> None: ...

class GoAway(_message.Message):
    __slots__ = ("reason", "reconnect_after")
    REASON_FIELD_NUMBER: _ClassVar[int]
    RECONNECT_AFTER_FIELD_NUMBER: _ClassVar[int]
    reason: str
    reconnect_after: int
    def __init__(self, reason: _Optional[str] = ..., reconnect_after: _Optional[int] = ...) -> None: ...

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
