"""A store in a file of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from signal_manager.storage.sqlite import writer as sqlite_writer
from signal_manager.storage.sqlite.adapter import SqliteStorage
from tests.storage.sqlite.worker_thread import WorkerThread


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> WorkerThread:
    """Have the writing process's work done in a thread, where the test can look at it."""
    worker = WorkerThread()
    monkeypatch.setattr(sqlite_writer, "_spawn", worker.spawn)
    return worker


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStorage]:
    async with SqliteStorage(path=path) as storage:
        yield storage
