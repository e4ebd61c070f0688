"""The tables of the SQLite store, and the migrations from older files.

To change the tables, append an entry to `MIGRATIONS`. Never edit an existing entry, because existing files were made
by it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import Any

import aiosqlite

from signal_manager.errors import ConfigurationError

__all__ = ["MIGRATIONS", "prepare"]

# "SGNM" marks files of this program.
APPLICATION_ID = 0x53474E4D

# Seconds during which other processes may prevent turning the WAL on, and seconds between two attempts.
WAL_PATIENCE = 5.0
WAL_PAUSE = 0.02

# The statements that lead from one version to the next. PRAGMA user_version is the number of entries that a file has.
# SQLite computes the columns after `body` from it, for the indexes.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE clients (
            client_id TEXT NOT NULL PRIMARY KEY,
            body TEXT NOT NULL,
            node_id TEXT AS (json_extract(body, '$.node_id')),
            expires_at REAL AS (json_extract(body, '$.expires_at'))
        )""",
        "CREATE INDEX clients_by_node ON clients (node_id, client_id) WHERE node_id IS NOT NULL",
        "CREATE INDEX clients_by_expiry ON clients (expires_at, client_id) WHERE expires_at IS NOT NULL",
        """CREATE TABLE rooms (
            room_id TEXT NOT NULL PRIMARY KEY,
            body TEXT NOT NULL,
            is_active INTEGER AS (json_extract(body, '$.is_active')),
            expires_at REAL AS (json_extract(body, '$.expires_at'))
        )""",
        "CREATE INDEX rooms_by_state ON rooms (is_active, room_id)",
        "CREATE INDEX rooms_by_expiry ON rooms (expires_at, room_id) WHERE expires_at IS NOT NULL",
        """CREATE TABLE media_closings (
            entry_id TEXT NOT NULL PRIMARY KEY,
            body TEXT NOT NULL,
            session_id TEXT AS (json_extract(body, '$.session_id')),
            node_id TEXT AS (json_extract(body, '$.node_id')),
            next_attempt_at REAL AS (json_extract(body, '$.next_attempt_at'))
        )""",
        "CREATE INDEX media_by_session ON media_closings (session_id, entry_id)",
        "CREATE INDEX media_by_node ON media_closings (node_id, entry_id) WHERE node_id IS NOT NULL",
        "CREATE INDEX media_by_time ON media_closings (next_attempt_at, entry_id) WHERE next_attempt_at IS NOT NULL",
        """CREATE TABLE saved_sessions (
            session_id TEXT NOT NULL PRIMARY KEY,
            body TEXT NOT NULL,
            expires_at REAL AS (json_extract(body, '$.expires_at'))
        )""",
        "CREATE INDEX saved_sessions_by_expiry ON saved_sessions (expires_at, session_id)",
        """CREATE TABLE nodes (
            node_id TEXT NOT NULL PRIMARY KEY,
            body TEXT NOT NULL,
            lease_expires_at REAL AS (json_extract(body, '$.lease_expires_at'))
        )""",
    ),
)


async def prepare(writer: aiosqlite.Connection, path: str) -> None:
    """Create the tables or migrate them; safe while other processes do the same.

    Raises:
        ConfigurationError: the file belongs to another program or a newer version, or cannot have a WAL.
        sqlite3.Error: the file is damaged, cannot be written, or stays locked.
    """
    # Write lock first: of several processes that start together, one migrates and the others find it done.
    await writer.execute_fetchall("BEGIN IMMEDIATE")
    try:
        version = await _version(writer, path)
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                await writer.execute_fetchall(statement)
        await writer.execute_fetchall(f"PRAGMA application_id = {APPLICATION_ID}")
        await writer.execute_fetchall(f"PRAGMA user_version = {len(MIGRATIONS)}")
        await writer.execute_fetchall("COMMIT")
    except BaseException:
        if writer.in_transaction:
            await writer.execute_fetchall("ROLLBACK")
        raise
    if await _journal_mode(writer) != "wal":
        raise ConfigurationError(f"storage.sqlite_path {path!r} is on a file system that cannot hold SQLite's WAL")
    # FULL: an acknowledged write survives a power cut, not only a crash of the process.
    await writer.execute_fetchall("PRAGMA synchronous = FULL")


async def _journal_mode(writer: aiosqlite.Connection) -> str:
    """Turn the WAL on and return the mode. SQLite does not wait for other processes here, so this function does."""
    deadline = time.monotonic() + WAL_PATIENCE
    while True:
        try:
            mode: str = await _pragma(writer, "journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # The low byte is the primary result code (https://sqlite.org/rescode.html).
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            await asyncio.sleep(WAL_PAUSE)
        else:
            return mode


async def _version(writer: aiosqlite.Connection, path: str) -> int:
    """Return the version of the file's tables; refuse files of other programs and of newer versions."""
    version: int = await _pragma(writer, "user_version")
    is_empty = not list(await writer.execute_fetchall("SELECT 1 FROM sqlite_master LIMIT 1"))
    if await _pragma(writer, "application_id") != APPLICATION_ID and not is_empty:
        raise ConfigurationError(f"storage.sqlite_path {path!r} is the database of another program")
    if version > len(MIGRATIONS):
        raise ConfigurationError(
            f"storage.sqlite_path {path!r} was written by a newer signal-manager: "
            f"its schema is version {version}, expected at most {len(MIGRATIONS)}"
        )
    return version


async def _pragma(writer: aiosqlite.Connection, pragma: str) -> Any:
    ((value,),) = await writer.execute_fetchall(f"PRAGMA {pragma}")
    return value
