"""Frames of the three framings, whole and broken (docs/protocol.md, first section)."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_manager.errors import MalformedMessageError, TooLargeError
from signal_manager.protocol.framing import (
    SUBPROTOCOLS,
    Frame,
    Framing,
    choose_subprotocol,
    decode_frame,
    encode_frame,
)
from signal_manager.protocol.messages import MessageType, PayloadType

ID = UUID("00112233-4455-6677-8899-aabbccddeeff")


def refused(framing: Framing, data: bytes) -> MalformedMessageError:
    with pytest.raises(MalformedMessageError) as refusal:
        decode_frame(framing, data)
    return refusal.value


@pytest.mark.parametrize(
    ("framing", "data"),
    [
        (Framing.V1, "aa 01 00112233445566778899aabbccddeeff 02 0002 7b7d"),
        (Framing.V2, "ab 01 00112233445566778899aabbccddeeff 02 00000002 7b7d"),
    ],
)
def test_binary_headers_have_the_documented_bytes(framing: Framing, data: str) -> None:
    frame = Frame(MessageType.CONNECT, ID.bytes, PayloadType.JSON, b"{}")

    assert encode_frame(framing, *frame) == bytes.fromhex(data)
    assert decode_frame(framing, bytes.fromhex(data)) == frame


@pytest.mark.parametrize("framing", [Framing.V1, Framing.V2])
@given(
    message_type=st.sampled_from(MessageType),
    message_id=st.binary(min_size=16, max_size=16),
    payload_type=st.sampled_from(PayloadType),
    payload=st.binary(),
)
def test_a_frame_reads_back_as_it_was(
    framing: Framing, message_type: MessageType, message_id: bytes, payload_type: PayloadType, payload: bytes
) -> None:
    frame = Frame(message_type, message_id, payload_type, payload)

    assert decode_frame(framing, encode_frame(framing, *frame)) == frame


@pytest.mark.parametrize("framing", [Framing.V1, Framing.V2])
def test_every_shorter_or_longer_frame_is_refused(framing: Framing) -> None:
    whole = encode_frame(framing, MessageType.HEARTBEAT, ID.bytes, PayloadType.BINARY, bytes(8))

    for length in range(len(whole)):
        assert refused(framing, whole[:length]).message_id == (ID.bytes if length >= 18 else None)
    assert refused(framing, whole + b"\0").message_id == ID.bytes


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("ab 01 00112233445566778899aabbccddeeff 02 0000", "frame starts with 0xAB, expected 0xAA"),
        ("aa 09 00112233445566778899aabbccddeeff 02 0000", "unknown message type 0x09"),
        ("aa 80 00112233445566778899aabbccddeeff 02 0000", "unknown message type 0x80"),
        ("aa 01 00112233445566778899aabbccddeeff 00 0000", "unknown payload type 0x00, expected 0x01 to 0x05"),
        ("aa 01 00112233445566778899aabbccddeeff 06 0000", "unknown payload type 0x06, expected 0x01 to 0x05"),
        ("aa 01 00112233445566778899aabbccddeeff 02 0001", "payload is 0 bytes, expected the 1 that the header names"),
    ],
)
def test_a_wrong_header_is_named_and_keeps_the_request_s_id(data: str, message: str) -> None:
    refusal = refused(Framing.V1, bytes.fromhex(data))

    assert (refusal.message, refusal.message_id) == (message, ID.bytes)


def test_v1_refuses_what_its_length_field_cannot_say_and_advises_v2() -> None:
    fits = bytes(65_535)

    frame = decode_frame(Framing.V1, encode_frame(Framing.V1, MessageType.CONNECT, ID.bytes, PayloadType.JSON, fits))

    assert frame.payload == fits
    with pytest.raises(TooLargeError, match=r"65536 bytes.*at most 65535.*signal-manager\.v2"):
        encode_frame(Framing.V1, MessageType.CONNECT, ID.bytes, PayloadType.JSON, fits + b"\0")


def test_v2_carries_more() -> None:
    payload = bytes(65_536)

    data = encode_frame(Framing.V2, MessageType.CONNECT, ID.bytes, PayloadType.JSON, payload)

    assert decode_frame(Framing.V2, data).payload == payload


def test_text_messages_have_the_documented_members() -> None:
    frame = Frame(MessageType.CONNECT, ID.bytes, PayloadType.JSON, b'{"client_id": "a", "auth_token": "\xc3\xa9"}')
    data = f'{{"type":"CONNECT","id":"{ID}","payload":{{"client_id": "a", "auth_token": "é"}}}}'.encode()

    assert encode_frame(Framing.JSON, *frame) == data
    assert decode_frame(Framing.JSON, data) == frame


def test_a_person_may_leave_out_the_id_and_the_payload() -> None:
    empty = Frame(MessageType.HEARTBEAT, bytes(16), PayloadType.JSON, b"")

    assert decode_frame(Framing.JSON, b'{"type": "HEARTBEAT"}') == empty
    assert decode_frame(Framing.JSON, b'{"id": null, "payload": null, "type": "HEARTBEAT", "more": [1]}') == empty
    assert encode_frame(Framing.JSON, *empty) == b'{"type":"HEARTBEAT","id":"00000000-0000-0000-0000-000000000000"}'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", 'message is not an object {"type", "id", "payload"}'),
        (b"[]", 'message is not an object {"type", "id", "payload"}'),
        (b'{"type": "CONNECT"} x', 'message is not an object {"type", "id", "payload"}'),
        (b'{"type": "CONNECT", "payload": {"x": "\xff"}}', "message is not UTF-8"),
        (b'{"type": "CONNECT", "payload": ' + b"[" * 1_000_000, "message is nested too deeply"),
        (b'{"type": "CONNECT", "id": 1e999}', '"id" is not a UUID in its 36-character form'),
        (b'{"type": "CONNECT", "id": 7}', '"id" is not a UUID in its 36-character form'),
        (b'{"type": "CONNECT", "id": "{00112233-4455-6677-8899-aabbccddeeff}"}', '"id" is not a UUID'),
        (b'{"type": "CONNECT", "id": "00112233445566778899aabbccddeeff"}', '"id" is not a UUID'),
    ],
)
def test_a_broken_text_message_is_refused(data: bytes, message: str) -> None:
    refusal = refused(Framing.JSON, data)

    assert refusal.message.startswith(message)
    assert refusal.message_id is None


@pytest.mark.parametrize("name", ["null", "7", '"connect"', '"SECRET"', "{}"])
def test_an_unknown_type_of_a_text_message_keeps_the_request_s_id(name: str) -> None:
    refusal = refused(Framing.JSON, f'{{"type": {name}, "id": "{str(ID).upper()}"}}'.encode())

    assert refusal.message == '"type" is not the name of a message type, such as "CONNECT"'
    assert refusal.message_id == ID.bytes


def test_text_messages_carry_json_payloads_only() -> None:
    with pytest.raises(ValueError, match="CBOR"):
        encode_frame(Framing.JSON, MessageType.CONNECT, ID.bytes, PayloadType.CBOR, b"\xa0")


def test_the_first_known_subprotocol_is_chosen() -> None:
    assert choose_subprotocol(["mqtt", "signal-manager.v2", "signal-manager.v1"]) == "signal-manager.v2"
    assert choose_subprotocol(["mqtt"]) is None
    assert choose_subprotocol([]) is None
    assert set(SUBPROTOCOLS.values()) == set(Framing)
