"""What all connections of one process share.

`gateway/connection.py` registers each connection here and finds the target of a signal here. `gateway/server.py` starts
it, and `gateway/drain.py` ends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from functools import partial

from signal_manager.background import BackgroundTasks
from signal_manager.bus.base import Bus
from signal_manager.gateway.counters import GatewayCounters, SentErrors
from signal_manager.gateway.dispatcher import Dispatcher
from signal_manager.gateway.encoder import LastMessage
from signal_manager.gateway.limits import Limits, Sample
from signal_manager.gateway.live_sessions import LiveSession, Phase, RecentError
from signal_manager.gateway.occupancy import Occupancy
from signal_manager.gateway.ports import RegisteredConnection, RelayTarget
from signal_manager.gateway.relay_context import RelayContext
from signal_manager.gateway.sessions import ResumeSettings, SessionStore
from signal_manager.model import Caller
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.state_machine import SessionSettings
from signal_manager.storage.base import Storage

__all__ = ["ConnectionRegistry"]


class ConnectionRegistry:
    """What all connections of one process share.

    Args:
        dispatcher: answers requests.
        bus: delivers messages to clients of this node and others.
        settings: the time limits of every session.
        limits: what the service allows.
        metrics: shows all counters to Prometheus.
        resume: how long sessions outlive their connections, and how much is kept for them.
        storage: keeps sessions from one start to the next.

    Attributes:
        relay_context: what the relay path reads.
        last_message: encoded once for all clients that it goes to.
    """

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        bus: Bus[RelayTarget],
        settings: SessionSettings,
        limits: Limits,
        metrics: Metrics,
        resume: ResumeSettings,
        storage: Storage | None,
    ) -> None:
        self.dispatcher = dispatcher
        self.bus = bus
        self.settings = settings
        self.limits = limits
        self.metrics = metrics
        self.phase = Phase.STARTING
        self.occupancy = Occupancy(limits)
        self.background = BackgroundTasks()
        self.counters = GatewayCounters(metrics)
        self.relay_context = RelayContext(bus.subscribers, bus.forwarder, self.counters)
        self.errors = SentErrors(metrics)
        self.last_message = LastMessage()
        self.sample = Sample()
        self.session_store = SessionStore(
            bus=bus, dispatcher=dispatcher, storage=storage, settings=resume, metrics=metrics, depart=self.depart
        )
        metrics.connections.read_from(lambda: len(self.connections))
        metrics.clients.read_from(lambda: len(bus.subscribers))

    @property
    def connections(self) -> Set[RegisteredConnection]:
        """All connections, also those that are not authenticated."""
        return self.occupancy.connections

    @property
    def recent_errors(self) -> Sequence[RecentError]:
        """The last errors that clients were sent, oldest first (`LiveSessions.recent_errors`)."""
        return self.errors.recent

    def sessions(self) -> Iterator[LiveSession]:
        """Yield every authenticated connection and every session whose client is away (`LiveSessions.sessions`)."""
        yield from (connection for connection in tuple(self.connections) if connection.is_established)
        yield from self.session_store.away()

    def depart(self, caller: Caller, reason: str) -> None:
        """Take a session that has ended out of its room, and update its record in the background."""
        self.dispatcher.left(caller, reason)
        if self.dispatcher.has_record(caller):
            self.background.start(partial(self.dispatcher.depart, caller), name="depart")

    def sweep(self, now: float) -> None:
        """Enforce the time limits of all connections and sessions."""
        for connection in tuple(self.connections):
            connection.tick(now)
        self.session_store.sweep(now)
