"""Attacks on the socket: nothing crashes, nothing is left behind, and two clients talk on as if nothing were.

`attacked` looks for what was left and for errors in the log; `talking` counts every message of the two. The rules of
RFC 6455 one by one are in `test_rfc6455.py`, the limits in `test_limits.py`.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import zlib
from contextlib import AsyncExitStack
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from signal_manager.gateway import frames, limits, listener, server
from signal_manager.gateway.connection import Connection
from signal_manager.gateway.limits import Sample
from tests.integration.attack import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MALLORY,
    PING,
    PONG,
    TEXT,
    RudeClient,
    close_frame,
    request,
    talking,
    to_self,
    wire,
)
from tests.integration.conftest import Service, ServiceWith
from tests.integration.v1_client import ALICE, PLAIN, TIME_LIMIT, connect, frame
from tests.waiting import until

HELLO = to_self(b"hello")

# -- before the upgrade ----------------------------------------------------------------------------------------------

BAD_REQUESTS = {
    "random bytes": random.Random(1).randbytes(4096) + b"\r\n\r\n",
    "zeros": bytes(20_000),
    "a TLS ClientHello": bytes.fromhex("16030100a5010000a10303") + bytes(160) + b"\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a PROXY line": b"PROXY TCP4 198.51.100.1 127.0.0.1 1 2\r\n" + request(),
    "a frame": wire(BINARY, HELLO) + b"\r\n\r\n",
    "POST": request(method="POST"),
    "HTTP/1.0": request(version="HTTP/1.0"),
    "a body": request("/", "Content-Length: 5") + b"hello",
    "a chunked body": request("/", "Transfer-Encoding: chunked"),
    "two lengths": request("/", "Content-Length: 0", "Content-Length: 0"),
    "a path without end": request("/" + "a" * 20_000),
    "a header without end": request("/", "X: " + "a" * 20_000),
    "a header line without a colon": request("/", "nonsense"),
    "a folded header": request("/", "X: a", " b"),
    "a header with control characters": request("/", "X: a\x00\x1b[31m"),
    "a header name with control characters": request("/", "X\x07: a"),
    "129 headers": request("/", *(f"X-{number}: a" for number in range(130))),
    "another version": request().replace(b"Version: 13", b"Version: 99"),
    "no key": request().replace(b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", b""),
    "a short key": request().replace(b"AAAAAAAAAAAAAAAAAAAAAA==", b"AAAA"),
    "a key that is no base64": request().replace(b"AAAAAAAAAAAAAAAAAAAAAA==", b"\xff" * 24),
    "no upgrade": request().replace(b"Upgrade: websocket\r\n", b""),
    "an upgrade to something else": request().replace(b"websocket", b"h2c"),
    "a path of nobody": request("/admin"),
    "a path that climbs": request("/ws/../../etc/passwd"),
}


@pytest.mark.parametrize("sent", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
async def test_a_bad_request_is_refused(attacked: ServiceWith, sent: bytes) -> None:
    service = await attacked()
    async with talking(service.url), RudeClient.open(service.port) as client:
        client.write(sent)

        head = await client.read_head()
        assert head == "" or head.startswith(("HTTP/1.1 400 ", "HTTP/1.1 404 "))
        await client.read_end()


async def test_a_handshake_flood_is_let_pass_by(attacked: ServiceWith) -> None:
    service = await attacked()
    openings = [b"", b"G", b"GET / HTTP/1.1\r\n", request()[:-1], b"\x16\x03\x01"]
    async with talking(service.url), AsyncExitStack() as flood:
        for number in range(300):
            client = await flood.enter_async_context(RudeClient.open(service.port))
            client.write(openings[number % len(openings)])

        assert service.server._listener.half_open > 0
        async with RudeClient.mallory(service.port) as another:
            await another.check_alive()


async def test_more_handshakes_than_there_is_room_for_do_not_keep_others_out(
    attacked: ServiceWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "HALF_OPEN", 50)
    monkeypatch.setattr(listener, "_PATIENCE", 0.3)
    service = await attacked()
    async with talking(service.url), AsyncExitStack() as flood:
        for _ in range(200):
            await flood.enter_async_context(RudeClient.open(service.port))

        async with RudeClient.mallory(service.port) as another:
            await another.check_alive()
        assert service.server._listener.half_open <= 50


async def test_a_header_flood_is_cut_off(attacked: ServiceWith) -> None:
    service = await attacked()
    async with talking(service.url), RudeClient.open(service.port) as client:
        client.write(b"GET / HTTP/1.1\r\n")
        for number in range(2000):
            client.write(b"X-%d: %b\r\n" % (number, b"a" * 50))

        assert await client.read_head() == ""


async def test_connections_that_come_and_go_leave_nothing(attacked: ServiceWith) -> None:
    service = await attacked()

    async def come_and_go(number: int) -> None:
        async with RudeClient.open(service.port) as client:
            if number % 3:
                client.write(request())
                await client.read_head()
            if number % 3 == 2:
                client.write(close_frame(1000))

    async with talking(service.url):
        for start in range(0, 300, 50):
            await asyncio.gather(*(come_and_go(number) for number in range(start, start + 50)))


async def test_a_reset_at_every_stage_is_survived(attacked: ServiceWith) -> None:
    service = await attacked()
    whole = request("/", "Sec-WebSocket-Protocol: signal-manager.v2") + wire(BINARY, HELLO) * 3
    async with talking(service.url):
        for length in range(0, len(whole), 7):
            reset = socket.create_connection(("127.0.0.1", service.port))
            reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            reset.sendall(whole[:length])
            await asyncio.sleep(0)
            reset.close()


# -- frames ----------------------------------------------------------------------------------------------------------


async def test_everything_in_single_bytes_is_understood(attacked: ServiceWith) -> None:
    service = await attacked()
    async with talking(service.url), RudeClient.open(service.port) as client:
        await client.write_in_pieces(request("/", "Sec-WebSocket-Protocol: signal-manager.v2"), 1)
        assert (await client.read_head()).startswith("HTTP/1.1 101 ")

        await client.write_in_pieces(wire(PING, b"in single bytes"), 1)

        assert (await client.read_frame()).payload == b"in single bytes"


@pytest.mark.parametrize("size", [1048577, 2**31, 2**32, 2**62])
async def test_a_huge_frame_is_refused_when_it_is_announced(attacked: ServiceWith, size: int) -> None:
    service = await attacked()
    async with talking(service.url), RudeClient.mallory(service.port) as client:
        client.write(b"\x82\xff" + struct.pack(">Q", size))

        assert await client.read_close() == 1009


async def test_a_message_that_grows_without_end_is_refused(attacked: ServiceWith) -> None:
    service = await attacked()
    async with talking(service.url), RudeClient.mallory(service.port) as client:
        client.write(wire(BINARY, bytes(65_000), final=False))
        for _ in range(20):
            client.write(wire(CONTINUATION, bytes(65_000), final=False))

        assert await client.read_close() == 1009


FLOODS = {
    "empty fragments": wire(CONTINUATION, final=False),
    "fragments of one byte": wire(CONTINUATION, b"x", final=False),
    "pings": wire(PING, b"x"),
    "pongs": wire(PONG),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_frames_without_end_are_ended(
    attacked: ServiceWith, monkeypatch: pytest.MonkeyPatch, flood: bytes
) -> None:
    monkeypatch.setattr(limits, "FRAMES_PER_MESSAGE", 1)
    service = await attacked(**{"security.max_messages_per_minute": 20_000})
    async with talking(service.url), RudeClient.mallory(service.port) as client:
        end = asyncio.create_task(client.read_close())
        client.write(wire(BINARY, b"", final=False))
        while not end.done():
            client.write(flood * 500)
            await client.drain()
            await asyncio.sleep(0)

        assert await end in {4429, None}  # what the service had not read when it closed resets the connection


async def test_compression_is_not_agreed_to_and_compressed_frames_are_refused(attacked: ServiceWith) -> None:
    service = await attacked()
    async with talking(service.url), RudeClient.open(service.port) as client:
        client.write(request("/", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"))
        head = await client.read_head()
        assert "extensions" not in head.lower()

        client.write(wire(BINARY, zlib.compress(bytes(10_000_000))[2:-4], reserved=4))

        assert await client.read_close() == 1002


@pytest.mark.parametrize("subprotocol", ["signal-manager.v2", "signal-manager.json"])
async def test_noise_after_the_upgrade_ends_only_its_own_connection(attacked: ServiceWith, subprotocol: str) -> None:
    noise = random.Random(6455)
    service = await attacked()
    async with talking(service.url):
        for _ in range(40):
            async with RudeClient.mallory(service.port, subprotocol=subprotocol) as client:
                client.write(noise.randbytes(noise.randrange(1, 3000)))
                await client.drain()


async def test_frames_with_any_bit_flipped_end_only_their_own_connection(attacked: ServiceWith) -> None:
    noise = random.Random(7)
    good = wire(BINARY, HELLO) + wire(PING, b"ping") + wire(TEXT, b"text") + wire(BINARY, HELLO[:9], final=False)
    service = await attacked()
    async with talking(service.url):
        for _ in range(60):
            flipped = bytearray(good)
            for _ in range(noise.randrange(1, 4)):
                flipped[noise.randrange(len(good))] ^= 1 << noise.randrange(8)
            async with RudeClient.mallory(service.port) as client:
                client.write(bytes(flipped) + close_frame(1000))
                await client.drain()


async def test_a_client_that_leaves_in_the_middle_of_a_frame_is_forgotten(attacked: ServiceWith) -> None:
    service = await attacked()
    async with talking(service.url):
        for length in (1, 3, 7, 20):
            async with RudeClient.mallory(service.port) as client:
                client.write(wire(BINARY, bytes(5000))[:length])
                await client.drain()


# -- closing ---------------------------------------------------------------------------------------------------------


async def fill(service: Service) -> None:
    """Let Alice send Mallory, who does not read, until something has to wait for her."""
    (mallory,) = (entry for entry in service.server._registry.connections if entry.client_id == MALLORY[0])
    assert isinstance(mallory, Connection)
    async with connect(service.url) as alice:
        await alice.log_in()
        while not mallory.outgoing.is_behind:
            await alice.signal("SIGNAL_OFFER", MALLORY[0], "x" * 60_000)
            await alice.check_alive()


LAST_WORDS = {
    "reserved opcode": wire(0x3),
    "unmasked": wire(BINARY, b"x", masked=False),
    "fragment of nothing": wire(CONTINUATION),
    "close": wire(CLOSE),
    "bad close": close_frame(1006),
}


@pytest.mark.parametrize("last_words", LAST_WORDS.values(), ids=LAST_WORDS)
async def test_who_does_not_read_cannot_keep_a_connection_that_has_ended(
    attacked: ServiceWith, monkeypatch: pytest.MonkeyPatch, last_words: bytes
) -> None:
    """Else the socket would wait for ever for its last bytes to be read: a file descriptor and their memory gone."""
    monkeypatch.setattr(frames, "CLOSE_TIMEOUT", 0.05)
    monkeypatch.setattr(server, "_LONGEST_SWEEP", 0.05)
    service = await attacked()
    async with RudeClient.mallory(service.port) as client:
        client.stop_reading()
        await fill(service)
        client.write(last_words)

        await until(lambda: not service.server._registry.connections)


async def test_half_a_frame_is_no_sign_of_life(attacked: ServiceWith, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "CLOSE_TIMEOUT", 0.05)
    service = await attacked(**{"server.heartbeat_interval": 0.2, "server.heartbeat_timeout": 0.5})
    async with RudeClient.mallory(service.port) as client:
        client.write(b"\x82\xff\x00")

        assert await client.read_close() == 4408
        await client.read_end()


async def test_a_client_that_says_no_more_is_closed(attacked: ServiceWith) -> None:
    service = await attacked()
    async with talking(service.url), RudeClient.mallory(service.port) as client:
        client.finish()

        await client.read_end()


async def test_requests_in_one_go_after_a_refusal_are_not_answered(attacked: ServiceWith) -> None:
    service = await attacked()
    async with RudeClient.open(service.port) as client:
        client.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 50)

        assert (await client.read_head()).startswith("HTTP/1.1 200 ")
        async with asyncio.timeout(TIME_LIMIT):
            await client.read_end()


async def test_alice_is_not_disturbed_by_what_others_send_her(attacked: ServiceWith) -> None:
    """The relay passes on what it does not read; what it passes on is still a message."""
    noise = random.Random(3)
    service = await attacked()
    async with connect(service.url) as alice, RudeClient.mallory(service.port) as client:
        await alice.log_in(ALICE)
        for _ in range(50):
            target = bytes([len(ALICE[0])]) + ALICE[0].encode()
            body = target + noise.randbytes(40)
            client.write(wire(BINARY, b"\xab\x10" + bytes(16) + b"\x01" + struct.pack(">I", len(body)) + body))

        for _ in range(50):
            sender, _ = PLAIN.read_signal(await alice.expect("SIGNAL_OFFER"))
            assert sender == MALLORY[0]


@pytest.mark.parametrize("subprotocol", ["signal-manager.v1", "signal-manager.v2", "signal-manager.json"])
async def test_who_has_proved_nothing_cannot_make_the_service_decode_anything_large(
    attacked: ServiceWith, subprotocol: str
) -> None:
    """A message before CONNECT has 16 KiB at most, and only what could be a CONNECT is decoded at all."""
    service = await attacked()
    async with talking(service.url):
        for pieces in (1, 20):
            async with RudeClient.upgraded(service.port, subprotocol=subprotocol) as stranger:
                kind = TEXT if subprotocol == "signal-manager.json" else BINARY
                bomb = b" " * 20_000
                step = len(bomb) // pieces
                for start in range(0, len(bomb), step):
                    is_last = start + step >= len(bomb)
                    opcode = kind if start == 0 else CONTINUATION
                    stranger.write(wire(opcode, bomb[start : start + step], final=is_last))
                assert await stranger.read_close() == 1009


async def test_signals_of_who_has_proved_nothing_are_answered_by_their_header(attacked: ServiceWith) -> None:
    service = await attacked()
    async with RudeClient.upgraded(service.port) as stranger:
        for payload_type in ("JSON", "CBOR", "PROTOBUF", "TEXT", "BINARY"):
            # Malformed, all of them: twenty of those would end the connection.
            for _ in range(5):
                stranger.write(
                    wire(BINARY, frame("SIGNAL_OFFER", payload_type, b"\xff\xff", id=UUID(int=3), version="v2"))
                )
                answer = await stranger.read_frame()
                assert b"send CONNECT first" in answer.payload
                assert answer.payload[2:18] == UUID(int=3).bytes
        await stranger.check_alive()


GARBAGE = [b"\xff", b"\xc3\xa9", b"\xed\xa0\x80", b"a\x80" * 50]
READ = ["Host", "Origin", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version"]
READ += ["Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"]


@pytest.mark.parametrize("header", [*READ, "X-Forwarded-For", "Forwarded", "Cookie"])
async def test_bytes_beyond_ascii_in_a_header_are_refused_or_passed_over(attacked: ServiceWith, header: str) -> None:
    """Nothing is logged as an error: the fixture looks."""
    service = await attacked(**{"server.trusted_proxies": ["127.0.0.1"]})
    for garbage in GARBAGE:
        lines = [line for line in request().split(b"\r\n") if line and not line.startswith(header.encode() + b":")]
        async with RudeClient.open(service.port) as client:
            client.write(b"\r\n".join((*lines, header.encode() + b": " + garbage, b"", b"")))

            status = (await client.read_head())[9:12]

            assert status == ("400" if header in READ else "101")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /\xff HTTP/1.1", "404"),
        (b"GET /health\xff HTTP/1.1", "404"),
        (b"GET /?\xff HTTP/1.1", "101"),
        (b"G\xffT / HTTP/1.1", "400"),
        (b"GET / HTTP/\xff", "400"),
        (b"\xff\xff\xff", "400"),
        (b"GET / HTTP/1.1 \xff", "400"),
    ],
)
async def test_bytes_beyond_ascii_in_a_request_line_are_answered(
    attacked: ServiceWith, line: bytes, status: str
) -> None:
    service = await attacked()
    async with RudeClient.open(service.port) as client:
        client.write(request().replace(b"GET / HTTP/1.1", line))

        assert (await client.read_head())[9:12] == status


@pytest.mark.parametrize("version", ["12", "14", "13, 8", "x"])
async def test_another_version_of_websocket_is_refused(attacked: ServiceWith, version: str) -> None:
    service = await attacked()
    async with RudeClient.open(service.port) as client:
        client.write(request().replace(b"Version: 13", b"Version: " + version.encode()))

        assert (await client.read_head()).startswith("HTTP/1.1 400 ")


async def test_strangers_do_not_fill_the_log(attacked: ServiceWith) -> None:
    service = await attacked()
    service.server._registry.sample = Sample(lines=10, interval=0.3)
    with capture_logs() as lines:
        for _ in range(60):
            async with RudeClient.upgraded(service.port):
                pass
        await until(lambda: any(line["event"] == "lines about strangers left out" for line in lines))
        async with RudeClient.mallory(service.port):
            pass
        await until(lambda: any(line.get("client_id") == MALLORY[0] for line in lines))

    about_strangers = [line for line in lines if line["event"].startswith("connection ")]
    assert len(about_strangers) < 60, "of 120"


async def test_half_a_message_of_who_has_proved_nothing_takes_little_memory(attacked: ServiceWith) -> None:
    """Its connection ends beyond 16 KiB and one read, for every length that its frame announces."""
    service = await attacked()
    async with talking(service.url), RudeClient.upgraded(service.port) as stranger:
        stranger.write(wire(BINARY, bytes(1_000_000))[:40_000])
        assert await stranger.read_close() == 1009


async def test_half_messages_of_clients_share_a_budget(attacked: ServiceWith) -> None:
    """Who holds most gives way; small messages and those of others are not in its way."""
    service = await attacked(**{"server.max_half_read_bytes": 900_000})
    async with talking(service.url), RudeClient.mallory(service.port) as mallory:
        mallory.write(wire(BINARY, to_self(bytes(1_000_000)))[:-1])
        await mallory.drain()
        assert await mallory.read_close() == 4503
    async with talking(service.url), RudeClient.mallory(service.port) as mallory:
        mallory.write(wire(BINARY, bytes(500_000), final=False))
        mallory.write(wire(CONTINUATION, bytes(500_000), final=False))
        await mallory.drain()
        assert await mallory.read_close() == 4503
    async with RudeClient.mallory(service.port) as mallory:
        for _ in range(3):
            mallory.write(wire(BINARY, to_self(bytes(300_000))))
            assert len((await mallory.read_frame()).payload) > 300_000
        await mallory.check_alive()


@pytest.mark.long
async def test_many_small_messages_do_not_make_the_read_buffer_grow(attacked: ServiceWith) -> None:
    service = await attacked()
    async with RudeClient.mallory(service.port) as mallory:
        mallory.write(wire(PONG, b"x") * 500_000)  # 3.5 MB in one go, of which all may be read
        await mallory.drain()
        await mallory.check_alive()
        (connection,) = service.server._registry.connections
        assert isinstance(connection, Connection)
        assert connection.inbound.buffer_bytes == 0
