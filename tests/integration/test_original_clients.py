"""Clients of the original service, whose codec reads nothing but tagged JSON and ends its connection at anything else.

They name no subprotocol, write CONNECT and REGISTER in BINARY or TEXT where they like, and read what comes as their
own code does: one variant, with all its fields, and error codes that fit a byte.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

import pytest

from tests.integration.conftest import Service
from tests.integration.v1_client import (
    ALICE,
    BINARY,
    BOB,
    CBOR,
    ORIGINAL,
    PLAIN,
    TAGGED,
    TEXT,
    Client,
    Dialect,
    Received,
    connect,
    string8,
)

each_original = pytest.mark.parametrize("dialect", ORIGINAL, ids=lambda dialect: dialect.name)
BINARY_ORIGINAL, TEXT_ORIGINAL, _ = ORIGINAL

VERSION_AND_CREDENTIALS = b"".join(map(string8, ("1.0.0", *ALICE)))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.encode() or not value)  # `encode` fails at lone surrogates


def _is_text_or_null(value: object) -> bool:
    return value is None or _is_text(value)


def _is_unsigned(bits: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**bits


def _is_anything(value: object) -> bool:
    return True


_SIGNAL: dict[str, Callable[[object], bool]] = {"target_client_id": _is_text, "signal_data": _is_text}
_ACK = {"version": _is_text, "status": _is_unsigned(16), "message": _is_text_or_null}
_ENTERED = dict.fromkeys(("room_id", "session_id", "app_id", "stun_url"), _is_text_or_null)
# What the original's codec requires of each variant; it ignores other fields, and null or absent are the same to it.
_VARIANTS: dict[str, dict[str, Callable[[object], bool]]] = {
    "ConnectAck": {"status": _is_text, "session_id": _is_text},
    "HeartbeatAck": {"timestamp": _is_unsigned(64)},
    "SignalOffer": _SIGNAL,
    "SignalAnswer": _SIGNAL,
    "SignalIceCandidate": _SIGNAL,
    "RegisterAck": {**_ACK, "client_id": _is_text_or_null, "session_id": _is_text_or_null},
    "UnregisterAck": {**_ACK, "client_id": _is_text_or_null},
    "WebRTCRoomCreateAck": {**_ACK, **_ENTERED, "connection_info": _is_anything},
    "WebRTCRoomJoinAck": {**_ACK, **_ENTERED, "connection_info": _is_anything},
    "WebRTCRoomLeaveAck": {**_ACK, "room_id": _is_text_or_null, "client_id": _is_text_or_null},
    "Error": {"error_code": _is_unsigned(8), "error_message": _is_text},
}


def read_as_the_original(received: Received) -> dict[str, object]:
    """Return a message's fields if the original's codec can read it."""
    assert received.payload_type == "JSON"
    ((variant, fields),) = json.loads(received.payload).items()
    assert isinstance(fields, dict)
    for name, is_right in _VARIANTS[variant].items():
        assert is_right(fields.get(name)), f"{variant} with {name} = {fields.get(name)!r}"
    return fields


@each_original
async def test_whatever_it_writes_it_is_answered_in_tagged_json(service: Service, dialect: Dialect) -> None:
    async with connect(service.url, dialect=dialect) as client:
        await client.send("CONNECT", dialect.credentials(*ALICE), dialect.payload_type)
        welcome = read_as_the_original(await client.expect("CONNECT_ACK"))
        await client.send("HEARTBEAT", struct.pack(">Q", 7), "BINARY")
        beat = read_as_the_original(await client.expect("HEARTBEAT_ACK"))
        await client.send("REGISTER", ":".join(("1.0.0", *ALICE)), "TEXT")
        registered = read_as_the_original(await client.expect("REGISTER_ACK"))
        await client.send_raw(b"garbage")
        complaint = read_as_the_original(await client.expect("ERROR"))

        assert (welcome["status"], beat["timestamp"], registered["status"]) == ("success", 7, 200)
        assert complaint["error_code"] == 2


@each_original
@pytest.mark.parametrize("sender", [*ORIGINAL, PLAIN, CBOR], ids=lambda dialect: dialect.name)
async def test_a_signal_reaches_it_in_tagged_json(service: Service, sender: Dialect, dialect: Dialect) -> None:
    async with connect(service.url, dialect=sender) as alice, connect(service.url, dialect=dialect) as bob:
        await alice.log_in(ALICE)
        await bob.log_in(BOB)
        await alice.signal("SIGNAL_OFFER", BOB[0], "v=0\r\na=b:c\r\n")

        delivered = await bob.expect("SIGNAL_OFFER")

        fields = read_as_the_original(delivered)
        assert (fields["target_client_id"], fields["signal_data"]) == (BOB[0], "v=0\r\na=b:c\r\n")
        assert "ack" not in fields


@pytest.mark.parametrize("sender", [PLAIN, TAGGED, CBOR], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    "data",
    [
        {"candidate": "candidate:1 1 udp", "sdpMid": "0", "sdpMLineIndex": 0},
        None,
        1.5,
        ["a", {"b": True}],
        {"é": "\\u"},
    ],
)
async def test_a_signal_that_is_no_string_reaches_it_as_its_json_text(
    service: Service, sender: Dialect, data: object
) -> None:
    """Its codec requires a string there, and its client ends the connection at what the codec cannot read."""
    async with connect(service.url, dialect=sender) as alice, connect(service.url, dialect=TAGGED) as bob:
        await alice.log_in(ALICE)
        await bob.log_in(BOB)
        await alice.send("SIGNAL_ICE_CANDIDATE", {"target_client_id": BOB[0], "signal_data": data})

        text = read_as_the_original(await bob.expect("SIGNAL_ICE_CANDIDATE"))["signal_data"]

        assert isinstance(text, str)
        assert json.loads(text) == data


# What the original's desktop application writes, byte for byte, after the header's id.
_CONNECT = b'{"Connect":{"client_id":"test_client_1","auth_token":"test_token_1"}}'
_REGISTER = (
    b'{"Register":{"version":"1.0.0","client_id":"test_client_1","auth_token":"test_token_1","capabilities":null,'
    b'"metadata":null}}'
)
_HEARTBEAT = b'{"Heartbeat":{"timestamp":1750000000000}}'
_OFFER = b'{"SignalOffer":{"target_client_id":"test_client_2","signal_data":"v=0\\r\\na=b:c\\r\\n"}}'
_ROOM_CREATE = (
    b'{"WebRTCRoomCreate":{"version":"1.0.0","client_id":"test_client_1","auth_token":"test_token_1","role":"sender",'
    b'"offer_sdp":"v=0\\r\\no=- 1 2 IN IP4 127.0.0.1\\r\\ns=-\\r\\nt=0 0\\r\\n","metadata":{"timestamp":1750000000}}}'
)
# It unregisters without a token.
_UNREGISTER = b'{"Unregister":{"version":"1.0.0","client_id":"test_client_1","auth_token":""}}'


async def test_what_its_desktop_application_does_works_from_the_first_byte_to_the_last(service: Service) -> None:
    async with connect(service.url, dialect=TAGGED) as bob, connect(service.url, dialect=TAGGED) as app:
        await bob.log_in(BOB)
        # It does not wait for CONNECT_ACK.
        for message_type, payload in (("CONNECT", _CONNECT), ("REGISTER", _REGISTER), ("HEARTBEAT", _HEARTBEAT)):
            await app.send(message_type, payload, "JSON")
        welcome, registered, beat = [
            read_as_the_original(await app.expect(name)) for name in ("CONNECT_ACK", "REGISTER_ACK", "HEARTBEAT_ACK")
        ]
        await app.send("SIGNAL_OFFER", _OFFER, "JSON")
        delivered = await bob.expect("SIGNAL_OFFER")
        await app.send("WEBRTC_ROOM_CREATE", _ROOM_CREATE, "JSON")
        created = read_as_the_original(await app.expect("WEBRTC_ROOM_CREATE_ACK"))
        await app.send("UNREGISTER", _UNREGISTER, "JSON")
        gone = read_as_the_original(await app.expect("UNREGISTER_ACK"))

        assert (welcome["status"], registered["status"], beat["timestamp"]) == ("success", 200, 1750000000000)
        assert read_as_the_original(delivered)["signal_data"] == "v=0\r\na=b:c\r\n"
        assert (created["status"], gone["status"]) == (200, 200)

        app.websocket.transport.abort()  # it closes the connection without a word
        await bob.check_alive()


@pytest.mark.parametrize("dialect", [BINARY, TEXT], ids=lambda dialect: dialect.name)
async def test_one_that_names_v1_is_answered_as_it_speaks(service: Service, dialect: Dialect) -> None:
    async with connect(service.url, "signal-manager.v1", dialect=dialect) as client:
        await client.send("CONNECT", dialect.credentials(*ALICE), dialect.payload_type)

        welcome = await client.expect("CONNECT_ACK")

        expected = {"BINARY": "JSON", "TEXT": "TEXT"}  # BINARY has no layout for it
        assert welcome.payload_type == expected[dialect.payload_type]
        assert b"ConnectAck" not in welcome.payload


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"\x00",
        b"\x00\x00",
        b"\x00\x00\x00",
        b"\x01" + string8("chat"),
        b"\x00" + string8('{"a":1}'),
        b"\x01" + string8("chat") + struct.pack(">H", 7) + b'{"a":1}',
    ],
    ids=["after the token", "no capabilities", "u8 length 0", "u16 length 0", "no metadata", "u8 length", "u16 length"],
)
async def test_its_binary_register_may_end_early_and_give_metadata_a_short_length(
    service: Service, rest: bytes
) -> None:
    async with connect(service.url, dialect=BINARY_ORIGINAL) as client:
        await client.log_in(ALICE)
        await client.send("REGISTER", VERSION_AND_CREDENTIALS + rest, "BINARY")

        assert read_as_the_original(await client.expect("REGISTER_ACK"))["status"] == 200


@pytest.mark.parametrize(
    "rest",
    [b"\x05", b"\x00\x05{}", b"\x00\x03{}", b"\x00\x00\x03{}", b"\x00\x02[]", b"\x00\x02{}x"],
)
async def test_a_binary_register_that_fits_neither_length_is_malformed(service: Service, rest: bytes) -> None:
    async with connect(service.url, dialect=BINARY_ORIGINAL) as client:
        await client.log_in(ALICE)
        await client.send("REGISTER", VERSION_AND_CREDENTIALS + rest, "BINARY")

        assert read_as_the_original(await client.expect("ERROR"))["error_code"] == 2


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xaa",
        b"\xaa\x77" + bytes(16) + b"\x02\x00\x00",
        b"\xaa\x01" + bytes(16) + b"\x02\x00\x05hello",
        b"\xaa\x01" + bytes(16) + b"\x01\x00\x02\xff\xff",
        b"\xaa\x01" + bytes(16) + b"\x03\x00\x05alice",
        b"\xaa\x01" + bytes(16) + b'\x02\x00\x0d{"Connect":5}',
        b"\xaa\x01" + bytes(16) + b'\x02\x00\x0f{"Register":{}}',
        "a text message",
    ],
)
async def test_what_is_malformed_before_connect_is_refused_so_that_it_can_read_it(
    service: Service, garbage: bytes | str
) -> None:
    async with connect(service.url, dialect=TAGGED) as client:
        await client.send_raw(garbage)

        assert read_as_the_original(await client.expect("ERROR"))["error_code"] == 2

        await client.log_in(ALICE)


@pytest.mark.parametrize(
    ("payload_type", "payload"),
    [
        ("BINARY", string8("bob") + b"v=0"),
        ("TEXT", b"bob:v=0"),
        ("JSON", b'{"SignalOffer":{"target_client_id":"bob","signal_data":"v=0"}}'),
    ],
    ids=["BINARY", "TEXT", "JSON"],
)
async def test_what_comes_before_connect_is_refused_so_that_it_can_read_it(
    service: Service, payload_type: str, payload: bytes
) -> None:
    async with connect(service.url, dialect=TAGGED) as client:
        await client.send("SIGNAL_OFFER", payload, payload_type)

        assert read_as_the_original(await client.expect("ERROR"))["error_code"] == 1


async def test_a_plain_client_without_a_subprotocol_is_refused_in_plain_json(service: Service) -> None:
    async with connect(service.url) as client:
        request = await client.send("CONNECT", {"client_id": 1, "auth_token": "x"})
        await client.expect_error(400, id=request)
        request = await client.send("REGISTER", {"version": "1.0.0"})
        await client.expect_error(401, id=request)


@pytest.mark.parametrize("sender", [TAGGED, PLAIN], ids=lambda dialect: dialect.name)
async def test_a_signal_that_fits_only_without_its_sender_reaches_it_without(service: Service, sender: Dialect) -> None:
    """The original relays a signal as it is, so one that just fits must not be lost to a field it does not know."""
    head = len(TAGGED.signal("SIGNAL_OFFER", BOB[0], "").replace(b": ", b":").replace(b", ", b","))
    data = "x" * (0xFFFF - head)
    async with connect(service.url, dialect=sender) as alice, connect(service.url, dialect=TAGGED) as bob:
        await alice.log_in(ALICE)
        await bob.log_in(BOB)
        for each in (data, data[:-200]):
            await _send_compact(alice, sender, each)

        whole, short = await bob.expect("SIGNAL_OFFER"), await bob.expect("SIGNAL_OFFER")

        assert read_as_the_original(whole) == {"target_client_id": BOB[0], "signal_data": data}
        assert read_as_the_original(short)["sender_client_id"] == ALICE[0]


async def _send_compact(client: Client, dialect: Dialect, data: str) -> None:
    fields = json.loads(dialect.signal("SIGNAL_OFFER", BOB[0], data))
    await client.send("SIGNAL_OFFER", json.dumps(fields, separators=(",", ":")).encode(), "JSON")
