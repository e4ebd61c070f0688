"""The BINARY layouts, byte by byte (docs/protocol.md, "Payload types")."""

from __future__ import annotations

import pytest

from signal_manager.errors import MalformedMessageError
from signal_manager.protocol.catalogue import spec_of
from signal_manager.protocol.codec import binary
from signal_manager.protocol.messages import (
    Connect,
    ConnectAck,
    Disconnect,
    Heartbeat,
    HeartbeatAck,
    Message,
    MessageType,
    Peer,
    Register,
    SignalAnswer,
    SignalMessage,
    SignalOffer,
    Unregister,
)


def refused(message_type: MessageType, payload: bytes) -> str:
    with pytest.raises(MalformedMessageError) as refusal:
        binary.decode(message_type, payload, sent_by=Peer.CLIENT)
    return refusal.value.message


@pytest.mark.parametrize(
    ("message", "payload"),
    [
        (Connect(client_id="ab", auth_token="tök"), b"\x02ab\x04t\xc3\xb6k"),
        (Connect(client_id="ab", auth_token=""), b"\x02ab\x00"),
        (Register(client_id="ab", auth_token="t"), b"\x051.0.0\x02ab\x01t\x00\x00\x00"),
        (
            Register(client_id="ab", auth_token="t", capabilities=["x", ""], metadata={"a": 1}),
            b'\x051.0.0\x02ab\x01t\x02\x01x\x00\x00\x07{"a":1}',
        ),
        (Register(), b"\x051.0.0\x00\x00\x00\x00\x00"),
        (Unregister(version="2", client_id="ab", auth_token="t"), b"\x012\x02ab\x01t"),
        (Unregister(), b"\x051.0.0\x00\x00"),
        (SignalOffer(target_client_id="ab", signal_data=b"\xffv=0"), b"\x02ab\xffv=0"),
        (SignalAnswer(target_client_id="ab", signal_data=b""), b"\x02ab"),
        (SignalMessage(target_client_id="ab", signal_data=b"x"), b"\x02abx"),
        (Heartbeat(timestamp=2**64 - 1), b"\xff" * 8),
        (HeartbeatAck(timestamp=1), bytes(7) + b"\x01"),
    ],
)
def test_a_request_has_the_documented_layout(message: Message, payload: bytes) -> None:
    assert binary.encode(message, sent_by=Peer.CLIENT) == payload
    assert binary.decode(spec_of(message).message_type, payload, sent_by=Peer.CLIENT) == message


def test_a_signal_to_a_client_names_its_sender_alone() -> None:
    message = SignalMessage(sender_client_id="ab", target_client_id="c", room_id="r", ack=True, signal_data="é")

    payload = binary.encode(message, sent_by=Peer.SERVICE)

    assert payload == b"\x02ab\xc3\xa9"
    decoded = binary.decode(MessageType.SIGNAL_MESSAGE, payload, sent_by=Peer.SERVICE)
    assert decoded == SignalMessage(sender_client_id="ab", signal_data=b"\xc3\xa9")


def test_an_answer_to_a_heartbeat_leaves_out_the_service_s_time() -> None:
    assert binary.encode(HeartbeatAck(timestamp=1, server_time=2), sent_by=Peer.SERVICE) == bytes(7) + b"\x01"


@pytest.mark.parametrize(
    "message",
    [
        Connect(client_id="a", auth_token="t", resumable=True),
        Connect(client_id="a", auth_token="t" * 256),
        Connect(client_id="a", auth_token="é" * 128),
        Register(auth_token=""),
        Register(auth_token="t" * 256),
        Register(room_id="r"),
        Register(capabilities=[]),
        Register(capabilities=["x" * 256]),
        Register(capabilities=["x"] * 256),
        Register(metadata={"x": "y" * 65_535}),
        Unregister(auth_token=""),
        Unregister(version="1" * 256),
        Heartbeat(received=0),
        HeartbeatAck(timestamp=1, server_time=2),
        Disconnect(reason="bye"),
        ConnectAck(status="success", session_id="s"),
        SignalOffer(target_client_id="a", signal_data=b"", ack=True),
        SignalMessage(room_id="r", signal_data=b""),
    ],
)
def test_a_message_that_would_lose_something_has_no_form(message: Message) -> None:
    assert binary.encode(message, sent_by=Peer.CLIENT) is None


def test_a_signal_without_a_sender_has_no_form_for_a_client() -> None:
    assert binary.encode(SignalOffer(target_client_id="a", signal_data=b""), sent_by=Peer.SERVICE) is None


def test_the_longest_strings_fit() -> None:
    message = Register(auth_token="t" * 255, capabilities=["x" * 255] * 64)

    payload = binary.encode(message, sent_by=Peer.CLIENT)

    assert payload is not None
    assert binary.decode(MessageType.REGISTER, payload, sent_by=Peer.CLIENT) == message


@pytest.mark.parametrize(
    ("message_type", "payload", "message"),
    [
        (MessageType.CONNECT, b"\x02a", "payload is 2 bytes, expected at least 3"),
        (MessageType.CONNECT, b"\x01a", "payload is 2 bytes, expected at least 3"),
        (MessageType.CONNECT, b"\x01a\x01tx", "payload is 5 bytes, expected 4"),
        (MessageType.CONNECT, b"\x01\xff\x01t", "text is not UTF-8"),
        (MessageType.REGISTER, b"\x00\x00\x00\x00\x00\x01", "payload is 6 bytes, expected at least 7"),
        (MessageType.REGISTER, b"\x00\x00\x00\x00\x00\x00x", "payload is 7 bytes, expected 6"),
        (MessageType.REGISTER, b"\x00\x00\x00\xff\x00", "payload is 5 bytes, expected at least 6"),
        (MessageType.REGISTER, b"\x00\x00\x00\x00\x00\x01{", "Input data was truncated"),
        (
            MessageType.REGISTER,
            b"\x00\x00\x00\x00\x00\x02[]",
            "Expected `object | null`, got `array` - at `$.metadata`",
        ),
        (MessageType.UNREGISTER, b"\x00\x00\x00\x00", "payload is 4 bytes, expected 3"),
        (MessageType.HEARTBEAT, bytes(7), "payload is 7 bytes, expected at least 8"),
        (MessageType.HEARTBEAT, bytes(9), "payload is 9 bytes, expected 8"),
        (MessageType.SIGNAL_OFFER, b"\x05ab", "payload is 3 bytes, expected at least 6"),
        (MessageType.DISCONNECT, b"\x00", "this type has no BINARY layout, expected another payload type"),
        (MessageType.ERROR, b"\x00", "this type has no BINARY layout, expected another payload type"),
    ],
)
def test_what_does_not_follow_the_layout_is_refused(message_type: MessageType, payload: bytes, message: str) -> None:
    assert refused(message_type, payload) == message


def test_an_empty_client_id_is_no_name() -> None:
    assert "Expected a name" in refused(MessageType.CONNECT, b"\x00\x01t")
    assert "Expected a name" in refused(MessageType.SIGNAL_OFFER, b"\x00data")


@pytest.mark.parametrize(
    ("rest", "capabilities", "metadata"),
    [
        (b"", None, None),
        (b"\x00", None, None),
        (b"\x00\x00", None, None),
        (b"\x01\x04chat", ["chat"], None),
        (b'\x00\x07{"a":1}', None, {"a": 1}),
        (b'\x01\x04chat\x00\x07{"a":1}', ["chat"], {"a": 1}),
    ],
)
def test_register_may_end_early_and_give_its_metadata_one_byte_of_length(
    rest: bytes, capabilities: list[str] | None, metadata: dict[str, int] | None
) -> None:
    message = binary.decode(MessageType.REGISTER, b"\x051.0.0\x01a\x01t" + rest, sent_by=Peer.CLIENT)

    assert message == Register(client_id="a", auth_token="t", capabilities=capabilities, metadata=metadata)
