"""The Python SDK against the real service."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from signal_manager.client import (
    Connected,
    Disconnected,
    ErrorReceived,
    Event,
    Framing,
    GoingAway,
    PayloadType,
    Reconnected,
    RetryPolicy,
    RoomEventReceived,
    SignalClient,
    SignalReceived,
    ToRoom,
)
from signal_manager.errors import AuthenticationError, NotFoundError
from signal_manager.protocol.messages import RoomCreate, RoomCreateAck
from signal_manager.service.app import running
from signal_manager.service.config import Config
from tests.integration.conftest import DEFAULTS, Service

ALICE = ("test_client_1", "test_token_1")
BOB = ("test_client_2", "test_token_2")

FORMS = [*product([Framing.V1, Framing.V2], list(PayloadType)), (Framing.JSON, PayloadType.JSON)]


async def following(client: SignalClient, count: int) -> list[Event]:
    async with asyncio.timeout(5):
        return [await anext(client) for _ in range(count)]


async def test_a_wrong_token_is_refused(service: Service) -> None:
    with pytest.raises(AuthenticationError):
        await SignalClient(service.url, "test_client_1", "wrong").connect()


@pytest.mark.parametrize(("framing", "payload_type"), FORMS)
async def test_two_clients_exchange_every_kind_of_signal(
    service: Service, framing: Framing, payload_type: PayloadType
) -> None:
    options: dict[str, Any] = {"framing": framing, "payload_type": payload_type}
    async with (
        SignalClient(service.url, *ALICE, **options) as alice,
        SignalClient(service.url, *BOB, **options) as bob,
    ):
        await following(bob, 1)
        await alice.send_offer(bob.client_id, "v=0: an offer")
        await alice.send_answer(bob.client_id, "v=0: an answer")
        await alice.send_ice_candidate(bob.client_id, "candidate:1")
        await alice.send_message(bob.client_id, "hello")

        events = await following(bob, 4)

    texts: list[Any] = ["v=0: an offer", "v=0: an answer", "candidate:1", "hello"]
    if payload_type is PayloadType.BINARY:
        texts = [text.encode() for text in texts]
    assert events == [
        SignalReceived("test_client_1", "offer", texts[0]),
        SignalReceived("test_client_1", "answer", texts[1]),
        SignalReceived("test_client_1", "ice_candidate", texts[2]),
        SignalReceived("test_client_1", "message", texts[3]),
    ]


@pytest.mark.parametrize("payload_type", [PayloadType.JSON, PayloadType.CBOR])
async def test_a_heartbeat_tells_what_need_not_be_kept_any_more(service: Service, payload_type: PayloadType) -> None:
    async with SignalClient(service.url, *ALICE, payload_type=payload_type) as alice:
        await alice.send_message(alice.client_id, "kept until it is known to have come")
        journal = alice._link.exchange.journal
        assert journal is not None
        assert len(journal.unconfirmed) == 1

        await alice.heartbeat()

        assert not journal.unconfirmed


async def test_clients_with_different_payload_types_understand_each_other(service: Service) -> None:
    offer = {"type": "offer", "sdp": "v=0\r\n"}
    async with (
        SignalClient(service.url, *ALICE) as alice,
        SignalClient(service.url, *BOB, payload_type=PayloadType.CBOR, framing=Framing.V1) as bob,
    ):
        await alice.send_offer(bob.client_id, offer)
        await bob.send_message(alice.client_id, "text")

        assert (await following(bob, 2))[1] == SignalReceived("test_client_1", "offer", offer)
        assert (await following(alice, 2))[1] == SignalReceived("test_client_2", "message", "text")


@pytest.mark.parametrize(("framing", "payload_type"), FORMS)
async def test_a_message_to_a_room_says_which(service: Service, framing: Framing, payload_type: PayloadType) -> None:
    """As in the browser SDK; the layouts of BINARY and TEXT alone have no place for the room."""
    options: dict[str, Any] = {"framing": framing, "payload_type": payload_type}
    async with (
        SignalClient(service.url, *ALICE, **options) as alice,
        SignalClient(service.url, *BOB, **options) as bob,
        await alice.join("chat", create=True) as room,
        await bob.join("chat"),
    ):
        await following(bob, 1)
        assert await alice.send_message(ToRoom(room.id), "hello", ack=True) == "delivered"
        await alice.send_message(bob.client_id, "for you alone")
        with pytest.raises(NotFoundError):
            await alice.send_message(ToRoom("elsewhere"), "hello", ack=True)

        heard = await following(bob, 2)

    named = None if payload_type in {PayloadType.BINARY, PayloadType.TEXT} else "chat"
    texts: list[Any] = ["hello", "for you alone"]
    if payload_type is PayloadType.BINARY:
        texts = [text.encode() for text in texts]
    assert heard == [
        SignalReceived("test_client_1", "message", texts[0], named),
        SignalReceived("test_client_1", "message", texts[1]),
    ]


async def test_room_events_come_to_callbacks_in_the_protocols_words(service: Service) -> None:
    """They are for applications that join with `request`; those that iterate have `Room` and do not see them."""
    async with SignalClient(service.url, *ALICE) as alice, SignalClient(service.url, *BOB) as bob:
        heard: asyncio.Queue[RoomEventReceived] = asyncio.Queue()
        alice.on("room_event", heard.put)
        await alice.request(RoomCreate(room_id="raw", role="receiver"), RoomCreateAck)
        async with await bob.join("raw"), asyncio.timeout(5):
            event = (await heard.get()).event

    assert (event.event, event.room_id) == ("participant_joined", "raw")


async def test_a_thousand_messages_arrive_in_order(service: Service) -> None:
    async with SignalClient(service.url, *ALICE) as alice, SignalClient(service.url, *BOB) as bob:
        for number in range(1000):
            await alice.send_message(bob.client_id, number)

        _, *messages = await following(bob, 1001)

    assert [event.data for event in messages if isinstance(event, SignalReceived)] == list(range(1000))


@pytest.mark.parametrize("payload_type", list(PayloadType))
async def test_ack_tells_what_became_of_a_signal(service: Service, payload_type: PayloadType) -> None:
    async with (
        SignalClient(service.url, *ALICE, payload_type=payload_type) as alice,
        SignalClient(service.url, *BOB, payload_type=payload_type) as bob,
    ):
        assert await alice.send_offer(bob.client_id, "offer", ack=True) == "delivered"
        await bob.close()

        await following(alice, 1)
        assert await alice.send_offer(bob.client_id, "offer") == "sent"
        (refused,) = await following(alice, 1)

        assert isinstance(refused, ErrorReceived)
        assert isinstance(refused.error, NotFoundError)
        assert refused.target == bob.client_id


async def test_an_acknowledged_signal_to_oneself_arrives_and_is_acknowledged(service: Service) -> None:
    async with SignalClient(service.url, *ALICE) as alice:
        await following(alice, 1)

        assert await alice.send_message(alice.client_id, "note", ack=True) == "delivered"

        (note,) = await following(alice, 1)
        assert isinstance(note, SignalReceived)
        assert (note.sender, note.data) == (alice.client_id, "note")


@pytest.mark.parametrize("payload_type", list(PayloadType))
async def test_register_heartbeat_and_unregister(service: Service, payload_type: PayloadType) -> None:
    async with SignalClient(service.url, *ALICE, payload_type=payload_type) as client:
        await client.register(["video"], {"name": "Alice"})
        assert await client.heartbeat() >= 0
        await client.unregister()


async def test_the_newest_connection_of_a_client_wins(service: Service) -> None:
    async with SignalClient(service.url, *ALICE) as first, SignalClient(service.url, *ALICE) as second:
        _, disconnected = await following(first, 2)

        assert isinstance(disconnected, Disconnected)
        assert disconnected.code == 4409
        assert not disconnected.will_reconnect
        assert await second.heartbeat() >= 0


async def test_a_client_comes_back_after_the_service_was_stopped_and_started_again() -> None:
    sections = {name: dict(values) for name, values in DEFAULTS.items()}
    retry = RetryPolicy(base_delay=0.01, max_delay=0.05)
    async with AsyncExitStack() as stack:
        async with running(Config.model_validate(sections)) as service:
            sections["server"]["port"] = service.port
            url = f"ws://127.0.0.1:{service.port}"
            client = await stack.enter_async_context(SignalClient(url, *ALICE, retry=retry))
            (connected,) = await following(client, 1)

        waiting = asyncio.create_task(client.send_message(client.client_id, "after the restart"))
        await stack.enter_async_context(running(Config.model_validate(sections)))
        going, disconnected, reconnected, signal = await following(client, 4)

        assert isinstance(connected, Connected)
        assert isinstance(going, GoingAway)
        assert isinstance(disconnected, Disconnected)
        assert (disconnected.code, disconnected.will_reconnect) == (1012, True)
        assert isinstance(reconnected, Reconnected)
        assert reconnected.session_id != connected.session_id, "a store in memory ends with its process"
        assert signal == SignalReceived("test_client_1", "message", "after the restart")
        assert await waiting == "sent"
        await client.close()


def drop(client: SignalClient) -> None:
    """Lose a client's connection without a word."""
    connection = client._link.connection
    assert connection is not None
    assert connection._transport is not None
    connection._transport.underlying_transport.abort()


@pytest.mark.parametrize("framing", list(Framing))
async def test_a_client_whose_connection_drops_misses_nothing_and_repeats_nothing(
    service: Service, framing: Framing
) -> None:
    retry = RetryPolicy(base_delay=0.01, max_delay=0.05)
    async with (
        SignalClient(service.url, *ALICE, retry=retry, framing=framing) as alice,
        SignalClient(service.url, *BOB, retry=retry, framing=framing) as bob,
    ):
        for number in range(60):
            await alice.send_message(bob.client_id, number)
            if number % 20 == 10:
                drop(alice)
            if number % 20 == 15:
                drop(bob)
        events: list[Event] = []
        while len([event for event in events if isinstance(event, SignalReceived)]) < 60:
            events += await following(bob, 1)
        assert await alice.send_message(bob.client_id, "last", ack=True) in {"delivered", "queued"}

    assert [event.data for event in events if isinstance(event, SignalReceived)] == list(range(60))
    assert {event.resumed for event in events if isinstance(event, Reconnected)} == {True}


async def test_a_request_gets_its_reply_on_the_next_connection(service: Service) -> None:
    async with SignalClient(service.url, *ALICE, retry=RetryPolicy(base_delay=0.01, max_delay=0.05)) as alice:
        await following(alice, 1)
        registering = asyncio.create_task(alice.register(["video"]))
        await asyncio.sleep(0)  # it is sent, and whether it arrives is up to the network
        drop(alice)
        await registering
        _, reconnected = await following(alice, 2)

    assert isinstance(reconnected, Reconnected)
    assert reconnected.resumed


async def test_a_session_goes_on_in_the_next_start_of_the_service(tmp_path: Path) -> None:
    sections = {name: dict(values) for name, values in DEFAULTS.items()}
    sections["storage"] = {"backend": "sqlite", "sqlite_path": str(tmp_path / "store.db")}
    retry = RetryPolicy(base_delay=0.01, max_delay=0.05)
    async with AsyncExitStack() as stack:
        async with running(Config.model_validate(sections)) as service:
            sections["server"]["port"] = service.port
            url = f"ws://127.0.0.1:{service.port}"
            alice = await stack.enter_async_context(SignalClient(url, *ALICE, retry=retry))
            bob = await stack.enter_async_context(SignalClient(url, *BOB, retry=retry))
            await bob.register(["video"])
            (connected,) = await following(bob, 1)
        waiting = asyncio.create_task(alice.send_message(bob.client_id, "after the restart", ack=True))
        await stack.enter_async_context(running(Config.model_validate(sections)))
        _, _, reconnected, signal = await following(bob, 4)

        assert isinstance(connected, Connected)
        assert reconnected == Reconnected(connected.session_id, resumed=True)
        assert signal == SignalReceived("test_client_1", "message", "after the restart")
        assert await waiting in {"queued", "delivered"}
        await bob.unregister()  # its record is still its own
        await alice.close()
        await bob.close()
