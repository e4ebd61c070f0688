"""The device that its user has left: its reconnect does not take the client back from the newer one."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from signal_manager.client import Disconnected, Framing, PayloadType, RetryPolicy, SignalClient
from signal_manager.model import new_session_id, taken_up_at
from signal_manager.service.app import running
from signal_manager.service.config import Config
from tests.integration.conftest import DEFAULTS, Service, ServiceWith
from tests.integration.processes import ServiceProcess, service_process
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


async def comes_in_vain(service: Service | ServiceProcess, instance: str, resume: dict[str, Any]) -> None:
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
        await until(lambda: any(service.server._registry.session_store.away()))
        return session


async def are_taken_up(service: Service | ServiceProcess) -> tuple[dict[str, Any], dict[str, Any]]:
    """Have the laptop replaced by the phone, and return what either names when it comes back."""
    async with connect(service.url, V2) as laptop, connect(service.url, V2) as phone:
        laptops = await come(laptop, "laptop")
        await asyncio.sleep(0.002)  # an id tells milliseconds
        phones = await come(phone, "phone")
        await laptop.expect_close(4409)
        return laptops, phones


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


@pytest.mark.long
async def test_the_newer_device_stays_after_a_crash(tmp_path: Path) -> None:
    """Nothing was saved, and the devices come back in any order."""
    settings = KEYS | {"storage.backend": "sqlite", "storage.sqlite_path": str(tmp_path / "store.db")}
    with service_process(tmp_path, settings) as service:
        laptops, phones = await are_taken_up(service)
        os.kill(service.pid, signal.SIGKILL)
    for is_phone_first in (False, True):  # after the second crash they name sessions that began by themselves
        with service_process(tmp_path, settings) as service:
            phones, laptops = await come_back(service, service, phones, laptops, is_phone_first=is_phone_first)
            os.kill(service.pid, signal.SIGKILL)


@pytest.mark.long
async def test_the_newer_device_stays_after_the_crash_of_a_node(nats: NatsServer, tmp_path: Path) -> None:
    shared = KEYS | {"bus.backend": "nats", "bus.nats_url": nats.url, "storage.backend": "sqlite"}
    shared["storage.sqlite_path"] = str(tmp_path / "shared.db")
    with ExitStack() as stack:
        nodes = []
        for number in range(3):
            folder = tmp_path / str(number)
            folder.mkdir()
            nodes.append(stack.enter_context(service_process(folder, shared | {"bus.node_id": f"node-{number}"})))
        laptops, phones = await are_taken_up(nodes[0])
        os.kill(nodes[0].pid, signal.SIGKILL)

        for is_phone_first in (False, True):
            phones, laptops = await come_back(nodes[1], nodes[2], phones, laptops, is_phone_first=is_phone_first)


async def come_back(
    phone_at: ServiceProcess,
    laptop_at: ServiceProcess,
    phones: dict[str, Any],
    laptops: dict[str, Any],
    *,
    is_phone_first: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Have both devices come back by themselves, and return what they name the next time."""
    async with connect(phone_at.url, V2) as phone, connect(laptop_at.url, V2) as laptop:
        if is_phone_first:
            new = await come(phone, "phone", phones)
        else:
            laptops = await come(laptop, "laptop", laptops)
            new = await come(phone, "phone", phones)
            await laptop.expect_close(4409)
        assert new["session_id"] != phones["session_id"]

        await comes_in_vain(laptop_at, "laptop", laptops)

        await phone.check_alive()
        return new, laptops


async def test_of_two_that_come_back_at_once_the_newer_stays(pair: list[Service]) -> None:
    for number in range(6):
        laptops, phones = await are_taken_up(pair[0])
        await until(lambda: not any(pair[0].server._registry.bus.subscribers))
        laptops, phones = laptops | {"resume_token": ""}, phones | {"resume_token": ""}
        async with connect(pair[number % 2].url, V2) as phone, connect(pair[1 - number % 2].url, V2) as laptop:
            for client, instance, resume in ((laptop, "laptop", laptops), (phone, "phone", phones)):
                fields = {"client_id": "ann", "auth_token": "t", "instance_id": instance, "resume": resume}
                await client.send("CONNECT", fields)
            await phone.expect("CONNECT_ACK")

            await laptop.receive()  # that it is in, or that it is refused
            await laptop.expect_close(4409)

            await phone.check_alive()
            await phone.send("DISCONNECT", {})


async def test_a_saved_session_does_not_take_the_client_back_from_another_node(
    nats: NatsServer, tmp_path: Path
) -> None:
    """While a node restarts, its client's user takes up another device elsewhere."""
    shared = KEYS | {"bus.backend": "nats", "bus.nats_url": nats.url, "storage.backend": "sqlite"}
    shared["storage.sqlite_path"] = str(tmp_path / "shared.db")
    configs = []
    for number in range(2):
        sections = {name: dict(values) for name, values in DEFAULTS.items()}
        for name, value in (shared | {"bus.node_id": f"node-{number}"}).items():
            section, key = name.split(".")
            sections.setdefault(section, {})[key] = value
        configs.append(Config.model_validate(sections))
    async with running(configs[1]) as other:
        async with running(configs[0]) as restarting:
            laptops = await has_left(Service(restarting), "laptop")
        async with connect(Service(other).url, V2) as phone:
            await come(phone, "phone")
            async with running(configs[0]) as restarted:
                await comes_in_vain(Service(restarted), "laptop", laptops)

                assert not restarted._registry.session_store._sessions
                await phone.check_alive()


async def test_nobody_is_taken_up_later_than_now(service_with: ServiceWith) -> None:
    """A client that makes up an id does not keep its other devices out."""
    service = await service_with(**KEYS)
    future = {"session_id": new_session_id(2**48 - 1), "resume_token": "t", "received": 0}
    async with connect(service.url, V2) as laptop, connect(service.url, V2) as phone:
        laptops = await come(laptop, "laptop", future)
        assert abs(taken_up_at(laptops["session_id"]) - time.time() * 1000) < 60_000
        await asyncio.sleep(0.002)
        await come(phone, "phone")
        await laptop.expect_close(4409)

        await comes_in_vain(service, "laptop", laptops)


async def test_nobody_ends_a_strangers_session_by_naming_it(service_with: ServiceWith) -> None:
    service = await service_with(**KEYS)
    async with connect(service.url, V2) as ben, connect(service.url, V2) as phone:
        await ben.send("CONNECT", {"client_id": "ben", "auth_token": "t", "resumable": True})
        bens = (await ben.expect("CONNECT_ACK")).fields
        await come(phone, "phone")

        await comes_in_vain(service, "laptop", {"session_id": bens["session_id"], "resume_token": "t", "received": 0})

        assert [each.client_id for each in service.server._registry.session_store._sessions.values()] == ["ben", "ann"]
        ben.websocket.transport.abort()
        await until(lambda: any(service.server._registry.session_store.away()))
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
    await until(lambda: not any(service.server._registry.session_store.away()))
    async with connect(service.url, V2) as first, connect(service.url, V2) as second:
        assert (await come(first, "laptop", lost))["session_id"] != lost["session_id"]

        await come(second, "laptop", lost)

        await first.expect_close(4408)


async def test_of_two_that_lost_their_sessions_the_later_one_stays(service_with: ServiceWith) -> None:
    """Nobody knows who was there last where their ids do not tell: neither may lock the other out."""
    service = await service_with(**KEYS)
    gone = {"session_id": "of an earlier life", "resume_token": "t", "received": 0}
    async with connect(service.url, V2) as laptop, connect(service.url, V2) as phone:
        await come(laptop, "laptop", gone)

        await come(phone, "phone", gone)

        await laptop.expect_close(4409)


@pytest.mark.long
async def test_a_client_that_does_not_resume_comes_back_to_itself(service_with: ServiceWith) -> None:
    service = await service_with(**KEYS)
    async with laptop_of(service, resumable=False) as laptop:
        for _ in range(3):
            former = laptop.session_id
            for connection in tuple(service.server._registry.connections):
                connection.cut()
            await until(lambda former=former: laptop.session_id != former)  # type: ignore[misc]  # cannot infer it


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
        for connection in tuple(service.server._registry.connections):
            connection.cut()
        async with connect(service.url, V2) as phone:
            await come(phone, "phone")

            async with asyncio.timeout(10):
                end = [event async for event in laptop if isinstance(event, Disconnected)][-1]

            assert not end.will_reconnect
            assert "another device" in end.reason
            await phone.check_alive()
