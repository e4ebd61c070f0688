"""Open authenticated connections to the service, one attempt at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from ssl import SSLContext

import msgspec

from signal_manager.client.connection import ABNORMAL, Closed, Connection, Receiver
from signal_manager.client.exchange import Exchange
from signal_manager.client.timing import Clock
from signal_manager.client.tokens import TokenSource, is_expiry
from signal_manager.errors import SignalManagerError, UnavailableError
from signal_manager.protocol.framing import Framing
from signal_manager.protocol.messages import Connect, PayloadType

__all__ = ["DialSettings", "Dialer", "wait_closed"]

# Seconds that a refused attempt waits for the close code that follows the refusal.
_REFUSAL_TIMEOUT = 2.0


@dataclass(frozen=True, kw_only=True)
class DialSettings:
    """How the connections of one client are opened.

    Attributes:
        url: `ws://` or `wss://`.
        connect: the CONNECT that every connection begins with, without its token.
        token: fetches the token.
        framing: the protocol's header.
        payload_type: how messages are written.
        time_limit: seconds for one attempt to connect and authenticate.
        ssl_context: for `wss://`, in place of the default one.
    """

    url: str
    connect: Connect
    token: TokenSource
    framing: Framing
    payload_type: PayloadType
    time_limit: float
    ssl_context: SSLContext | None = None


class Dialer:
    """Open a socket, and log in on it.

    Args:
        settings: how to open connections.
        exchange: has the session to resume.
        receive, on_asked: go to every connection.

    Attributes:
        closed: how the service ended the last attempt.
        spare: an open socket, which the next attempt logs in on.
    """

    def __init__(
        self,
        settings: DialSettings,
        *,
        clock: Clock,
        exchange: Exchange,
        receive: Receiver,
        on_asked: Callable[[], None],
    ) -> None:
        self.token = settings.token
        self.closed = Closed(ABNORMAL, "")
        self.spare: Connection | None = None
        self._settings = settings
        self._clock = clock
        self._exchange = exchange
        self._receive = receive
        self._on_asked = on_asked

    async def dial(self) -> Connection:
        """Open a socket for a later attempt to log in."""
        connection = self._make_connection()
        try:
            async with asyncio.timeout(self._settings.time_limit):
                await self._open_socket(connection)
        except BaseException as error:
            connection.abort("not opened")
            if isinstance(error, TimeoutError):
                raise self._no_answer() from None
            raise
        return connection

    async def open(self) -> Connection:
        """Connect and authenticate. If the token has expired and can be renewed, try once more at once."""
        try:
            return await self.open_once()
        except SignalManagerError as error:
            if not (is_expiry(error) and self.token.can_renew):
                raise
        return await self.open_once()

    async def open_once(self) -> Connection:
        """Connect and authenticate in one attempt."""
        self.closed = Closed(ABNORMAL, "")
        token = await self.token.fetch(timeout=self._settings.time_limit)
        connection, self.spare = self.spare, None
        is_dialed = connection is not None
        connection = connection or self._make_connection()
        connect = msgspec.structs.replace(self._settings.connect, auth_token=token, resume=self._exchange.former)
        has_asked = False
        try:
            async with asyncio.timeout(self._settings.time_limit):
                if not is_dialed:
                    await self._open_socket(connection)
                has_asked = True
                await connection.log_in(connect)
        except BaseException as error:
            try:
                if has_asked and isinstance(error, SignalManagerError):
                    await wait_closed(connection, _REFUSAL_TIMEOUT)  # the close code follows the refusal
            finally:
                connection.abort("not accepted")
            self.closed = await connection.wait_closed()
            if isinstance(error, TimeoutError):
                raise self._no_answer() from None
            raise
        return connection

    async def _open_socket(self, connection: Connection) -> None:
        settings = self._settings
        await connection.open(settings.url, time_limit=settings.time_limit, ssl_context=settings.ssl_context)

    def _make_connection(self) -> Connection:
        return Connection(
            framing=self._settings.framing,
            payload_type=self._settings.payload_type,
            clock=self._clock,
            exchange=self._exchange,
            receive=self._receive,
            on_asked=self._on_asked,
        )

    def _no_answer(self) -> UnavailableError:
        return UnavailableError(f"no answer from the service within {self._settings.time_limit} s")


async def wait_closed(connection: Connection, time_limit: float) -> Closed | None:
    """Return how the service ended a connection; None when it did not within `time_limit` seconds."""
    try:
        async with asyncio.timeout(time_limit):
            return await connection.wait_closed()
    except TimeoutError:
        return None
