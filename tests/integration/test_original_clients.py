"""Clients of the original service, whose codec reads nothing but tagged JSON and ends its connection at anything else.

They name no subprotocol, write CONNECT and REGISTER in BINARY or TEXT where they like, and read what comes as their
own code does: one variant, with all its fields, and error codes that fit a byte.
"""

from __future__ import annotations

import json
import struct

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


def read_as_the_original(received: Received) -> dict[str, object]:
    """Return a message's fields if the original's codec can read it."""
    assert received.payload_type == "JSON"
    ((_, fields),) = json.loads(received.payload).items()
    assert isinstance(fields, dict)
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
