"""All payload types together: round trips, relaying from one to another, and garbage."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from random import Random
from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_manager.errors import MalformedMessageError
from signal_manager.protocol.catalogue import spec_of
from signal_manager.protocol.codec import Decoded, decode_payload, encode_payload, guess_shape
from signal_manager.protocol.codec.fields import raw_signal_data
from signal_manager.protocol.framing import Framing, decode_frame, encode_frame
from signal_manager.protocol.messages import (
    Connect,
    Disconnect,
    Heartbeat,
    Message,
    MessageType,
    PayloadType,
    Peer,
    Register,
    Shape,
    Signal,
    SignalMessage,
    SignalOffer,
)
from tests.protocol.strategies import any_message, signals

payload_types = st.sampled_from(PayloadType)
shapes = st.sampled_from(Shape)
peers = st.sampled_from(Peer)


def read_back(
    message: Message, payload_type: PayloadType, shape: Shape, *, sent_by: Peer
) -> tuple[PayloadType, Decoded]:
    written, payload = encode_payload(message, payload_type, shape, sent_by=sent_by)
    return written, decode_payload(spec_of(message).message_type, written, payload, sent_by=sent_by)


def as_read(message: Message, payload_type: PayloadType) -> Message:
    """Give `signal_data` the type in which that payload type brings it."""
    if not isinstance(message, Signal):
        return message
    data = message.signal_data
    if payload_type is PayloadType.BINARY:
        data = raw_signal_data(data)
    elif payload_type is PayloadType.TEXT:
        data = raw_signal_data(data).decode()
    elif payload_type is PayloadType.JSON and isinstance(data, bytes):
        try:
            data = data.decode()
        except UnicodeDecodeError:
            return message
    return msgspec.structs.replace(message, signal_data=data)


@given(message=any_message(sent_by=Peer.CLIENT), payload_type=payload_types, shape=shapes)
def test_what_a_client_writes_is_read_back_whole(message: Message, payload_type: PayloadType, shape: Shape) -> None:
    written, decoded = read_back(message, payload_type, shape, sent_by=Peer.CLIENT)

    if spec_of(message).sent_by is not Peer.SERVICE or written not in (PayloadType.BINARY, PayloadType.TEXT):
        assert decoded.message == as_read(message, written)


@given(message=any_message(sent_by=Peer.SERVICE), payload_type=payload_types, shape=shapes)
def test_what_the_service_writes_is_read_back_up_to_what_has_no_place(
    message: Message, payload_type: PayloadType, shape: Shape
) -> None:
    written, decoded = read_back(message, payload_type, shape, sent_by=Peer.SERVICE)

    if written in (PayloadType.BINARY, PayloadType.TEXT):
        assert encode_payload(decoded.message, written, shape, sent_by=Peer.SERVICE) == encode_payload(
            message, payload_type, shape, sent_by=Peer.SERVICE
        )
    else:
        assert decoded.message == as_read(message, written)


@given(message=any_message(sent_by=Peer.CLIENT), payload_type=st.sampled_from([PayloadType.JSON, PayloadType.CBOR]))
def test_the_tagged_shape_is_recognised_where_it_exists(message: Message, payload_type: PayloadType) -> None:
    _, decoded = read_back(message, payload_type, Shape.TAGGED, sent_by=Peer.CLIENT)

    assert (decoded.shape is Shape.TAGGED) == (spec_of(message).variant is not None)


@pytest.mark.parametrize("payload_type", [PayloadType.JSON, PayloadType.CBOR, PayloadType.PROTOBUF])
@given(message=any_message(sent_by=Peer.SERVICE))
def test_every_message_has_a_form_in_the_complete_payload_types(payload_type: PayloadType, message: Message) -> None:
    written, _ = encode_payload(message, payload_type, Shape.PLAIN, sent_by=Peer.SERVICE)

    assert written is payload_type


def test_a_message_without_a_form_is_written_as_json() -> None:
    message = Connect(client_id="a", auth_token="t", resumable=True)

    for payload_type in (PayloadType.BINARY, PayloadType.TEXT):
        assert encode_payload(message, payload_type, Shape.PLAIN, sent_by=Peer.CLIENT) == (
            PayloadType.JSON,
            b'{"client_id":"a","auth_token":"t","resumable":true}',
        )


def assert_relayed(message: Message, payload_type: PayloadType, shape: Shape) -> None:
    """Pass a client's signal on as the service does, and read it as the other client does."""
    assert isinstance(message, Signal)
    relayed = msgspec.structs.replace(message, sender_client_id="sender")

    written, decoded = read_back(relayed, payload_type, shape, sent_by=Peer.SERVICE)

    assert isinstance(decoded.message, Signal)
    assert decoded.message.sender_client_id == "sender"
    assert decoded.message.signal_data == as_read(relayed, written).signal_data  # type: ignore[attr-defined] # a Signal


@given(message=signals(sent_by=Peer.CLIENT), source=payload_types, target=payload_types, shape=shapes)
def test_a_signal_can_be_relayed_between_any_two_payload_types(
    message: Message, source: PayloadType, target: PayloadType, shape: Shape
) -> None:
    _, decoded = read_back(message, source, shape, sent_by=Peer.CLIENT)

    assert_relayed(decoded.message, target, shape)


def nested(levels: int) -> Any:
    return [nested(levels - 1)] if levels > 1 else []


# More than a message may hold: what is let in all the same must reach every receiver.
_wild_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.integers(55, 70).map(nested)
)
_wild_json = st.recursive(
    _wild_scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=())), inner),
    max_leaves=4,
)
_wild_cbor = st.recursive(
    st.none()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text()
    | st.binary()
    | st.integers(55, 70).map(nested)
    | st.sampled_from([cbor2.undefined, cbor2.CBORSimpleValue(99), datetime(2024, 1, 1, tzinfo=UTC), frozenset({1})]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers() | st.binary(), inner),
    max_leaves=4,
)


def assert_relayed_if_accepted(payload_type: PayloadType, payload: bytes) -> None:
    try:
        decoded = decode_payload(MessageType.SIGNAL_OFFER, payload_type, payload, sent_by=Peer.CLIENT)
    except MalformedMessageError:
        return
    for target in PayloadType:
        for shape in Shape:
            assert_relayed(decoded.message, target, shape)


@given(data=_wild_json, tagged=st.booleans())
def test_json_that_is_let_in_reaches_receivers_of_every_payload_type(data: object, tagged: bool) -> None:
    fields = {"target_client_id": "a", "signal_data": data}

    assert_relayed_if_accepted(PayloadType.JSON, json.dumps({"SignalOffer": fields} if tagged else fields).encode())


@given(data=_wild_cbor, tagged=st.booleans())
def test_cbor_that_is_let_in_reaches_receivers_of_every_payload_type(data: object, tagged: bool) -> None:
    fields = {"target_client_id": "a", "signal_data": data}

    assert_relayed_if_accepted(PayloadType.CBOR, cbor2.dumps({"SignalOffer": fields} if tagged else fields))


@pytest.mark.parametrize("payload_type", PayloadType)
def test_an_empty_payload_is_a_heartbeat_or_a_good_bye(payload_type: PayloadType) -> None:
    for message_type, message in ((MessageType.HEARTBEAT, Heartbeat()), (MessageType.DISCONNECT, Disconnect())):
        assert decode_payload(message_type, payload_type, b"", sent_by=Peer.CLIENT) == (message, Shape.PLAIN)
    with pytest.raises(MalformedMessageError, match="CONNECT payload is empty"):
        decode_payload(MessageType.CONNECT, payload_type, b"", sent_by=Peer.CLIENT)


def test_a_refusal_names_the_message_type() -> None:
    with pytest.raises(MalformedMessageError, match="CONNECT payload: expected an object, got list"):
        decode_payload(MessageType.CONNECT, PayloadType.JSON, b"[]", sent_by=Peer.CLIENT)


def test_the_shape_of_what_cannot_be_read_is_guessed_by_how_it_begins() -> None:
    json_type = PayloadType.JSON
    assert guess_shape(json_type, b' {"SignalOffer":{"target') is Shape.TAGGED
    assert guess_shape(json_type, b'{"Error":5}') is Shape.TAGGED
    assert guess_shape(json_type, b'{"target_client_id":') is Shape.PLAIN
    assert guess_shape(json_type, b"{") is None
    assert guess_shape(PayloadType.TEXT, b"bob") is None
    assert guess_shape(PayloadType.CBOR, b'{"SignalOffer":') is Shape.PLAIN


def _valid_frames() -> list[tuple[Framing, bytes]]:
    """Frames of every payload type and shape, as the ground from which mutations start."""
    messages: list[Message] = [
        Connect(client_id="a", auth_token="t"),
        Connect(client_id="a", auth_token="t", capabilities=["x"], metadata={"n": [1, -2.5, "é", None, True]}),
        Register(client_id="a", auth_token="t", capabilities=["x"], metadata={"n": {}}),
        SignalOffer(target_client_id="b", signal_data="v=0\r\n"),
        SignalMessage(target_client_id="b", signal_data=b"\xff\x00"),
        Heartbeat(timestamp=2**63),
        Disconnect(reason="bye"),
    ]
    frames = []
    for message in messages:
        for payload_type in PayloadType:
            for shape in Shape:
                written, payload = encode_payload(message, payload_type, shape, sent_by=Peer.CLIENT)
                for framing in Framing if written is PayloadType.JSON else (Framing.V1, Framing.V2):
                    frame = encode_frame(framing, spec_of(message).message_type, bytes(16), written, payload)
                    frames.append((framing, frame))
    return frames


VALID_FRAMES = _valid_frames()


def assert_understood_or_refused(framing: Framing, data: bytes, sent_by: Peer) -> None:
    try:
        frame = decode_frame(framing, data)
        decoded = decode_payload(frame.message_type, frame.payload_type, frame.payload, sent_by=sent_by)
    except MalformedMessageError:
        return
    for payload_type in PayloadType:
        read_back(decoded.message, payload_type, decoded.shape, sent_by=sent_by)


# Random garbage finds as many faults as a search does, at a fraction of its cost, so an example is a seed. 40,000
# payloads in CI, in two tests.
PAYLOADS_PER_SEED = 100
seeds = st.integers(0, 2**64 - 1)


@given(seed=seeds)
def test_random_payloads_give_a_message_or_a_refusal(seed: int) -> None:
    random = Random(seed)
    for _ in range(PAYLOADS_PER_SEED):
        framing = random.choice((Framing.V1, Framing.V2))
        message_type, payload_type = random.choice(tuple(MessageType)), random.choice(tuple(PayloadType))
        payload = random.randbytes(random.randint(0, 80))

        frame = encode_frame(framing, message_type, bytes(16), payload_type, payload)

        assert_understood_or_refused(framing, frame, random.choice(tuple(Peer)))


@given(seed=seeds)
def test_mutated_frames_give_a_message_or_a_refusal(seed: int) -> None:
    random = Random(seed)
    for _ in range(PAYLOADS_PER_SEED):
        framing, data = random.choice(VALID_FRAMES)

        data = mutated(data, framing, random)

        assert_understood_or_refused(framing, data, random.choice(tuple(Peer)))


def mutated(data: bytes, framing: Framing, random: Random) -> bytes:
    """Take up to three bytes out anywhere, put up to three in, and let the header name the right length."""
    position = random.randint(0, len(data))
    inserted = random.randbytes(random.randint(0, 3))
    data = data[:position] + inserted + data[position + random.randint(0, 3) :]
    header = {Framing.V1: 21, Framing.V2: 23, Framing.JSON: 0}[framing]
    if header and len(data) >= header:
        # With a wrong length no mutation would reach the payload.
        data = data[:19] + (len(data) - header).to_bytes(header - 19, "big") + data[header:]
    return data


@given(data=st.binary(max_size=60), framing=st.sampled_from(Framing))
def test_random_bytes_are_no_frame_or_a_message(data: bytes, framing: Framing) -> None:
    assert_understood_or_refused(framing, data, Peer.CLIENT)
