"""The JSON payload in both shapes."""

from __future__ import annotations

import pytest

from signal_manager.errors import MalformedMessageError
from signal_manager.protocol.codec import json
from signal_manager.protocol.messages import (
    Connect,
    Disconnect,
    ErrorMessage,
    GoAway,
    Heartbeat,
    MessageType,
    Peer,
    Shape,
    SignalIceCandidate,
    SignalMessage,
    SignalOffer,
)


def refused(message_type: MessageType, payload: bytes) -> str:
    with pytest.raises(MalformedMessageError) as refusal:
        json.decode(message_type, payload, sent_by=Peer.CLIENT)
    return refusal.value.message


@pytest.mark.parametrize(
    ("shape", "payload"),
    [
        (Shape.PLAIN, b'{"client_id":"a","auth_token":"t"}'),
        (Shape.TAGGED, b'{"Connect":{"client_id":"a","auth_token":"t","resumable":false}}'),
    ],
)
def test_both_shapes_are_first_class(shape: Shape, payload: bytes) -> None:
    message = Connect(client_id="a", auth_token="t")

    assert json.encode(message, shape) == payload
    assert json.decode(MessageType.CONNECT, payload, sent_by=Peer.CLIENT) == (message, shape)


def test_the_tagged_shape_writes_defaults_for_clients_that_require_the_field() -> None:
    assert json.encode(Heartbeat(), Shape.PLAIN) == b"{}"
    assert json.encode(Heartbeat(), Shape.TAGGED) == b'{"Heartbeat":{"timestamp":0}}'


def test_a_type_without_a_variant_name_is_always_plain() -> None:
    message = GoAway(reason="drain", reconnect_after=5)

    assert json.encode(message, Shape.TAGGED) == b'{"reason":"drain","reconnect_after":5}'
    assert "missing required field" in refused(MessageType.GOAWAY, b'{"GoAway":{"reason":"x","reconnect_after":5}}')


@pytest.mark.parametrize(
    "payload", [b'{"Heartbeat":{}}', b'{"client_id":"a","Disconnect":{"client_id":"b"}}', b'{"disconnect":{}}']
)
def test_only_the_type_s_own_variant_alone_makes_the_tagged_shape(payload: bytes) -> None:
    assert json.decode(MessageType.DISCONNECT, payload, sent_by=Peer.CLIENT).shape is Shape.PLAIN


def test_a_tagged_message_may_be_without_fields() -> None:
    decoded = json.decode(MessageType.DISCONNECT, b'{"Disconnect":{}}', sent_by=Peer.CLIENT)

    assert decoded == (Disconnect(), Shape.TAGGED)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"[]", "expected an object, got list"),
        (b"null", "expected an object, got null"),
        (b'{"Connect":"a"}', "expected an object, got str"),
        (b'{"client_id":"a","auth_token":"t","x":"\xff"}', "JSON is not UTF-8"),
        (b'{"client_id":"a","auth_token":"t","x":1e400}', "Number out of range - at `$[...]`"),
        (b'{"client_id":"a","auth_token":"t"},', "JSON is malformed: trailing characters (byte 35)"),
    ],
)
def test_garbage_is_refused_even_in_parts_that_nobody_reads(payload: bytes, message: str) -> None:
    assert refused(MessageType.CONNECT, payload) == message


@pytest.mark.parametrize(
    ("data", "member"),
    [
        (b"v=0", b'"v=0"'),
        (b"\xff\x00", b'"/wA=","signal_encoding":"base64"'),
        (b"", b'""'),
        ({"a": 1.5}, b'{"a":1.5}'),
        (None, b"null"),
    ],
)
def test_bytes_are_a_string_or_base64_beside_a_note(data: object, member: bytes) -> None:
    message = SignalOffer(target_client_id="b", signal_data=data)

    assert json.encode(message, Shape.PLAIN) == b'{"target_client_id":"b","signal_data":' + member + b"}"


def test_base64_gives_the_bytes_back() -> None:
    message = SignalMessage(room_id="r", signal_data=b"\xff\x00")

    decoded = json.decode(MessageType.SIGNAL_MESSAGE, json.encode(message, Shape.PLAIN), sent_by=Peer.CLIENT)

    assert decoded.message == message


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (b'"signal_data":"?","signal_encoding":"base64"', "`signal_data` is not base64"),
        ('"signal_data":"é","signal_encoding":"base64"'.encode(), "`signal_data` is not base64"),
        (b'"signal_data":"QQ==\\n","signal_encoding":"base64"', "`signal_data` is not base64"),
        (b'"signal_data":"41","signal_encoding":"hex"', 'expected `signal_encoding` to be "base64"'),
        (b'"signal_data":"41","signal_encoding":["base64"]', 'expected `signal_encoding` to be "base64"'),
        (b'"signal_data":1,"signal_encoding":"base64"', 'expected `signal_encoding` to be "base64"'),
    ],
)
def test_a_wrong_signal_encoding_is_refused(members: bytes, message: str) -> None:
    assert refused(MessageType.SIGNAL_OFFER, b'{"target_client_id":"b",' + members + b"}").startswith(message)


def test_signal_encoding_may_be_null() -> None:
    payload = b'{"target_client_id":"b","signal_data":"QQ==","signal_encoding":null}'

    decoded = json.decode(MessageType.SIGNAL_ICE_CANDIDATE, payload, sent_by=Peer.CLIENT)

    assert decoded.message == SignalIceCandidate(target_client_id="b", signal_data="QQ==")


def test_other_messages_have_no_signal_encoding() -> None:
    payload = b'{"error_code":400,"error_message":"x","signal_encoding":"hex"}'

    decoded = json.decode(MessageType.ERROR, payload, sent_by=Peer.SERVICE)

    assert decoded.message == ErrorMessage(error_code=400, error_message="x")
