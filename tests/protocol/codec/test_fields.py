"""The rules that every payload type shares: optional fields, bounds on values, and who signals whom."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from signal_manager.errors import MalformedMessageError
from signal_manager.model import NAME_RULE
from signal_manager.protocol.codec import decode_payload
from signal_manager.protocol.codec.fields import (
    MAX_DEPTH,
    address_of,
    build_message,
    decode_json,
    fields_of,
    raw_signal_data,
)
from signal_manager.protocol.messages import (
    Connect,
    Heartbeat,
    MessageType,
    PayloadType,
    Peer,
    Register,
    Resume,
    SignalMessage,
    SignalOffer,
)


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


def refused(message_type: MessageType, fields: dict[str, Any], *, sent_by: Peer = Peer.CLIENT) -> str:
    with pytest.raises(MalformedMessageError) as refusal:
        build_message(message_type, fields, sent_by=sent_by)
    return refusal.value.message


def test_null_stands_for_an_absent_optional_field() -> None:
    fields = {"client_id": "a", "auth_token": "t", "resumable": None, "capabilities": None, "unknown": 1}

    assert build_message(MessageType.CONNECT, fields, sent_by=Peer.CLIENT) == Connect(client_id="a", auth_token="t")
    assert build_message(MessageType.HEARTBEAT, {"timestamp": None}, sent_by=Peer.CLIENT) == Heartbeat()
    assert build_message(MessageType.REGISTER, {"version": None}, sent_by=Peer.CLIENT) == Register()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"auth_token": "t"}, "Object missing required field `client_id`"),
        ({"client_id": None, "auth_token": "t"}, "Expected `str`, got `null` - at `$.client_id`"),
        ({"client_id": "..", "auth_token": "t"}, f"Expected a name of {NAME_RULE} - at `$.client_id`"),
        ({"client_id": "a", "auth_token": 7}, "Expected `str`, got `int` - at `$.auth_token`"),
        ({"client_id": "a", "auth_token": "t", "resume": {}}, "missing required field `session_id` - at `$.resume`"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_expected(fields: dict[str, Any], message: str) -> None:
    assert message in refused(MessageType.CONNECT, fields)


def test_a_refusal_does_not_repeat_the_value() -> None:
    fields = {"client_id": "sec:ret", "auth_token": ["secret"]}

    assert "sec" not in refused(MessageType.CONNECT, fields)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
def test_integers_beyond_64_bits_are_refused_wherever_they_stand(value: int) -> None:
    expected = "integer is out of range, expected -2^63 to 2^64-1"

    assert refused(MessageType.HEARTBEAT, {"timestamp": value}) == expected
    assert refused(MessageType.SIGNAL_OFFER, {"target_client_id": "a", "signal_data": [{"x": value}]}) == expected
    assert refused(MessageType.DISCONNECT, {"unknown": value}) == expected


@pytest.mark.parametrize("value", [2**64 - 1, -(2**63), 1.7e308, True, None, "", {}, [], b"\xff"])
def test_signal_data_is_any_json_value_or_bytes(value: object) -> None:
    fields = {"target_client_id": "a", "signal_data": value}

    message = build_message(MessageType.SIGNAL_OFFER, fields, sent_by=Peer.CLIENT)

    assert message == SignalOffer(target_client_id="a", signal_data=value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_cannot_say_are_refused(value: float) -> None:
    fields = {"target_client_id": "a", "signal_data": {"x": value}}

    assert refused(MessageType.SIGNAL_OFFER, fields) == "number is not finite"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([b"x"], "expected a JSON value, got bytes"),
        ({"x": {1, 2}}, "expected a JSON value, got set"),
        ({b"x": 1}, "expected keys to be strings, got bytes"),
    ],
)
def test_what_json_cannot_say_is_refused_inside_signal_data(value: object, message: str) -> None:
    assert refused(MessageType.SIGNAL_OFFER, {"target_client_id": "a", "signal_data": value}) == message


def test_nesting_is_bounded_with_the_message_counted() -> None:
    deepest = {"target_client_id": "a", "signal_data": nested(MAX_DEPTH - 1)}
    deeper = {"target_client_id": "a", "signal_data": nested(MAX_DEPTH)}

    assert build_message(MessageType.SIGNAL_OFFER, deepest, sent_by=Peer.CLIENT)
    assert refused(MessageType.SIGNAL_OFFER, deeper) == "nested deeper than 64 levels"


@pytest.mark.parametrize("sender", ["mallory", "not a name", 7])
def test_a_sender_that_a_client_names_is_ignored(sender: object) -> None:
    fields = {"target_client_id": "a", "sender_client_id": sender, "signal_data": 1}

    message = build_message(MessageType.SIGNAL_OFFER, fields, sent_by=Peer.CLIENT)

    assert message == SignalOffer(target_client_id="a", signal_data=1)


def test_a_signal_from_the_service_names_its_sender() -> None:
    fields = {"target_client_id": "a", "sender_client_id": "b", "signal_data": 1}

    message = build_message(MessageType.SIGNAL_OFFER, dict(fields), sent_by=Peer.SERVICE)

    assert message == SignalOffer(target_client_id="a", sender_client_id="b", signal_data=1)
    del fields["sender_client_id"]
    assert refused(MessageType.SIGNAL_OFFER, fields, sent_by=Peer.SERVICE) == "missing `sender_client_id`"


def test_a_signal_from_a_client_names_its_target() -> None:
    assert refused(MessageType.SIGNAL_ANSWER, {"signal_data": 1}) == "missing `target_client_id`"
    assert refused(MessageType.SIGNAL_ANSWER, {"room_id": "r", "signal_data": 1}) == "missing `target_client_id`"
    assert "missing required field `signal_data`" in refused(MessageType.SIGNAL_ANSWER, {"target_client_id": "a"})


def test_application_data_goes_to_either_a_client_or_a_room() -> None:
    to_room: dict[str, Any] = {"room_id": "r", "signal_data": 1}
    to_both = to_room | {"target_client_id": "a"}
    expected = "expected exactly one of `target_client_id` and `room_id`"

    message = build_message(MessageType.SIGNAL_MESSAGE, to_room, sent_by=Peer.CLIENT)

    assert message == SignalMessage(room_id="r", signal_data=1)
    assert refused(MessageType.SIGNAL_MESSAGE, to_both) == expected
    assert refused(MessageType.SIGNAL_MESSAGE, {"signal_data": 1}) == expected


def test_absent_fields_are_not_written_and_defaults_only_on_demand() -> None:
    resume = Resume(session_id="s", resume_token="t", received=3)
    message = Connect(client_id="a", auth_token="t", resume=resume)
    written = {"client_id": "a", "auth_token": "t", "resume": {"session_id": "s", "resume_token": "t", "received": 3}}

    assert fields_of(message, with_defaults=False) == written
    assert fields_of(message, with_defaults=True) == written | {"resumable": False}
    assert fields_of(SignalOffer(signal_data=None), with_defaults=False) == {"signal_data": None}


@pytest.mark.parametrize(
    ("data", "raw"),
    [(b"\xff", b"\xff"), ("é", b"\xc3\xa9"), ({"a": [1, None]}, b'{"a":[1,null]}'), (None, b"null"), (1.5, b"1.5")],
)
def test_signal_data_has_one_raw_form(data: object, raw: bytes) -> None:
    assert raw_signal_data(data) == raw


def test_only_plain_requests_are_addressed_by_one_id_alone() -> None:
    assert address_of(SignalOffer(target_client_id="a", signal_data=1), Peer.CLIENT) == "a"
    assert address_of(SignalOffer(target_client_id="a", signal_data=1, ack=True), Peer.CLIENT) is None
    assert address_of(SignalMessage(room_id="r", signal_data=1), Peer.CLIENT) is None
    assert address_of(SignalMessage(room_id="r", sender_client_id="b", signal_data=1), Peer.SERVICE) == "b"
    assert address_of(SignalOffer(target_client_id="a", signal_data=1), Peer.SERVICE) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "Input data was truncated"),
        (b'{"a":', "Input data was truncated"),
        (b"{}{}", "JSON is malformed: trailing characters (byte 3)"),
        (b"NaN", "JSON is malformed: invalid character (byte 0)"),
        (b"1e400", "Number out of range"),
        (b"9" * 5000, "Integer value out of range"),
        (b'"\xff"', "JSON is not UTF-8"),
        (b'{"\xed\xa0\x80": 1}', "JSON is not UTF-8"),
        (rb'"\ud800"', "Input data was truncated"),
        (rb'"\udc00"', "JSON is malformed: invalid utf-16 surrogate pair"),
        (rb'["\ud800", "                    "]', "JSON is malformed: unexpected end of escaped utf-16 surrogate pair"),
    ],
)
def test_what_is_not_json_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(MalformedMessageError) as refusal:
        decode_json(text)

    assert refusal.value.message.startswith(message)


def test_json_that_nests_too_deeply_is_refused_alike_by_every_python(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"target_client_id":"a","signal_data":' + b"[" * 4000 + b"]" * 4000 + b"}"

    def decode() -> str:
        with pytest.raises(MalformedMessageError) as refusal:
            decode_payload(MessageType.SIGNAL_OFFER, PayloadType.JSON, body, sent_by=Peer.CLIENT)
        return refusal.value.message

    def gives_up(_text: object) -> object:
        raise RecursionError

    # Up to Python 3.12 the reader itself gives up at a thousand levels; from 3.13 on it reads all that are allowed.
    assert decode() == "SIGNAL_OFFER payload: nested deeper than 64 levels"
    monkeypatch.setattr(msgspec.json, "decode", gives_up)
    assert decode() == "SIGNAL_OFFER payload: nested deeper than 64 levels"
