from __future__ import annotations

from typing import Any

import pytest

from signal_manager.errors import UnavailableError
from signal_manager.model import ClientId, EntryId, SavedSession, SessionId
from signal_manager.storage import records
from signal_manager.storage.documents import Change, Changed, Kind, RecordT
from signal_manager.storage.memory import MemoryStorage
from signal_manager.testing.storage.fixtures import NOW, entry


class PatchyStorage(MemoryStorage):
    """A store that fails for one id."""

    async def _change(self, kind: Kind[RecordT], key: str, change: Change[RecordT]) -> Changed[RecordT]:
        if key == "broken":
            raise UnavailableError("storage failed")
        return await super()._change(kind, key, change)


async def test_one_failing_record_does_not_keep_the_others_of_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "PARALLEL", 2)
    async with PatchyStorage() as store:
        names = [EntryId(name) for name in ("broken", "b", "c", "d")]
        await store.add_media(*(entry(name) for name in names))

        with pytest.raises(UnavailableError):
            await store.schedule_media(names, at=NOW)

        scheduled = {each.entry_id: each.next_attempt_at for each in (await store.list_media()).items}
    assert scheduled == {"broken": None, "b": NOW, "c": None, "d": None}


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [([], []), ([1], [1]), ([10, 10, 10], [2, 1]), ([99, 1, 1], [1, 2]), ([1, 1, 1, 1, 1, 1], [4, 2])],
)
def test_sessions_are_saved_in_batches_of_bounded_size_and_number(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], batches: list[int]
) -> None:
    monkeypatch.setattr(records, "SAVE_BYTES", 20)
    monkeypatch.setattr(records, "SAVE_RECORDS", 4)
    sessions: list[Any] = [
        SavedSession(session_id=SessionId(f"s{n}"), client_id=ClientId("c"), state=b"x" * size, expires_at=NOW)
        for n, size in enumerate(sizes)
    ]

    made = list(records._batches(sessions))

    assert [len(batch) for batch in made] == batches
    assert [session for batch in made for session in batch] == sessions
