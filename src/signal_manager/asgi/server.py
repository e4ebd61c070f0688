"""Listens, counts connections, cuts those that take too long, and stops in order."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from signal_manager.asgi.connection import HttpConnection
from signal_manager.asgi.exchange import Application, Exchange
from signal_manager.asgi.limits import TimeLimits

__all__ = ["HttpServer"]

# Connections that may wait to be accepted.
_BACKLOG = 2048
# Seconds that a stopping server waits for requests in progress.
_GRACE = 1.0
# Seconds that a request may take to arrive. Slow requests could use up the file descriptors of all other clients.
_REQUEST_TIMEOUT = 10.0
# Seconds that a client may take to read a response. The largest one is a script of the demo page.
_WRITE_TIMEOUT = 30.0
# Seconds that a connection stays open for a further request.
_KEEP_ALIVE_TIMEOUT = 5.0
# The part of the shortest time limit between two checks of all connections.
_LOOKS_PER_LIMIT = 10


class HttpServer:
    """Serve an ASGI application.

    Args:
        app: what to serve.
        host, port: where to listen; port 0 takes a free port, which `port` returns after `start`.
        max_connections: the most connections. A further one replaces the oldest without a request in progress; if all
            have one, the oldest that does not read its response; otherwise the oldest. So a probe always gets through.
        request_timeout: seconds that a request may take to arrive.
        write_timeout: seconds that a client may take to read what is written to it.
        keep_alive_timeout: seconds that a connection stays open for a further request.
    """

    def __init__(
        self,
        app: Application,
        *,
        host: str,
        port: int,
        max_connections: int,
        request_timeout: float = _REQUEST_TIMEOUT,
        write_timeout: float = _WRITE_TIMEOUT,
        keep_alive_timeout: float = _KEEP_ALIVE_TIMEOUT,
    ) -> None:
        self.port = port
        self.limits = TimeLimits(request_timeout, write_timeout, keep_alive_timeout)
        self.is_stopping = False
        self._app = app
        self._host = host
        self._max_connections = max_connections
        self._connections: dict[HttpConnection, None] = {}  # oldest first
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._is_empty = asyncio.Event()

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the server cannot listen on the address.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
        self.port = listener.getsockname()[1]
        self.is_stopping = False
        self._server = await loop.create_server(lambda: HttpConnection(self), sock=listener, backlog=_BACKLOG)

    async def stop(self) -> None:
        """Stop listening, and wait a second for requests in progress."""
        if self._server is None:
            return
        self.is_stopping = True
        self._server.close()
        self._server = None
        for connection in tuple(self._connections):
            connection.stop()
        await self._until_empty()
        for task in self._tasks:
            task.cancel()
        for connection in tuple(self._connections):
            connection.transport.abort()
        await self._until_empty()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def _until_empty(self) -> None:
        """Wait for the end of all connections and tasks, but not for ever."""
        self._is_empty.clear()
        self._note_end()
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                await self._is_empty.wait()

    # -- what its connections call -------------------------------------------------------------------------------------

    def opened(self, connection: HttpConnection) -> None:
        """Count a connection; another one gives way if there are too many (`ConnectionHost`)."""
        if len(self._connections) >= self._max_connections:
            self._make_room()
        self._connections[connection] = None
        if self._watch is None:
            self._watch_again()

    def closed(self, connection: HttpConnection) -> None:
        """Count a connection no longer (`ConnectionHost`)."""
        self._connections.pop(connection, None)
        self._note_end()

    def run(self, exchange: Exchange) -> None:
        """Let the application answer in a task of its own (`ConnectionHost`)."""
        task = asyncio.get_running_loop().create_task(exchange.run(self._app))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._note_end()

    def _note_end(self) -> None:
        if not self._connections and not self._tasks:
            self._is_empty.set()

    def _make_room(self) -> None:
        oldest = next(iter(self._connections))
        idle = next((each for each in self._connections if each.is_idle), None)
        behind = next((each for each in self._connections if each.is_behind), None)
        chosen = idle or behind or oldest
        del self._connections[chosen]
        chosen.transport.abort()

    def _watch_again(self) -> None:
        pause = min(self.limits.request, self.limits.write, self.limits.keep_alive) / _LOOKS_PER_LIMIT
        self._watch = asyncio.get_running_loop().call_later(pause, self._look)

    def _look(self) -> None:
        """Cut the connections that take too long; look again while there are any."""
        now = asyncio.get_running_loop().time()
        for connection in tuple(self._connections):
            connection.look(now)
        self._watch = None
        if self._connections:
            self._watch_again()
