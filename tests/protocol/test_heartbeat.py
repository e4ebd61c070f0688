"""The short way of a HEARTBEAT gives the same as the codec, or leaves it to that."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_manager.errors import MalformedMessageError
from signal_manager.protocol import heartbeat
from signal_manager.protocol.codec import decode_payload, encode_payload
from signal_manager.protocol.framing import Framing, decode_frame, encode_frame
from signal_manager.protocol.messages import Heartbeat, HeartbeatAck, Message, MessageType, PayloadType, Peer, Shape
from signal_manager.protocol.relay import RelayEnd

ID = bytes(range(16))
FRAMINGS = [Framing.V1, Framing.V2]


def end(framing: Framing) -> RelayEnd:
    return RelayEnd("a", framing, PayloadType.JSON, Shape.PLAIN)


def frame(payload: bytes, framing: Framing = Framing.V1) -> bytes:
    return encode_frame(framing, MessageType.HEARTBEAT, ID, PayloadType.JSON, payload)


def as_json(message: Message) -> bytes:
    return encode_payload(message, PayloadType.JSON, Shape.PLAIN, sent_by=Peer.SERVICE)[1]


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize(
    "payload", [b"", b"{}", b'{"timestamp":7}', b'{"received":3, "timestamp":7}', b'{"received":null}']
)
def test_a_heartbeat_is_read_and_answered_as_the_codec_does_it(framing: Framing, payload: bytes) -> None:
    data = frame(payload, framing)
    expected = decode_payload(MessageType.HEARTBEAT, PayloadType.JSON, payload, sent_by=Peer.CLIENT).message

    beat = heartbeat.read(data, end(framing))

    assert beat is not None
    assert Heartbeat(timestamp=beat.timestamp, received=beat.received) == expected
    for received in (None, 9):
        answer = HeartbeatAck(timestamp=beat.timestamp, server_time=5, received=received)
        acknowledgement = heartbeat.acknowledgement(data, beat, end(framing), server_time=5, received=received)
        assert acknowledgement == encode_frame(
            framing, MessageType.HEARTBEAT_ACK, ID, PayloadType.JSON, as_json(answer)
        )


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_confirmation_is_the_heartbeat_that_the_codec_writes(framing: Framing) -> None:
    frame = decode_frame(framing, heartbeat.confirmation(end(framing), ID, timestamp=7, received=3))

    assert (frame.message_type, frame.message_id, frame.payload_type) == (MessageType.HEARTBEAT, ID, PayloadType.JSON)
    assert frame.payload == as_json(Heartbeat(timestamp=7, received=3))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        frame(b"{}")[:-1],
        frame(b"{}") + b" ",
        frame(b"{}", Framing.V2),
        encode_frame(Framing.V1, MessageType.DISCONNECT, ID, PayloadType.JSON, b"{}"),
        encode_frame(Framing.V1, MessageType.HEARTBEAT, ID, PayloadType.TEXT, b"1"),
        frame(b'{"timestamp":1,"more":2}'),
        frame(b'{"Heartbeat":{"timestamp":1}}'),
        frame(b'{"timestamp":-1}'),
        frame(b'{"timestamp":9223372036854775808}'),
        frame(b'{"timestamp":"\xff"}'),
        frame(b'{"more":' + b"[" * 5000),
        frame(b"7"),
    ],
)
def test_what_is_not_known_for_certain_is_left_to_the_codec(data: bytes) -> None:
    assert heartbeat.read(data, end(Framing.V1)) is None


_numbers = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.just("1")


@given(fields=st.dictionaries(st.sampled_from(["timestamp", "received", "client_id"]), _numbers))
def test_whatever_it_reads_the_codec_reads_alike(fields: dict[str, object]) -> None:
    payload = json.dumps(fields).encode()

    beat = heartbeat.read(frame(payload), end(Framing.V1))

    try:
        decoded = decode_payload(MessageType.HEARTBEAT, PayloadType.JSON, payload, sent_by=Peer.CLIENT)
    except MalformedMessageError:
        assert beat is None
    else:
        message = decoded.message
        assert isinstance(message, Heartbeat)
        assert beat is None or (beat.timestamp, beat.received) == (message.timestamp, message.received)
