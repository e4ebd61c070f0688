"""The link to the service: one authenticated connection after another, kept alive by heartbeats.

`connection.py` is one WebSocket and `timing.py` the policy; `client.py` sends through the link and hears of its fate.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from ssl import SSLContext
from uuid import uuid4

import msgspec

from signal_manager.client.connection import ABNORMAL, Closed, Connection
from signal_manager.client.events import Connected, Disconnected, Event, GoingAway, Reconnected
from signal_manager.client.exchange import Exchange
from signal_manager.client.timing import Clock, RetryPolicy
from signal_manager.errors import SignalManagerError, UnavailableError, error_from_wire
from signal_manager.protocol.framing import Framing
from signal_manager.protocol.messages import Connect, ConnectAck, Disconnect, GoAway, Message, PayloadType

__all__ = ["CLOSE_TIMEOUT", "Link"]

logger = logging.getLogger(__name__)

# Seconds that `close` waits for the service to answer DISCONNECT.
CLOSE_TIMEOUT = 2.0

# Seconds; for a service whose CONNECT_ACK does not name them (the TEXT payload type has no room for them).
DEFAULT_HEARTBEAT_INTERVAL = 30.0
DEFAULT_HEARTBEAT_TIMEOUT = 90.0
# Seconds; outside of this a heartbeat interval would flood the service or detect nothing.
HEARTBEAT_LIMITS = (0.01, 3600.0)

# RFC 6455, section 7.4.1: ends the session too.
_NORMAL = 1000

# Seconds; trying again costs little, whatever delay a GOAWAY names.
MAX_GOAWAY_DELAY = 300.0


class Link:
    """Stay connected to the service until it refuses for good, the attempts run out, or `close`.

    Args:
        url: `ws://` or `wss://`.
        connect: the CONNECT that every connection begins with.
        framing: the protocol's header.
        payload_type: how messages are written.
        connect_timeout: seconds for one attempt to connect and authenticate.
        retry: when and how often to try again.
        ssl_context: for `wss://`, in place of the default one.
        clock: where time comes from.
        on_message: called with every message that is no reply and does not concern the link itself.
        on_event: called with what happens to the link. Both are called from inside the socket's callback.
    """

    def __init__(
        self,
        *,
        url: str,
        connect: Connect,
        framing: Framing,
        payload_type: PayloadType,
        connect_timeout: float,
        retry: RetryPolicy,
        ssl_context: SSLContext | None,
        clock: Clock,
        on_message: Callable[[bytes, Message], None],
        on_event: Callable[[Event], None],
    ) -> None:
        self.session_id: str | None = None  # that the service named last
        self._url = url
        self._connect = connect
        self._framing = framing
        self._payload_type = payload_type
        self._connect_timeout = connect_timeout
        self._retry = retry
        self._ssl_context = ssl_context
        self._clock = clock
        self._on_message = on_message
        self._on_event = on_event
        self._exchange = Exchange()
        self._connection: Connection | None = None  # the last one that was accepted
        self._ended: SignalManagerError | None = UnavailableError("not connected: enter 'async with client' first")
        self._settled = asyncio.Event()  # set while connected, and once the link has ended
        self._heartbeat = (DEFAULT_HEARTBEAT_INTERVAL, DEFAULT_HEARTBEAT_TIMEOUT)
        self._going_away: GoingAway | None = None
        self._failures = 0  # in a row, for the delay before the next attempt
        self._task: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        """Tell whether there is a connection, as far as is known."""
        return self._connection is not None and not self._connection.is_closed

    async def open(self) -> None:
        """Connect, and stay connected until `close`. Cancelling leaves nothing behind.

        Raises:
            SignalManagerError: why the last attempt that `retry` allows for the first connect failed.
        """
        connection = await self._establish(attempts=self._retry.first_attempts, delay=0.0)
        self._task = asyncio.create_task(self._run(connection), name="signal-client link")

    async def close(self, goodbye: Disconnect) -> None:
        """Say good-bye and end; cancelling ends at once."""
        if self._task is not None:
            self._task.cancel()
        try:
            if self._connection is not None:
                await self._say(goodbye, self._connection)
        finally:
            self._end(UnavailableError("the client is closed"))
            if self._task is not None:
                await asyncio.wait([self._task])

    async def ready(self) -> Connection:
        """Return the connection once there is one that takes a message; the caller sets the time limit.

        Raises:
            SignalManagerError: what ended the link.
        """
        while True:
            if self._ended is not None:
                # A fresh copy: raising one exception twice would join the stacks of two callers.
                raise error_from_wire(self._ended.code, self._ended.message)
            connection = self._connection
            if connection is None or connection.is_closed:
                self._settled.clear()
                await self._settled.wait()
            elif connection.is_writable:
                return connection
            else:
                await connection.wait_writable()

    def _receive(self, connection: Connection, message_id: bytes, message: Message) -> None:
        match message:
            case ConnectAck():
                self._admit(connection, message)
            case GoAway():
                delay = min(message.reconnect_after / 1000, MAX_GOAWAY_DELAY)
                self._going_away = GoingAway(message.reason, delay)
                self._on_event(self._going_away)
            case _:
                self._on_message(message_id, message)

    def _admit(self, connection: Connection, ack: ConnectAck) -> None:
        missing: tuple[bytes, ...] = ()
        if ack.resumed:
            found = self._exchange.resume(ack.received or 0)
            if found is None:
                self._exchange.abandon()
                connection.abort("the service resumed a session of which messages are missing")
                return
            missing = found
        else:
            self._exchange.begin(ack.session_id, ack.resume_token)
        is_first = self.session_id is None
        event = Connected(ack.session_id) if is_first else Reconnected(ack.session_id, resumed=ack.resumed)
        connection.send_again(missing)  # before anything new
        self._connection = connection
        self.session_id = ack.session_id
        self._ended = None
        self._going_away = None
        self._heartbeat = (
            _sensible_seconds(ack.heartbeat_interval, DEFAULT_HEARTBEAT_INTERVAL),
            _sensible_seconds(ack.heartbeat_timeout, DEFAULT_HEARTBEAT_TIMEOUT),
        )
        self._settled.set()
        self._on_event(event)

    async def _run(self, connection: Connection) -> None:
        """Keep the link up until it ends; cancelling leaves the present connection to `close`."""
        closed = Closed(ABNORMAL, "")
        try:
            while True:
                started = self._clock.now()
                closed = await self._attend(connection)
                if self._clock.now() - started > self._retry.max_delay:
                    self._failures = 0
                if not closed.may_reconnect or self._retry.attempts == 0:
                    raise closed.error()
                self._on_event(Disconnected(closed.code, closed.reason, will_reconnect=True))
                connection = await self._establish(attempts=self._retry.attempts, delay=self._first_delay())
        except SignalManagerError as error:
            self._give_up(closed.code, error)
        except Exception:  # the background task's edge
            logger.exception("the client ends by a fault of its own")
            self._give_up(closed.code, SignalManagerError("a fault of the client itself; its log has more"))

    async def _attend(self, connection: Connection) -> Closed:
        """Send heartbeats until the connection ends; return how."""
        async with asyncio.TaskGroup() as group:
            heart = group.create_task(self._beat(connection), name="signal-client heartbeats")
            closed = await connection.wait_closed()
            heart.cancel()
        return closed

    async def _beat(self, connection: Connection) -> None:
        """Show signs of life, and end a connection whose service shows none."""
        interval, limit = self._heartbeat
        next_beat = self._clock.now() + interval
        while True:
            await self._clock.sleep(min(next_beat, connection.last_received + limit) - self._clock.now())
            if connection.is_closed:
                return
            now = self._clock.now()
            if now >= connection.last_received + limit:
                connection.abort(f"nothing received for {limit:.0f} s")
                return
            if now >= next_beat:
                connection.send(connection.make_heartbeat(), uuid4().bytes)
                next_beat = now + interval

    async def _establish(self, *, attempts: int | None, delay: float) -> Connection:
        """Wait for `delay` seconds and connect, again and again while that makes sense."""
        attempt = 1
        while True:
            if delay:
                await self._clock.sleep(delay)
            try:
                return await self._open()
            except SignalManagerError as error:
                is_final = error.code < 500 and not error.may_retry
                if is_final or attempt == attempts:
                    raise
                logger.info("attempt %d to connect failed: %s", attempt, error.message)
            attempt += 1
            delay = self._next_delay()

    def _first_delay(self) -> float:
        return self._next_delay() if self._going_away is None else self._going_away.reconnect_after

    def _next_delay(self) -> float:
        delay = self._retry.delay(self._failures)
        self._failures += 1
        return delay

    async def _open(self) -> Connection:
        """Connect and authenticate once."""
        connection = Connection(
            framing=self._framing,
            payload_type=self._payload_type,
            clock=self._clock,
            exchange=self._exchange,
            receive=self._receive,
        )
        connect = msgspec.structs.replace(self._connect, resume=self._exchange.offer)
        try:
            async with asyncio.timeout(self._connect_timeout):
                await connection.open(self._url, time_limit=self._connect_timeout, ssl_context=self._ssl_context)
                await connection.log_in(connect)
        except BaseException as error:
            connection.abort("not accepted")
            closed = await connection.wait_closed()
            if isinstance(error, TimeoutError):
                raise UnavailableError(f"no answer from the service within {self._connect_timeout} s") from None
            if isinstance(error, UnavailableError) and closed.was_announced:
                raise closed.error() from None
            raise
        return connection

    async def _say(self, goodbye: Disconnect, connection: Connection) -> None:
        """Send DISCONNECT and wait for the service to close, within bounds."""
        try:
            if not connection.is_closed:
                connection.send(goodbye, uuid4().bytes)
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await connection.wait_closed()
        except TimeoutError:
            logger.info("the service did not answer DISCONNECT within %s s", CLOSE_TIMEOUT)
        finally:
            connection.abort("closed by this client", code=_NORMAL)

    def _give_up(self, code: int, error: SignalManagerError) -> None:
        self._end(error)
        self._on_event(Disconnected(code, error.message, will_reconnect=False))

    def _end(self, error: SignalManagerError) -> None:
        """Let everybody who waits for a connection, now and later, have `error`."""
        self._ended = error
        self._exchange.fail(error.message)
        self._settled.set()


def _sensible_seconds(named: float | None, default: float) -> float:
    """Return what the service named where that is a sensible number of seconds."""
    shortest, longest = HEARTBEAT_LIMITS
    return named if named is not None and shortest <= named <= longest else default
