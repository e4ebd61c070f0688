"""Changes of rooms: what must not be lost is repeated, and nothing else goes on for ever."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from signal_manager.background import BackgroundTasks
from signal_manager.errors import NotFoundError, SignalManagerError, UnavailableError
from signal_manager.model import NodeId
from signal_manager.rooms import persistence
from signal_manager.rooms.persistence import persist, wait_for
from tests.rooms.harness import RoomHarness, in_one_room


async def test_work_that_fails_for_good_is_given_up(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    harness.flaky.append((SignalManagerError("the record cannot be read"), False))

    alice.lose_connection()
    await harness.settled()
    await bob.leave()

    assert harness.sfu.open_tracks == set()
    await harness.rooms.clean_up_after(NodeId("node-1"))
    assert not (await harness.room()).is_active


async def test_a_change_that_must_not_be_lost_is_repeated_until_storage_takes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(persistence, "_PAUSES", (0.0, 0.001))
    attempts: list[int] = []

    async def change() -> None:
        attempts.append(1)
        if len(attempts) < 5:
            raise UnavailableError("the store does not answer")

    await persist(change)

    assert len(attempts) == 5


async def test_a_change_that_storage_refuses_is_not_repeated() -> None:
    async def change() -> None:
        raise NotFoundError("no such room")

    with pytest.raises(NotFoundError):
        await persist(change)


async def test_a_request_waits_so_long_and_the_task_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence, "PATIENCE", 0.001)
    tasks, gate = BackgroundTasks(), asyncio.Event()

    async def work() -> None:
        await gate.wait()

    task = tasks.start(work, "slow")
    with pytest.raises(UnavailableError, match="retried until it can"):
        await wait_for(task)
    gate.set()
    await wait_for(task)
    await tasks.done()

    assert task.done()
    assert not task.cancelled()


async def test_a_task_that_fails_is_logged_and_a_stop_cancels_the_others() -> None:
    tasks = BackgroundTasks()

    async def fail() -> None:
        raise RuntimeError("a fault")

    async def wait() -> None:
        await asyncio.Event().wait()

    with capture_logs() as logs:
        failing, waiting = tasks.start(fail, "failing"), tasks.start(wait, "waiting")
        await wait_for(failing)
        await tasks.stop()

    assert [line["work"] for line in logs] == ["failing"]
    assert waiting.cancelled()
    await tasks.done()
