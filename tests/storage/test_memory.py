from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from signal_manager.storage.base import Storage
from signal_manager.storage.documents import KINDS
from signal_manager.storage.memory import Document, MemoryStorage
from tests.contracts.storage_contract import StorageContract


class TestMemoryStorage(StorageContract):
    """Two handles on one memory are one handle."""

    @pytest.fixture
    async def storage(self) -> AsyncIterator[MemoryStorage]:
        async with MemoryStorage() as storage:
            yield storage

    @pytest.fixture
    async def other(self, storage: Storage) -> Storage:
        return storage

    async def plant(self, storage: Storage, collection: str, key: str, document: dict[str, Any]) -> None:
        assert isinstance(storage, MemoryStorage)
        (kind,) = (kind for kind in KINDS if kind.collection == collection)
        indexed = {field: document.get(field) for field in kind.indexed}
        storage._collections[collection][key] = Document(msgspec.json.encode(document), indexed, [])
