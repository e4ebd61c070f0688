"""What the process that writes a SQLite file answers, on a socket and without the process."""

from __future__ import annotations

import marshal
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from signal_manager.storage.sqlite.worker import LENGTH, connect, packed, serve

# A service that keeps a transaction open is waited for this long (s); tests that need it to end wait for that.
PATIENCE = 0.1
LIMIT = 30.0


class Service:
    """The other end of the socket."""

    def __init__(self, path: Path, *, patience: float) -> None:
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(LIMIT)
        self.worker = threading.Thread(
            target=serve, args=(theirs, lambda: connect(str(path), LIMIT)), kwargs={"patience": patience}
        )
        self.worker.start()

    def ask(self, expected: dict[str, str | None], written: dict[str, str | None]) -> Any:
        """Send a request about the table t, and return the reply."""
        self.channel.sendall(packed([("t", "id", expected, written)]))
        with self.channel.makefile("rb") as replies:
            (length,) = LENGTH.unpack(replies.read(LENGTH.size))
            return marshal.loads(replies.read(length))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "t.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (id TEXT PRIMARY KEY, body TEXT NOT NULL CHECK (body <> 'bad'))")
    return path


@pytest.fixture
def service(path: Path) -> Iterator[Service]:
    service = Service(path, patience=PATIENCE)
    with service.channel:
        yield service
    service.worker.join(LIMIT)
    assert not service.worker.is_alive()


@pytest.fixture
def rows(path: Path) -> Iterator[Any]:
    """Return what reads the table from outside."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=LIMIT)) as connection:
        yield lambda: dict(connection.execute("SELECT id, body FROM t"))


def test_a_right_guess_is_written_and_committed(service: Service, rows: Any) -> None:
    assert service.ask({"a": None}, {"a": "1", "b": "2"}) == ("done", None)
    assert service.ask({"a": "1"}, {"a": None}) == ("done", None)

    assert rows() == {"b": "2"}


def test_a_wrong_guess_writes_nothing_and_learns_what_is_there(service: Service, rows: Any) -> None:
    service.ask({}, {"a": "1"})

    assert service.ask({"a": "0", "b": None}, {"a": "2"}) == ("found", {"t": {"a": "1", "b": None}})
    assert rows() == {"a": "1"}


def test_nobody_comes_between_a_wrong_guess_and_the_next_request(path: Path) -> None:
    patient = Service(path, patience=LIMIT)
    with patient.channel, closing(sqlite3.connect(path, isolation_level=None, timeout=0.0)) as other:
        patient.ask({"a": "wrong"}, {"a": "1"})
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        assert patient.ask({"a": None}, {"a": "1"}) == ("done", None)
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    patient.worker.join(LIMIT)


def test_a_service_that_does_not_come_back_loses_the_lock_and_nothing_else(path: Path, service: Service) -> None:
    service.ask({"a": "wrong"}, {"a": "1"})
    with closing(sqlite3.connect(path, isolation_level=None, timeout=LIMIT)) as other:
        other.execute("INSERT INTO t VALUES ('a', 'another')")  # waits until the lock is free

    assert service.ask({"a": None}, {"a": "1"}) == ("found", {"t": {"a": "another"}})


def test_what_fails_leaves_nothing_behind_and_the_next_request_works(service: Service, rows: Any) -> None:
    kind, reason = service.ask({}, {"a": "1", "b": "bad"})

    assert (kind, "CHECK" in reason) == ("failed", True)
    assert service.ask({"a": None}, {"c": "3"}) == ("done", None)
    assert rows() == {"c": "3"}


def test_a_file_that_cannot_be_opened_is_a_failure_each_time(tmp_path: Path) -> None:
    service = Service(tmp_path / "missing" / "t.db", patience=PATIENCE)
    with service.channel:
        replies = [service.ask({}, {"a": "1"}) for _ in range(2)]
    service.worker.join(LIMIT)

    assert replies == [("failed", "unable to open database file")] * 2


@pytest.mark.parametrize("sent", [b"", b"\0\0\0", LENGTH.pack(100) + b"half"], ids=["nothing", "half a head", "half"])
def test_a_service_that_goes_in_the_middle_of_a_request_changes_nothing(sent: bytes, path: Path, rows: Any) -> None:
    service = Service(path, patience=PATIENCE)
    with service.channel:
        service.channel.sendall(sent)
    service.worker.join(LIMIT)

    assert not service.worker.is_alive()
    assert rows() == {}


def test_a_service_that_goes_before_the_reply_ends_the_worker(path: Path) -> None:
    service = Service(path, patience=PATIENCE)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        service.channel.sendall(packed([("t", "id", {}, {"a": "1"})]))
        service.channel.close()
    service.worker.join(LIMIT)

    assert not service.worker.is_alive()
