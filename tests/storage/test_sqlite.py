from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from signal_manager.errors import ConfigurationError, UnavailableError
from signal_manager.model import ClientId, ClientRecord, EntryId, RoomId, SessionId
from signal_manager.storage.base import Storage
from signal_manager.storage.documents import CLIENTS, KINDS
from signal_manager.storage.sqlite import schema as sqlite_schema
from signal_manager.storage.sqlite import worker as sqlite_worker
from signal_manager.storage.sqlite import writer as sqlite_writer
from signal_manager.storage.sqlite.adapter import SqliteStorage
from signal_manager.testing.storage.fixtures import client, entry, member, room
from tests.contracts.storage_contract import StorageContract
from tests.storage.worker_thread import WorkerThread

A = ClientId("a")
PROCESS = Path(__file__).with_name("sqlite_process.py")


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


def run_sql(path: Path, statement: str, *values: object) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, values).fetchall()


async def refusal(path: str | Path) -> str:
    """Return the line with which opening the store is refused."""
    with pytest.raises(ConfigurationError) as refused:
        async with SqliteStorage(path=path, operation_timeout=0.2):
            pass
    assert "\n" not in str(refused.value)
    return str(refused.value)


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


async def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_text("dear diary, " * 500)

    assert (await refusal(path)).endswith("cannot be used: file is not a database")


async def test_a_damaged_database_is_refused(path: Path) -> None:
    async with SqliteStorage(path=path) as storage:
        await storage.put_client(client("a"))
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4000)

    assert "cannot be used: " in await refusal(path)


async def test_the_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    run_sql(path, "CREATE TABLE songs (title TEXT)")
    before = path.read_bytes()

    assert (await refusal(path)).endswith("is the database of another program")
    assert path.read_bytes() == before


async def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    async with SqliteStorage(path=path):
        pass
    run_sql(path, "PRAGMA user_version = 99")

    assert (await refusal(path)).endswith("its schema is version 99, expected at most 1")
    assert run_sql(path, "PRAGMA user_version") == [(99,)]


async def test_a_store_that_another_process_keeps_locked_is_refused_in_time(path: Path) -> None:
    async with SqliteStorage(path=path):
        pass
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")

        assert (await refusal(path)).endswith("cannot be used: database is locked")


async def test_an_older_schema_is_migrated_with_its_records(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SqliteStorage(path=path) as older:
        await older.put_client(client("a", role="sender"))
    migration = ("ALTER TABLE clients ADD COLUMN role TEXT AS (json_extract(body, '$.role'))",)
    monkeypatch.setattr(sqlite_schema, "MIGRATIONS", (*sqlite_schema.MIGRATIONS, migration))

    async with SqliteStorage(path=path) as newer:
        assert await newer.get_client(A) == client("a", role="sender")

    assert run_sql(path, "SELECT role FROM clients") == [("sender",)]
    assert run_sql(path, "PRAGMA user_version") == [(2,)]


async def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SqliteStorage(path=path):
        pass
    migration = ("CREATE TABLE half (x)", "CREATE TABLE clients (x)")
    monkeypatch.setattr(sqlite_schema, "MIGRATIONS", (*sqlite_schema.MIGRATIONS, migration))

    assert "table clients already exists" in await refusal(path)

    assert run_sql(path, "PRAGMA user_version") == [(1,)]
    assert run_sql(path, "SELECT name FROM sqlite_master WHERE name = 'half'") == []


async def test_stores_that_start_together_on_a_new_file_agree(path: Path) -> None:
    stores = [SqliteStorage(path=path) for _ in range(6)]

    await asyncio.gather(*(store.__aenter__() for store in stores))
    await stores[0].put_client(client("a"))
    seen = [await store.get_client(A) for store in stores]
    for store in stores:
        await store.__aexit__(None, None, None)

    assert seen == [client("a")] * 6


async def test_a_body_that_is_no_json_cannot_be_written_by_hand(path: Path, store: SqliteStorage) -> None:
    with pytest.raises(sqlite3.OperationalError, match="malformed JSON"):
        run_sql(path, "INSERT INTO clients (client_id, body) VALUES ('a', 'oops')")


async def test_participants_of_the_wrong_type_do_not_disturb_the_search_by_node(
    path: Path, store: SqliteStorage
) -> None:
    await store.create_room(room("b", participants=(member("a", node_id="n"),)))
    for key, participants in (("a", '["x", 1, null]'), ("c", '"x"'), ("d", "{}")):
        body = f'{{"room_id": "{key}", "is_active": true, "participants": {participants}}}'
        run_sql(path, "INSERT INTO rooms (room_id, body) VALUES (?, ?)", key, body)

    assert [each.room_id for each in (await store.list_rooms(node_id="n")).items] == ["b"]  # type: ignore[arg-type]  # a literal


# Waiting, failing and recovering


async def test_a_write_that_another_process_blocks_is_unavailable_in_time_and_works_afterwards(path: Path) -> None:
    async with SqliteStorage(path=path) as store:
        await store.put_client(client("z"))
        allow(store, 0.2)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = await asyncio.gather(*(store.put_client(client(name)) for name in "abc"), return_exceptions=True)
            store._writer._operation_timeout = 20
            assert await store.get_client(A) is None

        await store.put_client(client("d"))

        assert {type(outcome) for outcome in outcomes} == {UnavailableError}
        assert await store.get_client(ClientId("d")) == client("d")


async def test_a_full_disk_is_unavailable_and_writes_work_again_once_there_is_room(
    path: Path, worker: WorkerThread, store: SqliteStorage
) -> None:
    await store.put_client(client("a"))
    ((pages,),) = worker.run("PRAGMA page_count")
    worker.run(f"PRAGMA max_page_count = {pages}")
    big = {"filling": "x" * 50_000}

    with capture_logs():
        outcomes = await asyncio.gather(
            store.put_client(client("b", metadata=big)),
            store.update_client(A, status="online"),
            store.add_media(entry("e", room_id="x" * 50_000)),
            return_exceptions=True,
        )
    run_sql(path, "DELETE FROM nodes")  # nothing is locked
    small = await store.get_client(A)
    missing = await store.get_client(ClientId("b"))
    worker.run("PRAGMA max_page_count = 1000000")
    await store.put_client(client("b", metadata=big))

    assert [type(outcome) for outcome in outcomes] == [UnavailableError, ClientRecord, UnavailableError]
    assert "database or disk is full" in str(outcomes[0])
    assert small == client("a", status="online")
    assert missing is None
    assert await store.get_client(ClientId("b")) == client("b", metadata=big)


async def test_a_disk_that_refuses_to_write_is_unavailable_and_recovers(path: Path, store: SqliteStorage) -> None:
    """The kernel refuses to let any file grow, as it does at a quota."""
    await store.put_client(client("a"))
    before = resource.prlimit(pid_of(store), resource.RLIMIT_FSIZE)
    size = path.with_name("store.db-wal").stat().st_size
    resource.prlimit(pid_of(store), resource.RLIMIT_FSIZE, (size, before[1]))
    with capture_logs(), pytest.raises(UnavailableError) as failed:
        await store.put_client(client("b"))
    resource.prlimit(pid_of(store), resource.RLIMIT_FSIZE, before)

    assert failed.value.may_retry
    await store.put_client(client("b"))
    assert [record.client_id for record in (await store.list_clients()).items] == ["a", "b"]


async def test_a_damaged_page_is_unavailable_not_a_crash(path: Path) -> None:
    async with SqliteStorage(path=path) as store:
        for n in range(200):
            await store.put_client(client(f"c{n}", metadata={"filling": "x" * 500}))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size // 2))

    async with SqliteStorage(path=path) as store:
        with capture_logs():
            outcomes = await asyncio.gather(
                store.list_clients(limit=1000),
                store.get_client(ClientId("c199")),
                *(store.update_client(ClientId(f"c{n}"), status="online") for n in range(200)),
                return_exceptions=True,
            )

    assert UnavailableError in {type(outcome) for outcome in outcomes}
    assert not any(isinstance(outcome, sqlite3.Error) for outcome in outcomes)


async def test_each_write_is_given_up_after_a_time_of_its_own(store: SqliteStorage) -> None:
    await store.put_client(client("z"))
    allow(store, 0.05)
    os.kill(pid_of(store), signal.SIGSTOP)
    writes = []
    for name, seconds in (("a", 0.05), ("b", 0.1), ("c", 1000.0)):
        store._writer._operation_timeout = seconds
        writes.append(asyncio.ensure_future(store.put_client(client(name))))
        await asyncio.sleep(0)

    outcomes = await asyncio.gather(*writes[:2], return_exceptions=True)
    os.kill(pid_of(store), signal.SIGCONT)
    await writes[2]

    assert {type(outcome) for outcome in outcomes} == {UnavailableError}
    assert await store.get_client(ClientId("b")) is None  # its turn had not come
    assert await store.get_client(ClientId("c")) == client("c")


async def test_too_many_waiting_writes_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "MAX_WAITING", 3)
    async with SqliteStorage(path=path) as store:
        outcomes = await asyncio.gather(*(store.put_client(client(f"c{n}")) for n in range(9)), return_exceptions=True)

        refused = [outcome for outcome in outcomes if isinstance(outcome, UnavailableError)]
        assert len(refused) == 5  # one is on its way, three wait
        assert len((await store.list_clients()).items) == 4


async def test_a_write_cancelled_before_its_turn_has_no_effect(store: SqliteStorage) -> None:
    written = asyncio.ensure_future(store.put_client(client("a")))
    cancelled = asyncio.ensure_future(store.put_client(client("b")))
    await asyncio.sleep(0)

    cancelled.cancel()
    await written

    assert [record.client_id for record in (await store.list_clients()).items] == ["a"]


async def test_writes_that_are_all_cancelled_do_not_touch_the_file(worker: WorkerThread, store: SqliteStorage) -> None:
    first, *others = [asyncio.ensure_future(store.put_client(client(name))) for name in "abc"]
    await asyncio.sleep(0)

    for write in others:
        write.cancel()
    await first
    await store.get_client(A)

    assert worker.statements.count("BEGIN IMMEDIATE") == 1


async def test_writes_that_wait_together_share_one_commit(worker: WorkerThread, store: SqliteStorage) -> None:
    await asyncio.gather(*(store.put_client(client(f"c{n}")) for n in range(50)))

    assert worker.statements.count("COMMIT") == 2  # the first one, and those that came while it was written


async def test_a_client_that_was_seen_is_changed_without_another_question(
    worker: WorkerThread, store: SqliteStorage
) -> None:
    await store.put_client(client("a"))
    for status in ("online", "offline"):
        await store.update_client(A, status=status)

    assert worker.statements.count("COMMIT") == 3
    assert sum(statement.startswith("SELECT") for statement in worker.statements) == 2


async def test_closing_waits_for_the_writes_that_wait(path: Path) -> None:
    async with SqliteStorage(path=path) as store:
        writes = [asyncio.ensure_future(store.put_client(client(f"c{n}"))) for n in range(50)]
        await asyncio.sleep(0)
    await asyncio.gather(*writes)

    assert run_sql(path, "SELECT count(*) FROM clients") == [(50,)]


async def test_closing_does_not_wait_for_ever(path: Path) -> None:
    async with SqliteStorage(path=path, operation_timeout=0.3) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection, capture_logs() as logs:
            connection.execute("BEGIN IMMEDIATE")
            write = asyncio.ensure_future(store.put_client(client("a")))
            await asyncio.sleep(0)
            store._operation_timeout = 0.01
            await store.__aexit__(None, None, None)
            with pytest.raises(UnavailableError):
                await write
        await store.__aenter__()

    assert "storage closes with writes waiting" in {line["event"] for line in logs}


async def test_reads_that_fail_are_unavailable(store: SqliteStorage) -> None:
    await store._reader.execute_fetchall("PRAGMA query_only = OFF")
    await store._reader.execute_fetchall("DROP TABLE clients")

    with pytest.raises(UnavailableError, match="no such table"):
        await store.get_client(A)
    with pytest.raises(UnavailableError, match="no such table"):
        await store.list_clients()


# The process that writes


def pid_of(store: SqliteStorage) -> int:
    worker = store._writer._worker
    assert worker is not None
    return worker.pid


async def test_a_write_on_its_way_to_a_process_that_dies_is_unavailable_and_the_next_one_works(
    path: Path, store: SqliteStorage
) -> None:
    await store.put_client(client("a"))
    first = pid_of(store)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection, capture_logs() as logs:
        connection.execute("BEGIN IMMEDIATE")
        writes = [asyncio.ensure_future(store.put_client(client(name))) for name in "bc"]
        await asyncio.sleep(0)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(UnavailableError, match="the process that writes has ended"):
            await writes[0]
        connection.execute("ROLLBACK")
        await writes[1]

    assert await store.get_client(ClientId("b")) is None
    assert await store.get_client(ClientId("c")) == client("c")
    assert pid_of(store) != first
    assert [line["event"] for line in logs] == ["sqlite writer ended", "sqlite writer started again"]


async def test_a_process_that_cannot_be_started_is_tried_again_with_the_next_write(
    store: SqliteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put_client(client("a"))
    with monkeypatch.context() as patched, capture_logs() as logs:
        patched.setattr(sys, "executable", "/nowhere/python")
        worker = store._writer._worker
        assert worker is not None
        os.kill(worker.pid, signal.SIGKILL)
        await asyncio.wait_for(worker._ended.wait(), 30)
        with pytest.raises(UnavailableError, match="No such file"):
            await store.put_client(client("b"))
    await store.put_client(client("c"))

    assert "sqlite writer cannot be started" in {line["event"] for line in logs}
    assert await store.get_client(ClientId("b")) is None
    assert await store.get_client(ClientId("c")) == client("c")


async def test_signals_for_the_whole_group_leave_the_process_to_the_service(store: SqliteStorage) -> None:
    await store.put_client(client("a"))
    pid = pid_of(store)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    await store.put_client(client("b"))

    assert pid_of(store) == pid
    assert await store.get_client(ClientId("b")) == client("b")


async def test_the_process_ends_with_the_service_that_started_it(path: Path) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        process = sqlite_writer._spawn(theirs, str(path), 1.0)

    ours.close()

    assert await asyncio.to_thread(process.wait, 30) == 0


async def test_a_process_that_hangs_is_killed_at_the_end(path: Path) -> None:
    async with SqliteStorage(path=path) as store:
        await store.put_client(client("a"))
        pid = pid_of(store)
        os.kill(pid, signal.SIGSTOP)
        store._operation_timeout = 0.2

    assert not Path(f"/proc/{pid}").exists()


async def test_what_cannot_be_sent_to_the_process_fails_alone(store: SqliteStorage) -> None:
    def apply(documents: dict[str, Any]) -> None:
        documents["a"] = object()

    with capture_logs() as logs, pytest.raises(ValueError, match="unmarshallable"):
        await store._writer.write(CLIENTS, [], apply)
    await store.put_client(client("b"))

    assert [line["event"] for line in logs] == ["storage writes failed"]


async def test_what_is_remembered_has_a_bound(store: SqliteStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "MAX_REMEMBERED", 1000)
    for number in range(20):
        await store.put_client(client(f"c{number}", metadata={"filling": "x" * 200}))

    remembered = store._writer._seen._bodies

    assert sum(map(len, remembered.values())) == store._writer._seen._size <= 1000
    assert ("clients", "c19") in remembered
    assert ("clients", "c0") not in remembered


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


def allow(store: SqliteStorage, seconds: float) -> None:
    """Give writes less time than those before them had, whose alarm would ring too late for them."""
    writer = store._writer
    writer._operation_timeout = seconds
    if writer._alarm is not None:
        writer._alarm.cancel()
        writer._alarm = None


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
