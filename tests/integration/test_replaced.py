"""The device that its user has left: its reconnect does not take the client back from the newer one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from signal_manager.app import running
from signal_manager.bus.local import LocalBus
from signal_manager.client import Disconnected, Framing, PayloadType, RetryPolicy, SignalClient
from signal_manager.config import Config
from tests.integration.conftest import DEFAULTS, Service, ServiceWith
from tests.integration.v1_client import Client, connect
from tests.nats_server import NatsServer
from tests.waiting import until

KEYS = {"auth.api_keys": ["ann:t", "ben:t"]}
V2 = "signal-manager.v2"


async def come(client: Client, instance: str, resume: dict[str, Any] | None = None) -> dict[str, Any]:
    """Send CONNECT as an instance of Ann's client, and return what an automatic reconnect would name."""
    fields: dict[str, Any] = {"client_id": "ann", "auth_token": "t", "instance_id": instance, "resumable": True}
    await client.send("CONNECT", fields | ({} if resume is None else {"resume": resume}))
    ack = (await client.expect("CONNECT_ACK")).fields
    return {"session_id": ack["session_id"], "resume_token": ack["resume_token"], "received": 0}


async def comes_in_vain(service: Service, instance: str, resume: dict[str, Any]) -> None:
    async with connect(service.url, V2) as client:
        fields = {"client_id": "ann", "auth_token": "t", "instance_id": instance, "resumable": True, "resume": resume}
        request = await client.send("CONNECT", fields)
        refusal = await client.expect_error(409, id=request)
        assert "replaced" in refusal.fields["error_message"]
        await client.expect_close(4409)


async def has_left(service: Service, instance: str) -> dict[str, Any]:
    """Connect as an instance, and lose the network."""
    async with connect(service.url, V2) as client:
        session = await come(client, instance)
        client.websocket.transport.abort()
        await until(lambda: any(service.server._board.resumption.away()))
        return session


@pytest.fixture
async def pair(nats: NatsServer, service_with: ServiceWith, tmp_path: Path) -> list[Service]:
    """Return two nodes of one service."""
    shared = {"bus.backend": "nats", "bus.nats_url": nats.url, "storage.backend": "sqlite"}
    shared["storage.sqlite_path"] = str(tmp_path / "shared.db")
    return [await service_with(**KEYS, **shared, **{"bus.node_id": f"node-{number}"}) for number in range(2)]


async def test_the_newer_device_stays_on_one_node(service_with: ServiceWith) -> None:
    service = await service_with(**KEYS)
    laptops = await has_left(service, "laptop")
    async with connect(service.url, V2) as phone:
        await come(phone, "phone")

        await comes_in_vain(service, "laptop", laptops)

        await phone.check_alive()


@pytest.mark.parametrize("laptop_at", [0, 1])
@pytest.mark.parametrize("back_at", [0, 1])
async def test_the_newer_device_stays_across_nodes(pair: list[Service], laptop_at: int, back_at: int) -> None:
    laptops = await has_left(pair[laptop_at], "laptop")
    async with connect(pair[1].url, V2) as phone:
        await come(phone, "phone")

        await comes_in_vain(pair[back_at], "laptop", laptops)

        await phone.check_alive()


async def test_the_newer_device_stays_after_a_restart(tmp_path: Path) -> None:
    """Its session is saved; the other device may come back before it."""
    sections = {name: dict(values) for name, values in DEFAULTS.items()}
    sections["storage"] = {"backend": "sqlite", "sqlite_path": str(tmp_path / "store.db")}
    sections["auth"] = {"api_keys": KEYS["auth.api_keys"]}
    config = Config.model_validate(sections)
    async with running(config) as server:
        first = Service(server)
        laptops = await has_left(first, "laptop")
        phone = await stack_of(first)
        phones = await come(phone[1], "phone")
    await phone[0].aclose()
    async with running(config) as server:
        second = Service(server)

        await comes_in_vain(second, "laptop", laptops)

        async with connect(second.url, V2) as again:
            assert (await come(again, "phone", phones))["session_id"] == phones["session_id"]
            await comes_in_vain(second, "laptop", laptops)
            await again.expect("GOAWAY")  # which the phone had not confirmed
            await again.check_alive()


async def stack_of(service: Service) -> tuple[AsyncExitStack, Client]:
    """Connect a client that outlives the service."""
    stack = AsyncExitStack()
    return stack, await stack.enter_async_context(connect(service.url, V2))


async def test_nobody_ends_a_strangers_session_by_naming_it(service_with: ServiceWith) -> None:
    service = await service_with(**KEYS)
    async with connect(service.url, V2) as ben, connect(service.url, V2) as phone:
        await ben.send("CONNECT", {"client_id": "ben", "auth_token": "t", "resumable": True})
        bens = (await ben.expect("CONNECT_ACK")).fields
        await come(phone, "phone")

        await comes_in_vain(service, "laptop", {"session_id": bens["session_id"], "resume_token": "t", "received": 0})

        assert [each.client_id for each in service.server._board.resumption._sessions.values()] == ["ben", "ann"]
        ben.websocket.transport.abort()
        await until(lambda: any(service.server._board.resumption.away()))
        resume = {"session_id": bens["session_id"], "resume_token": bens["resume_token"], "received": 0}
        async with connect(service.url, V2) as again:
            fields = {"client_id": "ben", "auth_token": "t", "resumable": True, "resume": resume}
            await again.send("CONNECT", fields)
            assert (await again.expect("CONNECT_ACK")).fields["resumed"]


async def test_a_device_that_its_user_takes_up_again_wins_as_ever(service_with: ServiceWith) -> None:
    service = await service_with(**KEYS)
    await has_left(service, "laptop")
    async with connect(service.url, V2) as phone, connect(service.url, V2) as laptop:
        await come(phone, "phone")

        await come(laptop, "laptop")

        await phone.expect_close(4409)


async def test_an_instance_comes_back_to_itself(service_with: ServiceWith) -> None:
    service = await service_with(**KEYS, **{"session.resume_window": 0.05})
    lost = await has_left(service, "laptop")
    await until(lambda: not any(service.server._board.resumption.away()))
    async with connect(service.url, V2) as first, connect(service.url, V2) as second:
        assert (await come(first, "laptop", lost))["session_id"] != lost["session_id"]

        await come(second, "laptop", lost)

        await first.expect_close(4408)


async def test_of_two_that_lost_their_sessions_the_later_one_stays(service_with: ServiceWith) -> None:
    """After a crash nobody knows who was there last: neither may lock the other out."""
    service = await service_with(**KEYS)
    gone = {"session_id": "of an earlier life", "resume_token": "t", "received": 0}
    async with connect(service.url, V2) as laptop, connect(service.url, V2) as phone:
        await come(laptop, "laptop", gone)

        await come(phone, "phone", gone)

        await laptop.expect_close(4409)


async def test_a_client_that_does_not_resume_comes_back_to_itself(service_with: ServiceWith) -> None:
    service = await service_with(**KEYS)
    async with laptop_of(service, resumable=False) as laptop:
        for _ in range(3):
            former = laptop.session_id
            for connection in tuple(service.server._board.connections):
                connection.cut()
            await until(lambda former=former: laptop.session_id != former)  # type: ignore[misc]  # cannot infer it


async def test_nothing_is_kept_of_devices_that_were_replaced(service_with: ServiceWith) -> None:
    service = await service_with(**KEYS)
    for number in range(20):
        async with connect(service.url, V2) as client:
            await come(client, f"device {number}", {"session_id": "none", "resume_token": "t", "received": 0})
            await client.send("DISCONNECT", {})
            await client.expect_close(1000)

    bus = service.server._board.bus
    await until(lambda: not bus.subscribers)
    assert isinstance(bus, LocalBus)
    assert not bus._tentative


@asynccontextmanager
async def laptop_of(service: Service, **settings: Any) -> AsyncIterator[SignalClient]:
    """The SDK's client, which takes half a second to come back."""
    retry = RetryPolicy(random=lambda: 1.0)
    async with SignalClient(service.url, "ann", "t", retry=retry, **settings) as client:
        yield client


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"resumable": False},
        {"payload_type": PayloadType.PROTOBUF, "framing": Framing.V1},
        {"payload_type": PayloadType.CBOR, "resumable": False},
    ],
)
async def test_the_sdk_gives_up_for_good_and_says_why(service_with: ServiceWith, settings: dict[str, Any]) -> None:
    service = await service_with(**KEYS)
    async with laptop_of(service, **settings) as laptop:
        for connection in tuple(service.server._board.connections):
            connection.cut()
        async with connect(service.url, V2) as phone:
            await come(phone, "phone")

            async with asyncio.timeout(10):
                end = [event async for event in laptop if isinstance(event, Disconnected)][-1]

            assert not end.will_reconnect
            assert "another device" in end.reason
            await phone.check_alive()
