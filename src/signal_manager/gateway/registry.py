"""What all connections of one server share: who is there, what is counted, and the end of all of them.

`gateway/connection.py` registers each connection here, and finds others there to relay to;
`gateway/server.py` starts and stops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from itertools import islice
from time import perf_counter
from typing import Any, Protocol

import structlog

from signal_manager.bus.base import Bus
from signal_manager.errors import SignalManagerError
from signal_manager.gateway.dispatcher import Dispatcher
from signal_manager.gateway.limits import ClientAddress, Holdings, Limits, Sample, Usage
from signal_manager.gateway.live_sessions import LiveSession, Phase, RecentError
from signal_manager.gateway.sessions import Carrier, Reachable, ResumableSession, ResumeSettings, SessionStore
from signal_manager.model import Caller, ClientId, SessionId
from signal_manager.observe.metrics import Counter, CounterFamily, Metrics
from signal_manager.protocol.catalogue import SIGNAL_TYPES
from signal_manager.protocol.messages import ErrorMessage, MessageType
from signal_manager.protocol.state_machine import SessionSettings
from signal_manager.storage.base import Storage

__all__ = ["ConnectionRegistry", "Line"]

log = structlog.get_logger(__name__)

# How a drain divides its time: the rest is for rooms and storage to stop.
_ANSWER_SHARE = 0.1
_ROOMS_SHARE = 0.15
_SAVE_SHARE = 0.3
_CLOSE_SHARE = 0.1
# How long (s) messages flow after GOAWAY in any case, and as a part of the drain's time.
_MOMENT = 0.2
_MOMENT_SHARE = 0.02
_ANSWER_POLL = 0.01
# Sessions that are written to storage in one call, and calls at the same time.
_SAVED_AT_ONCE = 50
_SAVERS = 4
# GOAWAY's delays: no sooner than a process can start (s), and no more clients than it can authenticate.
_SHORTEST_ABSENCE = 0.1
_RETURNS_PER_SECOND = 1000

# Errors that are kept for the dashboard.
_RECENT_ERRORS = 100


class Line(Carrier, LiveSession, Protocol):
    """A connection, as far as the registry knows it."""

    @property
    def source(self) -> ClientAddress:
        """Where it comes from."""

    @property
    def is_established(self) -> bool:
        """Whether this is its client's presence now."""

    def tick(self, now: float) -> None:
        """Do what is due at `now`."""

    def flush(self) -> None:
        """Write what has waited for the end of a read."""

    @property
    def is_answering(self) -> bool:
        """Whether requests of its client are being answered."""

    @property
    def is_behind(self) -> bool:
        """Whether the client reads more slowly than others write to it."""

    @property
    def queued_bytes(self) -> int:
        """Bytes that the kernel has not taken yet."""

    @property
    def pending_requests(self) -> int:
        """Requests of the client that are being answered."""

    def go_away(self, reconnect_after: int) -> None:
        """Tell the client that the service is about to stop, and when (ms) to come back."""

    def freeze(self) -> None:
        """Stop for good, since the session is about to be saved: nothing that still comes counts."""

    def part(self) -> None:
        """Say good-bye to the client of a frozen connection."""

    def give_way(self) -> None:
        """End at once, since others want in."""

    def hold_less(self) -> None:
        """Close, since this connection holds most of what messages that are not whole yet take."""

    def cut(self) -> None:
        """Close the socket without waiting for the client."""


class ConnectionRegistry:
    """What all connections of one server share.

    Args:
        dispatcher: answers requests.
        bus: who is connected here.
        settings: time limits of every session.
        limits: what the service allows.
        max_message_size: in bytes; a longer message ends its connection with 1009.
        metrics: where everything is counted.
        resume: how long sessions outlive their connections, and what is kept for them.
        storage: keeps them from one start to the next.
    """

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        bus: Bus[Reachable],
        settings: SessionSettings,
        limits: Limits,
        max_message_size: int,
        metrics: Metrics,
        resume: ResumeSettings,
        storage: Storage | None,
    ) -> None:
        self.dispatcher = dispatcher
        self.bus = bus
        self.forwarder = bus.forwarder
        self.settings = settings
        self.limits = limits
        self.max_message_size = max_message_size
        self.connections: set[Line] = set()
        # Connections that have not proved who they are, oldest first; a CONNECT begins their time anew.
        self.strangers: dict[Line, None] = {}
        self.usage = Usage(limits)
        self._holdings: Holdings[Line] = Holdings(limits.half_read_bytes)
        self.sample = Sample()
        self.session_store = SessionStore(
            bus=bus, dispatcher=dispatcher, storage=storage, settings=resume, metrics=metrics, depart=self.depart
        )
        self._seated: set[Line] = set()  # whose clients have proved who they are
        self._empty = asyncio.Event()
        self.relayed_otherwise = 0  # signals that were decoded on the way
        # While the frames of one read are handled, what they write waits here and goes out together after the last.
        self.joining = False
        self.written: list[Line] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.phase = Phase.STARTING
        self.metrics = metrics
        self.recent_errors: deque[RecentError] = deque(maxlen=_RECENT_ERRORS)
        # What the relay path counts, looked up once.
        self.received = _by_type(metrics.messages_received)
        self.sent = _by_type(metrics.messages_sent)
        # Those that were not, by type: to clients of this node, and of others.
        self.relayed = {int(signal_type): Counter() for signal_type in SIGNAL_TYPES}
        self.forwarded = {int(signal_type): Counter() for signal_type in SIGNAL_TYPES}
        for signal_type in SIGNAL_TYPES:
            metrics.messages_received.share(self.relayed[signal_type], signal_type.name)
            metrics.messages_sent.share(self.relayed[signal_type], signal_type.name)
            metrics.messages_received.share(self.forwarded[signal_type], signal_type.name)
        self.bytes_received = metrics.bytes_received.labelled()
        self.bytes_sent = metrics.bytes_sent.labelled()
        self._relay_seconds = metrics.relay_seconds.labelled()
        self._timed: list[float] = []  # when those timed signals were read that wait for the end of this read
        metrics.connections.read_from(lambda: len(self.connections))
        metrics.clients.read_from(lambda: len(bus.subscribers))
        metrics.signals_relayed.read_from(
            lambda: (
                self.relayed_otherwise + sum(each.value for each in (*self.relayed.values(), *self.forwarded.values()))
            )
        )

    def sessions(self) -> Iterator[LiveSession]:
        """Yield every connection that has proved who it is, and who is away (`LiveSessions.sessions`)."""
        yield from (connection for connection in tuple(self.connections) if connection.is_established)
        yield from self.session_store.away()

    def depart(self, caller: Caller, reason: str) -> None:
        """Let a session that has ended leave its room and its record."""
        self.dispatcher.left(caller, reason)
        self.start(self.dispatcher.depart(caller), name="depart")

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Run `work` in the background and keep its reference."""
        task = asyncio.get_running_loop().create_task(_guarded(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def enter(self, connection: Line) -> str | None:
        """Take in a connection, in the place of another stranger where there are too many; return why it must go."""
        self.connections.add(connection)
        if len(self.strangers) >= self.limits.max_strangers:
            oldest = next(iter(self.strangers))
            del self.strangers[oldest]
            oldest.give_way()
        self.strangers[connection] = None
        return self.usage.enter(connection.source)

    def introduced(self, connection: Line) -> None:
        """Let a stranger that has sent its CONNECT wait behind those that say nothing."""
        if connection in self.strangers:
            del self.strangers[connection]
            self.strangers[connection] = None

    def hold(self, connection: Line, size: int) -> None:
        """Count what a connection holds of messages that are not whole yet; the one that holds most gives way."""
        giving_way = self._holdings.hold(connection, size)
        if giving_way is not None:
            giving_way.hold_less()

    def take_seat(self, connection: Line) -> bool:
        """Count a client that has proved who it is, and tell whether there is room for it."""
        if connection not in self.connections:
            return True  # it has gone meanwhile, which is for others to find
        if not self.usage.take_seat():
            return False
        self.strangers.pop(connection, None)
        self._seated.add(connection)
        return True

    def leave(self, connection: Line) -> None:
        """Forget a connection whose socket is closed."""
        self.connections.discard(connection)
        self.strangers.pop(connection, None)
        self._holdings.hold(connection, 0)
        self.usage.leave(connection.source, has_seat=connection in self._seated)
        self._seated.discard(connection)
        if not self.connections:
            self._empty.set()

    async def stop(self, *, timeout: float, close_timeout: float) -> None:
        """Send every client away, save what its session needs to go on elsewhere, and end all background work.

        Args:
            timeout: seconds for all of it; each step is given a part of them, and what it has not done is left.
            close_timeout: seconds for clients to answer our close frames before they are cut.
        """
        self.phase = Phase.DRAINING
        if self.connections or any(self.session_store.away()):
            await self._drain(timeout)
        await self._emptied(min(close_timeout, timeout * _CLOSE_SHARE))
        for connection in tuple(self.connections):
            connection.cut()
        await self._emptied(timeout * _CLOSE_SHARE)  # the sockets are closed in the event loop's next turn
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _drain(self, timeout: float) -> None:
        self._send_away()
        await asyncio.sleep(min(_MOMENT, timeout * _MOMENT_SHARE))
        await self._within(timeout * _ANSWER_SHARE, self._answered(), "requests not answered in time")
        await self._within(timeout * _ROOMS_SHARE, self.dispatcher.restart_rooms(), "rooms not left in time")
        # From here on no message counts, all at once: whatever a client has sent since stays with it, unconfirmed.
        connections = tuple(self.connections)
        carried = {connection.session_id: connection for connection in connections if connection.is_established}
        for connection in connections:
            connection.freeze()
        sessions = self.session_store.freeze()
        kept = {session.session_id for session in sessions}
        for connection in connections:
            if carried.get(connection.session_id) is not connection or connection.session_id not in kept:
                connection.part()
        await self._within(timeout * _SAVE_SHARE, self._save(sessions, carried), "sessions not saved in time")
        for connection in connections:
            connection.part()

    def _send_away(self) -> None:
        """Send GOAWAY to every client, with delays that spread their return."""
        spread = max(1.0, len(self.connections) / _RETURNS_PER_SECOND)
        for connection in tuple(self.connections):
            connection.go_away(int(1000 * random.uniform(_SHORTEST_ABSENCE, spread)))  # noqa: S311 - no secret

    async def _save(self, sessions: Sequence[ResumableSession], carried: Mapping[SessionId, Line]) -> None:
        """Save sessions, some at a time, and say good-bye to the client of each."""
        waiting = iter(sessions)
        unsaved = len(sessions)

        async def work() -> None:
            nonlocal unsaved
            while batch := list(islice(waiting, _SAVED_AT_ONCE)):
                await self.session_store.save(batch)
                unsaved -= len(batch)
                for session in batch:
                    if session.session_id in carried:
                        carried[session.session_id].part()

        try:
            await asyncio.gather(*(work() for _ in range(_SAVERS)))
        except asyncio.CancelledError:
            log.error("sessions not saved", sessions=unsaved, reason="storage took too long")
            raise

    async def _answered(self) -> None:
        """Wait until all requests that have come are answered, and other nodes have said what became of signals."""
        while self._is_answering():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(_ANSWER_POLL)

    def _is_answering(self) -> bool:
        return self.bus.is_waiting or any(connection.is_answering for connection in self.connections)

    async def _emptied(self, timeout: float) -> None:
        """Wait until all connections are gone."""
        if self.connections:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), timeout)

    async def _within(self, timeout: float, step: Coroutine[Any, Any, None], too_late: str) -> None:
        try:
            await asyncio.wait_for(step, timeout)
        except TimeoutError:
            log.warning(too_late, timeout=timeout)

    def join(self) -> None:
        """Let what is written from now on wait for `flush`, so that each client's share goes out in one go."""
        self.joining = True

    def flush(self) -> None:
        """Write what has waited for the end of this read."""
        self.joining = False
        written = self.written
        while written:
            written.pop().flush()
        while self._timed:
            self._relay_seconds.observe(perf_counter() - self._timed.pop())

    def timed(self, began: float) -> None:
        """Take the time of a signal that was read at `began`: until it is written, now or at the end of this read."""
        if self.joining:
            self._timed.append(began)
        else:
            self._relay_seconds.observe(perf_counter() - began)

    def failed(self, error: ErrorMessage, client_id: ClientId | None) -> None:
        """Count an error that is about to be sent, and remember it."""
        self.metrics.errors_sent.labelled(str(error.error_code)).add()
        self.recent_errors.append(RecentError(time.time(), error.error_code, error.error_message, client_id))

    def sweep(self, now: float) -> None:
        """Let every connection do what is due."""
        for connection in tuple(self.connections):
            connection.tick(now)
        self.session_store.sweep(now)


def _by_type(family: CounterFamily) -> dict[int, Counter]:
    """Return a family's counters so that the second byte of a frame finds its own."""
    return {int(message_type): family.labelled(message_type.name) for message_type in MessageType}


async def _guarded(work: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await work
    except SignalManagerError as error:
        log.warning("background work failed", work=name, reason=error.message)
    except Exception:
        log.exception("background work failed", work=name)
