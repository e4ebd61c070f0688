"""Garbage of every kind to a running service: a clear error to its sender, and nobody else notices."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from websockets.exceptions import ConnectionClosed

from tests.integration.conftest import Service, ServiceWith
from tests.integration.v1_client import (
    ALICE,
    BOB,
    PLAIN,
    TAGGED,
    TEXT,
    Client,
    Dialect,
    connect,
    frame,
    protobuf,
    string8,
)

_VECTORS = json.loads((Path(__file__).parents[2] / "docs" / "vectors.json").read_text(encoding="utf-8"))
_MALFORMED = [vector for vector in _VECTORS["malformed"] if vector["sent_by"] == "client"]
_SUBPROTOCOLS = {"v1": None, "v2": "signal-manager.v2", "json": "signal-manager.json"}
# Fewer than close a connection.
_PER_CONNECTION = 15


@pytest.mark.parametrize("framing", ["v1", "v2", "json"])
@pytest.mark.parametrize(("dialect", "code"), [(PLAIN, 400), (TAGGED, 2)], ids=["plain", "tagged"])
async def test_every_malformed_vector_gets_one_error_and_the_connection_lives(
    service: Service, framing: str, dialect: Dialect, code: int
) -> None:
    vectors = [vector for vector in _MALFORMED if vector["framing"] == framing]
    assert vectors
    for start in range(0, len(vectors), _PER_CONNECTION):
        async with connect(service.url, _SUBPROTOCOLS[framing], dialect=dialect) as client:
            await client.log_in()
            for vector in vectors[start : start + _PER_CONNECTION]:
                await _check_refusal(client, vector, code)


async def _check_refusal(client: Client, vector: dict[str, Any], code: int) -> None:
    await client.send_raw(vector["text"] if "text" in vector else bytes.fromhex(vector["hex"]))
    try:
        expected = UUID(vector["message_id"]) if vector["message_id"] else None
        await client.expect_error(code, id=expected)
        await client.check_alive()
    except (AssertionError, ConnectionClosed) as error:
        raise AssertionError(f"vector {vector['name']!r}: {error}") from error


async def test_a_malformed_message_before_connect_is_an_error_too(service: Service) -> None:
    async with connect(service.url, "signal-manager.v1") as client:
        await client.send_raw(b"GET / HTTP/1.1\r\n\r\n")
        await client.expect_error(400)

        await client.log_in()


async def test_a_malformed_connect_is_answered_with_its_id_and_may_be_repeated(service: Service) -> None:
    async with connect(service.url) as client:
        request = await client.send("CONNECT", {"client_id": 1, "auth_token": ALICE[1]})
        await client.expect_error(400, id=request)

        await client.log_in()


async def test_a_malformed_tagged_connect_is_answered_so_that_a_tagged_client_can_read_it(service: Service) -> None:
    """Such as one whose name the original service allowed: a plain ERROR would only make it drop the connection."""
    async with connect(service.url, dialect=TAGGED) as client:
        request = await client.send("CONNECT", {"client_id": "test client 1", "auth_token": ALICE[1]})

        await client.expect_error(2, id=request)


@pytest.mark.parametrize("payload_type", ["TEXT", "CBOR", "PROTOBUF", "BINARY"])
async def test_the_error_uses_the_payload_type_of_the_message_it_answers(service: Service, payload_type: str) -> None:
    async with connect(service.url) as client:
        await client.log_in()
        request = await client.send("SIGNAL_OFFER", b"\xff", payload_type)

        refusal = await client.expect_error(400, id=request)

        assert refusal.payload_type == ("JSON" if payload_type == "BINARY" else payload_type)


async def test_an_error_to_an_unreadable_message_uses_the_payload_type_of_connect(service: Service) -> None:
    async with connect(service.url, dialect=TEXT) as client:
        await client.log_in()
        await client.send_raw(b"\xaa\x10")

        refusal = await client.expect_error(400)

        assert refusal.payload_type == "TEXT"


@pytest.mark.parametrize(
    ("payload_type", "payload"),
    [("BINARY", string8("nobody") + b"v=0"), ("TEXT", b"nobody:v=0"), ("PROTOBUF", protobuf((1, "nobody"), (3, b"x")))],
)
async def test_error_codes_on_a_tagged_connection_fit_a_byte_whatever_the_request_was_written_in(
    service: Service, payload_type: str, payload: bytes
) -> None:
    async with connect(service.url, dialect=TAGGED) as client:
        await client.log_in()
        request = await client.send("SIGNAL_OFFER", payload, payload_type)

        await client.expect_error(404 % 256, id=request)


async def test_the_twentieth_malformed_message_within_a_minute_closes_the_connection(service: Service) -> None:
    async with connect(service.url) as client:
        await client.log_in()
        for _ in range(19):
            await client.send_raw(b"garbage")
            await client.expect_error(400)
        await client.check_alive()

        await client.send_raw(b"garbage")
        await client.expect_error(400)
        await client.expect_close(4400)


async def test_text_on_a_binary_connection_is_an_error_and_the_connection_lives(service: Service) -> None:
    async with connect(service.url) as client:
        await client.log_in()
        await client.send_raw('{"type":"HEARTBEAT","payload":{"timestamp":1}}')

        await client.expect_error(400)
        await client.check_alive()


async def test_binary_on_a_text_connection_is_an_error_and_the_connection_lives(service: Service) -> None:
    async with connect(service.url, "signal-manager.json") as client:
        await client.log_in()
        await client.send_raw(frame("HEARTBEAT", "JSON", b'{"timestamp":1}', id=uuid4()))

        await client.expect_error(400)
        await client.check_alive()


@pytest.mark.parametrize("opener", ["[", '{"a":'])
@pytest.mark.parametrize("subprotocol", ["signal-manager.v2", "signal-manager.json"])
async def test_json_nested_very_deeply_is_an_error_and_the_connection_lives(
    service: Service, subprotocol: str, opener: str
) -> None:
    payload = '{"target_client_id":"test_client_2","signal_data":' + opener * 100_000
    async with connect(service.url, subprotocol) as client:
        await client.log_in()
        if subprotocol == "signal-manager.json":
            await client.send_raw('{"type":"SIGNAL_OFFER","payload":' + payload)
        else:
            await client.send("SIGNAL_OFFER", payload, "JSON")

        await client.expect_error(400)
        await client.check_alive()


async def test_a_message_in_many_fragments_is_put_together(service: Service) -> None:
    async with connect(service.url) as alice, connect(service.url) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        data = "x" * 5_000
        message = frame("SIGNAL_OFFER", "JSON", PLAIN.signal("SIGNAL_OFFER", BOB[0], data), id=uuid4())

        await alice.send_fragmented(message, piece=700)

        assert PLAIN.read_signal(await bob.expect("SIGNAL_OFFER")) == (ALICE[0], data)


async def test_connect_one_byte_at_a_time_is_put_together(service: Service) -> None:
    async with connect(service.url) as client:
        message = frame("CONNECT", "JSON", PLAIN.credentials(*ALICE), id=uuid4())

        await client.send_fragmented(message, piece=1)

        await client.expect("CONNECT_ACK")


@pytest.mark.parametrize("is_fragmented", [False, True], ids=["in one frame", "in fragments"])
async def test_a_message_larger_than_the_limit_closes_with_1009(service_with: ServiceWith, is_fragmented: bool) -> None:
    service = await service_with(**{"server.max_message_size": 10_000})
    async with connect(service.url, "signal-manager.v2") as client:
        await client.log_in()
        message = frame("SIGNAL_OFFER", "BINARY", bytes(10_001), id=uuid4(), version="v2")
        if is_fragmented:
            await client.send_fragmented(message, piece=4_000)
        else:
            await client.send_raw(message)

        await client.expect_close(1009)


async def test_others_keep_talking_while_one_client_sends_garbage(service: Service) -> None:
    noise = random.Random(7)
    async with connect(service.url) as alice, connect(service.url) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        for turn in range(8):
            async with connect(service.url) as mallory:
                for number in range(20):
                    await mallory.send_raw(_garbage(noise))
                    data = f"{turn}.{number}"
                    await alice.signal("SIGNAL_OFFER", BOB[0], data)
                    assert PLAIN.read_signal(await bob.expect("SIGNAL_OFFER")) == (ALICE[0], data)
                for _ in range(20):
                    await mallory.expect("ERROR")
                await mallory.expect_close(4400)

        await alice.check_alive()
        await bob.check_alive()


def _garbage(noise: random.Random) -> bytes | str:
    """Return a message that is wrong from its first byte, or right up to somewhere in the middle."""
    body = noise.randbytes(noise.randrange(60))
    match noise.randrange(4):
        case 0:
            return b"\x00" + body
        case 1:
            return body.hex()
        case 2:
            return frame("CONNECT", "JSON", b"\x00" + body, id=uuid4())
        case _:
            return frame("HEARTBEAT", "CBOR", b"\xff" + body, id=uuid4())
