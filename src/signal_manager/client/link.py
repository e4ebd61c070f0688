"""The link to the service: one authenticated connection after another, kept alive by heartbeats.

`gateway/connection.py` is one WebSocket and `timing.py` the policy; `client.py` sends through the link and hears of its
fate.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from ssl import SSLContext
from uuid import uuid4

import msgspec

from signal_manager.client.connection import ABNORMAL, Closed, Connection
from signal_manager.client.events import Connected, Disconnected, ErrorReceived, Event, GoingAway, Reconnected
from signal_manager.client.exchange import Exchange
from signal_manager.client.liveness import PROBE_AFTER, Due, LivenessMonitor, Signs
from signal_manager.client.timing import Clock, RetryPolicy
from signal_manager.client.tokens import Renewal, TokenSource, is_expiry
from signal_manager.errors import InvalidRequestError, SignalManagerError, UnavailableError, error_from_wire
from signal_manager.protocol.framing import Framing
from signal_manager.protocol.messages import Connect, ConnectAck, Disconnect, GoAway, Message, PayloadType

__all__ = ["CLOSE_TIMEOUT", "Link"]

logger = logging.getLogger(__name__)

# Seconds that the service has to close: after DISCONNECT, and after it has refused CONNECT.
CLOSE_TIMEOUT = 2.0

# Seconds; for a service whose CONNECT_ACK does not name them (the TEXT payload type has no room for them).
DEFAULT_HEARTBEAT_INTERVAL = 30.0
DEFAULT_HEARTBEAT_TIMEOUT = 90.0
# Seconds; outside of this a heartbeat interval would flood the service or detect nothing.
HEARTBEAT_LIMITS = (0.01, 3600.0)

# Seconds between two looks whether a silent connection shows life, while another one is opened beside it.
_LOOK = 0.05

# RFC 6455, section 7.4.1: ends the session too.
_NORMAL = 1000

# Seconds; trying again costs little, whatever delay a GOAWAY names.
MAX_GOAWAY_DELAY = 300.0


class Link:
    """Stay connected to the service until it refuses for good, the attempts run out, or `close`.

    Args:
        url: `ws://` or `wss://`.
        connect: the CONNECT that every connection begins with, but for its token.
        token: fetches that.
        framing: the protocol's header.
        payload_type: how messages are written.
        connect_timeout: seconds for one attempt to connect and authenticate.
        retry: when and how often to try again.
        ssl_context: for `wss://`, in place of the default one.
        clock: where time comes from.
        on_message: called with every message that is no reply and does not concern the link itself.
        on_event: called with what happens to the link. Both are called from inside the socket's callback.
        is_in_room: tells whether the client is in a room, where a lost connection is noticed sooner.
    """

    def __init__(
        self,
        *,
        url: str,
        connect: Connect,
        token: TokenSource,
        framing: Framing,
        payload_type: PayloadType,
        connect_timeout: float,
        retry: RetryPolicy,
        ssl_context: SSLContext | None,
        clock: Clock,
        on_message: Callable[[bytes, Message], None],
        on_event: Callable[[Event], None],
        is_in_room: Callable[[], bool] = lambda: False,
    ) -> None:
        self.session_id: str | None = None  # that the service named last
        self._url = url
        self._connect = connect
        self._token = token
        self._token_expires_at: int | None = None  # ms since the epoch
        self._framing = framing
        self._payload_type = payload_type
        self._connect_timeout = connect_timeout
        self._retry = retry
        self._ssl_context = ssl_context
        self._clock = clock
        self._on_message = on_message
        self._on_event = on_event
        self._is_in_room = is_in_room
        self._exchange = Exchange()
        self._connection: Connection | None = None  # the last one that was accepted
        self._closed = Closed(ABNORMAL, "")  # how the last one ended, accepted or not
        self._ended: SignalManagerError | None = UnavailableError("not connected: enter 'async with client' first")
        self._settled = asyncio.Event()  # set while connected, and once the link has ended
        self._heartbeat = (DEFAULT_HEARTBEAT_INTERVAL, DEFAULT_HEARTBEAT_TIMEOUT)
        self._going_away: GoingAway | None = None
        self._failures = 0  # in a row, for the delay before the next attempt
        self._dialed: Connection | None = None  # opened beside a silent one, in whose place it logs in
        self._accepted = asyncio.Event()  # set with the next connection that is accepted, and at the end
        self._nudged = asyncio.Event()  # ends the present wait
        self._wakes_at = 0.0  # when that would end by itself
        self._is_closing = False  # only to come back for a good-bye
        self._is_hasty = False  # whether a new connection is to be opened at once
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

    async def reconnect(self) -> None:
        """Open a new connection at once, in the present one's place, and return when it is accepted.

        Raises:
            InvalidRequestError: the retry policy allows no second connection.
            SignalManagerError: what ended the link.
        """
        if self._retry.attempts == 0:
            raise InvalidRequestError("this client never reconnects: its retry policy has 0 attempts")
        if self._ended is None:
            accepted, self._is_hasty = self._accepted, True
            self._nudged.set()
            await accepted.wait()
        if self._ended is not None:
            raise error_from_wire(self._ended.code, self._ended.message)

    async def close(self, goodbye: Disconnect) -> None:
        """Say good-bye and end; cancelling ends at once."""
        is_away = self._task is not None and not self._task.done() and not self.is_up
        if self._task is not None:
            self._task.cancel()
        try:
            was_heard = not is_away and (self._connection is None or await self._say(goodbye, self._connection))
            if not was_heard and await self._return() and self._connection is not None:
                await self._say(goodbye, self._connection)
        finally:
            self._end(UnavailableError("the client is closed"))
            if self._task is not None:
                await asyncio.wait([self._task])

    async def _return(self) -> bool:
        """Come back to a session that would outlive this client, in order to end it: it may be in a room."""
        self._is_closing = True
        self._end(UnavailableError("the client is closed"))
        if self._task is not None:
            await asyncio.wait([self._task])
        self._dialed = None
        if self._exchange.offer is None:
            return False
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._open()
        except (SignalManagerError, TimeoutError) as error:
            logger.info("the service was not told that this client is closed: %s", error)
            return False
        return True

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
        if self._is_closing:
            return  # nobody waits for this connection, which is for a good-bye
        self._ended = None
        self._token_expires_at = ack.token_expires_at
        self._going_away = None
        self._heartbeat = (
            _sensible_seconds(ack.heartbeat_interval, DEFAULT_HEARTBEAT_INTERVAL),
            _sensible_seconds(ack.heartbeat_timeout, DEFAULT_HEARTBEAT_TIMEOUT),
        )
        self._settled.set()
        self._announce_accepted()
        self._on_event(event)

    async def _run(self, connection: Connection) -> None:
        """Keep the link up until it ends; cancelling leaves the present connection to `close`."""
        try:
            while True:
                started = self._clock.now()
                closed = self._closed = await self._attend(connection)
                if self._clock.now() - started > self._retry.max_delay:
                    self._failures = 0
                if not closed.may_reconnect or self._retry.attempts == 0:
                    raise closed.error()
                delay = self._first_delay() if self._dialed is None else 0.0
                self._on_event(Disconnected(closed.code, closed.reason, will_reconnect=True, delay=delay))
                connection = await self._establish(attempts=self._retry.attempts, delay=delay)
        except SignalManagerError as error:
            self._give_up(self._closed.code, error)
        except Exception:  # the background task's edge
            logger.exception("the client ends by a fault of its own")
            self._give_up(ABNORMAL, SignalManagerError("a fault of the client itself; its log has more"))

    async def _attend(self, connection: Connection) -> Closed:
        """Watch over a connection until it ends, or another takes its place; return how it ended."""
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch(connection), name="signal-client heartbeats")
            renewal = Renewal(
                self._token,
                connection,
                clock=self._clock,
                on_failure=lambda error: self._on_event(ErrorReceived(error, None)),
            )
            renew = group.create_task(renewal.run(self._token_expires_at), name="signal-client token")
            closed = await connection.wait_closed()
            watch.cancel()
            renew.cancel()
        return closed

    async def _watch(self, connection: Connection) -> None:
        """Show signs of life, and replace a connection whose service shows none."""
        interval, limit = self._heartbeat
        liveness = LivenessMonitor(self._clock.now(), interval=interval)
        may_replace = self._retry.attempts != 0
        while not connection.is_closed:
            now, heard_at = self._clock.now(), connection.last_received
            if not may_replace and now >= heard_at + limit:
                connection.abort(f"nothing received for {limit:.0f} s")
                return
            if self._is_hasty and await self._replace(connection, now - heard_at):
                return
            signs = Signs(heard_at, connection.asked_at, self._exchange.is_waiting, self._is_in_room())
            match liveness.check(now, signs):
                case Due.BEAT:
                    connection.send(connection.make_heartbeat(), uuid4().bytes)
                case Due.GIVE_UP if may_replace:
                    if await self._replace(connection, now - heard_at):
                        return
                case Due.GIVE_UP:
                    await self._wait(heard_at + limit - now)
                case Due.NOTHING:
                    await self._wait(liveness.deadline(signs) - now)

    async def _replace(self, connection: Connection, silence: float) -> bool:
        """Open a socket beside a connection and give that up for it; False when it shows life before.

        A socket that cannot be opened ends the connection too: then the network, or the service, is gone.
        """
        is_asked_for, self._is_hasty = self._is_hasty, False
        before = connection.frames_received
        dial = asyncio.ensure_future(self._dial())
        try:
            while not dial.done():
                await asyncio.wait({dial}, timeout=_LOOK)
                if connection.frames_received != before and not is_asked_for:
                    logger.info("the connection was silent for %.1f s and is not any more", silence)
                    return False
            if dial.exception() is None:
                self._dialed = dial.result()
            reason = "a new connection was asked for" if is_asked_for else f"nothing received for {silence:.0f} s"
            connection.abort(reason)
            return True
        finally:
            if not dial.done():
                dial.cancel()
                await asyncio.wait({dial})
            elif self._dialed is None and not dial.cancelled() and dial.exception() is None:
                dial.result().abort("not needed")

    async def _wait(self, seconds: float) -> None:
        """Wait for so long, or until something happens that changes what is due."""
        self._nudged.clear()
        self._wakes_at = self._clock.now() + seconds
        sleep = asyncio.ensure_future(self._clock.sleep(seconds))
        nudge = asyncio.ensure_future(self._nudged.wait())
        try:
            await asyncio.wait({sleep, nudge}, return_when=asyncio.FIRST_COMPLETED)
            if sleep.done():
                sleep.result()
        finally:
            sleep.cancel()
            nudge.cancel()

    def _note_asked(self) -> None:
        """Look for an answer to what was sent, sooner than for one to the next heartbeat."""
        if self._wakes_at > self._clock.now() + PROBE_AFTER:
            self._nudged.set()

    async def _pause(self, seconds: float) -> None:
        """Wait before an attempt to connect; a new connection that is asked for is not waited for."""
        until = self._clock.now() + seconds
        while (left := until - self._clock.now()) > 0 and not self._is_hasty:
            await self._wait(left)

    async def _establish(self, *, attempts: int | None, delay: float) -> Connection:
        """Wait for `delay` seconds and connect, again and again while that makes sense."""
        attempt = 1
        while True:
            await self._pause(delay)
            self._is_hasty = False
            try:
                return await self._open_with_a_valid_token()
            except SignalManagerError as error:
                may_renew = is_expiry(error) and self._token.can_renew
                is_refused = error.code < 500 and not error.may_retry
                is_final = (is_refused or not self._closed.may_reconnect) and not may_renew
                if is_final or attempt == attempts:
                    raise self._token.explain(error) from None
                logger.info("attempt %d to connect failed: %s", attempt, error.message)
            attempt += 1
            delay = self._next_delay()

    def _first_delay(self) -> float:
        return self._next_delay() if self._going_away is None else self._going_away.reconnect_after

    def _next_delay(self) -> float:
        delay = self._retry.delay(self._failures)
        self._failures += 1
        return delay

    def _make_connection(self) -> Connection:
        return Connection(
            framing=self._framing,
            payload_type=self._payload_type,
            clock=self._clock,
            exchange=self._exchange,
            receive=self._receive,
            on_asked=self._note_asked,
        )

    async def _dial(self) -> Connection:
        """Open a socket, for `_open` to log in on."""
        connection = self._make_connection()
        try:
            async with asyncio.timeout(self._connect_timeout):
                await connection.open(self._url, time_limit=self._connect_timeout, ssl_context=self._ssl_context)
        except BaseException as error:
            connection.abort("not opened")
            if isinstance(error, TimeoutError):
                raise UnavailableError(f"no answer from the service within {self._connect_timeout} s") from None
            raise
        return connection

    async def _open_with_a_valid_token(self) -> Connection:
        """Connect once, or at once once more where the token's function had one that has expired."""
        try:
            return await self._open()
        except SignalManagerError as error:
            if not (is_expiry(error) and self._token.can_renew):
                raise
        return await self._open()

    async def _open(self) -> Connection:
        """Connect and authenticate once."""
        self._closed = Closed(ABNORMAL, "")
        token = await self._token.fetch(timeout=self._connect_timeout)
        connection, self._dialed = self._dialed, None
        is_dialed = connection is not None
        connection = connection or self._make_connection()
        connect = msgspec.structs.replace(self._connect, auth_token=token, resume=self._exchange.former)
        has_asked = False
        try:
            async with asyncio.timeout(self._connect_timeout):
                if not is_dialed:
                    await connection.open(self._url, time_limit=self._connect_timeout, ssl_context=self._ssl_context)
                has_asked = True
                await connection.log_in(connect)
        except BaseException as error:
            try:
                if has_asked and isinstance(error, SignalManagerError):
                    await self._wait_closed(connection)  # the service's close follows its refusal, with a code
            finally:
                connection.abort("not accepted")
            self._closed = await connection.wait_closed()
            if isinstance(error, TimeoutError):
                raise UnavailableError(f"no answer from the service within {self._connect_timeout} s") from None
            raise
        return connection

    async def _wait_closed(self, connection: Connection) -> Closed | None:
        """Return how the service ended a connection, within bounds; None when it did not."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                return await connection.wait_closed()
        except TimeoutError:
            return None

    async def _say(self, goodbye: Disconnect, connection: Connection) -> bool:
        """Send DISCONNECT and wait for the service to close, within bounds; False when the connection was lost."""
        try:
            if not connection.is_closed:
                connection.send(goodbye, uuid4().bytes)
            closed = await self._wait_closed(connection)
            if closed is None:
                logger.info("the service did not answer DISCONNECT within %s s", CLOSE_TIMEOUT)
        finally:
            connection.abort("closed by this client", code=_NORMAL)
        return closed is None or closed.was_announced

    def _give_up(self, code: int, error: SignalManagerError) -> None:
        self._end(error)
        self._on_event(Disconnected(code, error.message, will_reconnect=False))

    def _end(self, error: SignalManagerError) -> None:
        """Let everybody who waits for a connection, now and later, have `error`."""
        self._ended = error
        self._exchange.fail(error.message)
        self._settled.set()
        self._announce_accepted()
        if self._dialed is not None:
            self._dialed.abort("closed by this client")

    def _announce_accepted(self) -> None:
        self._accepted.set()
        self._accepted = asyncio.Event()


def _sensible_seconds(named: float | None, default: float) -> float:
    """Return what the service named where that is a sensible number of seconds."""
    shortest, longest = HEARTBEAT_LIMITS
    return named if named is not None and shortest <= named <= longest else default
