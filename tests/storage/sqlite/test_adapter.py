"""A store in a SQLite file: the contract, the file itself, and several processes on it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from signal_manager.errors import UnavailableError
from signal_manager.model import EntryId, RoomId, SessionId
from signal_manager.storage.base import Storage
from signal_manager.storage.documents import KINDS
from signal_manager.storage.sqlite import worker as sqlite_worker
from signal_manager.storage.sqlite.adapter import SqliteStorage
from signal_manager.testing.storage.fixtures import client, member, room
from tests.contracts.storage_contract import StorageContract
from tests.storage.sqlite.files import A, refusal, run_sql

PROCESS = Path(__file__).with_name("process.py")


class TestSqliteStorage(StorageContract):
    """Two handles are what two processes hold: connections of their own to one file."""

    @pytest.fixture
    async def storage(self, path: Path) -> AsyncIterator[SqliteStorage]:
        async with SqliteStorage(path=path) as storage:
            yield storage

    @pytest.fixture
    async def other(self, storage: Storage, path: Path) -> AsyncIterator[SqliteStorage]:
        async with SqliteStorage(path=path) as other:
            yield other

    @pytest.fixture(autouse=True)
    def _path(self, path: Path) -> None:
        self.path = path

    async def plant(self, storage: Storage, collection: str, key: str, document: dict[str, Any]) -> None:
        (kind,) = (kind for kind in KINDS if kind.collection == collection)
        run_sql(
            self.path,
            f"INSERT OR REPLACE INTO {collection} ({kind.key}, body) VALUES (?, ?)",
            key,
            json.dumps(document),
        )


# Files


async def test_what_was_stored_is_there_after_closing_and_opening(path: Path) -> None:
    async with SqliteStorage(path=path) as first:
        await first.create_client(client("a", metadata={"x": 1}))
    async with SqliteStorage(path=path) as second:
        assert await second.get_client(A) == client("a", metadata={"x": 1})
    assert [each.name for each in path.parent.iterdir()] == [path.name]


async def test_the_file_is_its_owner_s_alone(path: Path, store: SqliteStorage) -> None:
    await store.put_client(client("a"))

    assert {oct(each.stat().st_mode & 0o777) for each in path.parent.iterdir()} == {"0o600"}


async def test_writes_are_flushed_to_disk_before_they_are_acknowledged(path: Path, store: SqliteStorage) -> None:
    with closing(sqlite_worker.connect(str(path), 1.0)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        (flush,) = connection.execute("PRAGMA synchronous").fetchone()

    assert (mode, flush) == ("wal", 2)


@pytest.mark.parametrize("path", ["", ":memory:"])
async def test_a_path_that_is_no_file_is_refused(path: str) -> None:
    assert "expected a file" in await refusal(path)


async def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    assert (await refusal(tmp_path / "missing" / "store.db")).endswith("cannot be used: No such file or directory")


async def test_a_directory_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    assert (await refusal(tmp_path)).endswith("cannot be used: Is a directory")


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be an ordinary user, for whom permissions count, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("exists", [False, True], ids=["no file yet", "a store"])
async def test_a_read_only_directory_is_refused(exists: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if exists:
            async with SqliteStorage(path=directory / "store.db"):
                pass
            (directory / "store.db").chmod(0o666)
        directory.chmod(0o555)
        try:
            with unprivileged():
                line = await refusal(directory / "store.db")
        finally:
            directory.chmod(0o755)

    assert "cannot be used" in line


async def test_participants_of_the_wrong_type_do_not_disturb_the_search_by_node(
    path: Path, store: SqliteStorage
) -> None:
    await store.create_room(room("b", participants=(member("a", node_id="n"),)))
    for key, participants in (("a", '["x", 1, null]'), ("c", '"x"'), ("d", "{}")):
        body = f'{{"room_id": "{key}", "is_active": true, "participants": {participants}}}'
        run_sql(path, "INSERT INTO rooms (room_id, body) VALUES (?, ?)", key, body)

    assert [each.room_id for each in (await store.list_rooms(node_id="n")).items] == ["b"]  # type: ignore[arg-type]  # a literal


async def test_reads_that_fail_are_unavailable(store: SqliteStorage) -> None:
    await store._reader.execute_fetchall("PRAGMA query_only = OFF")
    await store._reader.execute_fetchall("DROP TABLE clients")

    with pytest.raises(UnavailableError, match="no such table"):
        await store.get_client(A)
    with pytest.raises(UnavailableError, match="no such table"):
        await store.list_clients()


# Several processes, and one that dies


async def test_processes_that_join_one_room_fill_exactly_its_places(path: Path, store: SqliteStorage) -> None:
    await store.create_room(room("r", max_participants=40))
    arguments = [sys.executable, str(PROCESS), str(path), "join"]

    processes = [
        await asyncio.create_subprocess_exec(*arguments, f"p{n}", "30", stdout=subprocess.PIPE) for n in range(3)
    ]
    async with asyncio.timeout(60):
        printed = [(await process.communicate())[0].decode().split() for process in processes]

    assert sum(int(line[0]) for line in printed) == 40
    assert all(len(line) == 1 for line in printed)
    stored = await store.get_room(RoomId("r"))
    assert stored is not None
    assert (len(stored.participants), stored.sequence) == (40, 41)


@pytest.mark.long
async def test_what_a_killed_process_acknowledged_is_there_and_nothing_is_half_written(path: Path) -> None:
    async with SqliteStorage(path=path) as store:
        await store.create_room(room("r"))
    acknowledged: set[str] = set()
    rooms = 0

    for n in range(20):
        lines = await killed_writer(path, f"p{n}", after=1 + 3 * n)
        acknowledged.update(line for line in lines if line != "room")
        rooms += lines.count("room")

    assert run_sql(path, "PRAGMA integrity_check") == [("ok",)]
    async with SqliteStorage(path=path) as store:
        found = await everything(store)
        stored = await store.get_room(RoomId("r"))
    assert len(acknowledged) > 300
    assert acknowledged <= found
    assert stored is not None
    # At most one change per process was written without its acknowledgement reaching us.
    assert rooms <= len(stored.participants) == stored.sequence - 1 <= rooms + 20


async def killed_writer(path: Path, name: str, *, after: int) -> list[str]:
    """Start a writing process, kill it after that many acknowledgements, and return all that it made."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROCESS), str(path), "write", name, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        lines = [await process.stdout.readline() for _ in range(after)]
        process.kill()
        lines += (await process.stdout.read()).splitlines()
        await process.wait()
    return [line.decode().strip() for line in lines if line.strip()]


async def everything(store: SqliteStorage) -> set[str]:
    """Return what a writing process acknowledges, read from the store; half a record or half a pair is a failure."""
    found: set[str] = set()
    after: str | None = None
    with capture_logs() as logs:
        while True:
            page = await store.list_clients(after=after)
            assert all(len(record.metadata["filling"]) == 5000 for record in page.items)
            found |= {f"client {record.client_id}" for record in page.items}
            if (after := page.next) is None:
                break
        entries: list[EntryId] = []
        while True:
            media = await store.list_media(session_id=SessionId("s"), after=after)
            entries += [each.entry_id for each in media.items]
            if (after := media.next) is None:
                break
    pairs = {each[:-2] for each in entries}
    assert len(entries) == 2 * len(pairs)
    assert logs == []
    return found | {f"pair {pair}" for pair in pairs}
