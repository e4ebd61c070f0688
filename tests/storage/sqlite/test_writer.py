"""Writes that wait, fail and recover, and the process that makes them."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from signal_manager.errors import UnavailableError
from signal_manager.model import ClientId, ClientRecord
from signal_manager.storage.documents import CLIENTS
from signal_manager.storage.sqlite import writer as sqlite_writer
from signal_manager.storage.sqlite.adapter import SqliteStorage
from signal_manager.testing.storage.fixtures import client, entry
from tests.storage.sqlite.files import A, allow, pid_of, run_sql
from tests.storage.sqlite.worker_thread import WorkerThread

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


# The process that writes


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
