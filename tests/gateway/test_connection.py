"""One client's WebSocket: the relay path and heartbeats, the rates, and what ends it."""

from __future__ import annotations

import time

import pytest
from picows import WSMsgType
from structlog.testing import capture_logs

from signal_manager.bus.base import Delivery, Forwarder, Sender
from signal_manager.bus.local import LocalBus
from signal_manager.errors import NotFoundError, SignalManagerError, TooLargeError, UnavailableError
from signal_manager.gateway.limits import BEFORE_CONNECT, FRAMES_PER_MESSAGE
from signal_manager.gateway.ports import RelayTarget
from signal_manager.model import Grants, taken_up_at
from signal_manager.protocol import relay
from signal_manager.protocol.framing import HEAD, Framing, decode_frame
from signal_manager.protocol.messages import (
    ErrorMessage,
    Heartbeat,
    HeartbeatAck,
    IceServers,
    PayloadType,
    Register,
    RegisterAck,
    Shape,
    Signal,
    SignalAck,
    SignalIceCandidate,
    SignalMessage,
    SignalOffer,
)
from tests.gateway.fakes import BINARY, CONTINUATION, PING, TEXT, frame
from tests.gateway.harness import ID, Gateway, GatewayClient

JSON_FREE = (PayloadType.BINARY, PayloadType.TEXT)


def to(target: str, data: object = "v=0", *, ack: bool = False) -> SignalOffer:
    return SignalOffer(target_client_id=target, signal_data=data, ack=ack)


async def signed_in(
    gateway: Gateway,
    name: str,
    framing: Framing = Framing.V1,
    *,
    payload_type: PayloadType = PayloadType.JSON,
    shape: Shape = Shape.PLAIN,
) -> GatewayClient:
    client = gateway.connect(framing, payload_type=payload_type, shape=shape)
    await client.sign_in(name)
    client.socket.received.clear()
    return client


# -- the relay path --------------------------------------------------------------------------------------------------


async def test_a_signal_goes_to_its_target_with_its_sender_and_its_id(gateway: Gateway) -> None:
    receiver, sender = await gateway.client("b"), await gateway.client("a")

    sender.send(to("b"))

    signal = receiver.last(SignalOffer)
    assert (signal.sender_client_id, signal.signal_data) == ("a", "v=0")
    assert decode_frame(Framing.V1, receiver.socket.received[-1]).message_id == ID
    assert sender.messages == []
    assert (sender.connection.received, receiver.connection.sent) == (2, 2)
    assert gateway.registry.counters.relayed_decoded.value == 0


@pytest.mark.parametrize("framing", Framing)
@pytest.mark.parametrize("payload_type", PayloadType)
@pytest.mark.parametrize("shape", Shape)
async def test_a_signal_reaches_any_client_in_its_own_encoding(
    gateway: Gateway, framing: Framing, payload_type: PayloadType, shape: Shape
) -> None:
    if framing is Framing.JSON or payload_type not in {PayloadType.JSON, *JSON_FREE}:
        shape = Shape.PLAIN
    if framing is Framing.JSON:
        payload_type = PayloadType.JSON
    receiver = await signed_in(gateway, "b", framing, payload_type=payload_type, shape=shape)
    sender = await gateway.client("a")

    sender.send(to("b", ack=True))

    signal = receiver.last(SignalOffer)
    assert signal.sender_client_id == "a"
    assert signal.signal_data in ("v=0", b"v=0")
    assert sender.last(SignalAck) == SignalAck(status="delivered", target_client_id="b")


async def test_signals_of_one_read_leave_in_one_write_and_in_their_order(gateway: Gateway) -> None:
    receiver, sender = await gateway.client("b"), await gateway.client("a")
    writes = receiver.socket.writes

    for number in range(5):
        sender.send(to("b", number, ack=True), last=number == 4)

    assert [message.signal_data for message in receiver.messages if isinstance(message, Signal)] == [0, 1, 2, 3, 4]
    assert receiver.socket.writes == writes + 1
    assert [type(message) for message in sender.messages] == [SignalAck] * 5
    assert gateway.registry.relay_context.batch is None


async def test_a_signal_to_nobody_is_answered_with_an_error(gateway: Gateway) -> None:
    sender = await gateway.client("a")

    sender.send(to("b"))

    assert sender.last(ErrorMessage).error_code == 404


async def test_a_signal_that_the_relay_path_cannot_read_goes_through_the_codec(gateway: Gateway) -> None:
    receiver, sender = await gateway.client("b"), await gateway.client("a")
    payload = b'{"target_client_id":"b","signal_data":1,"a field of a later version":2}'
    plain = sender.encode(to("b"))
    _, head = decode_frame(Framing.V1, plain), plain[:HEAD]

    sender.send_data(head + len(payload).to_bytes(2) + payload)

    assert receiver.last(SignalOffer).signal_data == 1
    assert gateway.registry.counters.relayed_decoded.value == 1


async def test_a_signal_beyond_the_receivers_frame_is_refused(gateway: Gateway) -> None:
    receiver, sender = await gateway.client("b"), await gateway.client("a", Framing.V2)

    sender.send(to("b", "x" * 70_000))

    assert sender.last(ErrorMessage).error_code == 413
    assert receiver.messages == []


async def test_a_token_that_names_its_targets_is_checked_for_every_signal(gateway: Gateway) -> None:
    gateway.authenticator.grants["a"] = Grants(signal_to=("c*",))
    receiver, sender = await gateway.client("b"), await gateway.client("a")
    allowed = await gateway.client("c1")

    sender.send(to("b"))
    sender.send(to("c1"))

    assert sender.last(ErrorMessage).error_code == 403
    assert receiver.messages == []
    assert isinstance(allowed.messages[-1], SignalOffer)


async def test_one_relayed_signal_of_many_is_timed(gateway: Gateway) -> None:
    await gateway.client("b")
    sender = await gateway.client("a")

    for _ in range(65):
        sender.send(to("b"))
    for _ in range(64):
        sender.send(to("b"), last=False)
    sender.send(to("b"))

    assert sum(gateway.registry.counters.relay_seconds.counts) == 3


@pytest.mark.parametrize("batched", [True, False])
async def test_many_relayed_signals_are_confirmed_to_a_session_that_outlives_its_connection(
    gateway: Gateway, batched: bool
) -> None:
    await gateway.client("b", Framing.V2)
    sender = await gateway.client("a", Framing.V2, resumable=True)

    for number in range(7):
        sender.send(to("b", "x" * 30_000), last=not batched or number == 6)

    (confirmation,) = [message for message in sender.messages if isinstance(message, Heartbeat)]
    assert confirmation.received == 7


# -- other nodes -------------------------------------------------------------------------------------------------------


class ForwardingBus(LocalBus[RelayTarget]):
    """A bus with another node, on which everybody else is."""

    def __init__(self, error: SignalManagerError | None = None) -> None:
        super().__init__()
        self.error = error
        self.forwarded: list[tuple[Sender, str, bytes, bool, bool]] = []

    @property
    def forwarder(self) -> Forwarder:
        return self

    def forward(
        self, sender: Sender, target: str, frame: bytes, body: bytes, *, wants_ack: bool, is_alone: bool = False
    ) -> None:
        if self.error is not None:
            raise self.error
        self.forwarded.append((sender, target, bytes(body), wants_ack, is_alone))


async def test_a_signal_to_another_node_is_forwarded_as_it_came() -> None:
    bus = ForwardingBus()
    gateway = Gateway(bus=bus)
    sender = await gateway.client("a")

    sender.send(to("far"))
    sender.send(to("far", ack=True), last=False)
    sender.send(Heartbeat())

    assert bus.forwarded == [
        (sender.connection, "far", b'"v=0"', False, True),
        (sender.connection, "far", b'"v=0"', True, False),
    ]
    assert gateway.registry.counters.signals() == 2


async def test_a_signal_that_cannot_be_forwarded_is_refused_with_the_reason() -> None:
    gateway = Gateway(bus=ForwardingBus(UnavailableError("the other nodes cannot be reached")))
    sender = await gateway.client("a")

    sender.send(to("far"))

    assert sender.last(ErrorMessage).error_code == 404  # what the codec's way says of a bus without other nodes


async def test_forwarded_signals_are_confirmed_too() -> None:
    gateway = Gateway(bus=ForwardingBus())
    sender = await gateway.client("a", Framing.V2, resumable=True)

    for _ in range(7):
        sender.send(to("far", "x" * 30_000))

    assert sender.last(Heartbeat).received == 7


@pytest.mark.parametrize(
    ("result", "wants_ack", "answer"),
    [
        (Delivery.DELIVERED, True, SignalAck(status="delivered", target_client_id="far")),
        (Delivery.DELIVERED, False, None),
        (NotFoundError("gone"), False, 404),
        (TooLargeError("too large for its target"), False, 413),
    ],
)
async def test_a_sender_is_told_what_became_of_its_signal(
    gateway: Gateway, result: Delivery | SignalManagerError, wants_ack: bool, answer: object
) -> None:
    sender = await gateway.client("a")
    head = sender.encode(to("far"))[:HEAD]

    sender.connection.told(head, "far", wants_ack, result)

    if answer is None:
        assert sender.messages == []
    elif isinstance(answer, int):
        assert sender.last(ErrorMessage).error_code == answer
        assert decode_frame(Framing.V1, sender.socket.received[-1]).message_id == ID
    else:
        assert sender.messages == [answer]


def forwarded(signal: Signal, payload_type: PayloadType = PayloadType.JSON) -> tuple[bytes, bytes]:
    """Return a signal as another node sends it on: its head, and its body."""
    sender = GatewayClient(Gateway(), payload_type=payload_type)
    data = sender.encode(signal)
    read = relay.RelayEnd("a", Framing.V1, payload_type, Shape.PLAIN).read(data)
    assert read is not None
    return data[:HEAD], bytes(read.signal_data)


@pytest.mark.parametrize("payload_type", [PayloadType.JSON, PayloadType.BINARY])
async def test_signals_of_another_node_are_written_in_their_order(gateway: Gateway, payload_type: PayloadType) -> None:
    receiver = await gateway.client("b")

    exceptional = receiver.connection.relay("a", [forwarded(to("b", "one"), payload_type), forwarded(to("b", "two"))])

    assert exceptional == []
    signals = [message for message in receiver.messages if isinstance(message, SignalOffer)]
    assert [signal.signal_data for signal in signals] in (["one", "two"], [b"one", "two"])
    assert {signal.sender_client_id for signal in signals} == {"a"}


async def test_what_does_not_fit_the_receiver_is_the_only_exception_of_its_run() -> None:
    gateway = Gateway()
    receiver = await gateway.client("b")
    head, _ = forwarded(to("b"))

    exceptional = receiver.connection.relay(
        "a", [(head, b'"one"'), (head, b'"' + b"x" * 70_000 + b'"'), (head, b'"three"')]
    )

    ((place, error),) = exceptional
    assert place == 1
    assert isinstance(error, TooLargeError)
    assert [message.signal_data for message in receiver.messages if isinstance(message, Signal)] == ["one", "three"]


async def test_a_client_with_text_frames_gets_signals_of_other_nodes_through_the_codec(gateway: Gateway) -> None:
    receiver = await gateway.client("b", Framing.JSON)

    assert receiver.connection.relay("a", [forwarded(to("b", {"x": 1}))]) == []

    assert receiver.last(SignalOffer).signal_data == {"x": 1}


# -- heartbeats ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload_type", PayloadType)
async def test_a_heartbeat_is_answered_with_its_timestamp(gateway: Gateway, payload_type: PayloadType) -> None:
    client = await signed_in(gateway, "a", payload_type=payload_type)

    client.send(Heartbeat(timestamp=7))

    ack = client.last(HeartbeatAck)
    assert ack.timestamp == 7
    assert decode_frame(Framing.V1, client.socket.received[-1]).message_id == ID


async def test_a_heartbeat_confirms_both_ways(gateway: Gateway) -> None:
    client = await gateway.client("a", resumable=True)
    client.send(Register())
    await gateway.settled()
    journal = next(iter(gateway.registry.sessions()))

    client.send(Heartbeat(timestamp=1, received=1))

    assert client.last(HeartbeatAck).received == 1
    assert client.connection.outgoing.journal is not None
    assert client.connection.outgoing.journal.unconfirmed == ()
    assert journal.client_id == "a"


async def test_a_client_cannot_confirm_what_was_never_sent(gateway: Gateway) -> None:
    client = await gateway.client("a", resumable=True)

    client.send(Heartbeat(timestamp=1, received=99))

    error, ack = client.messages
    assert isinstance(error, ErrorMessage)
    assert error.error_code == 400
    assert isinstance(ack, HeartbeatAck)


# -- the rate ----------------------------------------------------------------------------------------------------------


async def test_messages_beyond_the_rate_are_refused_and_a_client_that_insists_is_closed() -> None:
    gateway = Gateway(messages_per_minute=5)
    client = await gateway.client("a")

    for _ in range(5):
        client.send(Heartbeat())
    within = list(client.messages)
    for _ in range(5):
        client.send(Heartbeat())
    refused = client.messages[5:]
    before = client.close_code
    client.send(Heartbeat())

    assert [type(message) for message in within] == [HeartbeatAck] * 5
    assert {message.error_code for message in refused if isinstance(message, ErrorMessage)} == {429}
    assert len(refused) == 5
    assert (before, client.close_code) == (None, 4429)


async def test_a_new_connection_is_no_new_allowance() -> None:
    gateway = Gateway(messages_per_minute=5)
    first = await gateway.client("a", instance_id="i")
    for _ in range(5):
        first.send(Heartbeat())
    second = await gateway.client("a", instance_id="i")

    second.send(Heartbeat())

    assert second.last(ErrorMessage).error_code == 429


async def test_bytes_beyond_the_rate_are_refused(gateway: Gateway) -> None:
    gateway = Gateway(bytes_per_minute=160_000, largest_message=20_000)
    await gateway.client("b")
    client = await gateway.client("a")

    client.send(to("b", "x" * 15_000))
    client.send(to("b", "x" * 15_000))

    assert client.last(ErrorMessage).error_code == 429
    assert "bytes in a minute" in client.last(ErrorMessage).error_message


async def test_fragments_count_as_the_message_that_they_are(gateway: Gateway) -> None:
    gateway = Gateway(messages_per_minute=2)
    client = await gateway.client("a")
    data = client.encode(Heartbeat())

    def in_fragments() -> None:
        client.connection.on_ws_frame(client.socket.picows, frame(data[:5], BINARY, fin=False))
        client.connection.on_ws_frame(client.socket.picows, frame(data[5:], CONTINUATION))

    for _ in range(3):
        in_fragments()

    assert [type(message) for message in client.messages] == [HeartbeatAck, HeartbeatAck, ErrorMessage]


async def test_a_flood_of_pings_ends_the_connection() -> None:
    gateway = Gateway(messages_per_minute=1)
    client = await gateway.client("a")

    for _ in range(FRAMES_PER_MESSAGE + 1):
        client.connection.on_ws_frame(client.socket.picows, frame(b"?", PING))

    assert (len(client.socket.pongs), client.close_code) == (FRAMES_PER_MESSAGE, 4429)


# -- what is no message ------------------------------------------------------------------------------------------------


async def test_text_that_is_no_utf8_breaks_the_protocol(gateway: Gateway) -> None:
    client = await gateway.client("a", Framing.JSON)

    client.send_data(b"\xff\xfe", TEXT)

    assert client.close_code == 1007


async def test_reserved_bits_break_the_protocol(gateway: Gateway) -> None:
    client = await gateway.client("a")

    client.connection.on_ws_frame(client.socket.picows, frame(b"x", rsv=True))

    assert client.close_code == 1002


@pytest.mark.parametrize(("kind", "framing"), [(TEXT, Framing.V1), (BINARY, Framing.JSON)])
async def test_a_message_of_the_wrong_frame_type_is_malformed(
    gateway: Gateway, kind: WSMsgType, framing: Framing
) -> None:
    client = await gateway.client("a", framing)

    client.send_data(b"{}", kind)

    error = client.last(ErrorMessage)
    assert error.error_code == 400
    assert "WebSocket message" in error.error_message


async def test_a_stranger_sends_small_messages_only(gateway: Gateway) -> None:
    client = gateway.connect()

    client.send_data(bytes(BEFORE_CONNECT + 1))

    assert client.close_code == 1009


async def test_a_stranger_whose_message_never_ends_is_closed_before_it_fills_its_buffer(gateway: Gateway) -> None:
    client = gateway.connect()

    client.connection.buffered(2 * BEFORE_CONNECT)

    assert (client.close_code, client.socket.is_paused) == (1009, True)


async def test_a_fault_ends_the_connection_that_met_it_and_no_other(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, client = await gateway.client("b"), await gateway.client("a")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(gateway.dispatcher, "relay", fail)
    with capture_logs() as logs:
        client.send(SignalMessage(room_id="r", signal_data=1), last=False)
        client.send(Heartbeat())
    other.send(Heartbeat())

    assert client.close_code == 1011
    assert [line["client_id"] for line in logs if line["event"] == "connection failed"] == ["a"]
    assert isinstance(other.messages[-1], HeartbeatAck)
    assert gateway.registry.relay_context.batch is None


# -- time --------------------------------------------------------------------------------------------------------------


async def test_a_silent_client_is_pinged_and_then_closed(gateway: Gateway) -> None:
    client = await gateway.client("a")
    now = time.monotonic()
    client.connection.tick(now)

    client.connection.tick(now + 31)
    pinged = client.socket.pings
    client.connection.tick(now + 91)

    assert (pinged, client.close_code) == (1, 4408)


async def test_any_frame_is_a_sign_of_life(gateway: Gateway) -> None:
    client = await gateway.client("a")
    now = time.monotonic()

    client.connection.tick(now + 80)
    client.connection.on_ws_frame(client.socket.picows, frame(b"", WSMsgType.PONG))
    client.connection.tick(now + 85)
    client.connection.tick(now + 100)

    assert client.close_code is None


async def test_a_stranger_has_to_send_connect_in_time(gateway: Gateway) -> None:
    client = gateway.connect()

    client.connection.tick(time.monotonic() + 11)

    assert client.close_code == 4408


async def test_a_connection_that_picows_closes_is_cut_and_its_session_waits(gateway: Gateway) -> None:
    client = await gateway.client("a", resumable=True)
    client.socket.send_close(1002, "unmasked frame")

    client.connection.tick(time.monotonic())

    assert not client.connection.is_established
    assert [session.client_id for session in gateway.registry.session_store.away()] == ["a"]


# -- its end -----------------------------------------------------------------------------------------------------------


async def test_the_end_of_a_connection_is_logged_with_its_reason_and_without_its_token(gateway: Gateway) -> None:
    client = await gateway.client("a", token="secret token")

    with capture_logs() as logs:
        client.send(Heartbeat())
        client.lose()

    (line,) = [line for line in logs if line["event"] == "connection closed"]
    assert (line["client_id"], line["reason"], line["received"], line["sent"]) == ("a", "connection lost", 2, 2)
    assert "secret token" not in str(logs)
    assert gateway.bus.subscribers == {}
    assert gateway.value("connections_closed", "lost") == 1


async def test_strangers_fill_no_log(gateway: Gateway) -> None:
    gateway = Gateway(max_connections_per_address=1000)
    with capture_logs() as logs:
        for _ in range(150):
            gateway.connect().lose()

    assert len(logs) == 100
    assert sum(gateway.registry.sample.left_out(time.monotonic() + 60).values()) == 200


async def test_a_client_that_does_not_read_is_closed_and_may_come_back() -> None:
    gateway = Gateway(outbound_queue_bytes=1000)
    receiver, sender = await gateway.client("b", resumable=True), await gateway.client("a")
    receiver.socket.waiting = 990

    sender.send(to("b"))
    before = receiver.close_code
    receiver.connection.pause_writing()
    sender.send(to("b"))

    assert (before, receiver.close_code) == (None, 4413)
    assert [session.client_id for session in gateway.registry.session_store.away()] == ["b"]


async def test_a_client_that_has_caught_up_is_served_as_before() -> None:
    gateway = Gateway(outbound_queue_bytes=1000)
    receiver, sender = await gateway.client("b"), await gateway.client("a")
    receiver.connection.pause_writing()
    receiver.connection.resume_writing()
    receiver.socket.waiting = 2000

    sender.send(to("b"))

    assert isinstance(receiver.messages[-1], SignalOffer)


async def test_a_stranger_that_gives_way_is_cut_off() -> None:
    gateway = Gateway(max_strangers=1)
    first, second = gateway.connect(), gateway.connect()

    assert (first.close_code, first.socket.is_cut) == (4503, True)
    assert second.close_code is None


async def test_one_address_with_too_many_connections_is_told(gateway: Gateway) -> None:
    gateway = Gateway(max_connections_per_address=1)

    assert [client.close_code for client in (gateway.connect(), gateway.connect())] == [None, 4503]


async def test_before_its_socket_is_known_a_connection_can_be_asked_to_close(gateway: Gateway) -> None:
    client = gateway.connect()
    unopened = type(client.connection)(
        gateway.registry, Framing.V1, source=client.connection.source, opened_at=time.monotonic()
    )

    unopened.ping()
    unopened.cut()
    unopened.tick(time.monotonic() + 60)

    assert unopened.sent == 0


# -- what others see ---------------------------------------------------------------------------------------------------


async def test_operators_see_who_it_is_and_end_it(gateway: Gateway) -> None:
    client = await signed_in(gateway, "a", Framing.V2, payload_type=PayloadType.CBOR)
    connection = client.connection
    assert client.welcome is not None

    seen = (connection.client_id, connection.session_id, connection.framing, connection.encoding, connection.address)
    connection.evict()

    assert seen == ("a", client.welcome.session_id, "v2", "cbor", "192.0.2.7")
    assert connection.taken_up_at == taken_up_at(client.welcome.session_id)
    assert connection.age < 60
    assert not connection.is_away
    assert client.close_code == 4403


async def test_the_handshakes_headers_are_not_kept(gateway: Gateway) -> None:
    client = gateway.connect()

    assert (client.socket.request.headers, client.socket.response.headers) == ({}, {})


@pytest.mark.parametrize("request_type", [Register, IceServers])
async def test_what_waits_for_a_reply_is_handled_in_its_order(
    gateway: Gateway, request_type: type[Register | IceServers]
) -> None:
    client, receiver = await gateway.client("a"), await gateway.client("b")

    client.send(request_type(), last=False)
    client.send(to("b", "one"), last=False)
    client.send(SignalIceCandidate(target_client_id="b", signal_data="two"))
    await gateway.settled()

    assert [message.signal_data for message in receiver.messages if isinstance(message, Signal)] == ["one", "two"]
    assert isinstance(client.messages[-1], RegisterAck | ErrorMessage)
