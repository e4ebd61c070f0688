"""How events reach an application: by callbacks or by iteration, in order, and never at the cost of the client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from signal_manager.client.callbacks import Callbacks, EventStream
from signal_manager.errors import InvalidRequestError
from tests.client.fake_service import within


class Happening(NamedTuple):
    """An event."""

    name: str
    number: int = 0


NAMES = ("ping", "pong")


@pytest.fixture
async def stream() -> EventStream[Happening]:
    return EventStream(NAMES)


async def run(callbacks: Callbacks[Happening]) -> None:
    """Call back for all that is queued."""
    callbacks.queue.end()
    await within(callbacks.run())


async def test_an_event_goes_to_its_callbacks_or_is_iterated(stream: EventStream[Happening]) -> None:
    heard: list[Happening] = []
    stream.callbacks.add("ping", heard.append)

    for event in (Happening("ping"), Happening("pong"), Happening("ping", 2)):
        stream.emit(event)
    stream.end()
    await within(stream.callbacks.run())

    assert heard == [Happening("ping"), Happening("ping", 2)]
    assert await within(stream.next()) == Happening("pong")
    with pytest.raises(StopAsyncIteration):
        await within(stream.next())


async def test_what_is_for_callbacks_only_is_dropped_without_one(stream: EventStream[Happening]) -> None:
    heard: list[Happening] = []
    stream.callbacks.add("ping", heard.append)

    stream.emit_to_callbacks(Happening("ping"))
    stream.emit_to_callbacks(Happening("pong"))
    stream.end()
    await within(stream.callbacks.run())

    assert heard == [Happening("ping")]
    with pytest.raises(StopAsyncIteration):
        await within(stream.next())


async def test_dropped_events_are_counted_on_both_ways(stream: EventStream[Happening]) -> None:
    stream.callbacks.add("ping", lambda _: None)
    for _ in range(20_000):
        stream.emit(Happening("ping"))
        stream.emit(Happening("pong"))

    assert stream.dropped == stream.callbacks.queue.dropped * 2 > 0


@pytest.mark.parametrize(("name", "callback"), [("pang", print), (7, print), ("ping", "no function"), ("ping", None)])
def test_a_name_without_events_and_what_cannot_be_called_are_refused(name: Any, callback: Any) -> None:
    with pytest.raises(InvalidRequestError):
        Callbacks(NAMES).add(name, callback)


async def test_all_callbacks_of_an_event_run_one_after_the_other() -> None:
    callbacks: Callbacks[Happening] = Callbacks(NAMES)
    said: list[str] = []

    async def slow(event: Happening) -> None:
        said.append(f"begin {event.number}")
        await asyncio.sleep(0)
        said.append(f"end {event.number}")

    callbacks.add("ping", slow)
    callbacks.add("ping", lambda event: said.append(f"second {event.number}"))
    for number in (1, 2):
        callbacks.queue.put(Happening("ping", number))
    await run(callbacks)

    assert said == ["begin 1", "end 1", "second 1", "begin 2", "end 2", "second 2"]


async def test_a_removed_callback_is_not_called_and_removing_it_twice_is_no_fault() -> None:
    callbacks: Callbacks[Happening] = Callbacks(NAMES)
    said: list[str] = []
    remove = callbacks.add("ping", lambda _: said.append("first"))
    callbacks.add("ping", lambda _: remove_and_say())

    def remove_and_say() -> None:
        remove()
        remove()
        said.append("second")

    for _ in range(2):
        callbacks.queue.put(Happening("ping"))
    await run(callbacks)

    assert said == ["first", "second", "second"]
    callbacks.clear()
    assert not callbacks.wants(Happening("ping"))


async def _cancelled(_: Happening) -> None:
    other = asyncio.ensure_future(asyncio.sleep(30))
    other.cancel()
    await other


def _failing(_: Happening) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(("callback", "complaint"), [(_failing, "'ping' failed"), (_cancelled, "'ping' was cancelled")])
async def test_a_callback_that_fails_is_logged_and_the_next_one_runs(
    callback: Callable[[Happening], Any], complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    callbacks: Callbacks[Happening] = Callbacks(NAMES)
    said: list[Happening] = []
    callbacks.add("ping", callback)
    callbacks.add("ping", said.append)
    callbacks.queue.put(Happening("ping"))
    await run(callbacks)

    assert said == [Happening("ping")]
    assert complaint in caplog.text


async def test_stopping_the_calling_stops_the_callback_that_runs() -> None:
    callbacks: Callbacks[Happening] = Callbacks(NAMES)
    begun = asyncio.Event()

    async def hang(_: Happening) -> None:
        begun.set()
        await asyncio.sleep(3600)

    callbacks.add("ping", hang)
    callbacks.queue.put(Happening("ping"))
    running = asyncio.create_task(callbacks.run())
    await within(begun.wait())

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await within(running)
