"""The process that writes a SQLite file: each request is one transaction, and a transaction is one flush to disk.

A thread in the service would compete with the event loop, and so with relaying, for the interpreter's lock. `writer.py`
runs this file by its path. It imports only the standard library, so it starts within milliseconds. It ends when the
service closes its end of the socket, even if the service was killed.

A request is a list of (collection, name of the id's column, expected bodies, bodies to write). A body is the text of a
document, or None if there is no document. The reply is one of

    "done", None        the bodies are written and on disk
    "found", bodies     nothing is written, because the file holds these bodies (by collection) instead of the expected
    "failed", reason    nothing is written

After "found" the transaction stays open, so that the next request, made from these bodies, succeeds.
"""

from __future__ import annotations

import marshal
import select
import signal
import socket
import sqlite3
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

__all__ = ["DONE", "LENGTH", "Documents", "Reply", "Request", "connect", "packed", "reading", "serve"]

# Bodies of one collection by id; None means that there is no such document.
Documents = dict[str, str | None]
Request = list[tuple[str, str, Documents, Documents]]
Reply = tuple[str, Any]

# A message is its length in bytes, then its content in marshal: both ends run on the same interpreter.
LENGTH = struct.Struct(">Q")

DONE: Reply = ("done", None)


def packed(message: Request | Reply) -> bytes:
    """Encode a message for the socket."""
    data = marshal.dumps(message)
    return LENGTH.pack(len(data)) + data


def serve(channel: socket.socket, open_file: Callable[[], sqlite3.Connection], *, patience: float) -> None:
    """Answer requests until the other end closes.

    Args:
        open_file: opens the file when the first request arrives.
        patience: seconds for which a transaction stays open for the next request. Other processes wait for the file's
            only write lock meanwhile.
    """
    connection: sqlite3.Connection | None = None
    with channel, channel.makefile("rb") as requests:
        try:
            while True:
                if connection is not None and connection.in_transaction:
                    _roll_back_unless_asked(channel, connection, patience)
                request = _received(requests)
                if request is None:
                    return
                try:
                    connection = connection or open_file()
                    reply: Reply = _performed(connection, request)
                except sqlite3.Error as error:
                    if connection is not None:
                        _roll_back(connection)
                    reply = ("failed", str(error))
                channel.sendall(packed(reply))
        except OSError:
            return  # the service has gone, in the middle of a message
        finally:
            if connection is not None:
                with suppress(sqlite3.Error):
                    connection.close()  # rolls back what is open


def _performed(connection: sqlite3.Connection, request: Request) -> Reply:
    if not connection.in_transaction:
        # Take the write lock first: what is read under it stays true until the commit.
        connection.execute("BEGIN IMMEDIATE")
    found = {}
    for collection, key, expected, _ in request:
        stored = _read(connection, collection, key, expected)
        if stored != expected:
            found[collection] = stored
    if found:
        return "found", found
    for collection, key, _, bodies in request:
        _store(connection, collection, key, bodies)
    connection.execute("COMMIT")
    return DONE


# The names in these statements are the constants of documents.py and never come from outside.


def reading(collection: str, key: str) -> str:
    """Return the statement that finds a body by its id."""
    return f"SELECT body FROM {collection} WHERE {key} = ?"  # noqa: S608 - see above


def _read(connection: sqlite3.Connection, collection: str, key: str, wanted: Documents) -> Documents:
    query = reading(collection, key)
    documents: Documents = {}
    for name in wanted:
        row = connection.execute(query, (name,)).fetchone()
        documents[name] = None if row is None else row[0]
    return documents


def _store(connection: sqlite3.Connection, collection: str, key: str, documents: Documents) -> None:
    """Write the bodies, and remove the documents that have none."""
    written = [(name, body) for name, body in documents.items() if body is not None]
    removed = [(name,) for name, body in documents.items() if body is None]
    upsert = (
        f"INSERT INTO {collection} ({key}, body) VALUES (?, ?) "  # noqa: S608 - see above
        f"ON CONFLICT ({key}) DO UPDATE SET body = excluded.body"
    )
    if written:
        connection.executemany(upsert, written)
    if removed:
        connection.executemany(f"DELETE FROM {collection} WHERE {key} = ?", removed)  # noqa: S608 - see above


def _roll_back(connection: sqlite3.Connection) -> None:
    """End a failed transaction at once, so that other processes get the lock."""
    # If this fails too, the commit or the failure of the next request ends the transaction.
    with suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _roll_back_unless_asked(channel: socket.socket, connection: sqlite3.Connection, patience: float) -> None:
    """Wait up to `patience` seconds for the next request, then roll back; a later request is checked again."""
    if not select.select([channel], [], [], patience)[0]:
        _roll_back(connection)


def _received(requests: BinaryIO) -> Request | None:
    """Return the next request, or None at the end."""
    head = requests.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    data = requests.read(length)
    request: Request | None = marshal.loads(data) if len(data) == length else None  # noqa: S302 - the service's own
    return request


def connect(path: str, timeout: float) -> sqlite3.Connection:
    """Open the file for writing; wait up to `timeout` seconds for other writers."""
    # isolation_level None: transactions begin and end where this module says so.
    connection = sqlite3.connect(path, isolation_level=None, timeout=timeout)
    # FULL: an acknowledged write survives a power cut, not only a crash of the process.
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def main() -> None:
    """Serve with the socket, file and time limit (s) of the command line."""
    # A signal to stop may reach the whole group or container. This process ignores it and writes what is left first.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    descriptor, path, timeout = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    serve(socket.socket(fileno=descriptor), lambda: connect(path, timeout), patience=timeout)


if __name__ == "__main__":
    main()
