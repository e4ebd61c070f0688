"""The link to the service: one authenticated connection after another, kept alive by heartbeats.

`dialer.py` opens connections. `liveness.py` decides when a silent one is replaced. `connection_slot.py` lets callers
wait for one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple
from uuid import uuid4

from signal_manager.client.connection import ABNORMAL, Closed, Connection
from signal_manager.client.connection_slot import ConnectionSlot
from signal_manager.client.dialer import Dialer, DialSettings, wait_closed
from signal_manager.client.events import Connected, Disconnected, ErrorReceived, Event, GoingAway, Reconnected
from signal_manager.client.exchange import Exchange
from signal_manager.client.liveness import PROBE_AFTER, Due, LivenessMonitor, Signs
from signal_manager.client.timing import Alarm, Clock, ReconnectDelays, RetryPolicy
from signal_manager.client.tokens import Renewal, is_expiry
from signal_manager.errors import InvalidRequestError, SignalManagerError, UnavailableError
from signal_manager.protocol.messages import ConnectAck, Disconnect, GoAway, Message

__all__ = ["CLOSE_TIMEOUT", "Link"]

logger = logging.getLogger(__name__)

# Seconds that the service has to close: after DISCONNECT, and after it has refused CONNECT.
CLOSE_TIMEOUT = 2.0

# Seconds, when CONNECT_ACK names none (the TEXT payload type has no room for them).
DEFAULT_HEARTBEAT_INTERVAL = 30.0
DEFAULT_HEARTBEAT_TIMEOUT = 90.0
# Seconds. A shorter heartbeat interval would flood the service, a longer one would detect nothing.
HEARTBEAT_LIMITS = (0.01, 3600.0)

# Seconds between two looks at a silent connection, while another one is opened beside it.
_LOOK = 0.05

# RFC 6455, section 7.4.1: ends the session too.
_NORMAL = 1000

# Seconds. No delay of a GOAWAY counts for more, since trying again costs little.
MAX_GOAWAY_DELAY = 300.0


class _Terms(NamedTuple):
    """What the service granted with its last CONNECT_ACK. Times are in seconds, but for the token's."""

    heartbeat_interval: float = DEFAULT_HEARTBEAT_INTERVAL
    heartbeat_timeout: float = DEFAULT_HEARTBEAT_TIMEOUT
    token_expires_at: int | None = None  # ms since the epoch


class Link:
    """Stay connected to the service until it refuses for good, the attempts run out, or `close`.

    Args:
        settings: how to open connections.
        retry: when and how often to try again.
        clock: where time comes from.
        on_message: called with every message that is neither a reply nor about the link itself.
        on_event: called with events of the link. The socket's callback calls both.
        is_in_room: tells whether the client is in a room, where the link notices a lost connection sooner.
    """

    def __init__(
        self,
        settings: DialSettings,
        *,
        retry: RetryPolicy,
        clock: Clock,
        on_message: Callable[[bytes, Message], None],
        on_event: Callable[[Event], None],
        is_in_room: Callable[[], bool] = lambda: False,
    ) -> None:
        self.session_id: str | None = None  # the one that the service named last
        self._retry = retry
        self._clock = clock
        self._on_message = on_message
        self._on_event = on_event
        self._is_in_room = is_in_room
        self._exchange = Exchange()
        self._alarm = Alarm(clock)
        self._dialer = Dialer(
            settings,
            clock=clock,
            exchange=self._exchange,
            receive=self._receive,
            on_asked=lambda: self._alarm.ring_before(PROBE_AFTER),
        )
        self._slot = ConnectionSlot()
        self._delays = ReconnectDelays(retry)
        self._terms = _Terms()
        self._is_closing = False  # whether a new connection is only for a good-bye
        self._task: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        """Whether there is a connection, as far as this side knows."""
        return self._slot.is_up

    @property
    def connection(self) -> Connection | None:
        """The connection that the service accepted last."""
        return self._slot.connection

    @property
    def exchange(self) -> Exchange:
        """The requests and the journal that outlive connections."""
        return self._exchange

    async def open(self) -> None:
        """Connect, and stay connected until `close`. Cancelling leaves nothing behind.

        Raises:
            SignalManagerError: why the last attempt that `retry` allows for the first connect failed.
        """
        connection = await self._establish(attempts=self._retry.first_attempts, delay=0.0)
        self._task = asyncio.create_task(self._run(connection), name="signal-client link")

    async def reconnect(self) -> None:
        """Replace the connection by a new one at once, and return when that is accepted.

        Raises:
            InvalidRequestError: the retry policy allows no second connection.
            SignalManagerError: the error that ended the link.
        """
        if self._retry.attempts == 0:
            raise InvalidRequestError("this client never reconnects: its retry policy has 0 attempts")
        if self._slot.ended is None:
            accepted = self._slot.accepted
            self._alarm.ring_urgently()
            await accepted.wait()
        self._slot.check()

    async def close(self, goodbye: Disconnect) -> None:
        """Say good-bye and end; cancelling ends at once."""
        is_away = self._task is not None and not self._task.done() and not self.is_up
        if self._task is not None:
            self._task.cancel()
        try:
            was_heard = not is_away and (self.connection is None or await self._say(goodbye, self.connection))
            if not was_heard and await self._return() and self.connection is not None:
                await self._say(goodbye, self.connection)
        finally:
            self._end(UnavailableError("the client is closed"))
            if self._task is not None:
                await asyncio.wait([self._task])

    async def _return(self) -> bool:
        """Resume a session that would outlive this client, in order to end it, since it may be in a room."""
        self._is_closing = True
        self._end(UnavailableError("the client is closed"))
        if self._task is not None:
            await asyncio.wait([self._task])
        self._dialer.spare = None
        if self._exchange.offer is None:
            return False
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._dialer.open_once()
        except (SignalManagerError, TimeoutError) as error:
            logger.info("the service was not told that this client is closed: %s", error)
            return False
        return True

    async def ready(self) -> Connection:
        """Return a connection once it can take a message; the caller sets the time limit.

        Raises:
            SignalManagerError: what ended the link.
        """
        return await self._slot.ready()

    def _receive(self, connection: Connection, message_id: bytes, message: Message) -> None:
        match message:
            case ConnectAck():
                self._accept(connection, message)
            case GoAway():
                delay = min(message.reconnect_after / 1000, MAX_GOAWAY_DELAY)
                self._delays.named = delay
                self._on_event(GoingAway(message.reason, delay))
            case _:
                self._on_message(message_id, message)

    def _accept(self, connection: Connection, ack: ConnectAck) -> None:
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
        self._slot.connection = connection
        self.session_id = ack.session_id
        if self._is_closing:
            return  # this connection is only for a good-bye
        self._terms = _Terms(
            token_expires_at=ack.token_expires_at,
            heartbeat_interval=_sensible_seconds(ack.heartbeat_interval, DEFAULT_HEARTBEAT_INTERVAL),
            heartbeat_timeout=_sensible_seconds(ack.heartbeat_timeout, DEFAULT_HEARTBEAT_TIMEOUT),
        )
        self._delays.named = None
        self._slot.accept()
        self._on_event(event)

    async def _run(self, connection: Connection) -> None:
        """Keep the link up until it ends; cancelling leaves the present connection to `close`."""
        try:
            while True:
                started = self._clock.now()
                closed = self._dialer.closed = await self._attend(connection)
                if self._clock.now() - started > self._retry.max_delay:
                    self._delays.recover()
                if not closed.may_reconnect or self._retry.attempts == 0:
                    raise closed.error()
                delay = self._delays.first() if self._dialer.spare is None else 0.0
                self._on_event(Disconnected(closed.code, closed.reason, will_reconnect=True, delay=delay))
                connection = await self._establish(attempts=self._retry.attempts, delay=delay)
        except SignalManagerError as error:
            self._give_up(self._dialer.closed.code, error)
        except Exception:  # the background task's edge
            logger.exception("the client ends by an internal error")
            self._give_up(ABNORMAL, SignalManagerError("internal error of the client; its log has the details"))

    async def _attend(self, connection: Connection) -> Closed:
        """Watch a connection until it ends or another replaces it; return how it ended."""
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch(connection), name="signal-client heartbeats")
            renewal = Renewal(
                self._dialer.token,
                connection,
                clock=self._clock,
                on_failure=lambda error: self._on_event(ErrorReceived(error, None)),
            )
            renew = group.create_task(renewal.run(self._terms.token_expires_at), name="signal-client token")
            closed = await connection.wait_closed()
            watch.cancel()
            renew.cancel()
        return closed

    async def _watch(self, connection: Connection) -> None:
        """Send heartbeats, and replace a connection whose service is silent."""
        interval, limit = self._terms.heartbeat_interval, self._terms.heartbeat_timeout
        liveness = LivenessMonitor(self._clock.now(), interval=interval)
        may_replace = self._retry.attempts != 0
        while not connection.is_closed:
            now, heard_at = self._clock.now(), connection.last_received
            if not may_replace and now >= heard_at + limit:
                connection.abort(f"nothing received for {limit:.0f} s")
                return
            if self._alarm.is_urgent and await self._replace(connection, now - heard_at):
                return
            signs = Signs(heard_at, connection.asked_at, self._exchange.is_waiting, self._is_in_room())
            match liveness.check(now, signs):
                case Due.BEAT:
                    connection.send(connection.make_heartbeat(), uuid4().bytes)
                case Due.GIVE_UP if may_replace:
                    if await self._replace(connection, now - heard_at):
                        return
                case Due.GIVE_UP:
                    await self._alarm.wait(heard_at + limit - now)
                case Due.NOTHING:
                    await self._alarm.wait(liveness.deadline(signs) - now)

    async def _replace(self, connection: Connection, silence: float) -> bool:
        """Open a socket beside a silent connection, then abort that; False when it shows life before.

        If no socket can be opened, the network or the service is gone, and the connection ends too.
        """
        is_asked_for = self._alarm.take_urgency()
        before = connection.frames_received
        dial = asyncio.ensure_future(self._dialer.dial())
        try:
            while not dial.done():
                await asyncio.wait({dial}, timeout=_LOOK)
                if connection.frames_received != before and not is_asked_for:
                    logger.info("the connection was silent for %.1f s and works again", silence)
                    return False
            if dial.exception() is None:
                self._dialer.spare = dial.result()
            reason = "a new connection was asked for" if is_asked_for else f"nothing received for {silence:.0f} s"
            connection.abort(reason)
            return True
        finally:
            if not dial.done():
                dial.cancel()
                await asyncio.wait({dial})
            elif self._dialer.spare is None and not dial.cancelled() and dial.exception() is None:
                dial.result().abort("not needed")

    async def _establish(self, *, attempts: int | None, delay: float) -> Connection:
        """Wait for `delay` seconds and connect; repeat while the policy and the refusals allow it."""
        attempt = 1
        while True:
            await self._alarm.pause(delay)
            try:
                return await self._dialer.open()
            except SignalManagerError as error:
                may_renew = is_expiry(error) and self._dialer.token.can_renew
                is_refused = error.code < 500 and not error.may_retry
                is_final = (is_refused or not self._dialer.closed.may_reconnect) and not may_renew
                if is_final or attempt == attempts:
                    raise self._dialer.token.explain(error) from None
                logger.info("attempt %d to connect failed: %s", attempt, error.message)
            attempt += 1
            delay = self._delays.next()

    async def _say(self, goodbye: Disconnect, connection: Connection) -> bool:
        """Send DISCONNECT and wait for the service to close, within bounds; False when the connection was lost."""
        try:
            if not connection.is_closed:
                connection.send(goodbye, uuid4().bytes)
            closed = await wait_closed(connection, CLOSE_TIMEOUT)
            if closed is None:
                logger.info("the service did not answer DISCONNECT within %s s", CLOSE_TIMEOUT)
        finally:
            connection.abort("closed by this client", code=_NORMAL)
        return closed is None or closed.was_announced

    def _give_up(self, code: int, error: SignalManagerError) -> None:
        self._end(error)
        self._on_event(Disconnected(code, error.message, will_reconnect=False))

    def _end(self, error: SignalManagerError) -> None:
        """Fail everything that waits for a connection, now and later, with `error`."""
        self._exchange.fail(error.message)
        self._slot.end(error)
        if self._dialer.spare is not None:
            self._dialer.spare.abort("closed by this client")


def _sensible_seconds(named: float | None, default: float) -> float:
    """Return what the service named where that is a sensible number of seconds."""
    shortest, longest = HEARTBEAT_LIMITS
    return named if named is not None and shortest <= named <= longest else default
