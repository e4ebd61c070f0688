"""A connection's life, read as a transcript: what comes in, and what the session asks for."""

from __future__ import annotations

import msgspec
import pytest

from signal_manager.errors import (
    AuthenticationError,
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    MalformedMessageError,
    NotFoundError,
    RateLimitedError,
    SignalManagerError,
    UnavailableError,
)
from signal_manager.model import ClientId, Grants, Identity, SessionId
from signal_manager.protocol.close_codes import CloseCode
from signal_manager.protocol.messages import (
    Connect,
    ConnectAck,
    Disconnect,
    ErrorMessage,
    GoAway,
    Heartbeat,
    HeartbeatAck,
    IceServers,
    Message,
    MessageType,
    PayloadType,
    Register,
    RoomCreate,
    RoomJoin,
    RoomLeave,
    Shape,
    SignalMessage,
    SignalOffer,
    TokenExpiry,
    TokenRenew,
    TokenRenewAck,
    TracksNew,
    Unregister,
)
from signal_manager.protocol.state_machine import (
    MALFORMED_LIMIT,
    MALFORMED_WINDOW,
    TRANSITIONS,
    Absent,
    Action,
    Authenticate,
    Close,
    Confirm,
    ConnectionStateMachine,
    Dispatch,
    Input,
    Ping,
    Received,
    Relay,
    ResumeTerms,
    Send,
    SessionSettings,
    State,
    check_version,
    error_code_for,
)

ID = bytes(range(16))
SETTINGS = SessionSettings(connection_timeout=10, heartbeat_interval=30, heartbeat_timeout=90, server_version="1.2.3")
CONNECT = Connect(client_id="a", auth_token="t")
OFFER = SignalOffer(target_client_id="b", signal_data="sdp")


def received(message: Message, *, shape: Shape = Shape.PLAIN, payload_type: PayloadType = PayloadType.JSON) -> Received:
    return Received(message, ID, payload_type, shape)


class Client:
    """Drives one session; its clock stands still unless `now` is moved."""

    def __init__(self, *, names_protocol: bool = True) -> None:
        self.now = 1000.0
        self.session = ConnectionStateMachine(SETTINGS, now=self.now, names_protocol=names_protocol)

    def __rshift__(self, message: Message) -> list[Action]:
        return self.receive(received(message))

    def receive(self, message: Received) -> list[Action]:
        return self.session.receive(message, now=self.now, server_time=5)

    def accept(self, **grants: object) -> list[Action]:
        identity = Identity(client_id=ClientId("a"), grants=Grants(**grants))  # type: ignore[arg-type]  # test data
        return self.session.accepted(identity, SessionId("s"), now=self.now, server_time=5)

    def garbage(self) -> list[Action]:
        error = MalformedMessageError("bad", message_id=ID)
        return self.session.malformed(error, payload_type=PayloadType.JSON, shape=Shape.PLAIN, now=self.now)


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def connected(client: Client) -> Client:
    client >> CONNECT
    client.accept()
    return client


def sent_error(actions: list[Action]) -> ErrorMessage:
    (send,) = actions
    assert isinstance(send, Send)
    assert send.message_id == ID
    assert isinstance(send.message, ErrorMessage)
    return send.message


@pytest.mark.parametrize(
    ("payload_type", "shape"),
    [(PayloadType.BINARY, Shape.PLAIN), (PayloadType.TEXT, Shape.PLAIN), (PayloadType.JSON, Shape.TAGGED)],
)
def test_one_that_names_no_subprotocol_is_answered_in_tagged_json_where_the_original_would(
    payload_type: PayloadType, shape: Shape
) -> None:
    client = Client(names_protocol=False)
    (early,) = client.receive(received(OFFER, shape=shape, payload_type=payload_type))
    client.receive(received(CONNECT, shape=shape, payload_type=payload_type))
    (welcome,) = client.accept()
    (echo,) = client.receive(received(Heartbeat(timestamp=1), payload_type=PayloadType.BINARY))

    for action in (early, welcome, echo):
        assert isinstance(action, Send)
        assert (action.payload_type, action.shape) == (PayloadType.JSON, Shape.TAGGED)


@pytest.mark.parametrize("payload_type", [PayloadType.JSON, PayloadType.CBOR, PayloadType.PROTOBUF])
def test_one_that_names_no_subprotocol_and_speaks_as_no_original_client_does_is_answered_as_it_speaks(
    payload_type: PayloadType,
) -> None:
    client = Client(names_protocol=False)
    (early,) = client.receive(received(OFFER, payload_type=payload_type))
    client.receive(received(CONNECT, payload_type=payload_type))
    (welcome,) = client.accept()

    for action in (early, welcome):
        assert isinstance(action, Send)
        assert (action.payload_type, action.shape) == (payload_type, Shape.PLAIN)


@pytest.mark.parametrize("names_protocol", [True, False])
def test_what_has_no_shape_before_connect_is_refused_in_plain_json_only_where_a_subprotocol_was_named(
    names_protocol: bool,
) -> None:
    client = Client(names_protocol=names_protocol)
    error = MalformedMessageError("bad", message_id=ID)

    (refusal,) = client.session.malformed(error, payload_type=PayloadType.TEXT, shape=None, now=client.now)

    assert isinstance(refusal, Send)
    expected = (PayloadType.TEXT, Shape.PLAIN) if names_protocol else (PayloadType.JSON, Shape.TAGGED)
    assert (refusal.payload_type, refusal.shape) == expected


def test_connect_is_authenticated_and_welcomed(client: Client) -> None:
    assert client >> CONNECT == [Authenticate(CONNECT)]

    (welcome,) = client.accept()

    assert isinstance(welcome, Send)
    assert welcome.message_id == ID
    assert welcome.message == ConnectAck(
        status="success", session_id="s", server_version="1.2.3", heartbeat_interval=30, heartbeat_timeout=90
    )
    assert client.session.state is State.ESTABLISHED
    assert client.session.client_id == "a"


def test_wrong_credentials_get_401_and_close_4401(client: Client) -> None:
    client >> CONNECT

    error, close = client.session.refused(AuthenticationError("wrong"))

    assert sent_error([error]).error_code == 401
    assert close == Close(CloseCode.UNAUTHENTICATED, "authentication failed")
    assert client >> OFFER == []


def test_one_that_was_replaced_gets_409_and_close_4409(client: Client) -> None:
    client >> CONNECT

    error, close = client.session.refused(ConflictError("replaced"))

    assert sent_error([error]).error_code == 409
    assert close == Close(CloseCode.REPLACED, "replaced by a newer session")


def test_a_client_is_not_blamed_when_credentials_cannot_be_checked(client: Client) -> None:
    client >> CONNECT

    error, close = client.session.refused(UnavailableError("away"))

    assert sent_error([error]).retryable
    assert isinstance(close, Close)
    assert close.code is CloseCode.RESTARTING


@pytest.mark.parametrize(
    "message",
    [OFFER, Register(), Unregister(), Heartbeat(), HeartbeatAck(timestamp=1), ConnectAck(status="", session_id="")],
    ids=lambda message: type(message).__name__,
)
def test_anything_before_connect_gets_401_and_the_connection_lives_on(client: Client, message: Message) -> None:
    assert sent_error(client >> message).error_code == 401
    assert client >> CONNECT == [Authenticate(CONNECT)]


def test_disconnect_closes_1000_in_every_state(client: Client, connected: Client) -> None:
    assert Client() >> Disconnect() == [Close(CloseCode.NORMAL, "asked for")]
    assert connected >> Disconnect(reason="bye") == [Close(CloseCode.NORMAL, "asked for")]
    assert connected >> OFFER == []


def test_a_second_connect_gets_400(connected: Client) -> None:
    assert sent_error(connected >> CONNECT).error_code == 400
    assert connected.session.state is State.ESTABLISHED


def test_a_message_that_only_the_service_sends_gets_400(connected: Client) -> None:
    assert sent_error(connected >> ConnectAck(status="", session_id="")).error_code == 400


def test_a_heartbeat_is_answered_with_its_timestamp(connected: Client) -> None:
    (send,) = connected >> Heartbeat(timestamp=42)

    assert send == Send(HeartbeatAck(timestamp=42, server_time=5), ID, PayloadType.JSON, Shape.PLAIN)
    assert connected >> HeartbeatAck(timestamp=1) == []


def test_signals_and_requests_are_passed_on(connected: Client) -> None:
    assert connected >> OFFER == [Relay(received(OFFER))]
    assert connected >> Register() == [Dispatch(received(Register()))]


def test_a_request_in_another_name_gets_403(connected: Client) -> None:
    assert sent_error(connected >> Register(client_id="b")).error_code == 403
    assert connected >> Register(client_id="a") == [Dispatch(received(Register(client_id="a")))]


def test_a_signal_that_the_token_does_not_allow_gets_403(client: Client) -> None:
    client >> CONNECT
    client.accept(signal_to=("c-*",))

    assert sent_error(client >> OFFER).error_code == 403
    assert len(client >> SignalOffer(target_client_id="c-1", signal_data=1)) == 1
    assert len(client >> SignalMessage(room_id="r", signal_data=1)) == 1


def test_a_newer_major_version_gets_400_and_may_connect_again(client: Client) -> None:
    newer = Connect(client_id="a", auth_token="t", version="2.0")

    assert sent_error(client >> newer).error_code == 400
    assert client >> CONNECT == [Authenticate(CONNECT)]


def test_a_request_with_a_newer_version_gets_400(connected: Client) -> None:
    assert sent_error(connected >> Register(version="10.0.0")).error_code == 400


@pytest.mark.parametrize("version", [None, "1", "1.0.0", "0.9", "1.99.3"])
def test_versions_up_to_ours_are_accepted(version: str | None) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["", "x", "1.x", "2", "²", "1..0", "9" * 5000])
def test_other_versions_are_refused(version: str) -> None:
    with pytest.raises(InvalidRequestError):
        check_version(version)


def test_malformed_messages_get_one_error_each_until_there_are_too_many(connected: Client) -> None:
    for _ in range(MALFORMED_LIMIT - 1):
        assert sent_error(connected.garbage()).error_code == 400

    error, close = connected.garbage()

    assert sent_error([error]).error_code == 400
    assert close == Close(CloseCode.MALFORMED, "too many malformed messages")
    assert connected.garbage() == []


def test_malformed_messages_of_long_ago_are_forgotten(connected: Client) -> None:
    for _ in range(3 * MALFORMED_LIMIT):
        connected.now += MALFORMED_WINDOW / (MALFORMED_LIMIT - 1) + 0.1
        assert len(connected.garbage()) == 1


def test_malformed_messages_before_connect_count_too(client: Client) -> None:
    for _ in range(MALFORMED_LIMIT - 1):
        client.garbage()

    assert isinstance(client.garbage()[1], Close)


def test_no_connect_in_time_closes_4408(client: Client) -> None:
    client.session.heard(client.now + 9)

    assert client.session.tick(client.now + 9.9) == []
    assert client.session.tick(client.now + 10) == [Close(CloseCode.TIMED_OUT, "no CONNECT in time")]
    assert client.session.tick(client.now + 100) == []
    assert client.session.next_deadline() is None


def test_credentials_that_take_too_long_to_check_close_4408(client: Client) -> None:
    client >> CONNECT

    assert client.session.tick(client.now + 10) == [Close(CloseCode.TIMED_OUT, "no CONNECT in time")]
    assert client.accept() == []
    assert client.session.refused(AuthenticationError("late")) == []


def test_a_silent_client_is_pinged_and_then_closed_4408(connected: Client) -> None:
    assert connected.session.tick(connected.now + 29) == []
    assert connected.session.tick(connected.now + 30) == [Ping()]
    assert connected.session.tick(connected.now + 31) == []
    assert connected.session.tick(connected.now + 60) == [Ping()]
    assert connected.session.tick(connected.now + 90) == [Close(CloseCode.TIMED_OUT, "heartbeats stopped")]


def test_any_sign_of_life_starts_the_wait_again(connected: Client) -> None:
    connected.session.heard(connected.now + 80)

    assert connected.session.tick(connected.now + 109) == []
    assert connected.session.tick(connected.now + 110) == [Ping()]
    assert connected.session.next_deadline() == connected.now + 140


def test_a_silent_member_of_a_room_is_pinged_soon_then_away_then_gone(connected: Client) -> None:
    connected.session.is_in_room = True

    assert connected.session.next_deadline() == connected.now + 4
    assert connected.session.tick(connected.now + 4) == [Ping()]
    assert connected.session.tick(connected.now + 7.9) == []
    assert connected.session.tick(connected.now + 8) == [Absent(is_away=True), Ping()]
    assert connected.session.tick(connected.now + 9) == []
    assert connected.session.next_deadline() == connected.now + 12
    assert connected.session.tick(connected.now + 28) == [Close(CloseCode.TIMED_OUT, "heartbeats stopped")]


def test_a_member_that_was_pinged_late_is_away_all_the_same(connected: Client) -> None:
    connected.session.is_in_room = True

    assert connected.session.tick(connected.now + 5) == [Ping()]
    assert connected.session.tick(connected.now + 8) == [Absent(is_away=True)]


def test_a_member_that_was_away_is_back_with_any_sign_of_life(connected: Client) -> None:
    connected.session.is_in_room = True
    connected.session.tick(connected.now + 9)

    assert connected.session.heard(connected.now + 10) == [Absent(is_away=False)]
    assert connected.session.heard(connected.now + 11) == []
    assert connected.session.next_deadline() == connected.now + 15


def test_silence_that_nobody_looked_at_in_time_makes_a_member_away_and_closes(connected: Client) -> None:
    connected.session.is_in_room = True

    actions = connected.session.tick(connected.now + 1000)

    assert actions == [Absent(is_away=True), Close(CloseCode.TIMED_OUT, "heartbeats stopped")]


def test_how_long_a_member_may_be_missed_counts_from_its_silence(connected: Client) -> None:
    assert connected.session.must_return_by(connected.now) is None
    connected.session.is_in_room = True
    assert connected.session.must_return_by(connected.now + 3) == connected.now + 31
    connected.session.tick(connected.now + 9)
    assert connected.session.must_return_by(connected.now + 9) == connected.now + 28


def test_the_newest_connection_of_a_client_wins(connected: Client) -> None:
    assert connected.session.replaced(same_instance=False) == [Close(CloseCode.REPLACED, "replaced by a newer session")]
    assert connected.session.replaced(same_instance=False) == []


def test_an_operator_ends_a_session_for_good(connected: Client) -> None:
    assert connected.session.evicted() == [Close(CloseCode.EVICTED, "disconnected by an operator")]
    assert connected.session.evicted() == []


def test_a_stale_connection_of_the_same_instance_may_come_back(connected: Client) -> None:
    (close,) = connected.session.replaced(same_instance=True)

    assert isinstance(close, Close)
    assert close.code is CloseCode.TIMED_OUT


def test_a_stopping_service_closes_1012(client: Client, connected: Client) -> None:
    assert connected.session.stopped() == [Close(CloseCode.RESTARTING, "service is stopping")]
    assert connected.session.stopped() == []
    assert len(Client().session.stopped()) == 1


def test_a_connection_too_many_closes_4503(client: Client) -> None:
    assert client.session.turned_away() == [Close(CloseCode.FULL, "the service is full")]
    assert client.session.turned_away() == []
    assert client >> CONNECT == []


def test_a_lost_connection_takes_no_more_part(connected: Client) -> None:
    connected.session.lost()

    assert connected.session.state is State.CLOSED
    assert connected >> OFFER == []
    assert connected.session.tick(connected.now + 1000) == []


def test_the_client_is_answered_in_its_own_language(client: Client) -> None:
    client.receive(received(CONNECT, shape=Shape.TAGGED, payload_type=PayloadType.CBOR))

    (welcome,) = client.accept()

    assert isinstance(welcome, Send)
    assert (welcome.payload_type, welcome.shape) == (PayloadType.CBOR, Shape.TAGGED)
    assert (client.session.payload_type, client.session.shape) == (PayloadType.CBOR, Shape.TAGGED)


def test_the_shape_of_connect_is_the_shape_of_every_reply(client: Client) -> None:
    client.receive(received(CONNECT, shape=Shape.TAGGED))
    client.accept()

    (echo,) = client >> Heartbeat()
    (error,) = client >> Register(client_id="b")
    complaint = client.garbage()[0]

    for action, code in ((echo, None), (error, 403 % 256), (complaint, 2)):
        assert isinstance(action, Send)
        assert action.shape is Shape.TAGGED
        assert getattr(action.message, "error_code", None) == code


@pytest.mark.parametrize(
    ("error", "plain", "tagged"),
    [
        (AuthenticationError("x"), 401, 1),
        (MalformedMessageError("x"), 400, 2),
        (InvalidRequestError("x"), 400, 144),
        (ForbiddenError("x"), 403, 147),
        (NotFoundError("x"), 404, 148),
        (UnavailableError("x"), 503, 247),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, SignalManagerError) else str(value),
)
def test_error_codes_fit_what_the_client_can_read(error: SignalManagerError, plain: int, tagged: int) -> None:
    assert error_code_for(error, Shape.PLAIN) == plain
    assert error_code_for(error, Shape.TAGGED) == tagged


@pytest.mark.parametrize("is_connected", [False, True], ids=["before CONNECT", "after CONNECT"])
def test_a_message_beyond_the_rate_gets_429_and_changes_nothing(client: Client, is_connected: bool) -> None:
    if is_connected:
        client >> CONNECT
        client.accept()
    state = client.session.state
    error = RateLimitedError("too many", details={"retry_after": 1.5})

    refusal = sent_error(client.session.limited(error, message_id=ID, payload_type=PayloadType.CBOR))

    assert (refusal.error_code, refusal.details, refusal.retryable) == (429, {"retry_after": 1.5}, True)
    assert client.session.state is state


def test_an_end_that_no_client_can_read_is_none() -> None:
    """RFC 7519 allows any number; as milliseconds it must be one that JavaScript can hold."""
    assert Holder("close").renew(2**53) == TokenRenewAck(status=200)


def test_a_tagged_client_is_told_so_in_its_own_shape(client: Client) -> None:
    client.receive(received(CONNECT, shape=Shape.TAGGED))
    client.accept()

    (send,) = client.session.limited(RateLimitedError("x"), message_id=None, payload_type=PayloadType.JSON)

    assert isinstance(send, Send)
    assert isinstance(send.message, ErrorMessage)
    assert (send.shape, send.message.error_code) == (Shape.TAGGED, 429 % 256)


def test_a_client_that_goes_on_beyond_its_rate_is_closed_4429(connected: Client) -> None:
    assert connected.session.insistent() == [Close(CloseCode.RATE_LIMITED, "rate limit exceeded for too long")]
    assert connected.session.insistent() == []
    assert connected.session.limited(RateLimitedError("x"), message_id=ID, payload_type=PayloadType.JSON) == []


def test_a_client_that_falls_behind_is_closed_4413(connected: Client) -> None:
    assert connected.session.fell_behind() == [Close(CloseCode.SLOW_CONSUMER, "outbound queue is full")]
    assert connected.session.fell_behind() == []


def test_what_comes_after_broken_frames_does_not_count(connected: Client) -> None:
    assert connected.session.broken(CloseCode.PROTOCOL, "no") == [Close(CloseCode.PROTOCOL, "no")]

    assert connected.session.broken(CloseCode.PROTOCOL, "no") == []
    assert connected >> OFFER == []


def test_an_address_that_failed_too_often_gets_429_and_close_4429(client: Client) -> None:
    client >> CONNECT

    refusal, close = client.session.refused(RateLimitedError("too many failed authentications"))

    assert sent_error([refusal]).error_code == 429
    assert close == Close(CloseCode.RATE_LIMITED, "too many failed authentications")


def test_a_session_that_can_be_resumed_is_welcomed_with_its_terms(client: Client) -> None:
    client >> CONNECT
    terms = ResumeTerms(token="secret", window=30.0, resumed=True, received=7)

    (welcome,) = client.session.accepted(
        Identity(client_id=ClientId("a")), SessionId("s"), now=1000.0, server_time=5, resume=terms
    )

    assert isinstance(welcome, Send)
    assert isinstance(welcome.message, ConnectAck)
    assert (welcome.message.resume_token, welcome.message.resume_window) == ("secret", 30.0)
    assert (welcome.message.resumed, welcome.message.received) == (True, 7)


def test_a_heartbeat_that_counts_confirms_before_it_is_answered(connected: Client) -> None:
    heartbeat = Heartbeat(timestamp=5, received=3)

    confirm, echo = connected >> heartbeat

    assert confirm == Confirm(3, received(heartbeat))
    assert isinstance(echo, Send)
    assert isinstance(echo.message, HeartbeatAck)


def test_a_client_is_sent_away_before_the_service_stops_and_may_go_on_meanwhile(connected: Client) -> None:
    (goodbye,) = connected.session.draining(reconnect_after=250)

    assert goodbye == Send(GoAway(reason="restarting", reconnect_after=250), None, PayloadType.JSON, Shape.PLAIN)
    assert connected >> OFFER == [Relay(received(OFFER))]


def test_a_tagged_client_is_not_sent_what_it_cannot_read_when_the_service_drains(client: Client) -> None:
    client.receive(received(CONNECT, shape=Shape.TAGGED))
    client.accept()

    assert client.session.draining(reconnect_after=250) == []


def test_whoever_is_not_connected_yet_is_closed_when_the_service_drains(client: Client) -> None:
    assert client.session.draining(reconnect_after=250) == [Close(CloseCode.RESTARTING, "service is stopping")]


def test_the_table_is_whole_but_for_what_cannot_happen() -> None:
    """A connection that has not asked cannot be answered, and messages are held back while it waits for an answer."""
    no_answer = {
        (State.AWAITING_CONNECT, event)
        for event in (
            Input.ACCEPTED,
            Input.REFUSED,
            Input.REPLACED,
            Input.EVICTED,
            Input.RENEWED,
            Input.OUTLIVED,
        )
    }
    held_back = {
        (State.AUTHENTICATING, event)
        for event in Input
        if event
        not in (Input.ACCEPTED, Input.REFUSED, Input.SILENT, Input.NO_ROOM, Input.DRAINING, Input.STOPPED, Input.LOST)
        and event not in (Input.LIMITED, Input.INSISTENT, Input.BEHIND, Input.BROKEN)  # what counts does not wait
    }
    answered = {(State.ESTABLISHED, event) for event in (Input.ACCEPTED, Input.REFUSED, Input.NO_ROOM)}

    every = {(state, event) for state in State for event in Input}

    assert every - set(TRANSITIONS) == no_answer | held_back | answered


def test_before_connect_only_what_may_lead_to_it_is_read(client: Client) -> None:
    read = [message_type for message_type in MessageType if client.session.reads(message_type)]

    assert read == [MessageType.CONNECT, MessageType.DISCONNECT, MessageType.HEARTBEAT]


def test_a_message_that_is_not_read_is_refused_by_its_header(client: Client) -> None:
    (refusal,) = client.session.unread(
        MessageType.SIGNAL_OFFER, message_id=ID, payload_type=PayloadType.CBOR, shape=Shape.TAGGED
    )

    assert isinstance(refusal, Send)
    assert (refusal.message_id, refusal.payload_type, refusal.shape) == (ID, PayloadType.CBOR, Shape.TAGGED)
    assert isinstance(refusal.message, ErrorMessage)
    assert refusal.message.error_code == 1


def test_an_established_client_is_read_and_one_that_is_closed_is_not(connected: Client) -> None:
    assert all(connected.session.reads(message_type) for message_type in MessageType)

    connected >> Disconnect()

    assert not any(connected.session.reads(message_type) for message_type in MessageType)
    assert not connected.session.unread(
        MessageType.DISCONNECT, message_id=ID, payload_type=PayloadType.JSON, shape=Shape.PLAIN
    )


# Tokens that end

EPOCH = 1_800_000_000_000  # ms


class Holder(Client):
    """Holds a token of 100 s; the service allows its clock 60 s more."""

    def __init__(self, on_expiry: TokenExpiry, *, shape: Shape = Shape.PLAIN) -> None:
        super().__init__()
        self.session = ConnectionStateMachine(msgspec.structs.replace(SETTINGS, on_expiry=on_expiry), now=self.now)
        self.receive(received(CONNECT, shape=shape))
        self.welcome = self.session.accepted(self.identity(100), SessionId("s"), now=self.now, server_time=EPOCH)

    @staticmethod
    def identity(ttl: int | None, **grants: object) -> Identity:
        ends = None if ttl is None else EPOCH / 1000 + ttl
        return Identity(client_id=ClientId("a"), expires_at=ends, grants=Grants(**grants))  # type: ignore[arg-type]  # test data

    def renew(self, ttl: int | None, **grants: object) -> TokenRenewAck | None:
        server_time = EPOCH + int((self.now - 1000) * 1000)
        return self.session.renewed(self.identity(ttl, **grants), now=self.now, server_time=server_time)

    def beat(self, now: float) -> list[Action]:
        """Let time pass with a client that is never silent."""
        self.now = now
        self.session.heard(now)
        return self.session.tick(now)


def test_the_welcome_tells_when_the_token_ends_and_what_happens_then() -> None:
    (send,) = Holder("close").welcome

    assert isinstance(send, Send)
    assert isinstance(send.message, ConnectAck)
    assert (send.message.token_expires_at, send.message.token_expiry) == (EPOCH + 100_000, "close")


def test_a_tagged_client_is_told_nothing_that_its_protocol_lacks() -> None:
    (send,) = Holder("close", shape=Shape.TAGGED).welcome

    assert isinstance(send, Send)
    assert isinstance(send.message, ConnectAck)
    assert (send.message.token_expires_at, send.message.token_expiry) == (None, None)


def test_a_connection_that_outlives_its_token_is_closed_where_the_service_wants_that() -> None:
    holder = Holder("close")

    assert holder.beat(1159.0) == []
    assert holder.session.next_deadline() == 1160.0

    assert holder.beat(1160.0) == [Close(CloseCode.TOKEN_EXPIRED, "the token has expired")]
    assert holder.session.state is State.CLOSING


@pytest.mark.parametrize("ttl", [500, None])
def test_a_renewed_token_moves_the_end(ttl: int | None) -> None:
    holder = Holder("close")
    holder.beat(1090.0)

    assert holder.renew(ttl) == TokenRenewAck(status=200, expires_at=None if ttl is None else EPOCH + ttl * 1000)
    assert holder.beat(1160.0) == []
    assert holder.session.state is State.ESTABLISHED


def test_the_grants_of_a_renewed_token_replace_the_old_ones() -> None:
    holder = Holder("continue")
    assert isinstance((holder >> OFFER)[0], Relay)

    holder.renew(500, signal_to=("c",))

    assert sent_error(holder >> OFFER).error_code == 403


def test_a_token_that_is_renewed_too_late_changes_nothing() -> None:
    holder = Holder("close")
    holder.beat(1160.0)

    assert holder.renew(500) is None


NEEDS_TOKEN = [
    Register(),
    RoomCreate(role="receiver"),
    RoomJoin(role="receiver", room_id="r"),
    IceServers(),
]


@pytest.mark.parametrize("request_", NEEDS_TOKEN, ids=lambda message: type(message).__name__)
def test_one_that_goes_on_without_a_token_begins_nothing_new(request_: Message) -> None:
    holder = Holder("continue")
    assert holder.beat(1159.0) == []
    assert isinstance((holder >> request_)[0], Dispatch)
    assert holder.beat(1160.0) == []

    error = sent_error(holder >> request_)

    assert (error.error_code, error.details) == (401, {"reason": "token_expired"})
    assert "TOKEN_RENEW" in error.error_message
    holder.renew(500)
    assert isinstance((holder >> request_)[0], Dispatch)


def test_one_that_goes_on_without_a_token_keeps_its_calls_and_rooms() -> None:
    holder = Holder("continue")
    holder.beat(5000.0)

    assert isinstance((holder >> OFFER)[0], Relay)
    for request in (RoomLeave(room_id="r"), TracksNew(room_id="r", tracks=[]), TokenRenew(auth_token="new")):
        assert isinstance((holder >> request)[0], Dispatch)


def test_a_request_that_brings_a_token_of_its_own_is_judged_by_that() -> None:
    holder = Holder("continue")
    holder.beat(5000.0)

    assert isinstance((holder >> RoomJoin(role="receiver", room_id="r", auth_token="new"))[0], Dispatch)
