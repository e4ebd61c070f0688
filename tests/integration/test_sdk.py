"""The Python SDK against the real service."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from itertools import product
from typing import Any

import pytest

from signal_manager.app import running
from signal_manager.client import (
    Connected,
    Disconnected,
    ErrorReceived,
    Event,
    Framing,
    PayloadType,
    Reconnected,
    RetryPolicy,
    SignalClient,
    SignalReceived,
)
from signal_manager.config import Config
from signal_manager.errors import AuthenticationError, NotFoundError
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
        disconnected, reconnected, signal = await following(client, 3)

        assert isinstance(connected, Connected)
        assert isinstance(disconnected, Disconnected)
        assert (disconnected.code, disconnected.will_reconnect) == (1012, True)
        assert isinstance(reconnected, Reconnected)
        assert reconnected.session_id != connected.session_id
        assert signal == SignalReceived("test_client_1", "message", "after the restart")
        assert await waiting == "sent"
        await client.close()
