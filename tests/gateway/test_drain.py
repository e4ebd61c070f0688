"""How a process stops: every client is told, every session is saved, and nothing that hangs holds up the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from signal_manager.gateway.drain import Drain
from signal_manager.gateway.live_sessions import Phase
from signal_manager.model import ClientId, ClientRecord, SavedSession, SessionId
from signal_manager.protocol.messages import (
    ErrorMessage,
    GoAway,
    Register,
    RegisterAck,
    RoomCreate,
    RoomEvent,
    Shape,
    SignalOffer,
)
from signal_manager.storage.base import ClientChange
from signal_manager.storage.memory import MemoryStorage
from tests.gateway.harness import Gateway, GatewayClient


async def drain(gateway: Gateway, *clients: GatewayClient, timeout: float = 1.0) -> None:
    """Drain the gateway; the clients answer its close frames."""
    draining = asyncio.ensure_future(Drain(gateway.registry, timeout=timeout, close_timeout=timeout).run())
    waiting = set(clients)
    while waiting and not draining.done():
        await asyncio.sleep(0)
        for client in tuple(waiting):
            if client.close_code is not None:
                client.lose()
                waiting.discard(client)
    await draining


async def test_every_client_is_told_when_to_come_back_and_closed(gateway: Gateway) -> None:
    clients = [await gateway.client(name, resumable=True) for name in ("a", "b", "c")]

    await drain(gateway, *clients)

    for client in clients:
        assert 100 <= client.last(GoAway).reconnect_after <= 1000
        assert client.close_code == 1012
        assert not client.socket.is_cut
    assert gateway.registry.phase is Phase.DRAINING
    assert len(gateway.registry.connections) == 0


async def test_an_idle_service_stops_at_once(gateway: Gateway) -> None:
    await drain(gateway)

    assert gateway.registry.phase is Phase.DRAINING


async def test_sessions_connected_and_away_are_saved_and_continue_at_the_next_start(gateway: Gateway) -> None:
    connected = await gateway.client("a", resumable=True)
    away = await gateway.client("b", resumable=True)
    offers = {"a": connected.offer, "b": away.offer}
    away.lose()

    await drain(gateway, connected)
    next_start = Gateway(storage=gateway.storage)
    reclaimed = await next_start.registry.session_store.reclaim()

    assert reclaimed == 2
    for name, offer in offers.items():
        back = next_start.connect()
        await back.sign_in(name, resumable=True, resume=offer)
        assert back.welcome is not None
        assert back.welcome.resumed or name == "a"  # "a" got a GOAWAY that its offer does not count


async def test_what_a_client_sends_after_the_freeze_is_not_confirmed(gateway: Gateway) -> None:
    client = await gateway.client("a", resumable=True)
    other = await gateway.client("b")
    draining = asyncio.ensure_future(drain(gateway, client, other))
    while client.connection.is_established:  # noqa: ASYNC110 - the freeze is no event
        await asyncio.sleep(0)

    client.send(SignalOffer(target_client_id="b", signal_data="too late"))
    await draining

    assert not [message for message in other.messages if isinstance(message, SignalOffer)]
    saved = await gateway.storage.take_sessions(now=0.0)
    (session,) = [gateway.registry.session_store._saved.load(each) for each in saved]
    assert session is not None
    assert session.journal.received == 0


async def test_a_client_of_the_original_service_is_closed_without_a_message_that_it_does_not_know(
    gateway: Gateway,
) -> None:
    client = gateway.connect(shape=Shape.TAGGED, names_protocol=False)
    await client.sign_in("a")
    before = len(client.socket.received)

    await drain(gateway, client)

    assert len(client.socket.received) == before
    assert client.close_code == 1012


async def test_a_stranger_is_closed_too(gateway: Gateway) -> None:
    stranger = gateway.connect()

    await drain(gateway, stranger)

    assert (stranger.messages, stranger.close_code) == ([], 1012)


async def test_a_request_that_is_under_way_is_answered_first(gateway: Gateway) -> None:
    client = await gateway.client("a", resumable=True)
    client.send(Register())

    await drain(gateway, client)

    assert {type(message) for message in client.messages} == {RegisterAck, GoAway}


async def test_a_request_that_hangs_is_answered_with_503_at_the_next_start() -> None:
    class HangingOnce(MemoryStorage):
        has_hung = False

        async def change_client(self, client_id: ClientId, change: ClientChange) -> ClientRecord | None:
            if not self.has_hung:
                self.has_hung = True
                await asyncio.Event().wait()
            return await super().change_client(client_id, change)

    gateway = Gateway(storage=HangingOnce())
    client = await gateway.client("a", resumable=True)
    client.send(Register())
    with capture_logs() as logs:
        await drain(gateway, client, timeout=0.05)
    next_start = Gateway(storage=gateway.storage)
    await next_start.registry.session_store.reclaim()
    back = next_start.connect()
    await back.sign_in("a", resumable=True, resume=client.offer)

    assert "requests not answered in time" in [line["event"] for line in logs]
    assert (back.last(ErrorMessage).error_code, back.last(ErrorMessage).retryable) == (503, True)
    assert gateway.registry.background.tasks == set()


async def test_members_leave_their_rooms_and_hear_why() -> None:
    gateway = Gateway(has_rooms=True)
    client = await gateway.client("a", resumable=True)
    client.send(RoomCreate(room_id="r", role="receiver"))
    await gateway.settled()

    await drain(gateway, client)

    assert not (await gateway.storage.list_rooms(is_active=True)).items
    (closed,) = [message for message in client.messages if isinstance(message, RoomEvent)]
    assert (closed.event, closed.reason) == ("room_closed", "restarting")


async def test_a_store_that_hangs_holds_up_no_stop() -> None:
    class Hanging(MemoryStorage):
        async def save_sessions(self, sessions: Sequence[SavedSession]) -> tuple[SessionId, ...]:
            await asyncio.Event().wait()
            return ()

    gateway = Gateway(storage=Hanging())
    client = await gateway.client("a", resumable=True)

    with capture_logs() as logs:
        await drain(gateway, client, timeout=0.05)

    assert client.close_code == 1012
    assert {line["event"] for line in logs if line["log_level"] in {"error", "warning"}} == {
        "sessions not saved",
        "sessions not saved in time",
    }


async def test_a_client_that_answers_no_close_frame_is_cut_off(gateway: Gateway) -> None:
    client = await gateway.client("a")

    await Drain(gateway.registry, timeout=0.05, close_timeout=0.01).run()

    assert (client.close_code, client.socket.is_cut) == (1012, True)


async def test_a_drain_waits_until_other_nodes_have_told_the_outcome_of_all_signals(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await gateway.client("a")
    waited: list[bool] = []

    def is_waiting(_: object) -> bool:
        waited.append(client.connection.is_established)
        return len(waited) < 3

    monkeypatch.setattr(type(gateway.bus), "is_waiting", property(is_waiting))
    await drain(gateway, client)

    assert waited == [True, True, True]


async def test_more_sessions_than_one_call_saves_are_all_saved() -> None:
    gateway = Gateway(max_connections_per_address=200)
    clients = [await gateway.client(f"c{number}", resumable=True) for number in range(120)]
    for client in clients[20:]:
        client.lose()

    await drain(gateway, *clients[:20])

    saved = 0
    while page := await gateway.storage.take_sessions(now=0.0):
        saved += len(page)
    assert saved == 120
