"""What all connections of one server share: who is there, what is counted, and the end of all of them.

`connection.py` puts each of its connections on the switchboard, and finds others there to relay to; `server.py` starts
and stops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Coroutine, Iterator
from time import perf_counter
from typing import Any, Protocol

import structlog

from signal_manager.bus.base import Subscriber
from signal_manager.bus.local import LocalBus
from signal_manager.errors import SignalManagerError
from signal_manager.limits import ClientAddress, Limits, Usage
from signal_manager.metrics import Counter, CounterFamily, Metrics
from signal_manager.model import ClientId
from signal_manager.presence import LiveSession, Phase, RecentError
from signal_manager.protocol.messages import ErrorMessage, MessageType
from signal_manager.protocol.relay import RelayEnd
from signal_manager.protocol.session import SessionSettings
from signal_manager.router import Router

__all__ = ["Line", "Reachable", "Switchboard"]

log = structlog.get_logger(__name__)

# Errors that are kept for the dashboard.
_RECENT_ERRORS = 100


class Reachable(Subscriber, Protocol):
    """Whatever stands for a client on the bus."""

    @property
    def relay_end(self) -> RelayEnd | None:
        """How signals reach it the short way; None for whom the codec has to write."""

    def write(self, data: bytes) -> None:
        """Send one encoded message."""


class Line(Reachable, LiveSession, Protocol):
    """A connection, as far as the switchboard knows it."""

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

    def stop(self) -> None:
        """End the connection because the service stops."""

    def cut(self) -> None:
        """Close the socket without waiting for the client."""


class Switchboard:
    """What all connections of one server share.

    Args:
        router: answers requests.
        bus: who is connected here.
        settings: time limits of every session.
        limits: what the service allows.
        max_message_size: in bytes; a longer message ends its connection with 1009.
        metrics: where everything is counted.
    """

    def __init__(
        self,
        *,
        router: Router,
        bus: LocalBus[Reachable],
        settings: SessionSettings,
        limits: Limits,
        max_message_size: int,
        metrics: Metrics,
    ) -> None:
        self.router = router
        self.bus = bus
        self.settings = settings
        self.limits = limits
        self.max_message_size = max_message_size
        self.connections: set[Line] = set()
        self.usage = Usage(limits)
        self._empty = asyncio.Event()
        self.relayed = 0
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
        self.bytes_received = metrics.bytes_received.labelled()
        self.bytes_sent = metrics.bytes_sent.labelled()
        self._relay_seconds = metrics.relay_seconds.labelled()
        self._timed: list[float] = []  # when those timed signals were read that wait for the end of this read
        metrics.connections.read_from(lambda: len(self.connections))
        metrics.clients.read_from(lambda: len(bus.subscribers))
        metrics.signals_relayed.read_from(lambda: self.relayed)

    def sessions(self) -> Iterator[Line]:
        """Yield every connection that has proved who it is (`LiveSessions.sessions`)."""
        return (connection for connection in tuple(self.connections) if connection.is_established)

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Run `work` in the background and keep its reference."""
        task = asyncio.get_running_loop().create_task(_guarded(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def leave(self, connection: Line) -> None:
        """Forget a connection whose socket is closed."""
        self.connections.discard(connection)
        self.usage.leave(connection.source)
        if not self.connections:
            self._empty.set()

    async def stop(self, timeout: float) -> None:
        """Close every connection, cut those still there after `timeout` seconds, and end all background work."""
        self.phase = Phase.DRAINING
        for connection in tuple(self.connections):
            connection.stop()
        if self.connections:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), timeout)
        for connection in tuple(self.connections):
            connection.cut()
        if self.connections:  # the sockets are closed in the event loop's next turn
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), timeout)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

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
