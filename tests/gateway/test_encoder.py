"""How messages to one client are encoded: in the client's own form, and never in one that ends its connection."""

from __future__ import annotations

import itertools
import time
from typing import Any

import msgspec
import pytest

from signal_manager.errors import InvalidRequestError, TooLargeError
from signal_manager.gateway import encoder
from signal_manager.gateway.counters import GatewayCounters, SentErrors
from signal_manager.gateway.encoder import LastMessage, MessageEncoder
from signal_manager.model import ClientId, Identity
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.codec import decode_payload, encode_payload
from signal_manager.protocol.framing import Framing, decode_frame, encode_frame
from signal_manager.protocol.messages import (
    ErrorMessage,
    GoAway,
    Heartbeat,
    Message,
    MessageType,
    PayloadType,
    Peer,
    RegisterAck,
    RoomEvent,
    Shape,
    SignalAck,
    SignalOffer,
)
from signal_manager.protocol.relay import RelayEnd
from signal_manager.protocol.state_machine import ConnectionStateMachine, Send, SessionSettings
from tests.gateway.harness import ID

LARGEST_V1 = 0xFFFF
GO_AWAY = GoAway(reason="restarting", reconnect_after=1)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


class Client:
    """A client's encoder, and what the client reads."""

    def __init__(
        self,
        metrics: Metrics,
        framing: Framing,
        payload_type: PayloadType,
        shape: Shape,
        last: LastMessage | None = None,
    ) -> None:
        self.session = ConnectionStateMachine(SessionSettings(), now=0.0, payload_type=payload_type)
        self.session.shape = shape
        self.session.identity = Identity(client_id=ClientId("a"))
        self.framing = framing
        self.errors = SentErrors(metrics)
        self.encoder = MessageEncoder(
            self.session, framing, GatewayCounters(metrics), self.errors, last or LastMessage()
        )

    def read(self, data: bytes | None) -> Message:
        assert data is not None
        header = decode_frame(self.framing, data)
        return decode_payload(header.message_type, header.payload_type, header.payload, sent_by=Peer.SERVICE).message


def offer(data: object, sender: str = "b") -> SignalOffer:
    return SignalOffer(target_client_id="a", sender_client_id=sender, signal_data=data)


def fields(client: Client, signal: SignalOffer) -> dict[str, Any]:
    """Return the JSON fields of a signal as a tagged client gets them."""
    payload = decode_frame(client.framing, client.encoder.message(signal, ID)).payload
    (value,) = msgspec.json.decode(payload, type=dict[str, dict[str, Any]]).values()
    return value


def signal_data(client: Client, data: object) -> object:
    return fields(client, offer(data))["signal_data"]


@pytest.fixture
def plain(metrics: Metrics) -> Client:
    return Client(metrics, Framing.V2, PayloadType.JSON, Shape.PLAIN)


@pytest.fixture
def tagged(metrics: Metrics) -> Client:
    """A client of the original service, with its two-byte lengths."""
    return Client(metrics, Framing.V1, PayloadType.JSON, Shape.TAGGED)


@pytest.mark.parametrize(
    ("framing", "payload_type"),
    [*itertools.product((Framing.V1, Framing.V2), PayloadType), (Framing.JSON, PayloadType.JSON)],
)
def test_a_signal_arrives_in_the_clients_own_encoding(
    metrics: Metrics, framing: Framing, payload_type: PayloadType
) -> None:
    client = Client(metrics, framing, payload_type, Shape.PLAIN)

    data = client.encoder.message(offer("v=0"), ID)

    header = decode_frame(framing, data)
    signal = client.read(data)
    assert isinstance(signal, SignalOffer)
    assert (header.message_id, header.payload_type, signal.sender_client_id) == (ID, payload_type, "b")
    assert signal.signal_data in ("v=0", b"v=0")


def test_a_message_without_an_id_gets_one_of_its_own(plain: Client) -> None:
    again = GoAway(reason="restarting", reconnect_after=1)

    first, second = (decode_frame(plain.framing, plain.encoder.message(each, None)) for each in (GO_AWAY, again))

    assert first.message_id != second.message_id


WIRE_FORMATS = [*itertools.product((Framing.V1, Framing.V2), PayloadType), (Framing.JSON, PayloadType.JSON)]


def test_a_message_to_many_clients_is_encoded_once_for_each_wire_format(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[PayloadType] = []

    def counted(
        message: Message, payload_type: PayloadType, shape: Shape, *, sent_by: Peer
    ) -> tuple[PayloadType, bytes]:
        encoded.append(payload_type)
        return encode_payload(message, payload_type, shape, sent_by=sent_by)

    monkeypatch.setattr(encoder, "encode_payload", counted)
    last = LastMessage()
    clients = [Client(metrics, *wire_format, Shape.PLAIN, last) for wire_format in WIRE_FORMATS * 3]
    news = RoomEvent(room_id="r", sequence=7, event="participant_left", reason="left")

    frames = [client.encoder.message(news, None) for client in clients]

    assert len(encoded) == len(WIRE_FORMATS)
    assert all(client.read(frame) == news for client, frame in zip(clients, frames, strict=True))
    headers = [decode_frame(client.framing, frame) for client, frame in zip(clients, frames, strict=True)]
    assert len({header.message_id for header in headers}) == 1
    assert metrics.messages_sent.labelled("ROOM_EVENT").value == len(clients)


def test_a_message_that_only_looks_like_the_last_one_is_encoded_anew(metrics: Metrics) -> None:
    last = LastMessage()
    one, other = (Client(metrics, Framing.V2, PayloadType.JSON, Shape.PLAIN, last) for _ in range(2))

    assert one.read(one.encoder.message(offer("first"), ID)) == offer("first")
    assert other.read(other.encoder.message(offer("second"), ID)) == offer("second")
    assert decode_frame(Framing.V2, one.encoder.message(offer("second"), bytes(16))).message_id == bytes(16)


def test_messages_are_counted_by_type(plain: Client, metrics: Metrics) -> None:
    plain.encoder.message(GO_AWAY, None)

    assert metrics.messages_sent.labelled("GOAWAY").value == 1


# -- clients of the original service ---------------------------------------------------------------------------------


def test_a_tagged_client_is_sent_no_message_that_its_protocol_lacks(tagged: Client) -> None:
    with pytest.raises(InvalidRequestError, match="no GOAWAY"):
        tagged.encoder.message(GO_AWAY, None)


def test_a_tagged_client_reads_any_json_value_as_text(tagged: Client) -> None:
    assert signal_data(tagged, {"x": 1}) == '{"x":1}'


@pytest.mark.parametrize("data", ["v=0", b"v=0"])
def test_text_and_bytes_stay_what_they_are_for_a_tagged_client(tagged: Client, data: str | bytes) -> None:
    assert signal_data(tagged, data) == "v=0"


def test_a_signal_that_fits_a_tagged_clients_frame_without_its_sender_arrives_without_it(tagged: Client) -> None:
    sender = "b" * 128
    _, shortest = encode_payload(offer("", sender), PayloadType.JSON, Shape.TAGGED, sent_by=Peer.SERVICE)
    room = LARGEST_V1 - len(shortest)

    fits = fields(tagged, offer("x" * room, sender))
    larger = fields(tagged, offer("x" * (room + 1), sender))

    assert (fits["sender_client_id"], larger.get("sender_client_id")) == (sender, None)
    with pytest.raises(TooLargeError):
        tagged.encoder.message(offer("x" * LARGEST_V1, sender), ID)


def test_a_tagged_client_knows_no_acknowledgement(tagged: Client) -> None:
    assert tagged.encoder.acknowledgement("b", bytes(64)) is None


# -- replies -------------------------------------------------------------------------------------------------------


def test_the_acknowledgement_of_a_signal_has_its_id_and_payload_type(plain: Client) -> None:
    signal = encode_frame(plain.framing, MessageType.SIGNAL_OFFER, ID, PayloadType.CBOR, b"\xa0")

    data = plain.encoder.acknowledgement("b", signal)

    assert plain.read(data) == SignalAck(status="delivered", target_client_id="b")
    assert data is not None
    header = decode_frame(plain.framing, data)
    assert (header.message_id, header.payload_type) == (ID, PayloadType.CBOR)


def test_an_error_is_remembered_with_the_client_that_gets_it(plain: Client) -> None:
    error = ErrorMessage(error_code=404, error_message="no such room")

    plain.encoder.reply(Send(error, ID, PayloadType.JSON, Shape.PLAIN))

    assert [(each.code, each.message, each.client_id) for each in plain.errors.recent] == [(404, "no such room", "a")]


def test_a_reply_that_does_not_fit_becomes_an_error_that_does(metrics: Metrics) -> None:
    client = Client(metrics, Framing.V1, PayloadType.JSON, Shape.PLAIN)
    reply = RegisterAck(version="1", status=200, message="y" * LARGEST_V1, client_id="a", session_id="s")

    data = client.encoder.reply(Send(reply, ID, PayloadType.JSON, Shape.PLAIN))

    refusal = client.read(data)
    assert isinstance(refusal, ErrorMessage)
    assert (refusal.error_code, decode_frame(client.framing, data).message_id) == (413, ID)


@pytest.mark.parametrize("payload_type", [PayloadType.JSON, PayloadType.CBOR])
@pytest.mark.parametrize("has_end", [True, False])
def test_a_confirmation_is_the_same_with_and_without_the_codec(
    metrics: Metrics, payload_type: PayloadType, has_end: bool
) -> None:
    client = Client(metrics, Framing.V1, payload_type, Shape.PLAIN)
    end = RelayEnd("a", Framing.V1, payload_type, Shape.PLAIN) if has_end else None
    before = time.time_ns() // 1_000_000

    beat = client.read(client.encoder.confirmation(end, 7))

    assert isinstance(beat, Heartbeat)
    assert beat.received == 7
    assert before <= beat.timestamp <= time.time_ns() // 1_000_000
    assert metrics.messages_sent.labelled("HEARTBEAT").value == 1
