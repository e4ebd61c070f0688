"""Sessions that outlive their connections, over real sockets: what is missing comes, once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from signal_manager.errors import UnavailableError
from signal_manager.protocol.resume import SESSION_OVERHEAD
from tests.integration.attack import MALLORY
from tests.integration.conftest import Service, ServiceWith, is_deserted
from tests.integration.v1_client import ALICE, BOB, Client, connect
from tests.waiting import until

LIMIT = 20.0


async def log_in(client: Client, who: tuple[str, str], **fields: Any) -> dict[str, Any]:
    """Send CONNECT for a session that can be resumed, and return CONNECT_ACK's fields."""
    await client.send("CONNECT", {"client_id": who[0], "auth_token": who[1], "resumable": True, **fields})
    return (await client.expect("CONNECT_ACK")).fields


def resume(ack: dict[str, Any], received: int) -> dict[str, Any]:
    return {"session_id": ack["session_id"], "resume_token": ack["resume_token"], "received": received}


async def say(sender: Client, target: str, *data: Any, ack: bool = False) -> None:
    for each in data:
        await sender.send("SIGNAL_OFFER", {"target_client_id": target, "signal_data": each, "ack": ack})


async def heard(client: Client, count: int) -> list[Any]:
    return [(await client.expect("SIGNAL_OFFER")).fields["signal_data"] for _ in range(count)]


def drop(client: Client) -> None:
    """Lose a connection without a word."""
    client.websocket.transport.abort()


async def until_away(service: Service, count: int = 1) -> None:
    registry = service.server._registry
    await until(lambda: len(tuple(registry.session_store.away())) == count, limit=LIMIT)


@asynccontextmanager
async def alice_at(service: Service) -> AsyncIterator[Client]:
    async with connect(service.url, "signal-manager.v2") as alice:
        yield await alice.log_in()


@pytest.mark.parametrize("subprotocol", [None, "signal-manager.v2", "signal-manager.json"])
async def test_a_client_that_comes_back_gets_what_it_missed(service: Service, subprotocol: str | None) -> None:
    async with alice_at(service) as alice:
        async with connect(service.url, subprotocol) as bob:
            first = await log_in(bob, BOB)
            await say(alice, BOB[0], 1, 2)
            assert await heard(bob, 2) == [1, 2]
            drop(bob)
        await until_away(service)
        await say(alice, BOB[0], 3, ack=True)
        assert (await alice.expect("SIGNAL_ACK")).fields["status"] == "queued"

        async with connect(service.url, subprotocol) as bob:
            again = await log_in(bob, BOB, resume=resume(first, 1))  # the second was lost on its way
            await say(alice, BOB[0], 4)
            assert await heard(bob, 3) == [2, 3, 4]

        assert (again["resumed"], again["session_id"]) == (True, first["session_id"])


@pytest.mark.parametrize("subprotocol", [None, "signal-manager.v2", "signal-manager.json"])
async def test_messages_that_came_in_one_go_are_missed_one_by_one(service: Service, subprotocol: str | None) -> None:
    numbers = [*range(40)]
    async with alice_at(service) as alice:
        async with connect(service.url, subprotocol) as bob:
            first = await log_in(bob, BOB)
            await say(alice, BOB[0], *numbers, "x" * 70_000 if subprotocol else "x")
            assert await heard(bob, 25) == numbers[:25]
            await bob.send("HEARTBEAT", {"timestamp": 1, "received": 20})
            await until(lambda: service.server._registry.counters.received[4].value == 1, limit=LIMIT)
            drop(bob)
            await until_away(service)
            (session,) = service.server._registry.session_store.away()
            kept = session.client_session.journal._unconfirmed
            assert len(kept) < 21, "what one read brought is kept as one"
        async with connect(service.url, subprotocol) as bob:
            again = await log_in(bob, BOB, resume=resume(first, 25))

            assert again["resumed"] is True
            assert await heard(bob, 15) == numbers[25:]
            assert len((await heard(bob, 1))[0]) == (70_000 if subprotocol else 1)


async def test_the_client_is_told_what_the_service_has_of_its_messages(service: Service) -> None:
    async with connect(service.url) as alice:
        first = await log_in(alice, ALICE)
        await say(alice, ALICE[0], 1, 2)
        await heard(alice, 2)
        await alice.check_alive()
        drop(alice)
    await until_away(service)

    async with connect(service.url) as alice:
        again = await log_in(alice, ALICE, resume=resume(first, 2))

    assert (first["received"], again["received"], again["resumed"]) == (0, 2, True)


async def test_a_new_connection_takes_over_from_one_that_seems_alive(service: Service) -> None:
    async with connect(service.url) as stale, connect(service.url) as bob, alice_at(service) as alice:
        first = await log_in(stale, BOB)
        await say(alice, BOB[0], 1)
        await heard(stale, 1)

        again = await log_in(bob, BOB, resume=resume(first, 0))
        await stale.expect_close(4408)
        await say(alice, BOB[0], 2)

        assert again["resumed"]
        assert await heard(bob, 2) == [1, 2]
        await bob.check_alive()


async def test_a_request_in_flight_is_answered_on_the_next_connection(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service reads nothing while it answers, so the new connection comes before the end of the old one."""
    storage = service.server._registry.dispatcher._registrations._storage
    original, gate = storage.change_client, asyncio.Event()

    async def slow(*arguments: Any) -> Any:
        await gate.wait()
        return await original(*arguments)

    monkeypatch.setattr(storage, "change_client", slow)
    async with connect(service.url) as bob:
        first = await log_in(bob, BOB)
        request = await bob.send("REGISTER", {"version": "1.0.0", "client_id": BOB[0], "auth_token": BOB[1]})
        await until(
            lambda: any(each.conversation.is_answering for each in service.server._registry.connections), limit=LIMIT
        )
        drop(bob)

    async with connect(service.url) as bob:
        await log_in(bob, BOB, resume=resume(first, 0))
        await say(bob, BOB[0], "later")  # has to wait for the reply, as it would have on the first connection
        gate.set()
        reply = await bob.expect("REGISTER_ACK")
        assert reply.id == request
        assert reply.fields["session_id"] == first["session_id"]
        assert await heard(bob, 1) == ["later"]


async def test_after_the_window_the_session_is_gone(service_with: ServiceWith) -> None:
    service = await service_with(**{"session.resume_window": 0.1})
    async with connect(service.url) as bob:
        first = await log_in(bob, BOB)
        drop(bob)
    await until(lambda: is_deserted(service), limit=LIMIT)

    async with connect(service.url) as bob:
        again = await log_in(bob, BOB, resume=resume(first, 0))

    assert not again.get("resumed")
    assert again["session_id"] != first["session_id"]


@pytest.mark.parametrize("wrong", [{"resume_token": "guessed"}, {"session_id": "no-such"}, {"received": 7}])
async def test_what_cannot_be_proved_is_a_new_session(service: Service, wrong: dict[str, Any]) -> None:
    async with connect(service.url) as bob:
        first = await log_in(bob, BOB)
        drop(bob)
    await until_away(service)

    async with connect(service.url) as bob:
        again = await log_in(bob, BOB, resume=resume(first, 0) | wrong)
        await bob.check_alive()

        assert not again.get("resumed")
        assert again["resume_token"] != first["resume_token"]
        await until_away(service, 0)


async def test_another_client_cannot_take_a_session_with_its_token(service: Service) -> None:
    async with connect(service.url) as bob:
        first = await log_in(bob, BOB)
        drop(bob)
    await until_away(service)

    async with connect(service.url) as alice:
        assert not (await log_in(alice, ALICE, resume=resume(first, 0))).get("resumed")
    async with connect(service.url) as bob:
        assert (await log_in(bob, BOB, resume=resume(first, 0)))["resumed"]


async def test_a_token_is_of_no_use_without_credentials(service: Service) -> None:
    async with connect(service.url) as bob:
        first = await log_in(bob, BOB)
        drop(bob)
    await until_away(service)

    async with connect(service.url) as mallory:
        await mallory.send(
            "CONNECT",
            {"client_id": BOB[0], "auth_token": "wrong", "resumable": True, "resume": resume(first, 0)},
        )
        await mallory.expect_error(401)


@pytest.mark.parametrize("how", ["DISCONNECT", "close"])
async def test_whoever_leaves_is_gone_at_once(service: Service, how: str) -> None:
    async with connect(service.url) as bob:
        await log_in(bob, BOB)
        if how == "DISCONNECT":
            await bob.send("DISCONNECT", {})
            await bob.expect_close(1000)

    await until(lambda: is_deserted(service), limit=LIMIT)


async def test_a_tagged_client_is_never_offered_to_resume(service: Service) -> None:
    async with connect(service.url) as bob:
        await bob.send(
            "CONNECT", b'{"Connect":{"client_id":"test_client_2","auth_token":"test_token_2","resumable":true}}', "JSON"
        )
        ack = await bob.expect("CONNECT_ACK")
        assert b"resume_token" not in ack.payload
        drop(bob)

    await until(lambda: is_deserted(service), limit=LIMIT)


async def test_messages_refused_for_their_rate_count_as_received(service_with: ServiceWith) -> None:
    service = await service_with(**{"security.max_messages_per_minute": 10})
    async with connect(service.url) as bob:
        first = await log_in(bob, BOB)
        await say(bob, BOB[0], *range(14))
        received = [await bob.receive() for _ in range(14)]
        drop(bob)
    assert {message.type for message in received} == {"SIGNAL_OFFER", "ERROR"}
    await until_away(service)

    async with connect(service.url) as bob:
        again = await log_in(bob, BOB, resume=resume(first, 14))

    assert (again["resumed"], again["received"]) == (True, 14)


async def test_malformed_messages_count_as_received(service: Service) -> None:
    async with connect(service.url) as bob:
        first = await log_in(bob, BOB)
        await bob.send_raw(b"\xaa")
        await bob.send_raw("text")
        await bob.send("SIGNAL_OFFER", b"{", "JSON")
        for _ in range(3):
            await bob.expect_error(400)
        drop(bob)
    await until_away(service)

    async with connect(service.url) as bob:
        again = await log_in(bob, BOB, resume=resume(first, 3))

    assert (again["resumed"], again["received"]) == (True, 3)


async def test_a_heartbeat_frees_what_it_confirms(service: Service) -> None:
    async with connect(service.url) as bob:
        await log_in(bob, BOB)
        await say(bob, BOB[0], "x" * 1000)
        await heard(bob, 1)
        budget = service.server._registry.session_store._budget
        assert budget.used > 1000

        await bob.send("HEARTBEAT", {"timestamp": 1, "received": 1})
        await bob.expect("HEARTBEAT_ACK")

        assert budget.used == SESSION_OVERHEAD


@pytest.mark.parametrize("subprotocol", [None, "signal-manager.json"])
async def test_the_answer_to_a_heartbeat_confirms_too(service: Service, subprotocol: str | None) -> None:
    async with connect(service.url, subprotocol) as bob:
        await log_in(bob, BOB)
        await say(bob, BOB[0], 1, 2, 3)
        await heard(bob, 3)

        await bob.send("HEARTBEAT", {"timestamp": 1})

        assert (await bob.expect("HEARTBEAT_ACK")).fields["received"] == 3


async def test_a_heartbeat_that_claims_too_much_is_refused(service: Service) -> None:
    async with connect(service.url) as bob:
        await log_in(bob, BOB)

        request = await bob.send("HEARTBEAT", {"timestamp": 1, "received": 5})

        await bob.expect_error(400, id=request)
        await bob.expect("HEARTBEAT_ACK")


async def test_a_busy_sender_is_told_in_time_what_has_come(service: Service) -> None:
    async with connect(service.url) as bob, alice_at(service) as alice:
        await log_in(bob, BOB)
        for _ in range(120):
            await say(bob, ALICE[0], "x" * 2000)

        told = await bob.expect("HEARTBEAT")

        assert 70 < told.fields["received"] < 110
        drop(alice)  # who has read nothing, and would wait with her good-bye until she had


async def test_one_sender_fills_no_buffer_and_ends_no_session(service_with: ServiceWith) -> None:
    """A sender that sends too much to an absent client is refused; earlier messages and the session are kept."""
    service = await service_with(**{"session.resume_buffer_bytes": 5000})
    async with connect(service.url) as bob:
        first = await log_in(bob, BOB)
        drop(bob)
    await until_away(service)

    async with connect(service.url) as alice:
        await alice.log_in()
        await say(alice, BOB[0], "x" * 3000, "x" * 3000, "x" * 5000, ack=True)
        assert (await alice.expect("SIGNAL_ACK")).fields["status"] == "queued"
        await alice.expect_error(429)
        await alice.expect_error(413)
        async with connect(service.url) as bob:
            assert (await log_in(bob, BOB, resume=resume(first, 0)))["resumed"]
            assert await heard(bob, 1) == ["x" * 3000]
            drop(bob)
        await until_away(service)
        # What was left there is no longer there.
        await say(alice, BOB[0], "x" * 100, ack=True)
        assert (await alice.expect("SIGNAL_ACK")).fields["status"] == "queued"


async def test_what_one_sender_leaves_in_all_buffers_together_is_bounded(service_with: ServiceWith) -> None:
    keys = [f"{name}:{token}" for name, token in (ALICE, BOB, MALLORY)]
    service = await service_with(
        **{"auth.api_keys": keys, "session.resume_total_bytes": 160_000, "session.resume_buffer_bytes": 8_000}
    )
    async with connect(service.url) as bob, connect(service.url) as mallory:
        await log_in(bob, BOB)
        await log_in(mallory, MALLORY)
        drop(bob)
        drop(mallory)
    await until_away(service, 2)

    async with connect(service.url) as alice:
        await alice.log_in()
        await say(alice, BOB[0], "x" * 5500, ack=True)
        await alice.expect("SIGNAL_ACK")
        await say(alice, MALLORY[0], "x" * 5500, ack=True)
        await alice.expect_error(429)


async def test_when_memory_runs_out_those_who_take_most_give_way(service_with: ServiceWith) -> None:
    """An innocent client that is away for a moment keeps its session, however much waits for others."""
    keys = [f"{name}:{token}" for name, token in (ALICE, BOB, MALLORY)]
    service = await service_with(
        **{"auth.api_keys": keys, "session.resume_total_bytes": 60_000, "session.resume_buffer_bytes": 40_000}
    )
    async with connect(service.url) as bob:
        first = await log_in(bob, BOB)
        drop(bob)
    await until_away(service)

    async with connect(service.url) as alice, connect(service.url) as mallory:
        await alice.log_in()
        await log_in(mallory, MALLORY)  # who confirms nothing
        await say(alice, BOB[0], "for bob")
        for _ in range(10):
            await say(alice, MALLORY[0], "x" * 10_000)
        await mallory.expect("SIGNAL_OFFER")
        await alice.check_alive()
        async with connect(service.url) as bob:
            assert (await log_in(bob, BOB, resume=resume(first, 0)))["resumed"]
            assert await heard(bob, 1) == ["for bob"]


async def test_one_large_signal_costs_nobody_its_session_for_good(service_with: ServiceWith) -> None:
    service = await service_with(**{"session.resume_buffer_bytes": 5000})
    async with connect(service.url) as alice, connect(service.url) as bob:
        await alice.log_in()
        first = await log_in(bob, BOB)
        await say(alice, BOB[0], "x" * 6000)
        assert await heard(bob, 1) == ["x" * 6000]
        await bob.send("HEARTBEAT", {"timestamp": 1, "received": 1})
        await bob.expect("HEARTBEAT_ACK")
        await say(alice, BOB[0], "small")
        drop(bob)
        await until_away(service)
        async with connect(service.url) as again:
            assert (await log_in(again, BOB, resume=resume(first, 1)))["resumed"]
            assert await heard(again, 1) == ["small"]


async def test_an_operator_ends_a_session_that_waits_for_its_client(service: Service) -> None:
    async with connect(service.url) as bob:
        await log_in(bob, BOB)
        drop(bob)
    await until_away(service)

    (session,) = service.server.live_sessions.sessions()
    assert (session.is_away, session.client_id) == (True, BOB[0])
    session.evict()

    await until(lambda: is_deserted(service), limit=LIMIT)


async def test_a_client_that_begins_anew_ends_its_former_session(service: Service) -> None:
    async with connect(service.url) as bob:
        first = await log_in(bob, BOB, instance_id="one")
        drop(bob)
    await until_away(service)

    async with connect(service.url) as bob:
        again = await log_in(bob, BOB, instance_id="one")
        assert again["session_id"] != first["session_id"]
        assert len(list(service.server.live_sessions.sessions())) == 1


async def test_a_session_that_cannot_be_read_now_is_not_given_up(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that is told `resumed: false` drops its unsent messages, so the answer is 503 until storage answers."""
    session_store = service.server._registry.session_store

    async def is_away(*_: object, **__: object) -> None:
        raise UnavailableError("storage does not answer")

    async with connect(service.url) as bob:
        first = await log_in(bob, BOB)
        drop(bob)
    await until_away(service)
    await session_store.save(session_store.freeze())

    with monkeypatch.context() as broken:
        broken.setattr(session_store._saved._storage, "take_session", is_away)
        async with connect(service.url) as bob:
            offer = {"client_id": BOB[0], "auth_token": BOB[1], "resumable": True, "resume": resume(first, 0)}
            await bob.send("CONNECT", offer)
            error = (await bob.expect("ERROR")).fields
    async with connect(service.url) as bob:
        again = await log_in(bob, BOB, resume=resume(first, 0))

    assert (error["error_code"], error["retryable"]) == (503, True)
    assert (again["session_id"], again["resumed"]) == (first["session_id"], True)
