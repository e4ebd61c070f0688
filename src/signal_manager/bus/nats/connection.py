"""One connection to one nats-server: TCP, TLS, signing in, reading, and the PINGs that tell whether it still answers.

`protocol.py` knows the bytes. `link.py` keeps a connection up, and writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from typing import cast

import structlog

from signal_manager import __version__
from signal_manager.bus.nats.protocol import (
    PING,
    PONG,
    Arrival,
    Complaint,
    Control,
    Event,
    Info,
    NatsProtocolError,
    Parser,
    SignIn,
    connect,
)
from signal_manager.bus.nats.servers import Server
from signal_manager.bus.nats.subscriptions import Handler

__all__ = ["NatsConnection", "RefusedError", "TlsError"]

log = structlog.get_logger(__name__)

# Between two PINGs (s), and how many of them may be unanswered: a connection over which nothing comes back is given up
# after three intervals.
_PING_INTERVAL = 2.0
_PINGS_OUTSTANDING = 2


class RefusedError(Exception):
    """nats-server refuses this node."""


class TlsError(Exception):
    """nats-server and this node do not agree on TLS."""


class NatsConnection(asyncio.Protocol):
    """One connection, from TCP to its end; it is not used again.

    Args:
        handlers: what takes the messages, by subscription number.
        on_event: called with INFO that comes later, and with complaints that do not end the connection.
        on_lost: called once with the reason when the connection ends, except by `close` or `abort`.
    """

    def __init__(
        self,
        handlers: Mapping[bytes, Handler],
        *,
        on_event: Callable[[Info | Complaint], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._handlers = handlers
        self._on_event = on_event
        self._on_lost = on_lost
        self._parser = Parser()
        self._transport: asyncio.Transport | None = None
        self._info: asyncio.Future[Info] = asyncio.get_running_loop().create_future()
        self._pongs: deque[asyncio.Future[None] | None] = deque()  # one for each PING; None for those of the timer
        self._unanswered = 0  # PINGs of the timer since the last PONG
        self._timer: asyncio.TimerHandle | None = None
        self._complaint: Complaint | None = None  # the one that ended it
        self._ended_by: ConnectionError | None = None
        self._is_closed = asyncio.Event()

    @property
    def transport(self) -> asyncio.Transport:
        """The transport to write to, once the connection is open."""
        if self._transport is None:
            raise ConnectionResetError("there is no connection to nats-server")
        return self._transport

    async def open(
        self, server: Server, *, name: str, tls: ssl.SSLContext | None, sign_in: Callable[[Info], SignIn]
    ) -> Info:
        """Connect, begin TLS where one side wants it, and sign in.

        Args:
            server: where it is.
            name: shown by nats-server to its operators.
            tls: which certificates to trust; those that this machine trusts if None.
            sign_in: returns what proves who this node is.

        Raises:
            RefusedError, TlsError: the settings and nats-server do not agree; another attempt does not change that.
            OSError: the server does not answer, or ended the connection.
        """
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, server.host, server.port)
        info = await self._info
        if self._ended_by is not None:  # a server that is full says so right behind INFO
            raise self._ended_by
        if info.tls_required or server.wants_tls:
            await self._start_tls(server, info, tls)
        self.transport.write(connect(info, name=name, version=__version__, sign_in=sign_in(info)))
        try:
            await self.ping()
        except ConnectionError as error:
            raise self._why_not_let_in(info, error) from None
        self._timer = loop.call_later(_PING_INTERVAL, self._ping_again)
        return info

    async def ping(self) -> None:
        """Wait until nats-server has taken everything that was written before.

        Raises:
            ConnectionError: the connection ended first.
        """
        if self._ended_by is not None:
            raise self._ended_by
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pongs.append(waiting)
        self.transport.write(PING)
        await waiting

    async def close(self, *, timeout: float) -> None:
        """End the connection in order, or by force after `timeout` seconds."""
        self._end(ConnectionAbortedError("closed"))
        if self._transport is not None:
            self._transport.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_closed.wait(), timeout)
        await self.abort()

    async def abort(self) -> None:
        """End the connection by force; its socket is closed on return."""
        self._end(ConnectionAbortedError("closed"))
        if self._transport is not None:
            self._transport.abort()
        await asyncio.sleep(0)  # the loop closes the socket in its next turn
        self._is_closed.set()

    # -- what asyncio calls --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has the methods, and another base class

    def data_received(self, data: bytes) -> None:
        """Hand every complete message to its handler."""
        try:
            events = self._parser.feed(data)
        except NatsProtocolError as error:
            self._lose(ConnectionAbortedError(str(error)))
            return
        for event in events:
            if type(event) is Arrival:
                handler = self._handlers.get(event.number)
                if handler is not None:
                    try:
                        handler(event)
                    except Exception:  # it must not end the connection
                        log.exception("message from another node failed", subject=event.subject)
            else:
                self._handle(event)

    def connection_lost(self, error: Exception | None) -> None:
        """Learn that the socket is closed."""
        self._is_closed.set()
        self._lose(error)

    # -- inside --------------------------------------------------------------------------------------------------

    async def _start_tls(self, server: Server, info: Info, tls: ssl.SSLContext | None) -> None:
        if not (info.tls_required or info.tls_available):
            raise TlsError("it offers none")
        self._parser = Parser()  # bytes after INFO came in the clear: an attacker on the way may have put them there
        loop = asyncio.get_running_loop()
        context = tls or ssl.create_default_context()
        try:
            transport = await loop.start_tls(self.transport, self, context, server_hostname=server.tls_name)
        except ssl.SSLError as error:
            raise TlsError(str(error)) from error
        if transport is None or self._ended_by is not None:
            raise ConnectionResetError("connection to nats-server lost during the TLS handshake")
        self._transport = transport

    def _why_not_let_in(self, info: Info, error: ConnectionError) -> Exception:
        """Return the error for a connection that ended before the first PONG."""
        cause = error.__cause__
        if self._complaint is not None:
            return RefusedError(str(error)) if self._complaint.is_about_identity else error
        if isinstance(cause, ssl.SSLError):
            return TlsError(str(cause))
        # nats-server sends the reason and closes at once; the close may arrive as a reset and hide the reason.
        if info.auth_required:
            return RefusedError(str(error))
        if info.tls_verify:
            return TlsError("it may not accept the certificate of bus.nats_cert_path")
        return error

    def _handle(self, event: Event) -> None:
        match event:
            case Control.PING:
                self.transport.write(PONG)
            case Control.PONG:
                self._unanswered = 0
                waiting = self._pongs.popleft() if self._pongs else None
                if waiting is not None and not waiting.done():
                    waiting.set_result(None)
            case Info():
                if self._info.done():
                    self._on_event(event)
                else:
                    self._info.set_result(event)
            case Complaint():
                if event.is_about_permissions:
                    self._on_event(event)
                else:
                    self._complaint = event
                    self._lose(ConnectionAbortedError(event.reason))

    def _ping_again(self) -> None:
        self._unanswered += 1
        if self._unanswered > _PINGS_OUTSTANDING:
            self._lose(TimeoutError("nats-server does not answer"))
            return
        self.transport.write(PING)
        self._pongs.append(None)
        self._timer = asyncio.get_running_loop().call_later(_PING_INTERVAL, self._ping_again)

    def _lose(self, error: Exception | None) -> None:
        """Handle a connection that the other side or the network has ended: close it, and call `on_lost`."""
        if self._ended_by is None:
            self._end(error)
            self.transport.abort()
            self._on_lost(str(error or ""))

    def _end(self, error: Exception | None) -> None:
        """Stop the timer, and fail all who wait for an answer."""
        if self._ended_by is not None:
            return
        self._ended_by = ConnectionResetError(str(error or "connection to nats-server lost"))
        self._ended_by.__cause__ = error
        if self._timer is not None:
            self._timer.cancel()
        for waiting in (self._info, *self._pongs):
            if waiting is not None and not waiting.done():
                waiting.set_exception(self._ended_by)
                waiting.exception()  # else asyncio complains about futures that were given up
        self._pongs.clear()
