"""The background work of one room: one job at a time, and an end that everybody can wait for."""

from __future__ import annotations

import asyncio

import pytest

from signal_manager.client.room_tasks import CALLBACKS, Job, RoomTasks, Worker
from tests.client.fake_service import within


class Scene:
    """A worker, the jobs that it is to do, and what has happened."""

    def __init__(self) -> None:
        self.tasks = RoomTasks()
        self.jobs: list[Job] = []
        self.said: list[str] = []
        self.faults: list[Exception] = []
        self.worker = Worker(
            self.tasks, next_job=self._next, on_idle=lambda: self.said.append("idle"), on_fault=self.faults.append
        )

    def add(self, name: str) -> None:
        """Add a job that only says its name."""

        async def job() -> None:
            self.said.append(name)
            await asyncio.sleep(0)

        self.jobs.append(job)

    def _next(self) -> Job | None:
        return self.jobs.pop(0) if self.jobs else None


@pytest.fixture
async def scene() -> Scene:
    return Scene()


async def hang() -> None:
    """Never end."""
    await asyncio.Event().wait()


async def test_jobs_are_done_one_after_another_however_often_it_is_woken(scene: Scene) -> None:
    scene.add("one")
    scene.add("two")
    for _ in range(3):
        scene.worker.wake()
    assert scene.worker.is_busy

    await within(scene.tasks.wait())

    assert scene.said == ["one", "two", "idle"]
    assert not scene.worker.is_busy


async def test_a_worker_can_be_woken_again_also_by_being_idle(scene: Scene) -> None:
    scene.worker.wake()
    await within(scene.tasks.wait())
    scene.add("later")
    scene.worker.wake()
    await within(scene.tasks.wait())

    assert scene.said == ["idle", "later", "idle"]


async def test_an_unexpected_error_ends_the_loop_and_is_told(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    scene.jobs.append(fail)
    scene.add("never")
    scene.worker.wake()
    await within(scene.tasks.wait())

    assert [type(fault) for fault in scene.faults] == [ZeroDivisionError]
    assert "never" not in scene.said
    assert "ends by an internal error" in caplog.text


async def test_a_stopped_worker_gives_up_its_job_and_takes_no_other(scene: Scene) -> None:
    scene.jobs.append(hang)
    scene.worker.wake()
    await asyncio.sleep(0)

    scene.worker.stop()
    await within(scene.tasks.wait())
    scene.add("never")
    scene.worker.wake()
    await within(scene.tasks.wait())

    assert scene.said == []
    assert scene.faults == []


async def test_a_job_that_stops_its_own_worker_runs_to_its_end(scene: Scene) -> None:
    async def stop() -> None:
        scene.worker.stop()
        await asyncio.sleep(0)
        scene.said.append("ended")

    scene.jobs.append(stop)
    scene.worker.wake()
    await within(scene.tasks.wait())

    assert scene.said[0] == "ended"


async def test_waiting_for_all_tasks_waits_neither_for_itself_nor_for_callbacks(scene: Scene) -> None:
    """A callback may leave the room, which waits for the room's tasks."""
    callbacks = scene.tasks.start(hang(), CALLBACKS)
    ended = asyncio.Event()

    async def leave() -> None:
        await scene.tasks.wait()
        ended.set()

    scene.tasks.start(leave(), "leave")
    await within(ended.wait())
    callbacks.cancel()
