"""How much one message may hold: values, and bytes in each of its fields."""

from __future__ import annotations

from typing import Any

import cbor2
import msgspec
import pytest
from msgspec import inspect

from signal_manager.errors import MalformedMessageError
from signal_manager.protocol.catalogue import SPECS
from signal_manager.protocol.codec import decode_payload, signal_manager_pb2
from signal_manager.protocol.codec.bounds import MAX_REQUEST, MAX_VALUES
from signal_manager.protocol.messages import (
    MAX_LABEL,
    MAX_SDP,
    MAX_TOKEN,
    Message,
    MessageType,
    PayloadType,
    Peer,
    SignalMessage,
)

MANY = MAX_VALUES + 1
FEW = MAX_VALUES // 4


def decode(message_type: MessageType, payload_type: PayloadType, payload: bytes) -> Message:
    return decode_payload(message_type, payload_type, payload, sent_by=Peer.CLIENT).message


def refusal(message_type: MessageType, payload_type: PayloadType, payload: bytes) -> str:
    with pytest.raises(MalformedMessageError) as caught:
        decode(message_type, payload_type, payload)
    return caught.value.message


def signal_of(value: bytes) -> bytes:
    return b'{"target_client_id":"a","signal_data":%b}' % value


def unbounded(kind: inspect.Type) -> str | None:
    """Return what of a field's type has no bound, or None."""
    match kind:
        case inspect.StrType(max_length=None, pattern=pattern):
            return None if pattern is not None and "{1,128}" in pattern else "text"
        case inspect.ListType(max_length=None):
            return "a list"
        case inspect.ListType(item_type=item):
            return unbounded(item)
        case inspect.DictType(max_length=None):
            return "an object"
        case inspect.UnionType(types=types):
            return next((found for each in types if (found := unbounded(each))), None)
        case inspect.StructType(cls=struct):
            return ", ".join(fields_without_bound(struct)) or None
        case _:
            return None


def fields_without_bound(struct: type[Any]) -> list[str]:
    return [
        f"{struct.__name__}.{field.name}: {found}"
        for field in msgspec.structs.fields(struct)
        # What a signal carries is bounded by the message that it comes in.
        if field.name != "signal_data" and (found := unbounded(inspect.type_info(field.type)))
    ]


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.struct.__name__)
def test_every_field_of_every_message_has_a_bound(spec: Any) -> None:
    assert fields_without_bound(spec.struct) == []


def test_a_field_without_a_bound_would_be_found() -> None:
    class Careless(msgspec.Struct):
        name: str
        names: list[SignalMessage] | None = None
        more: dict[str, Any] | None = None

    assert fields_without_bound(Careless) == [
        "Careless.name: text",
        "Careless.names: a list",
        "Careless.more: an object",
    ]


@pytest.mark.parametrize(
    ("message_type", "fields", "field"),
    [
        (MessageType.CONNECT, {"client_id": "a", "auth_token": "t" * (MAX_TOKEN + 1)}, "$.auth_token"),
        (
            MessageType.CONNECT,
            {"client_id": "a", "auth_token": "t", "instance_id": "i" * (MAX_LABEL + 1)},
            "$.instance_id",
        ),
        (MessageType.CONNECT, {"client_id": "a", "auth_token": "t", "version": "1" * (MAX_LABEL + 1)}, "$.version"),
        (
            MessageType.CONNECT,
            {
                "client_id": "a",
                "auth_token": "t",
                "resume": {"session_id": "s" * 257, "resume_token": "", "received": 0},
            },
            "$.resume.session_id",
        ),
        (MessageType.REGISTER, {"capabilities": ["c"] * 65}, "$.capabilities"),
        (MessageType.REGISTER, {"capabilities": ["c" * 257]}, "$.capabilities[0]"),
        (MessageType.DISCONNECT, {"reason": "r" * 257}, "$.reason"),
        (MessageType.RENEGOTIATE, {"room_id": "r", "answer_sdp": "s" * (MAX_SDP + 1)}, "$.answer_sdp"),
    ],
)
def test_a_field_that_is_too_long_is_refused_by_its_name(
    message_type: MessageType, fields: dict[str, Any], field: str
) -> None:
    for payload_type, payload in (
        (PayloadType.JSON, msgspec.json.encode(fields)),
        (PayloadType.CBOR, cbor2.dumps(fields)),
    ):
        message = refusal(message_type, payload_type, payload)
        assert "of length <= " in message
        assert message.endswith(f"`{field}`")


@pytest.mark.parametrize(
    ("message_type", "fields", "complaint"),
    [
        (MessageType.REGISTER, {"version": "é" * 129}, "`version` is 258 bytes, expected at most 256"),
        (MessageType.REGISTER, {"capabilities": ["a", "é" * 256]}, "`capabilities` is 512 bytes, expected at most 256"),
        (
            MessageType.CONNECT,
            {
                "client_id": "a",
                "auth_token": "t",
                "resume": {"session_id": "s", "resume_token": "é" * 200, "received": 0},
            },
            "`resume_token` is 400 bytes, expected at most 256",
        ),
    ],
)
def test_bounds_count_bytes(message_type: MessageType, fields: dict[str, Any], complaint: str) -> None:
    assert complaint in refusal(message_type, PayloadType.JSON, msgspec.json.encode(fields))


def test_text_that_is_long_in_bytes_and_short_enough_is_taken() -> None:
    assert decode(MessageType.DISCONNECT, PayloadType.JSON, '{"reason":"é"}'.encode())


def test_what_is_no_signal_is_no_longer_than_a_request_can_be() -> None:
    payload = b'{"timestamp":1}'.ljust(MAX_REQUEST)

    assert decode(MessageType.HEARTBEAT, PayloadType.JSON, payload)
    assert "expected at most 327680" in refusal(MessageType.HEARTBEAT, PayloadType.JSON, payload + b" ")
    assert decode(MessageType.SIGNAL_OFFER, PayloadType.JSON, signal_of(b"1").ljust(MAX_REQUEST + 1))
    assert decode_payload(MessageType.HEARTBEAT, PayloadType.JSON, payload + b" ", sent_by=Peer.SERVICE)


@pytest.mark.parametrize(
    "value",
    [
        b"[" + b",".join([b"1"] * MANY) + b"]",
        b"[" + b",".join([b"[]"] * MANY) + b"]",
        b"{" + b",".join(b'"%d":1' % number for number in range(MANY)) + b"}",
        b"[" + b",".join([b'""'] * MANY) + b"]",
        b"[" + b",".join([b'"\\\\"'] * MANY) + b"]",
        b"[" + b",".join([b"1e-300"] * FEW) + b"]",
        b"[" + b",".join([b"1E-300"] * FEW) + b"]",
    ],
    ids=["numbers", "arrays", "members", "texts", "texts of a backslash", "tiny numbers", "TINY NUMBERS"],
)
def test_too_many_values_are_refused_in_every_payload_that_holds_json(value: bytes) -> None:
    wire = signal_manager_pb2.SignalOffer(target_client_id="a", signal_json=value.decode())
    offer = MessageType.SIGNAL_OFFER

    assert "more than 8192 values" in refusal(offer, PayloadType.JSON, signal_of(value))
    assert "more than 8192 values" in refusal(offer, PayloadType.PROTOBUF, wire.SerializeToString())


@pytest.mark.parametrize(
    "value",
    [
        b'"' + b",[{e-" * MANY + b'"',
        b'"' + b'\\"\\\\,' * MANY + b'"',
        b"[" + b",".join([b'"a, [b] {c} \\" e-"'] * FEW) + b"]",
    ],
    ids=["a long text", "a text of quotes and backslashes", "many texts"],
)
def test_what_looks_like_values_within_texts_is_not_counted(value: bytes) -> None:
    message = decode(MessageType.SIGNAL_OFFER, PayloadType.JSON, signal_of(value))

    assert message == decode(MessageType.SIGNAL_OFFER, PayloadType.JSON, signal_of(value))


@pytest.mark.parametrize(
    "item",
    [
        b"\x9a" + MANY.to_bytes(4, "big") + b"\x01" * MANY,
        b"\x9f" + b"\xa0" * MANY + b"\xff",
        b"\x7f" + b"\x60" * MANY + b"\xff",
        b"\x9a" + MANY.to_bytes(4, "big") + b"\x18\x20" * MANY,
    ],
    ids=["numbers", "maps", "pieces of a text", "numbers of two bytes"],
)
def test_too_many_items_are_refused_in_cbor(item: bytes) -> None:
    payload = b"\xa2\x70target_client_id\x61a\x6bsignal_data" + item

    assert "more than 8192 values" in refusal(MessageType.SIGNAL_OFFER, PayloadType.CBOR, payload)


@pytest.mark.parametrize("data", [b"\x80" * MANY, "\x80" * MANY], ids=["bytes", "text"])
def test_long_texts_and_bytes_are_one_item_in_cbor(data: bytes | str) -> None:
    payload = cbor2.dumps({"target_client_id": "a", "signal_data": data})

    assert decode(MessageType.SIGNAL_OFFER, PayloadType.CBOR, payload)


def test_an_endless_head_in_cbor_is_left_to_its_decoder() -> None:
    payload = b"\xa1\x61a\x7b" + b"\xff" * 8 + b"a" * MANY

    assert "CBOR is malformed" in refusal(MessageType.HEARTBEAT, PayloadType.CBOR, payload)


def test_a_list_of_too_many_items_is_refused_in_protobuf() -> None:
    wire = signal_manager_pb2.TracksNew(room_id="r")
    for _ in range(MANY):
        wire.tracks.items.add()

    assert "8193 items" in refusal(MessageType.TRACKS_NEW, PayloadType.PROTOBUF, wire.SerializeToString())
