"""What an adapter's author brings to the storage contract, and the records that its tests write."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from signal_manager.model import ClientId, ClientRecord, EntryId, MediaClosing, MemberRecord, Room, RoomId, SessionId
from signal_manager.storage.base import Storage

NOW = 1_800_000_000.0


class StorageFixtures:
    """The three things that differ between adapters, and how many writers contend in the tests."""

    writers: ClassVar[int] = 50

    @pytest.fixture
    async def storage(self) -> Storage:
        """Return an open, empty store; close it after the test."""
        raise NotImplementedError

    @pytest.fixture
    async def other(self, storage: Storage) -> Storage:
        """Return a second handle on the same documents, as another process would hold; close it after the test."""
        raise NotImplementedError

    async def plant(self, storage: Storage, collection: str, key: str, document: dict[str, Any]) -> None:
        """Write a document as a person with the store's own tools would, without any check."""
        raise NotImplementedError


def client(client_id: str, /, **fields: Any) -> ClientRecord:
    """Return a client record."""
    return ClientRecord(client_id=ClientId(client_id), **{"auth_token": "", **fields})


def room(room_id: str, /, **fields: Any) -> Room:
    """Return an active room."""
    return Room(room_id=RoomId(room_id), **{"is_active": True, **fields})


def member(client_id: str, /, **fields: Any) -> MemberRecord:
    """Return a member."""
    return MemberRecord(client_id=ClientId(client_id), **{"role": "sender", **fields})


def entry(entry_id: str, /, **fields: Any) -> MediaClosing:
    """Return a ledger entry for a mid that is in use."""
    return MediaClosing(
        entry_id=EntryId(entry_id), **{"session_id": SessionId("s"), "mid": "0", "created_at": NOW, **fields}
    )
