"""Serves HTTP in this process's event loop with uvicorn, which leaves signals, logging and the loop to its host.

The admin port uses `HttpServer`, and the local SFU uses `Guest` alone. This module imports no other of this package.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Guest", "HttpServer"]

# Seconds that a stopping server waits for requests in progress.
_GRACE = 1
# Seconds that a request may take to arrive, and the most bytes of its head. uvicorn limits neither, so slow requests
# could use up the file descriptors of all other clients.
_REQUEST_TIMEOUT = 10.0
_MAX_HEAD = 65_536
_MAX_HEADERS = 128
# The most requests that wait behind one in progress. A single read could bring thousands, each with its objects.
_MAX_WAITING = 8
# Seconds that a client may take to read a response. The largest one is a script of the demo page.
_WRITE_TIMEOUT = 30.0
# The part of that time between two checks for clients that do not read.
_LOOKS_PER_LIMIT = 30


class HttpServer:
    """Serves an ASGI application.

    Args:
        app: what to serve.
        host, port: where to listen; port 0 takes a free port, which `port` returns after `start`.
        max_connections: the most connections. A further one replaces the oldest without a request in progress; if all
            have one, the oldest that does not read its response; otherwise the oldest. So a probe always gets through.
        request_timeout: seconds that a request may take to arrive.
        write_timeout: seconds that a client may take to read what is written to it.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        *,
        host: str,
        port: int,
        max_connections: int,
        request_timeout: float = _REQUEST_TIMEOUT,
        write_timeout: float = _WRITE_TIMEOUT,
    ) -> None:
        self.port = port
        self._host = host
        self._write_timeout = write_timeout
        self._open: dict[_Connection, None] = {}
        protocol = functools.partial(
            _Connection, open_connections=self._open, max_connections=max_connections, request_timeout=request_timeout
        )
        self._server = Guest(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                log_level="warning",  # the owner of this server logs its start and stop
                access_log=False,
                server_header=False,
                # A proxy's header about the origin of a request is not needed, so it is not trusted.
                proxy_headers=False,
                ws="none",
                http=protocol,  # type: ignore[arg-type]  # uvicorn only calls it
                timeout_graceful_shutdown=_GRACE,
            )
        )
        self._serving: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the server cannot listen on the address.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.create_server(address[:2], family=family)
        self.port = listener.getsockname()[1]
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="http")
        is_up = asyncio.create_task(self._server.is_up.wait(), name="http is up")
        await asyncio.wait([self._serving, is_up], return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():  # the start failed; otherwise is_up would be set
            is_up.cancel()
            await self._serving
        self._watch = asyncio.create_task(self._cut_those_who_do_not_read(), name="http writes")

    async def stop(self) -> None:
        """Stop listening, and wait a second for requests in progress."""
        if self._serving is None:
            return
        self._server.should_exit = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        await asyncio.wait([self._serving])
        self._serving = None

    async def _cut_those_who_do_not_read(self) -> None:
        """Abort the connections of clients that do not read; a close would wait for them for ever."""
        while True:
            await asyncio.sleep(self._write_timeout / _LOOKS_PER_LIMIT)
            now = asyncio.get_running_loop().time()
            for connection in tuple(self._open):
                connection.look(now, self._write_timeout)


class Guest(uvicorn.Server):
    """uvicorn without signal handlers, whose start can be awaited."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the process's signal handlers alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and set `is_up`."""
        await super().startup(sockets)
        self.is_up.set()


class _Connection(HttpToolsProtocol):
    """One connection with limits on the time and bytes of a request, and on the time to read a response."""

    def __init__(
        self, *, open_connections: dict[_Connection, None], max_connections: int, request_timeout: float, **given: Any
    ) -> None:
        super().__init__(**given)
        self._open = open_connections  # oldest first
        self._max_connections = max_connections
        self._request_timeout = request_timeout
        self._timer: asyncio.TimerHandle | None = None
        self._head: int | None = None  # bytes of an incomplete head
        self._early = b""  # bytes that came while a request was in progress
        self._behind_since: float | None = None  # since when a response waits for the client

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request; replace another connection if there are too many."""
        super().connection_made(transport)
        if len(self._open) >= self._max_connections:
            self._make_room()
        self._open[self] = None
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._open.pop(self, None)
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, within bounds."""
        if self._is_busy:
            self._early += data
            self.flow.pause_reading()
            return
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_request()
        if self._head is not None:
            self._head += len(data)
        super().data_received(data)
        if self._head is not None and self._head > _MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what is raised here is answered with 400."""
        if len(self.headers) >= _MAX_HEADERS:
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Take note that the head has arrived."""
        if len(self.pipeline) >= _MAX_WAITING:
            raise ValueError("too many requests at once")
        self._head = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Take note that the request has arrived."""
        self._stop_waiting()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with what came in the meantime."""
        super().on_response_complete()
        if not self._early or self.transport.is_closing():
            return
        if self._is_busy:  # with another of the requests that came at once
            self.flow.pause_reading()
            return
        data, self._early = self._early, b""
        self.data_received(data)

    def look(self, now: float, limit: float) -> None:
        """Cut the connection if its client has left something unread for so long (s)."""
        if not self.transport.get_write_buffer_size():
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        elif now - self._behind_since > limit:
            self._give_way()

    @property
    def _is_busy(self) -> bool:
        """Whether it owes an answer to a request that has wholly arrived."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    @property
    def _is_idle(self) -> bool:
        """Whether it waits for a request, or for the rest of one."""
        return self._timer is not None or self.cycle is None or self.cycle.response_complete

    def _make_room(self) -> None:
        oldest = next(iter(self._open))
        idle = next((each for each in self._open if each._is_idle), None)
        behind = next((each for each in self._open if each.transport.get_write_buffer_size()), None)
        (idle or behind or oldest)._give_way()

    def _give_way(self) -> None:
        self._open.pop(self, None)
        self.transport.abort()

    def _expect_request(self) -> None:
        self._head = 0
        self._timer = self.loop.call_later(self._request_timeout, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
