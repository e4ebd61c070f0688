"""Tokens that end while their clients are connected: real sockets, real tokens, and both sides' clocks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from signal_manager.auth.token_report import issue_token
from signal_manager.client import Disconnected, ErrorReceived, Event, Reconnected, SignalClient, SignalReceived, tokens
from signal_manager.errors import AuthenticationError, ForbiddenError, SignalManagerError
from signal_manager.model import Grants
from signal_manager.protocol.messages import (
    IceServers,
    IceServersAck,
    RoomJoin,
    RoomJoinAck,
    RoomState,
    RoomStateAck,
    TokenRenew,
    TokenRenewAck,
)
from tests.integration.conftest import Service, ServiceWith
from tests.integration.v1_client import ALICE, BOB, connect
from tests.waiting import until

SECRET = "the secret of these tests, longer than 32 bytes"
LIFE = 2  # s; the shortest that is not over before it is used


def token_of(client_id: str, ttl: float, **grants: Any) -> str:
    return issue_token(secret=SECRET, client_id=client_id, ttl=ttl, grants=Grants(**grants), now=time.time())


class Issuer:
    """An application's function that fetches tokens; what it returns or raises next is the test's to say."""

    def __init__(self, *answers: str | Exception, client_id: str = "alice", ttl: float = 600) -> None:
        self.asked = 0
        self._answers = list(answers)
        self._client_id, self._ttl = client_id, ttl

    async def __call__(self) -> str:
        self.asked += 1
        await asyncio.sleep(0)
        answer = self._answers.pop(0) if self._answers else token_of(self._client_id, self._ttl)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
async def strict(service_with: ServiceWith) -> Callable[..., Awaitable[Service]]:
    """Start a service that knows no leeway, so that a test waits for the token alone."""

    async def start(**settings: Any) -> Service:
        return await service_with(**{"auth.token_secret": SECRET, "auth.leeway": 0} | settings)

    return start


@pytest.fixture
def never_renews(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_SHORTEST_PAUSE", 60.0)


@pytest.fixture
def renews_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_SHORTEST_PAUSE", 0.05)


def cut(service: Service) -> None:
    """Lose all connections, as a network does."""
    for connection in tuple(service.server._registry.connections):
        connection.cut()


async def event_of(client: SignalClient, kind: type[Event], **wanted: Any) -> Event:
    async with asyncio.timeout(10):
        async for event in client:
            if isinstance(event, kind) and all(getattr(event, name) == value for name, value in wanted.items()):
                return event
    raise AssertionError(f"the client ended without a {kind.__name__}")


async def outlived(client: SignalClient) -> AuthenticationError:
    """Wait until the service says that the client's token has ended."""
    while True:
        try:
            await client.request(IceServers(), IceServersAck)
        except AuthenticationError as error:
            return error
        await asyncio.sleep(0.05)


@pytest.mark.usefixtures("never_renews")
async def test_a_call_outlives_its_token_and_a_blip_of_the_network(strict: Callable[..., Awaitable[Service]]) -> None:
    service = await strict()
    issuer = Issuer(token_of("alice", LIFE))
    async with SignalClient(service.url, "alice", issuer) as alice:
        await outlived(alice)

        cut(service)

        back = await event_of(alice, Reconnected)
        assert isinstance(back, Reconnected)
        assert back.resumed
        assert issuer.asked == 2


@pytest.mark.usefixtures("never_renews")
async def test_a_function_that_has_an_expired_token_is_asked_once_more(
    strict: Callable[..., Awaitable[Service]],
) -> None:
    service = await strict()
    issuer = Issuer(token_of("alice", 600), token_of("alice", LIFE - 1))
    async with SignalClient(service.url, "alice", issuer) as alice:
        await asyncio.sleep(1.1)  # the second one is over by now

        cut(service)

        await event_of(alice, Reconnected, resumed=True)
        assert issuer.asked == 3


async def test_a_fixed_token_that_has_expired_is_reported_with_what_helps(
    strict: Callable[..., Awaitable[Service]],
) -> None:
    service = await strict()
    async with SignalClient(service.url, "alice", token_of("alice", LIFE)) as alice:
        await outlived(alice)

        cut(service)

        end = await event_of(alice, Disconnected, will_reconnect=False)
        assert isinstance(end, Disconnected)
        assert end.reason.startswith("the token has expired")
        assert "function in place of a token" in end.reason


@pytest.mark.usefixtures("renews_soon")
async def test_a_token_is_renewed_before_it_ends(strict: Callable[..., Awaitable[Service]]) -> None:
    service = await strict(**{"auth.token_expiry_action": "close"})
    issuer = Issuer(ttl=LIFE)
    async with SignalClient(service.url, "alice", issuer) as alice:
        began = time.time()
        events: list[Event] = []
        alice.on("disconnected", events.append)

        await until(lambda: issuer.asked > 2 and time.time() > began + 1.5 * LIFE)

        await alice.request(IceServers(), IceServersAck)
        assert events == []


@pytest.mark.usefixtures("renews_soon")
async def test_a_function_that_fails_is_asked_again_and_nothing_ends(
    strict: Callable[..., Awaitable[Service]],
) -> None:
    service = await strict()
    issuer = Issuer(token_of("alice", LIFE), ConnectionError("the backend is away"), token_of("alice", 600))
    async with SignalClient(service.url, "alice", issuer) as alice:
        told = await event_of(alice, ErrorReceived)
        assert isinstance(told, ErrorReceived)
        assert "the backend is away" in told.error.message

        await until(lambda: issuer.asked == 3)

        assert alice.is_connected
    issuer = Issuer(token_of("alice", 600), ConnectionError("the backend is away"))
    async with SignalClient(service.url, "alice", issuer) as alice:
        cut(service)

        await event_of(alice, Reconnected, resumed=True)


async def test_one_that_outlives_its_token_begins_nothing_new(strict: Callable[..., Awaitable[Service]]) -> None:
    service = await strict()
    async with (
        SignalClient(service.url, "alice", token_of("alice", LIFE)) as alice,
        SignalClient(service.url, "bob", token_of("bob", 600)) as bob,
    ):
        await alice.join("before", create=True)

        error = await outlived(alice)

        assert error.details == {"reason": "token_expired"}
        await alice.send_message("bob", "still here")
        heard = await event_of(bob, SignalReceived)
        assert isinstance(heard, SignalReceived)
        assert heard.data == "still here"
        await alice.request(RoomState(room_id="before"), RoomStateAck)
        for call in (alice.register(), alice.request(RoomJoin(role="receiver", room_id="after"), RoomJoinAck)):
            with pytest.raises(AuthenticationError, match="TOKEN_RENEW"):
                await call
        await alice.request(TokenRenew(auth_token=token_of("alice", 600)), TokenRenewAck)
        await alice.request(IceServers(), IceServersAck)


@pytest.mark.usefixtures("never_renews")
async def test_a_connection_without_a_valid_token_is_closed_and_comes_back_with_a_new_one(
    strict: Callable[..., Awaitable[Service]],
) -> None:
    service = await strict(**{"auth.token_expiry_action": "close"})
    async with SignalClient(service.url, "alice", Issuer(token_of("alice", LIFE))) as alice:
        lost = await event_of(alice, Disconnected)

        assert isinstance(lost, Disconnected)
        assert (lost.code, lost.will_reconnect) == (4402, True)
        await event_of(alice, Reconnected, resumed=True)


@pytest.mark.usefixtures("never_renews")
async def test_a_client_that_never_falls_silent_is_closed_as_well(strict: Callable[..., Awaitable[Service]]) -> None:
    service = await strict(**{"auth.token_expiry_action": "close"})
    async with SignalClient(service.url, "alice", token_of("alice", LIFE)) as alice:
        ended = asyncio.ensure_future(event_of(alice, Disconnected))

        async with asyncio.timeout(10):
            while not ended.done():
                try:
                    await alice.heartbeat()
                except SignalManagerError:
                    break
                await asyncio.sleep(0.02)

        lost = await ended
        assert isinstance(lost, Disconnected)
        assert lost.code == 4402


async def test_a_renewed_token_decides_at_once_what_its_client_may_do(
    strict: Callable[..., Awaitable[Service]],
) -> None:
    service = await strict()
    narrow = token_of("alice", 600, signal_to=("carol",), rooms=("lobby",))
    async with (
        SignalClient(service.url, "alice", token_of("alice", 300)) as alice,
        SignalClient(service.url, "bob", token_of("bob", 600)),
    ):
        await alice.send_message("bob", "allowed", ack=True)

        answer = await alice.request(TokenRenew(auth_token=narrow), TokenRenewAck)

        assert answer.expires_at is not None
        assert answer.expires_at / 1000 == pytest.approx(time.time() + 600, abs=30)
        for call in (alice.send_message("bob", "not any more", ack=True), alice.join("demo", create=True)):
            with pytest.raises(ForbiddenError):
                await call
        cut(service)  # what the session may do is what the token of its next connection says
        await event_of(alice, Reconnected, resumed=True)
        await alice.send_message("bob", "allowed again", ack=True)


@pytest.mark.parametrize("wrong", ["another client's", "unknown"])
async def test_a_wrong_token_renews_nothing(strict: Callable[..., Awaitable[Service]], wrong: str) -> None:
    service = await strict()
    async with SignalClient(service.url, "alice", token_of("alice", 600)) as alice:
        with pytest.raises(AuthenticationError):
            await alice.request(
                TokenRenew(auth_token=token_of("bob", 600) if wrong == "another client's" else "guess"), TokenRenewAck
            )

        await alice.request(IceServers(), IceServersAck)  # as before


async def test_clients_whose_token_does_not_end_are_told_of_none(strict: Callable[..., Awaitable[Service]]) -> None:
    service = await strict(**{"auth.api_keys": [":".join(ALICE), ":".join(BOB)]})
    async with connect(service.url) as client:
        await client.log_in(ALICE)
        id_ = await client.send("TOKEN_RENEW", b'{"auth_token":"test_token_1"}', "JSON")

        answer = await client.expect("TOKEN_RENEW_ACK")

        assert (answer.id, answer.fields) == (id_, {"status": 200})
