"""One request and its response: what an ASGI application receives and sends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

import structlog

from signal_manager.asgi.response import ResponseError, ResponseWriter

__all__ = ["Application", "Exchange", "ExchangeConnection"]

log = structlog.get_logger(__name__)

Message = MutableMapping[str, Any]
Application = Callable[[Any, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

# Bytes of a body that wait for the application; the socket is not read while there are more.
_BODY_HIGH = 65_536


class ExchangeConnection(Protocol):
    """A connection as its exchanges see it."""

    writable: asyncio.Event  # whether the client reads as fast as the application writes

    def write(self, parts: list[bytes]) -> None:
        """Write to the client."""

    def body_taken(self) -> None:
        """Read on if this waited for the application."""

    def answered(self, exchange: Exchange) -> None:
        """Go on after a whole response."""

    def close(self) -> None:
        """End the connection, after what is written."""


class Exchange:
    """Answer one request.

    Args:
        scope: the ASGI scope.
        response: writes the response.
        expects_continue: whether the client waits for leave to send the body.
    """

    __slots__ = ("_body", "_connection", "_event", "_expects_continue", "has_arrived", "is_gone", "response", "scope")

    def __init__(
        self,
        scope: dict[str, Any],
        connection: ExchangeConnection,
        *,
        response: ResponseWriter,
        expects_continue: bool,
    ) -> None:
        self.scope = scope
        self.response = response
        self.has_arrived = False  # whether the body is whole
        self.is_gone = False  # whether the client is
        self._connection = connection
        self._expects_continue = expects_continue
        self._body = bytearray()
        # Something to receive: a piece of the body, its end, or the end of the exchange.
        self._event = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether enough of the body waits for the application."""
        return len(self._body) > _BODY_HIGH

    def feed(self, data: bytes) -> None:
        """Keep a piece of the body for the application."""
        if not self.response.is_complete:
            self._body += data
            self._event.set()

    def finish(self) -> None:
        """Note that the request has wholly arrived."""
        self.has_arrived = True
        self._event.set()

    def disconnect(self) -> None:
        """Note that the client is gone."""
        self.is_gone = True
        self._event.set()

    async def run(self, app: Application) -> None:
        """Let the application answer; what it leaves undone ends with 500, or ends the connection."""
        try:
            await app(self.scope, self.receive, self.send)
            if not self._is_over:
                log.error("the application ended without a whole response", path=self.scope["path"])
                await self._fail()
        except Exception:  # the edge of an application
            if not self.is_gone:  # an application may fail because its client left
                log.exception("the application failed", path=self.scope["path"])
            await self._fail()
        finally:
            if not self._is_over:
                self._connection.close()

    @property
    def _is_over(self) -> bool:
        return self.is_gone or self.response.is_complete

    async def _fail(self) -> None:
        """Answer with 500 if no response has begun."""
        if self.response.is_started or self.is_gone:
            return
        body = b"Internal Server Error"
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
        await self.send(
            {"type": "http.response.start", "status": 500, "headers": [*headers, (b"connection", b"close")]}
        )
        await self.send({"type": "http.response.body", "body": body})

    async def receive(self) -> Message:
        """Return the next piece of the body, or that the exchange is over (ASGI)."""
        if self._expects_continue and not self.response.is_started and not self.is_gone:
            self._expects_continue = False
            self._connection.write([b"HTTP/1.1 100 Continue\r\n\r\n"])
        if not self._is_over:
            self._connection.body_taken()
            await self._event.wait()
            self._event.clear()
        if self._is_over:
            return {"type": "http.disconnect"}
        body, self._body = bytes(self._body), bytearray()
        return {"type": "http.request", "body": body, "more_body": not self.has_arrived}

    async def send(self, message: Message) -> None:
        """Write a part of the response (ASGI)."""
        if not self._connection.writable.is_set():
            await self._connection.writable.wait()
        if self.is_gone:
            return
        response, kind = self.response, message["type"]
        if kind == "http.response.start":
            if self._expects_continue and not self.has_arrived:
                response.keep_alive = False  # the client does not send the body, or is about to: it cannot tell either
            parts = response.start(message["status"], message.get("headers", ()), now=time.time())
        elif kind == "http.response.body":
            parts = response.body(message.get("body", b""), is_last=not message.get("more_body", False))
        else:
            raise ResponseError(f"expected http.response.start or http.response.body, got {kind}")
        if parts:
            self._connection.write(parts)
        if response.is_complete:
            self._body.clear()  # what is not read yet, nobody will
            self._event.set()
            self._connection.answered(self)
