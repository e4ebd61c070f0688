"""Whether the service says that it is ready exactly when it is."""

from __future__ import annotations

import asyncio

import pytest

from signal_manager.admin import probes
from signal_manager.admin.probes import STORAGE_ANSWER_KEPT, Readiness
from signal_manager.errors import UnavailableError
from signal_manager.gateway.live_sessions import Phase
from signal_manager.model import Room, RoomId
from signal_manager.storage.memory import MemoryStorage
from tests.admin.fakes import FakeLiveSessions


class TroubledStorage(MemoryStorage):
    """A store that fails, or does not answer, for as long as it is told to."""

    fails = False
    hangs = False
    asked = 0

    async def get_room(self, room_id: RoomId) -> Room | None:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            raise UnavailableError("disk full at /var/lib/secret")
        return await super().get_room(room_id)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("phase", "faults"),
    [(Phase.STARTING, ["starting"]), (Phase.SERVING, []), (Phase.DRAINING, ["draining"])],
)
async def test_it_is_ready_between_start_and_drain(phase: Phase, faults: list[str]) -> None:
    async with MemoryStorage() as storage:
        assert await Readiness(live_sessions=FakeLiveSessions(phase), storage=storage).faults() == faults


async def test_a_store_that_fails_makes_it_unready_and_recovery_ready_again() -> None:
    clock = Clock()
    async with TroubledStorage() as storage:
        readiness = Readiness(live_sessions=FakeLiveSessions(Phase.DRAINING), storage=storage, timer=clock)
        storage.fails = True
        failing = await readiness.faults()
        storage.fails = False
        clock.now += STORAGE_ANSWER_KEPT

        assert failing == ["draining", "storage fails"], "and nothing of where it is"
        assert await readiness.faults() == ["draining"]


async def test_a_store_that_does_not_answer_makes_it_unready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "STORAGE_PATIENCE", 0.01)
    async with TroubledStorage() as storage:
        storage.hangs = True

        assert await Readiness(live_sessions=FakeLiveSessions(), storage=storage).faults() == [
            "storage does not answer"
        ]


async def test_many_probes_at_once_cost_one_read() -> None:
    clock = Clock()
    async with TroubledStorage() as storage:
        readiness = Readiness(live_sessions=FakeLiveSessions(), storage=storage, timer=clock)

        await asyncio.gather(*(readiness.faults() for _ in range(50)))
        assert storage.asked == 1

        clock.now += STORAGE_ANSWER_KEPT
        await readiness.faults()
        assert storage.asked == 2
