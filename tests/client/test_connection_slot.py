"""Callers wait for a connection that takes messages, and all of them learn of the end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from signal_manager.client.connection_slot import ConnectionSlot
from signal_manager.errors import AuthenticationError, UnavailableError
from tests.client.fake_service import within

if TYPE_CHECKING:
    from signal_manager.client.connection import Connection


class FakeConnection:
    """A connection whose buffer the test fills."""

    def __init__(self, *, is_writable: bool = True) -> None:
        self.is_closed = False
        self.is_writable = is_writable
        self.drained = asyncio.Event()

    async def wait_writable(self) -> None:
        """Wait until the buffer is drained or the connection has ended."""
        await self.drained.wait()

    def drain(self) -> None:
        """Take messages again."""
        self.is_writable = True
        self.drained.set()

    def close(self) -> None:
        """End."""
        self.is_closed = True
        self.drained.set()


class Scene:
    """A slot, and those who wait."""

    def __init__(self) -> None:
        self.slot = ConnectionSlot()

    def hold(self, connection: Any) -> Any:
        """Put a connection there that the service has accepted."""
        self.slot.connection = connection
        self.slot.accept()
        return connection

    async def waiting(self) -> asyncio.Task[Connection]:
        """Wait for a connection in the background."""
        task = asyncio.create_task(self.slot.ready())
        await asyncio.sleep(0)
        assert not task.done()
        return task


@pytest.fixture
async def scene() -> Scene:
    return Scene()


async def test_before_the_first_connection_callers_are_told_to_connect(scene: Scene) -> None:
    with pytest.raises(UnavailableError, match="async with client"):
        await scene.slot.ready()
    assert not scene.slot.is_up


async def test_a_connection_that_takes_messages_is_there_at_once(scene: Scene) -> None:
    connection = scene.hold(FakeConnection())

    assert await scene.slot.ready() is connection
    assert scene.slot.is_up


async def test_callers_wait_while_the_connection_is_lost_until_the_next_one(scene: Scene) -> None:
    scene.hold(FakeConnection()).close()
    assert not scene.slot.is_up
    waiting = [await scene.waiting() for _ in range(3)]

    after = scene.hold(FakeConnection())

    assert await within(asyncio.gather(*waiting)) == [after] * 3


async def test_callers_wait_while_the_buffer_is_full(scene: Scene) -> None:
    connection = scene.hold(FakeConnection(is_writable=False))
    waiting = await scene.waiting()

    connection.drain()

    assert await within(waiting) is connection


async def test_a_connection_lost_with_a_full_buffer_is_waited_out(scene: Scene) -> None:
    before = scene.hold(FakeConnection(is_writable=False))
    waiting = await scene.waiting()
    before.close()
    await asyncio.sleep(0)

    after = scene.hold(FakeConnection())

    assert await within(waiting) is after


async def test_the_end_reaches_those_who_wait_and_those_who_come_later(scene: Scene) -> None:
    scene.hold(FakeConnection()).close()
    waiting = [await scene.waiting() for _ in range(2)]

    scene.slot.end(AuthenticationError("the token was refused"))

    for task in waiting:
        with pytest.raises(AuthenticationError, match="the token was refused"):
            await within(task)
    with pytest.raises(AuthenticationError):
        await scene.slot.ready()


async def test_each_caller_gets_an_error_of_its_own(scene: Scene) -> None:
    """One exception raised twice would join the stacks of two callers."""
    scene.slot.end(AuthenticationError("refused"))
    errors = []
    for _ in range(2):
        with pytest.raises(AuthenticationError) as caught:
            scene.slot.check()
        errors.append(caught.value)

    assert errors[0] is not errors[1]


async def test_each_accepted_connection_wakes_those_who_asked_for_it(scene: Scene) -> None:
    for _ in range(2):
        accepted = scene.slot.accepted
        assert not accepted.is_set()
        scene.hold(FakeConnection())
        assert accepted.is_set()

    accepted = scene.slot.accepted
    scene.slot.end(UnavailableError("closed"))
    assert accepted.is_set()
