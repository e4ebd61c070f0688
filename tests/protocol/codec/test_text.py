"""The TEXT layouts (docs/protocol.md, "Payload types")."""

from __future__ import annotations

import pytest

from signal_manager.errors import MalformedMessageError
from signal_manager.protocol.catalogue import spec_of
from signal_manager.protocol.codec import text
from signal_manager.protocol.messages import (
    Connect,
    ConnectAck,
    Disconnect,
    ErrorMessage,
    GoAway,
    Heartbeat,
    Message,
    MessageType,
    Peer,
    Register,
    RegisterAck,
    SignalAnswer,
    SignalMessage,
    SignalOffer,
    Unregister,
    UnregisterAck,
)


def refused(message_type: MessageType, payload: bytes) -> str:
    with pytest.raises(MalformedMessageError) as refusal:
        text.decode(message_type, payload, sent_by=Peer.CLIENT)
    return refusal.value.message


@pytest.mark.parametrize(
    ("message", "payload"),
    [
        (Connect(client_id="a", auth_token="t:ö"), b"a:t:\xc3\xb6"),
        (ConnectAck(status="success", session_id="s:1"), b"success:s:1"),
        (Register(client_id="a", auth_token="t:1"), b"1.0.0:a:t:1"),
        (Register(), b"1.0.0::"),
        (
            RegisterAck(version="1.0.0", status=200, message="ok", client_id="a", session_id="s:1"),
            b"1.0.0:200:ok:a:s:1",
        ),
        (Unregister(version="2", client_id="a", auth_token="t"), b"2:a:t"),
        (UnregisterAck(version="1.0.0", status=200, message="ok", client_id="a"), b"1.0.0:200:ok:a"),
        (ErrorMessage(error_code=401, error_message="no: token"), b"401:no: token"),
        (SignalOffer(target_client_id="a", signal_data="v=0\r\na=fingerprint:x"), b"a:v=0\r\na=fingerprint:x"),
        (SignalAnswer(target_client_id="a", signal_data=""), b"a:"),
    ],
)
def test_a_message_has_the_documented_layout(message: Message, payload: bytes) -> None:
    assert text.encode(message, sent_by=Peer.CLIENT) == payload
    assert text.decode(spec_of(message).message_type, payload, sent_by=Peer.CLIENT) == message


def test_a_signal_to_a_client_names_its_sender_alone() -> None:
    message = SignalMessage(sender_client_id="a", room_id="r", ack=True, signal_data={"x": 1})

    payload = text.encode(message, sent_by=Peer.SERVICE)

    assert payload == b'a:{"x":1}'
    decoded = text.decode(MessageType.SIGNAL_MESSAGE, payload, sent_by=Peer.SERVICE)
    assert decoded == SignalMessage(sender_client_id="a", signal_data='{"x":1}')


def test_replies_leave_out_what_has_no_place() -> None:
    welcome = ConnectAck(status="success", session_id="s", heartbeat_interval=30)
    refusal = ErrorMessage(error_code=429, error_message="slow down", retryable=True, details={"limit": 5})

    assert text.encode(welcome, sent_by=Peer.SERVICE) == b"success:s"
    assert text.encode(refusal, sent_by=Peer.SERVICE) == b"429:slow down"


@pytest.mark.parametrize("message", [Heartbeat(), Disconnect()])
def test_some_messages_are_said_by_an_empty_payload(message: Message) -> None:
    assert text.encode(message, sent_by=Peer.CLIENT) == b""


@pytest.mark.parametrize(
    "message",
    [
        Connect(client_id="a", auth_token="t", resumable=True),
        ConnectAck(status="a:b", session_id="s"),
        Register(version="1:0"),
        Register(auth_token=""),
        Register(room_id="r"),
        Register(capabilities=[]),
        RegisterAck(version="1", status=200, message="a: b", client_id="a", session_id="s"),
        Unregister(auth_token=""),
        Heartbeat(timestamp=1),
        Heartbeat(received=1),
        Disconnect(reason="bye"),
        GoAway(reason="drain", reconnect_after=1),
        SignalOffer(target_client_id="a", signal_data="", ack=True),
        SignalOffer(target_client_id="a", signal_data=b"\xff"),
        SignalMessage(room_id="r", signal_data=""),
    ],
)
def test_a_message_that_would_lose_something_has_no_form(message: Message) -> None:
    assert text.encode(message, sent_by=Peer.CLIENT) is None


@pytest.mark.parametrize(
    ("message_type", "payload", "message"),
    [
        (MessageType.CONNECT, b"a", "expected 2 fields between colons, got 1"),
        (MessageType.CONNECT, b":t", "Expected a name"),
        (MessageType.CONNECT, b"a:\xff", "text is not UTF-8"),
        (MessageType.REGISTER, b"1.0.0:a", "expected 3 fields between colons, got 2"),
        (MessageType.REGISTER_ACK, b"1:ok:m:a:s", "expected `status` in decimal digits"),
        (MessageType.ERROR, b"-1:m", "expected `error_code` in decimal digits"),
        (MessageType.ERROR, "²:m".encode(), "expected `error_code` in decimal digits"),
        (MessageType.ERROR, b"9" * 10_000 + b":m", "expected `error_code` in decimal digits"),
        (MessageType.ERROR, b"70000:m", "Expected `int` <= 65535 - at `$.error_code`"),
        (MessageType.SIGNAL_OFFER, b"v=0", "expected 2 fields between colons, got 1"),
        (MessageType.HEARTBEAT, b"1", "this type has no TEXT layout, expected another payload type"),
    ],
)
def test_what_does_not_follow_the_layout_is_refused(message_type: MessageType, payload: bytes, message: str) -> None:
    assert refused(message_type, payload).startswith(message)
