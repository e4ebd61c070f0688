"""The life of one connection as a pure state machine: messages and time go in, actions come out.

The codec decodes a message before it comes here. `gateway/conversation.py` performs the actions, and
`gateway/dispatcher.py` finds the handler of a request. The rules are those of docs/protocol.md, "Conversation" and
"Errors and close codes".
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import NamedTuple

import msgspec

from signal_manager.errors import (
    TOKEN_EXPIRED,
    AuthenticationError,
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    MalformedMessageError,
    RateLimitedError,
    SignalManagerError,
)
from signal_manager.model import ClientId, Identity, SessionId
from signal_manager.protocol.catalogue import SPECS, Handling, spec_of
from signal_manager.protocol.close_codes import CloseCode
from signal_manager.protocol.messages import (
    PROTOCOL_VERSION,
    Connect,
    ConnectAck,
    ErrorMessage,
    GoAway,
    Heartbeat,
    HeartbeatAck,
    Message,
    MessageType,
    PayloadType,
    Shape,
    Signal,
    TokenExpiry,
    TokenRenewAck,
)

__all__ = [
    "MALFORMED_LIMIT",
    "MALFORMED_WINDOW",
    "PINGED_AFTER",
    "TRANSITIONS",
    "Absent",
    "Action",
    "Authenticate",
    "Close",
    "Confirm",
    "ConnectionStateMachine",
    "Dispatch",
    "Input",
    "Ping",
    "Reaction",
    "Received",
    "Relay",
    "ResumeTerms",
    "Send",
    "SessionSettings",
    "State",
    "check_version",
    "error_code_for",
]

# A client that sends this many malformed messages in this many seconds is closed with 4400 (docs/protocol.md, "Errors
# and close codes").
MALFORMED_LIMIT = 20
MALFORMED_WINDOW = 60.0

# The part of `away_after` after which the service pings a silent client in a room.
PINGED_AFTER = 0.5

# Error codes of authentication failures and malformed messages for tagged clients (docs/protocol.md, "Payload types").
_TAGGED_AUTHENTICATION_FAILED = 1
_TAGGED_MALFORMED = 2

# Payload types of the original service's clients beside tagged JSON (docs/protocol.md, "Payload types").
_ORIGINAL_LAYOUTS = frozenset({PayloadType.BINARY, PayloadType.TEXT})

_OUR_MAJOR = int(PROTOCOL_VERSION.split(".", maxsplit=1)[0])
# More digits than any version has, and few enough that int() stays cheap.
_VERSION_DIGITS = 9


class State(StrEnum):
    """The states of a connection."""

    AWAITING_CONNECT = "awaiting connect"
    AUTHENTICATING = "authenticating"
    ESTABLISHED = "established"
    CLOSING = "closing"
    CLOSED = "closed"


class Input(StrEnum):
    """The events in a connection's life."""

    CONNECT = "CONNECT"
    REQUEST = "request"
    SIGNAL = "SIGNAL_*"
    HEARTBEAT = "HEARTBEAT"
    HEARTBEAT_ACK = "HEARTBEAT_ACK"
    DISCONNECT = "DISCONNECT"
    UNEXPECTED = "type only the service sends"
    MALFORMED = "malformed message"
    INCORRIGIBLE = "too many malformed messages"
    ACCEPTED = "credentials accepted"
    REFUSED = "credentials refused"
    LIMITED = "message beyond the rate"
    INSISTENT = "beyond the rate for too long"
    BEHIND = "outbound queue full"
    BROKEN = "WebSocket rules broken"
    SILENT = "deadline passed"
    REPLACED = "replaced"
    EVICTED = "disconnected by an operator"
    NO_ROOM = "service is full"
    DRAINING = "service is about to stop"
    STOPPED = "service stops"
    RENEWED = "token renewed"
    OUTLIVED = "token has ended"
    LOST = "connection lost"


class Reaction(StrEnum):
    """What the state machine does about an input."""

    IGNORE = "ignore"
    AUTHENTICATE = "authenticate"
    WELCOME = "welcome"
    REFUSE = "refuse"
    NOT_CONNECTED = "error 401"
    ALREADY_CONNECTED = "error 400"
    COMPLAIN = "complain"
    SLOW_DOWN = "error 429"
    DISPATCH = "dispatch"
    RELAY = "relay"
    ECHO = "echo"
    GRANT = "grant"
    GOOD_BYE = "close 1000"
    CALL_BACK = "close 4402"
    TIME_OUT = "close 4408"
    YIELD = "close 4408 or 4409"
    EVICT = "close 4403"
    GIVE_UP = "close 4400"
    SHED = "close 4413"
    BREAK_OFF = "close 1002, 1007, 1009 or 1011"
    SHUT_OUT = "close 4429"
    TURN_AWAY = "close 4503"
    GO_AWAY = "GOAWAY"
    STOP = "close 1012"
    END = "end"


class _Move(NamedTuple):
    state: State
    reaction: Reaction


def _stay(state: State, reactions: dict[Input, Reaction]) -> dict[tuple[State, Input], _Move]:
    return {(state, event): _Move(state, reaction) for event, reaction in reactions.items()}


# All legal moves: `ConnectionStateMachine.state` changes in no other way. docs/transitions.py draws the picture in
# docs/architecture.md from this table. `resume.py` has the table of sessions, which may outlive a connection.
TRANSITIONS: dict[tuple[State, Input], _Move] = {
    **_stay(
        State.AWAITING_CONNECT,
        {
            Input.REQUEST: Reaction.NOT_CONNECTED,
            Input.SIGNAL: Reaction.NOT_CONNECTED,
            Input.HEARTBEAT: Reaction.NOT_CONNECTED,
            Input.HEARTBEAT_ACK: Reaction.NOT_CONNECTED,
            Input.UNEXPECTED: Reaction.NOT_CONNECTED,
            Input.MALFORMED: Reaction.COMPLAIN,
            Input.LIMITED: Reaction.SLOW_DOWN,
        },
    ),
    (State.AWAITING_CONNECT, Input.CONNECT): _Move(State.AUTHENTICATING, Reaction.AUTHENTICATE),
    (State.AWAITING_CONNECT, Input.DISCONNECT): _Move(State.CLOSING, Reaction.GOOD_BYE),
    (State.AWAITING_CONNECT, Input.INCORRIGIBLE): _Move(State.CLOSING, Reaction.GIVE_UP),
    (State.AWAITING_CONNECT, Input.INSISTENT): _Move(State.CLOSING, Reaction.SHUT_OUT),
    (State.AWAITING_CONNECT, Input.BEHIND): _Move(State.CLOSING, Reaction.SHED),
    (State.AWAITING_CONNECT, Input.BROKEN): _Move(State.CLOSING, Reaction.BREAK_OFF),
    (State.AWAITING_CONNECT, Input.SILENT): _Move(State.CLOSING, Reaction.TIME_OUT),
    (State.AWAITING_CONNECT, Input.NO_ROOM): _Move(State.CLOSING, Reaction.TURN_AWAY),
    (State.AWAITING_CONNECT, Input.DRAINING): _Move(State.CLOSING, Reaction.STOP),
    (State.AWAITING_CONNECT, Input.STOPPED): _Move(State.CLOSING, Reaction.STOP),
    (State.AWAITING_CONNECT, Input.LOST): _Move(State.CLOSED, Reaction.END),
    # Between CONNECT and its answer the connection holds further messages back, so none of them arrives here. Messages
    # beyond the rate are refused before that.
    **_stay(State.AUTHENTICATING, {Input.LIMITED: Reaction.SLOW_DOWN}),
    (State.AUTHENTICATING, Input.ACCEPTED): _Move(State.ESTABLISHED, Reaction.WELCOME),
    (State.AUTHENTICATING, Input.REFUSED): _Move(State.CLOSING, Reaction.REFUSE),
    (State.AUTHENTICATING, Input.INSISTENT): _Move(State.CLOSING, Reaction.SHUT_OUT),
    (State.AUTHENTICATING, Input.BEHIND): _Move(State.CLOSING, Reaction.SHED),
    (State.AUTHENTICATING, Input.BROKEN): _Move(State.CLOSING, Reaction.BREAK_OFF),
    (State.AUTHENTICATING, Input.SILENT): _Move(State.CLOSING, Reaction.TIME_OUT),
    (State.AUTHENTICATING, Input.NO_ROOM): _Move(State.CLOSING, Reaction.TURN_AWAY),
    (State.AUTHENTICATING, Input.DRAINING): _Move(State.CLOSING, Reaction.STOP),
    (State.AUTHENTICATING, Input.STOPPED): _Move(State.CLOSING, Reaction.STOP),
    (State.AUTHENTICATING, Input.LOST): _Move(State.CLOSED, Reaction.END),
    **_stay(
        State.ESTABLISHED,
        {
            Input.CONNECT: Reaction.ALREADY_CONNECTED,
            Input.REQUEST: Reaction.DISPATCH,
            Input.SIGNAL: Reaction.RELAY,
            Input.HEARTBEAT: Reaction.ECHO,
            Input.HEARTBEAT_ACK: Reaction.IGNORE,
            Input.UNEXPECTED: Reaction.ALREADY_CONNECTED,
            Input.MALFORMED: Reaction.COMPLAIN,
            Input.LIMITED: Reaction.SLOW_DOWN,
            Input.DRAINING: Reaction.GO_AWAY,
            Input.RENEWED: Reaction.GRANT,
        },
    ),
    # Only if `token_expiry` is "close". If it is "continue", `_check_token` refuses single requests.
    (State.ESTABLISHED, Input.OUTLIVED): _Move(State.CLOSING, Reaction.CALL_BACK),
    (State.ESTABLISHED, Input.DISCONNECT): _Move(State.CLOSING, Reaction.GOOD_BYE),
    (State.ESTABLISHED, Input.INCORRIGIBLE): _Move(State.CLOSING, Reaction.GIVE_UP),
    (State.ESTABLISHED, Input.INSISTENT): _Move(State.CLOSING, Reaction.SHUT_OUT),
    (State.ESTABLISHED, Input.BEHIND): _Move(State.CLOSING, Reaction.SHED),
    (State.ESTABLISHED, Input.BROKEN): _Move(State.CLOSING, Reaction.BREAK_OFF),
    (State.ESTABLISHED, Input.SILENT): _Move(State.CLOSING, Reaction.TIME_OUT),
    (State.ESTABLISHED, Input.REPLACED): _Move(State.CLOSING, Reaction.YIELD),
    (State.ESTABLISHED, Input.EVICTED): _Move(State.CLOSING, Reaction.EVICT),
    (State.ESTABLISHED, Input.STOPPED): _Move(State.CLOSING, Reaction.STOP),
    (State.ESTABLISHED, Input.LOST): _Move(State.CLOSED, Reaction.END),
    # A close frame is on its way. What the client sent before it read that frame no longer counts.
    **_stay(State.CLOSING, dict.fromkeys(Input, Reaction.IGNORE)),
    (State.CLOSING, Input.LOST): _Move(State.CLOSED, Reaction.END),
    **_stay(State.CLOSED, dict.fromkeys(Input, Reaction.IGNORE)),
}

_INPUT_OF: dict[Handling, Input] = {
    Handling.CONNECT: Input.CONNECT,
    Handling.DISCONNECT: Input.DISCONNECT,
    Handling.HEARTBEAT: Input.HEARTBEAT,
    Handling.HEARTBEAT_ACK: Input.HEARTBEAT_ACK,
    Handling.REQUEST: Input.REQUEST,
    Handling.SIGNAL: Input.SIGNAL,
    Handling.REFUSE: Input.UNEXPECTED,
}
_INPUTS: dict[MessageType, Input] = {spec.message_type: _INPUT_OF[spec.handling] for spec in SPECS.values()}

_NOT_CONNECTED = "not connected: send CONNECT first"


class Received(msgspec.Struct, frozen=True, gc=False):
    """A received message, with the id, payload type and shape that its reply must match."""

    message: Message
    message_id: bytes
    payload_type: PayloadType
    shape: Shape


class Send(msgspec.Struct, frozen=True, gc=False):
    """Send `message`. A `message_id` of None stands for a fresh id: the message is no reply."""

    message: Message
    message_id: bytes | None
    payload_type: PayloadType
    shape: Shape


class Authenticate(msgspec.Struct, frozen=True, gc=False):
    """Check the credentials of CONNECT, then call `accepted` or `refused`."""

    connect: Connect


class Dispatch(msgspec.Struct, frozen=True, gc=False):
    """Let the dispatcher answer this request."""

    request: Received


class Relay(msgspec.Struct, frozen=True, gc=False):
    """Relay this signal to its target."""

    signal: Received


class Ping(msgspec.Struct, frozen=True, gc=False):
    """Send a WebSocket ping, which a live client answers with a pong."""


class Absent(msgspec.Struct, frozen=True, gc=False):
    """Tell the members of the client's room that the client has fallen silent (`is_away`) or is back."""

    is_away: bool


class Close(msgspec.Struct, frozen=True, gc=False):
    """Close the connection."""

    code: CloseCode
    reason: str


class Confirm(msgspec.Struct, frozen=True, gc=False):
    """Confirm the session's messages that the client has received. A session that cannot be resumed ignores it."""

    received: int
    heartbeat: Received


Action = Send | Authenticate | Dispatch | Relay | Confirm | Ping | Absent | Close


class ResumeTerms(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of CONNECT_ACK for a session that outlives its connection; `window` is in seconds."""

    token: str
    window: float
    resumed: bool
    received: int


class SessionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that all sessions of a service share. Times are in seconds.

    `away_after` and `leave_after` are for a client in a room: after that much silence the other members see it as away,
    and as having left. A session outlives its token by `token_leeway`; `on_expiry` says what happens then.
    """

    connection_timeout: float = 10.0
    heartbeat_interval: float = 30.0
    heartbeat_timeout: float = 90.0
    away_after: float = 8.0
    leave_after: float = 28.0
    token_leeway: float = 60.0
    on_expiry: TokenExpiry = "continue"
    server_version: str = ""


def error_code_for(error: SignalManagerError, shape: Shape) -> int:
    """Return the wire code of `error` on a connection of this shape.

    A tagged client reads the code into an unsigned byte (docs/protocol.md, "Payload types").
    """
    if shape is Shape.PLAIN:
        return error.code
    if isinstance(error, AuthenticationError):
        return _TAGGED_AUTHENTICATION_FAILED
    if isinstance(error, MalformedMessageError):
        return _TAGGED_MALFORMED
    return error.code % 256


class ConnectionStateMachine:
    """Decides what one connection may do now, and what the service sends it.

    Every method for an input returns the actions to perform, in order. `now` is a monotonic time in seconds,
    `server_time` is milliseconds since the epoch.

    Large because it is the table with a method for each input, and all inputs read and change the same state.

    Args:
        names_protocol: whether the client has named a WebSocket subprotocol of the service. Clients of the original
            service name none, and read only replies in JSON of the tagged shape.
    """

    __slots__ = (
        "_connect",
        "_deadline_from",
        "_is_away",
        "_malformed",
        "_names_protocol",
        "_pinged_at",
        "_settings",
        "_speaks_original",
        "_token_ends",
        "identity",
        "is_in_room",
        "payload_type",
        "session_id",
        "shape",
        "state",
    )

    def __init__(
        self,
        settings: SessionSettings,
        *,
        now: float,
        payload_type: PayloadType = PayloadType.JSON,
        names_protocol: bool = True,
    ) -> None:
        self._settings = settings
        self._names_protocol = names_protocol
        self._speaks_original = False  # known once it has sent CONNECT
        self.state = State.AWAITING_CONNECT
        # The form of messages that are no reply. CONNECT decides it.
        self.payload_type = payload_type
        self.shape = Shape.PLAIN
        self.identity: Identity | None = None
        self.session_id: SessionId | None = None
        self._connect: Received | None = None  # the CONNECT that waits for its answer
        self._token_ends: float | None = None  # including the leeway
        self._deadline_from = now  # when the connection was opened, later when the client was last heard
        self._pinged_at = now
        self.is_in_room = False  # set by the owner; in a room, silence is noticed sooner
        self._is_away = False  # whether the other members were told that the client is away
        self._malformed: deque[float] | None = None  # times; made at the first one, because most clients send none

    @property
    def client_id(self) -> ClientId | None:
        """The client that has authenticated on this connection, or None."""
        return self.identity.client_id if self.identity is not None else None

    def receive(self, received: Received, *, now: float, server_time: int) -> list[Action]:
        """Handle a decoded message."""
        if self.state is State.AWAITING_CONNECT and isinstance(received.message, Connect):
            try:
                check_version(received.message.version)
            except InvalidRequestError as error:
                return [self.error(error, received)]
        message_type = spec_of(received.message).message_type
        reaction = self._advance(_INPUTS[message_type])
        match reaction:
            case Reaction.IGNORE:
                return []
            case Reaction.AUTHENTICATE:
                return self._authenticate(received)
            case Reaction.NOT_CONNECTED:
                return [self.error(AuthenticationError(_NOT_CONNECTED), received)]
            case Reaction.ALREADY_CONNECTED:
                return [self.error(InvalidRequestError(f"{message_type.name} is not allowed now"), received)]
            case Reaction.DISPATCH | Reaction.RELAY:
                return self._admit(received, reaction, now)
            case Reaction.ECHO:
                return self._echo(received, server_time)
            case Reaction.GOOD_BYE:
                return [Close(CloseCode.NORMAL, "asked for")]
        raise AssertionError(f"no such reaction to a message: {reaction}")  # pragma: no cover - the table's mistake

    def reads(self, message_type: MessageType) -> bool:
        """Tell whether to decode the payload of such a message now; pass the others to `unread`.

        Before a client has authenticated, the service decodes only the messages that authentication needs.
        """
        if self.state is State.AWAITING_CONNECT:
            return SPECS[message_type].is_read_before_connect
        return self.state is State.ESTABLISHED

    def unread(
        self, message_type: MessageType, *, message_id: bytes, payload_type: PayloadType, shape: Shape | None
    ) -> list[Action]:
        """Handle a message of which only the header was decoded; `shape` is as for `malformed`."""
        if self._advance(_INPUTS[message_type]) is Reaction.IGNORE:
            return []
        payload_type, shape = self._form_of_reply(payload_type, shape)
        return [Send(_error_message(AuthenticationError(_NOT_CONNECTED), shape), message_id, payload_type, shape)]

    def malformed(
        self, error: MalformedMessageError, *, payload_type: PayloadType, shape: Shape | None, now: float
    ) -> list[Action]:
        """Handle bytes that are no valid message. The ERROR carries their message id if it could be read.

        Args:
            shape: the shape of the payload, or None if it is unknown.
        """
        if self._advance(Input.MALFORMED) is Reaction.IGNORE:
            return []
        payload_type, shape = self._form_of_reply(payload_type, shape)
        actions: list[Action] = [Send(_error_message(error, shape), error.message_id, payload_type, shape)]
        if self._malformed is None:
            self._malformed = deque(maxlen=MALFORMED_LIMIT)
        self._malformed.append(now)
        if len(self._malformed) == MALFORMED_LIMIT and now - self._malformed[0] < MALFORMED_WINDOW:
            self._advance(Input.INCORRIGIBLE)
            actions.append(Close(CloseCode.MALFORMED, "too many malformed messages"))
        return actions

    def limited(self, error: RateLimitedError, *, message_id: bytes | None, payload_type: PayloadType) -> list[Action]:
        """Handle a message beyond the rate, which was dropped unread."""
        if self._advance(Input.LIMITED) is Reaction.IGNORE:
            return []
        payload_type, shape = self._form_of_reply(payload_type, None)
        return [Send(_error_message(error, shape), message_id, payload_type, shape)]

    def insistent(self) -> list[Action]:
        """Handle a client that keeps sending beyond the rate."""
        if self._advance(Input.INSISTENT) is Reaction.IGNORE:
            return []
        return [Close(CloseCode.RATE_LIMITED, "rate limit exceeded for too long")]

    def fell_behind(self) -> list[Action]:
        """Handle a client that reads more slowly than others send to it."""
        if self._advance(Input.BEHIND) is Reaction.IGNORE:
            return []
        return [Close(CloseCode.SLOW_CONSUMER, "outbound queue is full")]

    def broken(self, code: CloseCode, reason: str) -> list[Action]:
        """Handle frames that break RFC 6455, or a failure while handling a message."""
        if self._advance(Input.BROKEN) is Reaction.IGNORE:
            return []
        return [Close(code, reason)]

    def accepted(
        self,
        identity: Identity,
        session_id: SessionId,
        *,
        now: float,
        server_time: int,
        resume: ResumeTerms | None = None,
    ) -> list[Action]:
        """Handle valid credentials of CONNECT; `resume` is for a session that outlives this connection."""
        if self._advance(Input.ACCEPTED) is Reaction.IGNORE:
            return []
        connect = self._pending_connect()
        self._grant(identity, now, server_time)
        self.session_id = session_id
        self.heard(now)
        settings = self._settings
        # The original's protocol has no field for the end of a token.
        expires_at = None if self.shape is Shape.TAGGED else _milliseconds(identity.expires_at)
        welcome = ConnectAck(
            status="success",
            session_id=session_id,
            server_version=settings.server_version,
            heartbeat_interval=settings.heartbeat_interval,
            heartbeat_timeout=settings.heartbeat_timeout,
            resume_token=resume.token if resume else None,
            resume_window=resume.window if resume else None,
            resumed=resume.resumed if resume else False,
            received=resume.received if resume else None,
            token_expires_at=expires_at,
            token_expiry=None if expires_at is None else settings.on_expiry,
        )
        return [Send(welcome, connect.message_id, self.payload_type, self.shape)]

    def renewed(self, identity: Identity, *, now: float, server_time: int) -> TokenRenewAck | None:
        """Handle a new valid token and return the answer to TOKEN_RENEW; None if the connection is closing."""
        if self._advance(Input.RENEWED) is Reaction.IGNORE:
            return None
        self._grant(identity, now, server_time)
        return TokenRenewAck(status=200, expires_at=_milliseconds(identity.expires_at))

    def _grant(self, identity: Identity, now: float, server_time: int) -> None:
        """Set what the client may do, and until when."""
        self.identity = identity
        ends = identity.expires_at
        self._token_ends = None if ends is None else now + ends - server_time / 1000 + self._settings.token_leeway

    def refused(self, error: SignalManagerError) -> list[Action]:
        """Handle a CONNECT that the service refuses."""
        if self._advance(Input.REFUSED) is Reaction.IGNORE:
            return []
        code, reason = CloseCode.UNAUTHENTICATED, "authentication failed"
        if isinstance(error, RateLimitedError):
            code, reason = CloseCode.RATE_LIMITED, error.message
        elif isinstance(error, ConflictError):
            code, reason = CloseCode.REPLACED, "replaced by a newer session"
        elif error.may_retry:  # the credentials cannot be checked now; the client may come back
            code, reason = CloseCode.RESTARTING, "authentication unavailable"
        return [self.error(error, self._pending_connect()), Close(code, reason)]

    def replaced(self, *, same_instance: bool) -> list[Action]:
        """Handle a newer connection of the same client.

        If the newer connection is of the same instance, this one is stale. Its close code lets the client come back, so
        a CONNECT that was overtaken on the network cannot leave the instance without a connection.
        """
        if self._advance(Input.REPLACED) is Reaction.IGNORE:
            return []
        if same_instance:
            return [Close(CloseCode.TIMED_OUT, "continued on another connection")]
        return [Close(CloseCode.REPLACED, "replaced by a newer session")]

    def evicted(self) -> list[Action]:
        """Handle an operator's order to disconnect the client."""
        if self._advance(Input.EVICTED) is Reaction.IGNORE:
            return []
        return [Close(CloseCode.EVICTED, "disconnected by an operator")]

    def turned_away(self, reason: str = "the service is full") -> list[Action]:
        """Handle a service that is full."""
        if self._advance(Input.NO_ROOM) is Reaction.IGNORE:
            return []
        return [Close(CloseCode.FULL, reason)]

    def draining(self, *, reconnect_after: int) -> list[Action]:
        """Handle the start of a drain; `reconnect_after` is in milliseconds."""
        match self._advance(Input.DRAINING):
            case Reaction.STOP:
                return [Close(CloseCode.RESTARTING, "service is stopping")]
            case Reaction.GO_AWAY if self.shape is Shape.PLAIN:  # the original's protocol has no GOAWAY
                goodbye = GoAway(reason="restarting", reconnect_after=reconnect_after)
                return [Send(goodbye, None, self.payload_type, self.shape)]
        return []

    def stopped(self) -> list[Action]:
        """Handle the end of the service."""
        if self._advance(Input.STOPPED) is Reaction.IGNORE:
            return []
        return [Close(CloseCode.RESTARTING, "service is stopping")]

    def lost(self) -> None:
        """Handle the end of the connection."""
        self._advance(Input.LOST)

    def heard(self, now: float) -> list[Action]:
        """Handle a sign of life, which is any frame (docs/protocol.md, "Liveness")."""
        if self.state is not State.ESTABLISHED:  # before that only the answer to CONNECT counts
            return []
        self._deadline_from = now
        self._pinged_at = now
        if not self._is_away:
            return []
        self._is_away = False
        return [Absent(is_away=False)]

    def must_return_by(self, now: float) -> float | None:
        """Return until when the client may stay in its room if the connection ends now; None if it is in no room."""
        if not self.is_in_room:
            return None
        return (self._deadline_from if self._is_away else now) + self._settings.leave_after

    def next_deadline(self) -> float | None:
        """Return when to call `tick` next, or None for never."""
        if self.state is State.ESTABLISHED:
            deadline = min(self._pinged_at + self._interval, self._deadline_from + self._limit)
            if self.is_in_room and not self._is_away:
                deadline = min(deadline, self._deadline_from + self._settings.away_after)
            if self._closes_without_token and self._token_ends is not None:
                deadline = min(deadline, self._token_ends)
            return deadline
        if self.state is State.AWAITING_CONNECT or self.state is State.AUTHENTICATING:
            return self._deadline_from + self._settings.connection_timeout
        return None

    def tick(self, now: float) -> list[Action]:
        """Do what is due at `now`."""
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return []
        if self.state is not State.ESTABLISHED:
            self._advance(Input.SILENT)
            return [Close(CloseCode.TIMED_OUT, "no CONNECT in time")]
        if self._closes_without_token and self._has_outlived_its_token(now):
            self._advance(Input.OUTLIVED)
            return [Close(CloseCode.TOKEN_EXPIRED, "the token has expired")]
        actions: list[Action] = []
        if self.is_in_room and not self._is_away and now >= self._deadline_from + self._settings.away_after:
            self._is_away = True
            actions.append(Absent(is_away=True))
        if now >= self._deadline_from + self._limit:
            self._advance(Input.SILENT)
            actions.append(Close(CloseCode.TIMED_OUT, "heartbeats stopped"))
        elif now >= self._pinged_at + self._interval:
            self._pinged_at = now
            actions.append(Ping())
        return actions

    @property
    def _closes_without_token(self) -> bool:
        return self._settings.on_expiry == "close"

    def _has_outlived_its_token(self, now: float) -> bool:
        return self._token_ends is not None and now >= self._token_ends

    @property
    def _interval(self) -> float:
        """Seconds of silence after which the service pings the client."""
        settings = self._settings
        if not self.is_in_room:
            return settings.heartbeat_interval
        return min(settings.heartbeat_interval, settings.away_after * PINGED_AFTER)

    @property
    def _limit(self) -> float:
        """Seconds of silence after which the service closes the connection."""
        settings = self._settings
        if not self.is_in_room:
            return settings.heartbeat_timeout
        return min(settings.heartbeat_timeout, settings.leave_after)

    def reply(self, message: Message, request: Received) -> Send:
        """Return the action that answers `request`."""
        payload_type, shape = self._form_of_reply(request.payload_type, request.shape)
        return Send(message, request.message_id, payload_type, shape)

    def error(self, error: SignalManagerError, request: Received) -> Send:
        """Return the action that refuses `request`."""
        _, shape = self._form_of_reply(request.payload_type, request.shape)
        return self.reply(_error_message(error, shape), request)

    def _form_of_reply(self, payload_type: PayloadType, shape: Shape | None) -> tuple[PayloadType, Shape]:
        """Return the payload type and shape of the reply to a message of this form.

        Every reply has the shape of CONNECT. Before CONNECT, a reply has the shape of its message. Clients of the
        original service get the only form that their codec reads.
        """
        if self.state is not State.AWAITING_CONNECT:
            return (PayloadType.JSON, Shape.TAGGED) if self._speaks_original else (payload_type, self.shape)
        if not self._names_protocol and (shape is None or _is_originals(payload_type, shape)):
            return PayloadType.JSON, Shape.TAGGED
        return payload_type, shape or Shape.PLAIN

    def _advance(self, event: Input) -> Reaction:
        self.state, reaction = TRANSITIONS[self.state, event]
        return reaction

    def _authenticate(self, received: Received) -> list[Action]:
        connect = received.message
        assert isinstance(connect, Connect)  # noqa: S101 - the table sends only CONNECT here
        # Set before anything can fail, so that a refusal has the client's form too.
        self._connect = received
        self._speaks_original = not self._names_protocol and _is_originals(received.payload_type, received.shape)
        self.payload_type, self.shape = received.payload_type, received.shape
        if self._speaks_original:
            self.payload_type, self.shape = PayloadType.JSON, Shape.TAGGED
        return [Authenticate(connect)]

    def _admit(self, received: Received, reaction: Reaction, now: float) -> list[Action]:
        """Return the action for a signal or request; an ERROR if its target, client id, version or token is refused."""
        message = received.message
        try:
            if isinstance(message, Signal):
                self._check_target(message)
            else:
                self._check_name(message)
                check_version(getattr(message, "version", None))
                self._check_token(message, now)
        except SignalManagerError as error:
            return [self.error(error, received)]
        return [Relay(received) if reaction is Reaction.RELAY else Dispatch(received)]

    def _check_target(self, signal: Signal) -> None:
        target = signal.target_client_id
        if target is not None and self.identity is not None and not self.identity.grants.may_signal(target):
            raise ForbiddenError("the token does not allow signals to this client")

    def _check_token(self, message: Message, now: float) -> None:
        spec = spec_of(message)
        # The token inside a request takes precedence; the dispatcher checks it.
        if spec.needs_valid_token and not getattr(message, "auth_token", None) and self._has_outlived_its_token(now):
            raise AuthenticationError(
                f"the token has expired: {spec.message_type.name} needs a new one, send TOKEN_RENEW first",
                details={"reason": TOKEN_EXPIRED},
            )

    def _check_name(self, message: Message) -> None:
        client_id = getattr(message, "client_id", None)
        if client_id is not None and client_id != self.client_id:
            raise ForbiddenError("client_id is not the one this connection authenticated as")

    def _echo(self, received: Received, server_time: int) -> list[Action]:
        heartbeat = received.message
        assert isinstance(heartbeat, Heartbeat)  # noqa: S101 - the table sends only HEARTBEAT here
        echo = self.reply(HeartbeatAck(timestamp=heartbeat.timestamp, server_time=server_time), received)
        return [echo] if heartbeat.received is None else [Confirm(heartbeat.received, received), echo]

    def _pending_connect(self) -> Received:
        connect = self._connect
        if connect is None:  # pragma: no cover - the table lets no answer in before CONNECT
            raise AssertionError("an answer without a CONNECT")
        self._connect = None
        return connect


def _milliseconds(seconds: float | None) -> int | None:
    """Return a time in ms for clients; None for one beyond 2**53, which JavaScript cannot represent."""
    return None if seconds is None or seconds * 1000 >= 2**53 else int(seconds * 1000)


def _is_originals(payload_type: PayloadType, shape: Shape) -> bool:
    return payload_type in _ORIGINAL_LAYOUTS or (payload_type is PayloadType.JSON and shape is Shape.TAGGED)


def check_version(version: str | None) -> None:
    """Refuse a major version newer than `PROTOCOL_VERSION` (docs/protocol.md, "Conversation").

    Raises:
        InvalidRequestError: the version is newer, or is not a list of numbers separated by dots.
    """
    if version is None or version == PROTOCOL_VERSION:
        return
    major = version.split(".", 1)[0]
    if not all(part.isascii() and part.isdigit() and len(part) <= _VERSION_DIGITS for part in version.split(".")):
        raise InvalidRequestError("version must be numbers separated by dots, such as 1.0.0")
    if int(major) > _OUR_MAJOR:
        raise InvalidRequestError(f"version {int(major)} is newer than this service's {PROTOCOL_VERSION}")


def _error_message(error: SignalManagerError, shape: Shape) -> ErrorMessage:
    return ErrorMessage(
        error_code=error_code_for(error, shape),
        error_message=error.message,
        details=error.details,
        retryable=error.may_retry,
    )
