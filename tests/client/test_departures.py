"""Rooms that were left: the service hears of each, in order, also when the first attempt fails."""

from __future__ import annotations

import asyncio

import pytest

from signal_manager.client import departures as module
from signal_manager.client.departures import Departures
from signal_manager.errors import NotFoundError, RateLimitedError, SignalManagerError, UnavailableError
from signal_manager.protocol.messages import Message, RoomLeave, RoomLeaveAck
from tests.client.fake_service import within
from tests.client.fakes import FakeRequester

LEFT = RoomLeaveAck(version="1.0.0", status=200, message="ok", room_id="demo", client_id="alice")


@pytest.fixture
def client() -> FakeRequester:
    return FakeRequester()


@pytest.fixture
def departures(client: FakeRequester) -> Departures:
    return Departures(client)


def refuse_first(client: FakeRequester, *errors: SignalManagerError) -> None:
    """Refuse the first departures with these errors."""
    left = list(errors)

    def answer(_: RoomLeave) -> Message:
        if left:
            raise left.pop(0)
        return LEFT

    client.answers[RoomLeave] = answer


async def test_leaving_returns_at_once_and_can_be_waited_for(client: FakeRequester, departures: Departures) -> None:
    departures.note("demo", "bye")
    assert client.asked == []

    await within(departures.settle(30.0))

    assert client.asked == [RoomLeave(room_id="demo", reason="bye")]
    await within(departures.settle(30.0))  # there is nothing to wait for


async def test_a_departure_outlives_the_call_that_waited_for_it(client: FakeRequester, departures: Departures) -> None:
    may_answer = asyncio.Event()

    async def answer(_: RoomLeave) -> Message:
        await may_answer.wait()
        return LEFT

    client.answers[RoomLeave] = answer
    departures.note("demo", None)

    await departures.settle(0.0)
    waiting = asyncio.create_task(departures.settle(30.0))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    may_answer.set()

    await within(departures.settle(30.0))
    assert len(client.asked) == 1


async def test_departures_of_one_room_follow_each_other_and_others_do_not_wait(
    client: FakeRequester, departures: Departures
) -> None:
    may_answer = asyncio.Event()

    async def answer(message: RoomLeave) -> Message:
        if message.room_id == "demo":
            await may_answer.wait()
        return LEFT

    client.answers[RoomLeave] = answer
    departures.note("demo", "first")
    departures.note("demo", "second")
    departures.note("other", None)
    await departures.settle(0.01)

    assert [(each.room_id, each.reason) for each in client.asked_for(RoomLeave)] == [("demo", "first"), ("other", None)]
    may_answer.set()
    await within(departures.settle(30.0))
    assert client.asked_for(RoomLeave)[-1].reason == "second"


async def test_the_rate_limit_only_delays_a_departure(
    client: FakeRequester, departures: Departures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY", 0.0)
    refuse_first(client, RateLimitedError("slow down"), RateLimitedError("slow down"))
    departures.note("demo", None)

    await within(departures.settle(30.0))

    assert len(client.asked) == 3


@pytest.mark.parametrize("error", [NotFoundError("not in this room"), UnavailableError("the client is closed")])
async def test_a_client_that_is_in_no_room_has_left_it(
    client: FakeRequester, departures: Departures, error: SignalManagerError
) -> None:
    refuse_first(client, error)
    departures.note("demo", None)

    await within(departures.settle(30.0))

    assert len(client.asked) == 1
