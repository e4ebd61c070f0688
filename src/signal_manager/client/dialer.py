"""Open authenticated connections to the service, one attempt at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ssl import SSLContext

import msgspec

from signal_manager.client.connection import ABNORMAL, Closed, Connection, Receiver
from signal_manager.client.exchange import Exchange
from signal_manager.client.timing import Clock
from signal_manager.client.tokens import TokenSource, is_expiry
from signal_manager.errors import SignalManagerError, UnavailableError
from signal_manager.protocol.framing import Framing
from signal_manager.protocol.messages import Connect, PayloadType

__all__ = ["Dialer", "wait_closed"]

# Seconds that a refused attempt waits for the close code that follows the refusal.
_REFUSAL_TIMEOUT = 2.0


class Dialer:
    """Open a socket, and log in on it.

    Args:
        connect: the CONNECT that every connection begins with, without its token.
        time_limit: seconds for one attempt to connect and authenticate.
        exchange: has the session to resume.
        receive, on_asked: go to every connection.

    Attributes:
        closed: how the service ended the last attempt.
        spare: an open socket, which the next attempt logs in on.
    """

    def __init__(
        self,
        *,
        url: str,
        connect: Connect,
        token: TokenSource,
        framing: Framing,
        payload_type: PayloadType,
        time_limit: float,
        ssl_context: SSLContext | None,
        clock: Clock,
        exchange: Exchange,
        receive: Receiver,
        on_asked: Callable[[], None],
    ) -> None:
        self.token = token
        self.closed = Closed(ABNORMAL, "")
        self.spare: Connection | None = None
        self._url = url
        self._connect = connect
        self._framing = framing
        self._payload_type = payload_type
        self._time_limit = time_limit
        self._ssl_context = ssl_context
        self._clock = clock
        self._exchange = exchange
        self._receive = receive
        self._on_asked = on_asked

    async def dial(self) -> Connection:
        """Open a socket for a later attempt to log in."""
        connection = self._make_connection()
        try:
            async with asyncio.timeout(self._time_limit):
                await connection.open(self._url, time_limit=self._time_limit, ssl_context=self._ssl_context)
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
        token = await self.token.fetch(timeout=self._time_limit)
        connection, self.spare = self.spare, None
        is_dialed = connection is not None
        connection = connection or self._make_connection()
        connect = msgspec.structs.replace(self._connect, auth_token=token, resume=self._exchange.former)
        has_asked = False
        try:
            async with asyncio.timeout(self._time_limit):
                if not is_dialed:
                    await connection.open(self._url, time_limit=self._time_limit, ssl_context=self._ssl_context)
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

    def _make_connection(self) -> Connection:
        return Connection(
            framing=self._framing,
            payload_type=self._payload_type,
            clock=self._clock,
            exchange=self._exchange,
            receive=self._receive,
            on_asked=self._on_asked,
        )

    def _no_answer(self) -> UnavailableError:
        return UnavailableError(f"no answer from the service within {self._time_limit} s")


async def wait_closed(connection: Connection, time_limit: float) -> Closed | None:
    """Return how the service ended a connection; None when it did not within `time_limit` seconds."""
    try:
        async with asyncio.timeout(time_limit):
            return await connection.wait_closed()
    except TimeoutError:
        return None
