"""The file of a SQLite store, and the process that writes it, as tests look at them and hinder them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from signal_manager.errors import ConfigurationError
from signal_manager.model import ClientId
from signal_manager.storage.sqlite.adapter import SqliteStorage

A = ClientId("a")


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


def allow(store: SqliteStorage, seconds: float) -> None:
    """Give writes less time than those before them had, whose alarm would ring too late for them."""
    writer = store._writer
    writer._operation_timeout = seconds
    if writer._alarm is not None:
        writer._alarm.cancel()
        writer._alarm = None


def pid_of(store: SqliteStorage) -> int:
    worker = store._writer._worker
    assert worker is not None
    return worker.pid
