"""The SQLite worker in a thread of the tests, in place of the process: its connection can be looked at and hindered."""

from __future__ import annotations

import socket
import sqlite3
import threading
from typing import Any, cast

from signal_manager.storage.sqlite import worker as sqlite_worker


class WorkerThread:
    """What `sqlite_writer._spawn` returns, as far as it is used, and the connection behind it.

    Use `run` while no write is on its way only.
    """

    pid = 0

    def __init__(self) -> None:
        self.statements: list[str] = []
        self._connection: sqlite3.Connection
        self._thread: threading.Thread

    def spawn(self, channel: socket.socket, path: str, timeout: float) -> Any:
        """Serve on the socket."""

        def open_file() -> sqlite3.Connection:
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=timeout, check_same_thread=False)
            self._connection.set_trace_callback(self.statements.append)
            return self._connection

        serving = (channel.dup(), open_file)
        self._thread = threading.Thread(target=sqlite_worker.serve, args=serving, kwargs={"patience": timeout})
        self._thread.start()
        return cast("Any", self)

    def run(self, statement: str) -> list[Any]:
        """Run a statement on the connection that writes."""
        return self._connection.execute(statement).fetchall()

    def wait(self) -> None:
        """Wait until its end."""
        self._thread.join()
