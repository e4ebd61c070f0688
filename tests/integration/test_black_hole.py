"""The Python SDK on a network that is gone without a word: the old socket stays open and nothing goes through it.

How long it takes is `benchmarks.blackhole`'s business; here is in which order what happens, and that nothing is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.blackhole import BlackHole, browser_client, browser_sdk
from signal_manager.client import (
    Connected,
    Disconnected,
    Event,
    Framing,
    PayloadType,
    Reconnected,
    RetryPolicy,
    RoomReconnecting,
    SelfChanged,
    SignalClient,
    SignalReceived,
    liveness,
)
from signal_manager.client import link as link_module
from signal_manager.errors import InvalidRequestError, UnavailableError
from signal_manager.model import ClientId, RoomId
from signal_manager.protocol.messages import RoomEvent, RoomState, RoomStateAck
from tests.integration.conftest import Service
from tests.integration.v1_client import ALICE, BOB
from tests.waiting import until

LIMIT = 20.0
NEVER = RetryPolicy(base_delay=3600, max_delay=3600, random=lambda: 1.0)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the times that these tests wait for."""
    monkeypatch.setattr(liveness, "PROBE_AFTER", 0.3)
    monkeypatch.setattr(link_module, "PROBE_AFTER", 0.3)
    monkeypatch.setattr(liveness, "ANSWER_TIME", 0.5)
    monkeypatch.setattr(liveness, "ROOM_INTERVAL", 0.3)


@pytest.fixture
async def network(service: Service) -> AsyncIterator[BlackHole]:
    async with BlackHole(service.port) as network:
        yield network


async def event(client: SignalClient) -> Event:
    return await asyncio.wait_for(anext(client), LIMIT)


@pytest.mark.parametrize(
    ("framing", "payload_type"),
    [(Framing.V2, PayloadType.JSON), (Framing.V1, PayloadType.PROTOBUF), (Framing.JSON, PayloadType.JSON)],
)
async def test_a_request_outlives_a_network_that_is_gone_and_nothing_is_lost(
    service: Service, network: BlackHole, framing: Framing, payload_type: PayloadType
) -> None:
    async with (
        SignalClient(service.url, *BOB) as bob,
        SignalClient(
            network.url, *ALICE, retry=NEVER, request_timeout=LIMIT, framing=framing, payload_type=payload_type
        ) as alice,
    ):
        assert isinstance(await event(alice), Connected)
        await bob.send_message(ALICE[0], 1, ack=True)
        assert await event(alice) == SignalReceived(BOB[0], "message", 1)

        network.swallow()
        sending = asyncio.ensure_future(alice.send_message(BOB[0], "hello", ack=True))
        await bob.send_message(ALICE[0], 2, ack=True)

        assert await asyncio.wait_for(sending, LIMIT) == "delivered"
        gone, back, missed = [await event(alice) for _ in range(3)]
        assert isinstance(gone, Disconnected)
        assert gone.will_reconnect
        assert isinstance(back, Reconnected)
        assert back.resumed
        assert missed == SignalReceived(BOB[0], "message", 2)
        assert await event(bob) == Connected(bob.session_id or "")
        assert await event(bob) == SignalReceived(ALICE[0], "message", "hello")


async def test_a_member_of_a_room_notices_without_a_request_and_stays_in_it(
    service: Service, network: BlackHole
) -> None:
    async with SignalClient(network.url, *ALICE, retry=NEVER) as alice:
        room = await alice.join("r", create=True)
        assert isinstance(await event(alice), Connected)
        network.swallow()

        assert isinstance(await event(alice), Disconnected)
        assert isinstance(await event(alice), Reconnected)

        state = await alice.request(RoomState(room_id="r"), RoomStateAck)
        assert [each.client_id for each in state.participants] == [ALICE[0]]
        await room.leave()
        assert not [each async for each in room if isinstance(each, RoomReconnecting)]


async def test_a_connection_that_shows_life_again_is_kept(service: Service, network: BlackHole) -> None:
    async with SignalClient(network.url, *ALICE, retry=NEVER, request_timeout=LIMIT) as alice:
        assert isinstance(await event(alice), Connected)
        session = alice.session_id
        way = network.shut()
        beat = asyncio.ensure_future(alice.heartbeat())
        await until(lambda: network.connections == 2, limit=LIMIT)  # it tries another one beside it

        way.set()
        await asyncio.wait_for(beat, LIMIT)
        await alice.send_message(ALICE[0], "still here")

        assert await event(alice) == SignalReceived(ALICE[0], "message", "still here")  # and no Disconnected before
        assert alice.session_id == session


async def test_reconnect_replaces_a_connection_at_once_and_the_session_goes_on(
    service: Service, network: BlackHole
) -> None:
    async with SignalClient(network.url, *ALICE, retry=NEVER) as alice:
        assert isinstance(await event(alice), Connected)

        await asyncio.wait_for(alice.reconnect(), LIMIT)

        assert alice.is_connected
        assert isinstance(await event(alice), Disconnected)
        back = await event(alice)
        assert isinstance(back, Reconnected)
        assert back.resumed
        assert network.connections == 2


async def test_reconnect_does_not_wait_for_the_delay_between_attempts(service: Service) -> None:
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(BlackHole(service.port))
        alice = await stack.enter_async_context(SignalClient(network.url, *ALICE, retry=NEVER))
        assert isinstance(await event(alice), Connected)
        (connection,) = service.server._registry.connections
        connection.cut()
        assert isinstance(await event(alice), Disconnected)

        await asyncio.wait_for(alice.reconnect(), LIMIT)

        assert isinstance(await event(alice), Reconnected)


async def test_reconnect_of_a_client_that_has_ended_says_why(service: Service) -> None:
    client = SignalClient(service.url, *ALICE)
    with pytest.raises(UnavailableError, match="not connected"):
        await client.reconnect()
    await client.close()
    with pytest.raises(UnavailableError, match="closed"):
        await client.reconnect()
    with pytest.raises(InvalidRequestError):
        await client.connect()


async def test_a_client_that_may_not_come_back_cannot_be_asked_to(service: Service) -> None:
    async with SignalClient(service.url, *ALICE, retry=RetryPolicy(attempts=0)) as alice:
        with pytest.raises(InvalidRequestError, match="never reconnects"):
            await alice.reconnect()
        assert alice.is_connected


async def test_reconnect_that_takes_too_long_leaves_the_client_trying(service: Service, network: BlackHole) -> None:
    async with SignalClient(network.url, *ALICE, retry=NEVER) as alice:
        network.shut()

        with pytest.raises(UnavailableError, match="within"):
            await alice.reconnect(timeout=0.2)

        network.admit()
        await until(lambda: alice.is_connected and network.connections == 2, limit=LIMIT)


async def test_closing_while_another_connection_is_opened_leaves_nothing(service: Service, network: BlackHole) -> None:
    before = asyncio.all_tasks()
    async with SignalClient(network.url, *ALICE, retry=NEVER) as alice:
        way = network.shut()
        reconnecting = asyncio.ensure_future(alice.reconnect())
        await until(lambda: network.connections == 2, limit=LIMIT)
    with pytest.raises(UnavailableError):
        await reconnecting
    network.admit()
    way.set()
    await until(lambda: not service.server._registry.connections, limit=LIMIT)
    await until(lambda: not {each for each in asyncio.all_tasks() - before if "signal-client" in each.get_name()})


async def test_an_idle_client_keeps_its_connection(service: Service, network: BlackHole) -> None:
    async with SignalClient(network.url, *ALICE, retry=NEVER) as alice:
        await asyncio.sleep(2 * (liveness.PROBE_AFTER + liveness.ANSWER_TIME))  # nothing is to happen in it
        assert await event(alice) == Connected(alice.session_id or "")
        assert network.connections == 1
        (connection,) = service.server._registry.connections
        assert connection.received == 1  # CONNECT, and no heartbeat


@pytest.mark.long
@pytest.mark.parametrize("word", ["ask", "nothing"])
async def test_the_browser_sdk_comes_back_too(service: Service, network: BlackHole, tmp_path: Path, word: str) -> None:
    """In a room it does so without a request, and stays a member; a request gets its reply."""
    sdk = browser_sdk(tmp_path)
    if sdk is None:
        pytest.skip("needs Node, and `npm install` in sdk/js")
    async with browser_client(sdk, network.url, *ALICE) as alice:
        await alice.hears("connected")
        if word == "nothing":
            await alice.do("join")
            await alice.hears("joined")
        network.swallow()
        await alice.do(word)
        await alice.hears("back")
        if word == "ask":
            await alice.hears("asked")
        else:
            registry = service.server._registry
            sessions = [each.session_id for each in registry.connections if each.is_established]
            assert [registry.dispatcher.rooms.room_of(each) for each in sessions] == [ALICE[0]]


@pytest.mark.parametrize("lost", ["requests", "answers"])
async def test_metadata_that_is_on_its_way_when_the_socket_dies_changes_once_and_in_order(
    service: Service, network: BlackHole, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both requests, or their answers, are lost with the old socket; an operator's change comes between."""
    rooms = service.server._registry.dispatcher.rooms
    assert rooms is not None
    described = rooms._memberships.metadata._replace
    begun, gate = asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any) -> int:
        begun.set()
        await gate.wait()
        return await described(*arguments)

    async with (
        SignalClient(service.url, *BOB) as bob,
        SignalClient(network.url, *ALICE, retry=NEVER, request_timeout=LIMIT) as alice,
    ):
        told: list[RoomEvent] = []
        bob.on("room_event", lambda received: told.append(received.event))
        theirs = await bob.join("r", create=True)
        mine = await alice.join("r", metadata={"n": 0})
        async with asyncio.timeout(LIMIT):
            while not theirs.participants:
                await anext(theirs)
        begin = len(told)

        if lost == "answers":
            monkeypatch.setattr(rooms._memberships.metadata, "_replace", slow)
        else:
            network.swallow()
        changing = [asyncio.ensure_future(mine.set_metadata({"n": number})) for number in (1, 2)]
        if lost == "answers":
            await asyncio.wait_for(begun.wait(), LIMIT)
            network.swallow()
        else:
            await rooms.describe(RoomId("r"), ClientId(ALICE[0]), {"by": "operator"})
        async with asyncio.timeout(LIMIT):
            while not isinstance(await anext(alice), Reconnected):
                pass
        gate.set()
        await asyncio.wait_for(asyncio.gather(*changing), LIMIT)

        await until(lambda: theirs.participants[ALICE[0]].metadata == {"n": 2}, limit=LIMIT)
        changes = [each for each in told[begin:] if each.event == "metadata_changed"]
        expected = [{"n": 1}, {"n": 2}] if lost == "answers" else [{"by": "operator"}, {"n": 1}, {"n": 2}]
        assert [each.participant and each.participant.metadata for each in changes] == expected
        assert [each.sequence for each in told] == list(range(told[0].sequence, told[-1].sequence + 1))
        state = await bob.request(RoomState(room_id="r"), RoomStateAck)
        assert {each.client_id: each.metadata for each in state.participants}[ALICE[0]] == {"n": 2}
        assert mine.own_metadata == {"n": 2}
        await mine.leave()
        assert [each.metadata async for each in mine if isinstance(each, SelfChanged)] == expected
