"""The CBOR payload: what JSON can say, and byte strings in `signal_data`, and nothing else."""

from __future__ import annotations

import cbor2
import pytest

from signal_manager.errors import MalformedMessageError
from signal_manager.protocol.codec import cbor
from signal_manager.protocol.messages import Connect, MessageType, Peer, Shape, SignalOffer

# {"target_client_id": "b", "signal_data": …
SIGNAL = bytes.fromhex("a2 70") + b"target_client_id" + bytes.fromhex("61 62 6b") + b"signal_data"


def refused(payload: bytes) -> str:
    with pytest.raises(MalformedMessageError) as refusal:
        cbor.decode(MessageType.SIGNAL_OFFER, payload, sent_by=Peer.CLIENT)
    return refusal.value.message


@pytest.mark.parametrize(
    ("shape", "item"),
    [
        (Shape.PLAIN, {"client_id": "a", "auth_token": "t"}),
        (Shape.TAGGED, {"Connect": {"client_id": "a", "auth_token": "t", "resumable": False}}),
    ],
)
def test_the_map_is_the_json_object_in_both_shapes(shape: Shape, item: object) -> None:
    message = Connect(client_id="a", auth_token="t")

    payload = cbor.encode(message, shape)

    assert cbor2.loads(payload) == item
    assert cbor.decode(MessageType.CONNECT, payload, sent_by=Peer.CLIENT) == (message, shape)


def test_signal_data_may_be_a_byte_string() -> None:
    message = SignalOffer(target_client_id="b", signal_data=b"\xff")

    assert cbor.encode(message, Shape.PLAIN) == SIGNAL + b"\x41\xff"
    assert cbor.decode(MessageType.SIGNAL_OFFER, SIGNAL + b"\x41\xff", sent_by=Peer.CLIENT).message == message


def test_indefinite_lengths_are_read() -> None:
    decoded = cbor.decode(
        MessageType.SIGNAL_OFFER, SIGNAL + bytes.fromhex("9f 5f 41 ff ff ff")[:1] + b"\xff", sent_by=Peer.CLIENT
    )

    assert decoded.message == SignalOffer(target_client_id="b", signal_data=[])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        pytest.param("81 41 78", "expected a JSON value, got bytes", id="bytes inside a list"),
        pytest.param("a1 01 02", "CBOR is malformed", id="integer key"),
        pytest.param("a1 41 78 02", "expected keys to be strings, got bytes", id="bytes as a key"),
        pytest.param("a1 80 02", "CBOR is malformed", id="list as a key"),
        pytest.param("f9 7e00", "number is not finite", id="NaN"),
        pytest.param("fb 7ff0000000000000", "number is not finite", id="infinity"),
        pytest.param("3b ffffffffffffffff", "integer is out of range", id="below -2^63"),
        pytest.param("f7", "expected a JSON value, got UndefinedType", id="undefined"),
        pytest.param("f8 ff", "expected a JSON value, got CBORSimpleValue", id="simple value"),
        pytest.param("61 ff", "CBOR is malformed", id="text that is not UTF-8"),
        pytest.param("63 eda080", "CBOR is malformed", id="lone surrogate"),
        pytest.param("c1 00", "CBOR is malformed", id="date"),
        pytest.param("c2 41 01", "CBOR is malformed", id="bignum"),
        pytest.param("d823 61 61", "CBOR is malformed", id="regular expression"),
        pytest.param("d9d9f7 00", "CBOR is malformed", id="self-described"),
        pytest.param("da7fffffff 00", "CBOR is malformed", id="unknown tag"),
        pytest.param("d81c 81 d81d 00", "CBOR is malformed", id="cycle"),
        pytest.param("82 d81c 80 d81d 00", "CBOR is malformed", id="shared value"),
        pytest.param("d90100 82 63 616161 d819 00", "CBOR is malformed", id="shared string"),
        pytest.param("9b 7fffffffffffffff", "CBOR is malformed", id="huge list that is not there"),
        pytest.param("7b 7fffffffffffffff", "CBOR is malformed", id="huge text that is not there"),
        pytest.param("ff", "CBOR is malformed", id="break outside"),
        pytest.param("1c", "CBOR is malformed", id="reserved length"),
        pytest.param("", "CBOR is malformed", id="truncated"),
        pytest.param("00 00", "1 bytes follow the CBOR map, expected none", id="second item"),
        pytest.param("81" * 64 + "00", "nested deeper than 64 levels", id="65 levels"),
        pytest.param("81" * 65 + "00", "CBOR is malformed: maximum container nesting depth", id="66 levels"),
        pytest.param("81" * 8_000, "CBOR is malformed: maximum container nesting depth", id="8,000 levels"),
        pytest.param("c0" * 8_000, "CBOR is malformed: maximum container nesting depth", id="8,000 tags"),
    ],
)
def test_what_json_cannot_say_is_refused(item: str, message: str) -> None:
    assert refused(SIGNAL + bytes.fromhex(item)).startswith(message)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ("80", "expected an object, got list"),
        ("40", "expected an object, got bytes"),
        ("a1 41 78 02", "expected keys to be strings, got bytes"),
    ],
)
def test_the_item_is_a_map_with_text_keys(payload: str, message: str) -> None:
    assert refused(bytes.fromhex(payload)) == message
