"""What the gateway counts while messages pass, and the errors that it remembers for the dashboard."""

from __future__ import annotations

import time
from collections import deque

from signal_manager.gateway.live_sessions import RecentError
from signal_manager.model import ClientId
from signal_manager.observe.counts import Counter
from signal_manager.observe.metrics import CounterFamily, Metrics
from signal_manager.protocol.catalogue import SIGNAL_TYPES
from signal_manager.protocol.messages import ErrorMessage, MessageType

__all__ = ["GatewayCounters", "SentErrors"]

# Errors that are kept for the dashboard.
_RECENT_ERRORS = 100


class GatewayCounters:
    """Counters of messages and bytes, looked up once so that the relay path only adds to a number.

    Args:
        metrics: shows all of them to Prometheus.

    Attributes:
        received: messages from clients, by type; relayed and forwarded signals are not among them.
        sent: messages to clients, by type; relayed signals are not among them.
        relayed: signals that took the relay path to a client of this node, by type.
        forwarded: signals that took the relay path to another node, by type.
        relayed_decoded: signals that the codec decoded on their way.
        bytes_received: bytes of messages from clients.
        bytes_sent: bytes of messages to clients.
        relay_seconds: how long relayed signals took.
    """

    __slots__ = (
        "bytes_received",
        "bytes_sent",
        "forwarded",
        "received",
        "relay_seconds",
        "relayed",
        "relayed_decoded",
        "sent",
    )

    def __init__(self, metrics: Metrics) -> None:
        self.received = _by_type(metrics.messages_received)
        self.sent = _by_type(metrics.messages_sent)
        self.relayed = {int(signal_type): Counter() for signal_type in SIGNAL_TYPES}
        self.forwarded = {int(signal_type): Counter() for signal_type in SIGNAL_TYPES}
        for signal_type in SIGNAL_TYPES:
            metrics.messages_received.share(self.relayed[signal_type], signal_type.name)
            metrics.messages_sent.share(self.relayed[signal_type], signal_type.name)
            metrics.messages_received.share(self.forwarded[signal_type], signal_type.name)
        self.relayed_decoded = Counter()
        self.bytes_received = metrics.bytes_received.labelled()
        self.bytes_sent = metrics.bytes_sent.labelled()
        self.relay_seconds = metrics.relay_seconds.labelled()
        metrics.signals_relayed.read_from(self.signals)

    def signals(self) -> int:
        """Return how many signals were relayed on any path."""
        fast = sum(each.value for each in (*self.relayed.values(), *self.forwarded.values()))
        return self.relayed_decoded.value + fast


class SentErrors:
    """Count the errors that clients are sent, and remember the most recent ones.

    Attributes:
        recent: the last errors, oldest first.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._counter = metrics.errors_sent
        self.recent: deque[RecentError] = deque(maxlen=_RECENT_ERRORS)

    def record(self, error: ErrorMessage, client_id: ClientId | None) -> None:
        """Count an error that is about to be sent, and remember it."""
        self._counter.labelled(str(error.error_code)).add()
        self.recent.append(RecentError(time.time(), error.error_code, error.error_message, client_id))


def _by_type(family: CounterFamily) -> dict[int, Counter]:
    """Return a family's counters by the message type that is in a frame's header."""
    return {int(message_type): family.labelled(message_type.name) for message_type in MessageType}
