"""What one client and one address may do, and what they are told when it is too much."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import InvalidStatus

from signal_manager.gateway import server
from signal_manager.gateway.connection import Connection
from signal_manager.gateway.dispatcher import Dispatcher
from signal_manager.gateway.limits import PENDING_REQUESTS
from signal_manager.model import Caller
from signal_manager.protocol.messages import Connect, Message
from signal_manager.service import app
from tests.integration.attack import BINARY, MALLORY, RudeClient, close_frame, request, talking, to_self, wire
from tests.integration.conftest import Service, ServiceWith
from tests.integration.v1_client import (
    ALICE,
    BOB,
    DIALECTS,
    MESSAGE_TYPES,
    NIL_ID,
    PLAIN,
    TAGGED,
    Client,
    Dialect,
    connect,
    frame,
)
from tests.waiting import until
from tests.web import plain_http

HOME, ELSEWHERE = "203.0.113.7", "198.51.100.9"
BEHIND_A_PROXY = {"server.trusted_proxies": ["127.0.0.1"]}
WRONG = (ALICE[0], "wrong-token")


@asynccontextmanager
async def from_address(service: Service, address: str) -> AsyncIterator[RudeClient]:
    """Connect as a client whose address a proxy tells."""
    async with RudeClient.upgraded(service.port, f"X-Forwarded-For: {address}") as client:
        yield client


# -- messages --------------------------------------------------------------------------------------------------------


async def refused_after(client: Client, allowed: int) -> dict[str, Any]:
    """Send heartbeats until one is refused, which must be the one after `allowed`, and return the ERROR's fields."""
    for _ in range(allowed):
        await client.check_alive()
    sent = await client.send("HEARTBEAT", b'{"timestamp":1}', "JSON")
    return (await client.expect_error(173 if client.dialect.tagged else 429, id=sent)).fields


@pytest.mark.parametrize("dialect", [PLAIN, TAGGED], ids=lambda dialect: dialect.name)
async def test_a_message_beyond_the_rate_gets_429_with_the_time_to_wait(
    attacked: ServiceWith, dialect: Dialect
) -> None:
    service = await attacked(**{"security.max_messages_per_minute": 20})
    async with connect(service.url, dialect=dialect) as client:
        await client.log_in()

        error = await refused_after(client, 20)

        assert error["retryable"] is True
        assert 0 < error["details"]["retry_after"] <= 3


async def test_bytes_count_and_the_receiver_is_kept(attacked: ServiceWith) -> None:
    """A few long messages are within the rate of messages, and more than a receiver that reads slowly may let wait."""
    service = await attacked(
        **{
            "security.max_bytes_per_minute": 600_000,
            "server.max_message_size": 100_000,
            "server.outbound_queue_bytes": 100_000,
        }
    )
    async with (
        connect(service.url, "signal-manager.v2") as alice,
        connect(service.url, "signal-manager.v2") as bob,
    ):
        await alice.log_in()
        await bob.log_in(BOB)
        for _ in range(7):
            await alice.signal("SIGNAL_OFFER", BOB[0], "x" * 90_000)

        for _ in range(6):
            error = (await alice.expect_error(429)).fields
            assert 0 < error["details"]["retry_after"] <= 9
        assert len(PLAIN.read_signal(await bob.expect("SIGNAL_OFFER"))[1]) == 90_000
        await alice.check_alive()
        await bob.check_alive()


async def test_connecting_again_is_no_new_allowance_of_bytes(attacked: ServiceWith) -> None:
    service = await attacked(**{"security.max_bytes_per_minute": 60_000, "server.max_message_size": 60_000})
    for expected in ("SIGNAL_OFFER", "ERROR"):
        async with connect(service.url) as alice:
            await alice.log_in()
            await alice.signal("SIGNAL_OFFER", ALICE[0], "x" * 50_000)
            assert (await alice.receive()).type == expected


async def test_after_that_time_the_client_may_go_on(attacked: ServiceWith) -> None:
    service = await attacked(**{"security.max_messages_per_minute": 3000})
    async with connect(service.url) as client:
        await client.log_in()
        error: dict[str, Any] = {}
        while not error:
            await client.send("HEARTBEAT", b'{"timestamp":1}', "JSON")
            answer = await client.receive()
            error = answer.fields if answer.type == "ERROR" else {}

        await asyncio.sleep(error["details"]["retry_after"])

        await client.check_alive()


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_a_refused_signal_is_not_delivered(attacked: ServiceWith, dialect: Dialect) -> None:
    service = await attacked(**{"security.max_messages_per_minute": 20})
    async with connect(service.url, dialect=dialect) as alice, connect(service.url, dialect=dialect) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        for number in range(25):
            await alice.signal("SIGNAL_OFFER", BOB[0], str(number))

        for number in range(20):
            assert dialect.read_signal(await bob.expect("SIGNAL_OFFER"))[1] == str(number)
        for _ in range(5):
            await alice.expect_error(173 if dialect.tagged else 429)
        await bob.check_alive()


async def test_text_connections_have_the_same_rate(attacked: ServiceWith) -> None:
    service = await attacked(**{"security.max_messages_per_minute": 20})
    async with connect(service.url, "signal-manager.json") as client:
        await client.log_in()

        await refused_after(client, 20)


async def test_messages_before_connect_have_it_too(attacked: ServiceWith) -> None:
    service = await attacked(**{"security.max_messages_per_minute": 5})
    async with connect(service.url, "signal-manager.v1") as client:
        for _ in range(5):
            await client.send("HEARTBEAT", b'{"timestamp":1}', "JSON")
            await client.expect_error(401)

        await client.send("HEARTBEAT", b'{"timestamp":1}', "JSON")

        await client.expect_error(429)


async def test_connecting_again_is_no_new_allowance(attacked: ServiceWith) -> None:
    service = await attacked(**{"security.max_messages_per_minute": 10})
    async with connect(service.url) as client:
        await client.log_in()
        await refused_after(client, 10)
    async with connect(service.url) as client:
        await client.log_in()

        await refused_after(client, 0)
    async with connect(service.url) as bob:
        await bob.log_in(BOB)
        await bob.check_alive()


async def test_going_on_regardless_is_closed_4429(attacked: ServiceWith) -> None:
    service = await attacked(**{"security.max_messages_per_minute": 40})
    async with connect(service.url) as client:
        await client.log_in()
        for _ in range(40 + 40 + 1):
            await client.send("HEARTBEAT", b'{"timestamp":1}', "JSON")

        for _ in range(40):
            await client.expect("HEARTBEAT_ACK")
        for _ in range(40):
            await client.expect_error(429)
        assert await client.expect_close(4429) == "rate limit exceeded for too long"


async def test_a_flood_of_garbage_is_refused_unread(attacked: ServiceWith) -> None:
    service = await attacked(**{"security.max_messages_per_minute": 5})
    async with connect(service.url, "signal-manager.v1") as client:
        for _ in range(5):
            await client.send_raw(b"garbage")
            await client.expect_error(400)

        await client.send_raw(b"garbage")

        await client.expect_error(429)


async def test_without_the_limit_nobody_is_refused(attacked: ServiceWith) -> None:
    service = await attacked(**{"security.rate_limit_enabled": False, "security.max_messages_per_minute": 1})
    async with connect(service.url) as client:
        await client.log_in()
        for _ in range(50):
            await client.check_alive()


async def test_only_so_many_requests_may_wait(attacked: ServiceWith, monkeypatch: pytest.MonkeyPatch) -> None:
    answering = asyncio.Event()
    answer = Dispatcher.answer

    async def slowly(*args: object) -> Message:
        await answering.wait()
        return await answer(*args)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(Dispatcher, "answer", slowly)
    service = await attacked()
    async with connect(service.url) as client:
        await client.log_in()
        sent = [await client.send("ICE_SERVERS", {}) for _ in range(PENDING_REQUESTS + 1)]

        await client.expect_error(429, id=sent[-1])
        answering.set()
        for _ in range(PENDING_REQUESTS):
            await client.expect("ICE_SERVERS_ACK")
        await client.send("ICE_SERVERS", {})
        await client.expect("ICE_SERVERS_ACK")


# -- connections -----------------------------------------------------------------------------------------------------


async def test_one_address_may_only_have_so_many_connections(attacked: ServiceWith) -> None:
    service = await attacked(**BEHIND_A_PROXY, **{"security.max_connections_per_ip": 2})
    async with from_address(service, HOME), from_address(service, ELSEWHERE):
        async with from_address(service, HOME), from_address(service, HOME) as third:
            assert await third.read_close() == 4503
            third.write(close_frame(4503))
        await until(lambda: len(service.server._registry.connections) == 2)
        async with from_address(service, HOME) as again:
            await again.check_alive()


async def test_silent_sockets_of_one_ipv6_site_leave_room_for_others(attacked: ServiceWith) -> None:
    """A site has 256 networks to open sockets from; its /56 may have four times what one network may."""
    service = await attacked(**BEHIND_A_PROXY)
    async with AsyncExitStack() as stack:
        for number in range(256):
            await stack.enter_async_context(from_address(service, f"2001:db8:1:{number:x}::1"))

        await until(lambda: len(service.server._registry.occupancy.strangers) == 40)
        async with from_address(service, HOME) as client:
            client.write(login(MALLORY))
            assert b"success" in (await client.read_frame()).payload


async def test_silent_sockets_from_everywhere_keep_no_client_out(
    attacked: ServiceWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have a pool of their own, in which the oldest gives way."""
    monkeypatch.setattr(app, "STRANGERS", 20)
    service = await attacked(**BEHIND_A_PROXY, **{"server.max_connections": 8})
    async with talking(service.url), AsyncExitStack() as flood:
        silent = [await flood.enter_async_context(from_address(service, f"203.0.113.{number}")) for number in range(60)]
        assert len(service.server._registry.occupancy.strangers) == 20
        assert {await client.read_close() for client in silent[:40]} <= {4503, None}
        await silent[-1].check_alive()
        async with AsyncExitStack() as clients:
            for _ in range(6):
                await clients.enter_async_context(RudeClient.mallory(service.port))


async def test_who_has_sent_its_credentials_waits_behind_those_who_say_nothing(
    attacked: ServiceWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "STRANGERS", 2)
    service = await attacked(**{"server.max_connections": 4})
    answer = asyncio.Event()
    admit = service.server._registry.dispatcher.admit

    async def slowly(connect: Connect, *, is_near: bool) -> Caller:
        await answer.wait()
        return await admit(connect, is_near=is_near)

    monkeypatch.setattr(service.server._registry.dispatcher, "admit", slowly)
    async with RudeClient.upgraded(service.port) as mallory, RudeClient.upgraded(service.port) as silent:
        mallory.write(login(MALLORY))
        await until(
            lambda: any(task.get_name() == "authenticate" for task in service.server._registry.background.tasks)
        )
        async with RudeClient.upgraded(service.port):
            assert await silent.read_close() in (4503, None)
            answer.set()
            assert b"success" in (await mallory.read_frame()).payload


async def test_right_credentials_too_find_no_room_in_a_full_service(
    attacked: ServiceWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await attacked(**{"server.max_connections": 1})
    async with RudeClient.upgraded(service.port) as early:
        async with RudeClient.mallory(service.port):
            early.write(login(ALICE))
            assert await early.read_close() == 4503
        assert service.server._registry.metrics.authentications.labelled("unavailable").value == 1


async def test_connecting_without_end_is_refused_with_right_credentials_too(attacked: ServiceWith) -> None:
    service = await attacked(**BEHIND_A_PROXY, **{"security.max_connects_per_minute": 3})
    for _ in range(3):
        async with from_address(service, HOME) as client:
            client.write(login(MALLORY))
            assert b"success" in (await client.read_frame()).payload

    async with RudeClient.open(service.port) as late:
        late.write(request("/", f"X-Forwarded-For: {HOME}"))
        head = await late.read_head()
    async with from_address(service, ELSEWHERE) as other:
        other.write(login(MALLORY))
        assert b"success" in (await other.read_frame()).payload

    assert head.startswith("HTTP/1.1 429 ")
    assert "Retry-After: 20" in head


async def test_an_ipv6_network_counts_as_one_address(attacked: ServiceWith) -> None:
    service = await attacked(**BEHIND_A_PROXY, **{"security.max_connections_per_ip": 1})
    async with (
        from_address(service, "2001:db8:1:2::1"),
        from_address(service, "2001:db8:1:2:3:4:5:6") as neighbour,
        from_address(service, "2001:db8:1:3::1") as stranger,
    ):
        assert await neighbour.read_close() == 4503
        neighbour.write(close_frame(4503))
        await stranger.check_alive()


async def test_loopback_is_not_counted_and_strangers_headers_are_not_believed(attacked: ServiceWith) -> None:
    service = await attacked(**{"security.max_connections_per_ip": 1})
    async with AsyncExitStack() as stack:
        for _ in range(5):
            client = await stack.enter_async_context(from_address(service, HOME))
            await client.check_alive()


async def test_a_flood_of_connections_to_a_full_service_is_refused_before_the_upgrade(
    attacked: ServiceWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "TURNED_AWAY", 3)
    service = await attacked(**{"server.max_connections": 2})
    async with talking(service.url), AsyncExitStack() as flood:
        for _ in range(3):
            client = await flood.enter_async_context(RudeClient.upgraded(service.port))
            assert await client.read_close() == 4503
        late = await flood.enter_async_context(RudeClient.open(service.port))
        late.write(request())

        head = await late.read_head()

        assert head.startswith("HTTP/1.1 503 ")
        assert "Retry-After: 5" in head


async def test_the_time_to_connect_runs_from_the_first_byte_of_tcp(attacked: ServiceWith) -> None:
    """Time that a client spends on the handshake is missing for CONNECT."""
    service = await attacked(**{"server.connection_timeout": 5.0})
    async with RudeClient.open(service.port) as client:
        await until(lambda: service.server._listener.half_open == 1)
        half_open_since = next(iter(service.server._listener._half_open.values()))
        client.write(request())
        await client.read_head()

        (connection,) = service.server._registry.connections

        assert isinstance(connection, Connection)
        assert connection._session.next_deadline() == half_open_since + 5.0


# -- failed authentications ------------------------------------------------------------------------------------------


def login(client: tuple[str, str]) -> bytes:
    return wire(BINARY, frame("CONNECT", "JSON", PLAIN.credentials(*client), id=NIL_ID, version="v2"))


async def fail_to_log_in(client: RudeClient) -> list[int]:
    """Send wrong credentials; return the ERROR's code and the close code."""
    client.write(login(WRONG))
    answer = await client.read_frame()
    code = json.loads(answer.payload[23:])["error_code"]
    end = await client.read_close()
    client.write(close_frame(1000))
    return [code, end or 0]


async def test_an_address_that_fails_too_often_has_to_wait(attacked: ServiceWith) -> None:
    service = await attacked(**BEHIND_A_PROXY, **{"security.max_failed_auth_per_minute": 2})
    async with from_address(service, HOME) as early:
        for _ in range(2):
            async with from_address(service, HOME) as client:
                assert await fail_to_log_in(client) == [401, 4401]

        assert await fail_to_log_in(early) == [429, 4429]
    async with RudeClient.open(service.port) as late:
        late.write(request("/", f"X-Forwarded-For: {HOME}"))
        head = await late.read_head()
        assert head.startswith("HTTP/1.1 429 ")
        assert "Retry-After: 30" in head
    async with from_address(service, ELSEWHERE) as other:
        assert await fail_to_log_in(other) == [401, 4401]


async def ask(client: RudeClient, message_type: str, payload: bytes) -> tuple[str, dict[str, Any]]:
    """Send a request and return the type and the fields of the next message that comes."""
    client.write(wire(BINARY, frame(message_type, "JSON", payload, id=NIL_ID, version="v2")))
    answer = await client.read_frame()
    name = next(name for name, byte in MESSAGE_TYPES.items() if byte == answer.payload[1])
    return name, json.loads(answer.payload[23:])


@pytest.mark.parametrize("message_type", ["TOKEN_RENEW", "REGISTER", "ICE_SERVERS"])
async def test_guessing_tokens_on_a_live_connection_is_limited_too(attacked: ServiceWith, message_type: str) -> None:
    """One that has a token of its own must not try others for the price of a message each."""
    service = await attacked(**BEHIND_A_PROXY, **{"security.max_failed_auth_per_minute": 2})
    async with from_address(service, HOME) as client, from_address(service, ELSEWHERE) as other:
        client.write(login(MALLORY))
        await client.read_frame()
        for _ in range(2):
            assert (await ask(client, message_type, b'{"auth_token":"guess"}'))[1]["error_code"] == 401

        name, fields = await ask(client, message_type, b'{"auth_token":"guess"}')

        assert (name, fields["error_code"]) == ("ERROR", 429)
        assert fields["details"]["retry_after"] > 0
        other.write(login(MALLORY))
        assert (await other.read_frame()).payload[1] == MESSAGE_TYPES["CONNECT_ACK"]


async def test_right_credentials_are_not_looked_at_either(attacked: ServiceWith) -> None:
    """Else waiting would cost an attacker nothing: the right guess would still be told from the wrong ones."""
    service = await attacked(**BEHIND_A_PROXY, **{"security.max_failed_auth_per_minute": 1})
    async with from_address(service, HOME) as early:
        async with from_address(service, HOME) as client:
            await fail_to_log_in(client)
        early.write(login(MALLORY))

        answer = await early.read_frame()

        assert json.loads(answer.payload[23:])["error_message"] == "too many failed authentications"
        assert await early.read_close() == 4429
        early.write(close_frame(1000))


async def test_connections_of_that_address_that_are_in_go_on(attacked: ServiceWith) -> None:
    service = await attacked(**BEHIND_A_PROXY, **{"security.max_failed_auth_per_minute": 1})
    async with from_address(service, HOME) as mallory:
        mallory.write(login(MALLORY))
        await mallory.read_frame()
        async with from_address(service, HOME) as client:
            await fail_to_log_in(client)

        mallory.write(wire(BINARY, to_self(b"still here")))

        assert b"still here" in (await mallory.read_frame()).payload


async def test_behind_a_proxy_on_the_same_machine_that_is_not_trusted_nobody_is_shut_out(attacked: ServiceWith) -> None:
    service = await attacked(**{"security.max_failed_auth_per_minute": 1})
    for _ in range(3):
        async with RudeClient.upgraded(service.port) as client:
            assert await fail_to_log_in(client) == [401, 4401]


# -- origins ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://app.example.evil.example", "file://"])
async def test_a_page_of_another_origin_is_refused(attacked: ServiceWith, origin: str) -> None:
    service = await attacked(**{"security.allowed_origins": ["https://app.example"]})
    async with RudeClient.open(service.port) as client:
        client.write(request("/ws", f"Origin: {origin}"))

        assert (await client.read_head()).startswith("HTTP/1.1 403 ")


@pytest.mark.parametrize("lines", [(), ("Origin: https://app.example",)], ids=["a program", "the page"])
async def test_programs_and_allowed_pages_may_connect(attacked: ServiceWith, lines: tuple[str, ...]) -> None:
    service = await attacked(**{"security.allowed_origins": ["https://app.example"]})
    async with RudeClient.upgraded(service.port, *lines) as client:
        await client.check_alive()


async def test_by_default_every_page_may_connect(attacked: ServiceWith) -> None:
    service = await attacked()
    async with RudeClient.upgraded(service.port, "Origin: https://anything.example") as client:
        await client.check_alive()


async def test_health_is_told_to_everyone(attacked: ServiceWith) -> None:
    service = await attacked(**{"security.allowed_origins": ["https://app.example"]})
    async with plain_http() as http:
        response = await http.get(f"{service.http}/health", headers={"Origin": "https://evil.example"})

    assert response.status_code == 200


async def test_firefox_may_connect(attacked: ServiceWith) -> None:
    """It asks for two things in one header (RFC 6455, section 4.2.1)."""
    service = await attacked()
    async with RudeClient.open(service.port) as client:
        client.write(request().replace(b"Connection: Upgrade", b"Connection: keep-alive, Upgrade"))

        assert (await client.read_head()).startswith("HTTP/1.1 101 ")


async def test_a_library_shows_the_refusal_to_its_user(attacked: ServiceWith) -> None:
    service = await attacked(**{"security.allowed_origins": ["https://app.example"]})
    with pytest.raises(InvalidStatus) as refusal:
        await websocket_connect(service.url, origin="https://evil.example")  # type: ignore[arg-type]  # a NewType

    assert refusal.value.response.body == b"this origin may not connect\n"
