"""Which files the store takes, which it refuses and leaves alone, and how older ones are migrated."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiosqlite
import pytest

from signal_manager.errors import ConfigurationError
from signal_manager.storage.sqlite import schema as sqlite_schema
from signal_manager.storage.sqlite.adapter import SqliteStorage
from signal_manager.testing.storage.fixtures import client
from tests.storage.sqlite.files import A, refusal, run_sql


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


# The write-ahead log


async def test_a_file_that_cannot_have_a_write_ahead_log_is_refused() -> None:
    async with aiosqlite.connect(":memory:", isolation_level=None) as writer:
        with pytest.raises(ConfigurationError, match="cannot hold SQLite's WAL"):
            await sqlite_schema.prepare(writer, ":memory:")


@asynccontextmanager
async def read_by_another(path: Path) -> AsyncIterator[sqlite3.Connection]:
    """Hold a file open for reading, so that no write-ahead log can be turned on."""
    run_sql(path, f"PRAGMA application_id = {sqlite_schema.APPLICATION_ID}")
    run_sql(path, "CREATE TABLE t (x)")
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchall()
        yield reader


async def test_another_process_that_reads_is_waited_for(path: Path) -> None:
    async with read_by_another(path) as reader, aiosqlite.connect(path, isolation_level=None, timeout=0.01) as writer:
        turning_on = asyncio.create_task(sqlite_schema._journal_mode(writer))
        await asyncio.sleep(0.05)
        assert not turning_on.done()

        reader.execute("COMMIT")

        async with asyncio.timeout(30):
            assert await turning_on == "wal"


async def test_another_process_that_reads_for_ever_is_not(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_schema, "WAL_PATIENCE", 0.02)
    async with read_by_another(path), aiosqlite.connect(path, isolation_level=None, timeout=0.01) as writer:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await sqlite_schema._journal_mode(writer)
