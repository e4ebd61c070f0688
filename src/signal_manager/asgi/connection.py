"""One HTTP connection: its requests one after another, within bounds of bytes and of time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, Protocol

from signal_manager.asgi.exchange import Exchange
from signal_manager.asgi.limits import Clock, TimeLimits
from signal_manager.asgi.requests import BadRequestError, Request, RequestReader
from signal_manager.asgi.response import ResponseWriter, plain

__all__ = ["ConnectionHost", "HttpConnection"]

# The most requests that wait behind one in progress. A single read could bring thousands, each with its objects.
_MAX_WAITING = 8


class ConnectionHost(Protocol):
    """The server as its connections see it."""

    limits: TimeLimits
    is_stopping: bool

    def opened(self, connection: HttpConnection) -> None:
        """Count a connection; another one gives way if there are too many."""

    def closed(self, connection: HttpConnection) -> None:
        """Count a connection no longer."""

    def run(self, exchange: Exchange) -> None:
        """Let the application answer in a task of its own."""


class HttpConnection(asyncio.Protocol):
    """Read requests and write their responses, in order."""

    def __init__(self, host: ConnectionHost) -> None:
        self.transport: asyncio.Transport
        self.writable = asyncio.Event()  # whether the client reads as fast as the application writes
        self.writable.set()
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._clock = Clock(host.limits, self._loop.time())
        self._reader = RequestReader(self)
        self._addresses: dict[str, Any] = {}
        self._exchange: Exchange | None = None  # that is being answered
        self._waiting: deque[Exchange] = deque()  # behind it
        self._arriving: Exchange | None = None  # whose body is not whole yet
        self._early = b""  # bytes that came before their turn

    # -- what the transport calls --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a socket's transport
        """Wait for the first request."""
        self.transport = transport
        server, client = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        self._addresses = {"server": server and server[:2], "client": client and client[:2]}
        self._host.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application that the client is gone."""
        self._abandon()
        self._host.closed(self)
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        """Read on, unless a request that has arrived waits for its response."""
        if self._exchange is not None and self._exchange is not self._arriving:
            self._early += data
            self.transport.pause_reading()
            return
        self._clock.data_came(self._loop.time())
        try:
            self._reader.feed(data)
        except BadRequestError as error:
            if self._exchange is None or not self._exchange.response.is_started:
                self.transport.write(plain(400, f"{error}\n", now=time.time()))
            self._abandon()
            self.transport.close()

    def pause_writing(self) -> None:
        """Hold the application back until the client has read enough."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """Let the application go on."""
        self.writable.set()

    # -- what the reader calls -----------------------------------------------------------------------------------------

    def head_arrived(self, request: Request) -> None:
        """Begin an exchange, or let it wait for its turn (`RequestSink`)."""
        if len(self._waiting) >= _MAX_WAITING:
            raise BadRequestError(f"too many requests at once, expected at most {_MAX_WAITING + 1}")
        response = ResponseWriter(
            is_head=request.method == "HEAD",
            can_chunk=request.http_version != "1.0",
            keep_alive=request.keep_alive and not self._host.is_stopping,
        )
        scope = request.scope() | self._addresses
        self._arriving = Exchange(scope, self, response=response, expects_continue=request.expects_continue)
        if self._exchange is None:
            self._begin(self._arriving)
        else:
            self._waiting.append(self._arriving)

    def body_arrived(self, data: bytes) -> None:
        """Keep a piece of a body, and stop reading while enough of it waits (`RequestSink`)."""
        assert self._arriving is not None  # noqa: S101 - a body follows its head
        self._arriving.feed(data)
        if self._arriving.is_full:
            self.transport.pause_reading()

    def request_arrived(self) -> None:
        """Wait for its response (`RequestSink`)."""
        assert self._arriving is not None  # noqa: S101 - an end follows its head
        self._arriving.finish()
        self._arriving = None
        self._clock.request_came()
        if self._exchange is None:  # its response came first
            self._clock.response_ended(self._loop.time())

    # -- what an exchange calls ----------------------------------------------------------------------------------------

    def write(self, parts: list[bytes]) -> None:
        """Write to the client (`ExchangeConnection`)."""
        self.transport.writelines(parts)

    def body_taken(self) -> None:
        """Read on if this waited for the application (`ExchangeConnection`)."""
        if not self._early and not self.transport.is_closing():
            self.transport.resume_reading()

    def answered(self, exchange: Exchange) -> None:
        """Go on with what came meanwhile (`ExchangeConnection`)."""
        self._exchange = None
        if not exchange.response.keep_alive or self._host.is_stopping:
            self.transport.close()
            return
        if self._waiting:
            self._begin(self._waiting.popleft())
        elif self._arriving is None:
            self._clock.response_ended(self._loop.time())
        if self._early and (self._exchange is None or self._exchange is self._arriving):
            data, self._early = self._early, b""
            self.data_received(data)
        self.body_taken()

    def close(self) -> None:
        """End the connection, after what is written (`ExchangeConnection`)."""
        self.transport.close()

    # -- what the server calls -----------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request, or for the rest of one."""
        return self._exchange is None or self._exchange is self._arriving

    @property
    def is_behind(self) -> bool:
        """Whether the client has left something unread."""
        return self.transport.get_write_buffer_size() > 0

    def stop(self) -> None:
        """Close, after the response in progress."""
        if self._exchange is None:
            self.transport.close()

    def look(self, now: float) -> None:
        """Cut the connection if its request, or the client's reading, takes too long."""
        if self._clock.is_over(now, is_behind=self.is_behind):
            self.transport.abort()

    def _begin(self, exchange: Exchange) -> None:
        self._exchange = exchange
        if exchange is self._arriving:
            self._clock.turn_came(self._loop.time())
        self._host.run(exchange)

    def _abandon(self) -> None:
        """Let no exchange go on."""
        for exchange in (self._exchange, *self._waiting):
            if exchange is not None:
                exchange.disconnect()
        self._waiting.clear()
        self._early = b""
