"""Payloads that are small on the wire and large in memory, in every payload type that can carry them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from signal_manager.client import SignalClient
from signal_manager.client.events import SignalReceived
from tests.integration.attack import MALLORY, talking
from tests.integration.conftest import Service, ServiceWith
from tests.integration.v1_client import ALICE, BOB, CBOR, DIALECTS, PLAIN, connect, protobuf, string8

BIG = 300_000  # characters or levels: far more than any reader needs to be hurt, and within the largest message
HALF = BIG // 2

# JSON values that are refused, and those that are only large: nobody is hurt by them.
REFUSED_JSON: dict[str, bytes] = {
    "arrays in arrays": b"[" * BIG,
    "objects in objects": b'{"a":' * (BIG // 5),
    "both, and closed again": b'[{"a":' * 50 + b"1" + b"}]" * 50,
    "an integer with many digits": b"1" * BIG,
    "a negative one": b"-" + b"1" * BIG,
    "a number beyond all numbers": b"1e" + b"9" * BIG,
    "half a pair of surrogates": b'"\\ud800"',
    "not a number": b"NaN",
    "many numbers": b"[" + b",".join([b"1"] * 50_000) + b"]",
    "many arrays": b"[" + b",".join([b"[]"] * 50_000) + b"]",
    "many keys": b"{" + b",".join(b'"%d":1' % number for number in range(20_000)) + b"}",
    "many numbers next to nothing": b"[" + b",".join([b"1.5e-300"] * 20_000) + b"]",
}
LARGE_JSON: dict[str, bytes] = {
    "a fraction with many digits": b"0." + b"1" * BIG,
    "a number next to nothing": b"1e-" + b"9" * BIG,
    "a long key": b'{"' + b"k" * BIG + b'":1}',
    "many keys": b"{" + b",".join(b'"%d":1' % number for number in range(8_000)) + b"}",
    "the same key again and again": b"{" + b",".join([b'"a":1'] * 8_000) + b"}",
    "escaped zeros": b'"' + b"\\u0000" * (BIG // 6) + b'"',
    "white space": b" " * BIG + b"1",
}
# CBOR items; what they announce is not there.
REFUSED_CBOR: dict[str, bytes] = {
    "arrays in arrays": b"\x81" * BIG,
    "endless arrays in endless arrays": b"\x9f" * BIG,
    "maps in maps": b"\xa1\x61a" * (BIG // 3),
    "an array of 2^64 items": b"\x9b" + b"\xff" * 8,
    "a map of 2^31 pairs": b"\xba\x7f\xff\xff\xff",
    "a string of 2^64 bytes": b"\x7b" + b"\xff" * 8,
    "bytes of 2^31": b"\x5a\x7f\xff\xff\xff",
    "an integer with many digits": b"\xc2\x5a\x00\x06\x00\x00" + b"\xff" * 0x60000,
    "a decimal fraction": b"\xc4\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01",
    "a value that holds itself": b"\xd8\x1c\x81\xd8\x1d\x00",
    "tags on tags": b"\xc0" * BIG,
    "a date in a far future": b"\xc1\xfb\x7e\x37\xe4\x3c\x88\x00\x75\x9c",
    "not a number": b"\xf9\x7e\x00",
    "many numbers": b"\x99\xff\xff" + b"\x01" * 0xFFFF,
    "many maps": b"\x9f" + b"\xa0" * 50_000 + b"\xff",
    "many pieces of a text": b"\x7f" + b"\x60" * 50_000 + b"\xff",
}


def fields_around(value: bytes) -> dict[str, bytes]:
    """Return a JSON message of every kind that takes any value, with this one in it."""
    target = json.dumps(MALLORY[0]).encode()
    return {
        "SIGNAL_MESSAGE": b'{"target_client_id":%b,"ack":true,"signal_data":%b}' % (target, value),
        "REGISTER": b'{"metadata":{"a":%b}}' % value,
        "WEBRTC_ROOM_CREATE": b'{"role":"receiver","metadata":{"a":%b}}' % value,
        "HEARTBEAT": b'{"timestamp":1,"nobody knows this":%b}' % value,
    }


@pytest.mark.parametrize("subprotocol", ["signal-manager.v2", "signal-manager.json"])
async def test_json_bombs_are_refused_or_harmless(attacked: ServiceWith, subprotocol: str) -> None:
    service = await attacked()
    async with talking(service.url):
        for message_type in fields_around(b""):
            if message_type == "SIGNAL_MESSAGE":
                continue  # what it carries is not looked into: see below
            # A connection each: twenty malformed messages in a minute are the end of one.
            async with connect(service.url, subprotocol) as mallory:
                await mallory.log_in(MALLORY)
                for bomb in REFUSED_JSON.values():
                    payload = fields_around(bomb)[message_type]
                    if subprotocol == "signal-manager.json":
                        await mallory.send_raw(f'{{"type":"{message_type}","payload":{payload.decode()}}}')
                    else:
                        await mallory.send(message_type, payload, "JSON")
                    await mallory.expect_error(400)
                await mallory.check_alive()


async def test_json_that_is_only_large_is_answered(attacked: ServiceWith) -> None:
    service = await attacked()
    async with talking(service.url), connect(service.url, "signal-manager.v2") as mallory:
        await mallory.log_in(MALLORY)
        for large in LARGE_JSON.values():
            await mallory.send("HEARTBEAT", fields_around(large)["HEARTBEAT"], "JSON")
            await mallory.expect("HEARTBEAT_ACK")
        # What is kept is bounded besides.
        await mallory.send("WEBRTC_ROOM_CREATE", fields_around(LARGE_JSON["a long key"])["WEBRTC_ROOM_CREATE"], "JSON")
        await mallory.expect_error(413)
        await mallory.check_alive()


async def test_cbor_bombs_are_refused(attacked: ServiceWith) -> None:
    service = await attacked()
    heads = {
        "SIGNAL_MESSAGE": b"\xa2\x70target_client_id\x67mallory\x6bsignal_data",
        "REGISTER": b"\xa1\x68metadata\xa1\x61a",
    }
    async with talking(service.url):
        for message_type, head in heads.items():
            async with connect(service.url, "signal-manager.v2", dialect=CBOR) as mallory:
                await mallory.log_in(MALLORY)
                for bomb in REFUSED_CBOR.values():
                    await mallory.send(message_type, head + bomb, "CBOR")
                    await mallory.expect_error(400)
                await mallory.check_alive()


async def test_protobuf_bombs_are_refused(attacked: ServiceWith) -> None:
    service = await attacked()
    bombs = [
        *(protobuf((1, MALLORY[0]), (4, value)) for value in REFUSED_JSON.values()),  # its JSON text
        b"\x0a\xff\xff\xff\xff\x0f",  # a string of 4 GiB
        b"\x0b" * BIG,  # groups in groups
        b"\x08" + b"\xff" * BIG,  # a number without end
        b"\x0a\x00" * (BIG // 2),  # one field again and again
    ]
    async with talking(service.url), connect(service.url, "signal-manager.v2") as mallory:
        await mallory.log_in(MALLORY)
        for bomb in bombs:
            await mallory.send("SIGNAL_OFFER", bomb, "PROTOBUF")
            await mallory.expect_error(400)
        await mallory.check_alive()


async def test_lengths_that_lie_are_refused_in_binary(attacked: ServiceWith) -> None:
    service = await attacked()
    async with talking(service.url), connect(service.url, "signal-manager.v2") as mallory:
        await mallory.log_in(MALLORY)
        for lie in (b"\xff", b"\xff" + b"a" * 100, string8("\x00"), b"\x00"):
            await mallory.send("SIGNAL_OFFER", lie, "BINARY")
            await mallory.expect_error(400)
        await mallory.check_alive()


@pytest.mark.parametrize("receiver", DIALECTS, ids=lambda dialect: dialect.name)
async def test_a_bomb_in_a_signal_reaches_nobody_who_would_have_to_read_it(
    attacked: ServiceWith, receiver: Any
) -> None:
    """Between two clients of plain JSON it is passed on unread; for any other receiver it is read and refused."""
    service = await attacked()
    async with (
        connect(service.url, "signal-manager.v2") as mallory,
        connect(service.url, "signal-manager.v2", dialect=receiver) as alice,
    ):
        await mallory.log_in(MALLORY)
        await alice.log_in(ALICE)
        for bomb in REFUSED_JSON.values():
            payload = b'{"target_client_id":"%b","signal_data":%b}' % (ALICE[0].encode(), bomb)
            await mallory.send("SIGNAL_OFFER", payload, "JSON")
        await mallory.signal("SIGNAL_OFFER", ALICE[0], "the end")
        arrived = 0
        while b"the end" not in (received := await alice.expect("SIGNAL_OFFER")).payload:
            assert receiver is PLAIN, received
            arrived += 1

        assert arrived < len(REFUSED_JSON), "what is no JSON at all reaches nobody"
        await alice.check_alive()


async def test_the_sdk_survives_what_others_send_it(service: Service) -> None:
    async with (
        SignalClient(service.url, *ALICE) as alice,
        connect(service.url, "signal-manager.v2") as bob,
    ):
        await bob.log_in(BOB)
        for bomb in (b"[" * 500 + b"]" * 500, b"1" * 5000, b"1e" + b"9" * 5000):
            payload = b'{"target_client_id":"%b","signal_data":%b}' % (ALICE[0].encode(), bomb)
            await bob.send("SIGNAL_OFFER", payload, "JSON")
        await bob.signal("SIGNAL_OFFER", ALICE[0], "the end")

        async for event in alice:
            if isinstance(event, SignalReceived) and event.data == "the end":
                break
