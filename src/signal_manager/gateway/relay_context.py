"""What the relay path of every connection in one process reads: clients, counters, and the open batch."""

from __future__ import annotations

from collections.abc import Mapping

from signal_manager.bus.base import Forwarder
from signal_manager.gateway.counters import GatewayCounters
from signal_manager.gateway.ports import RelayTarget
from signal_manager.gateway.write_batch import WriteBatch

__all__ = ["RelayContext"]


class RelayContext:
    """What the relay path of every connection in one process reads.

    Args:
        subscribers: the clients of this node, as the bus keeps them.
        forwarder: takes signals to other nodes; None where there are none.
        counters: what is counted while messages pass.

    Attributes:
        batch: the batch that collects writes now, or None. The code that begins a write passes it on to the write.
    """

    __slots__ = ("batch", "counters", "forwarder", "subscribers")

    def __init__(
        self, subscribers: Mapping[str, RelayTarget], forwarder: Forwarder | None, counters: GatewayCounters
    ) -> None:
        self.subscribers = subscribers
        self.forwarder = forwarder
        self.counters = counters
        self.batch: WriteBatch | None = None

    def open_batch(self) -> WriteBatch:
        """Begin to collect writes; return the batch. `close_batch` follows in the same turn of the event loop."""
        if self.batch is None:
            self.batch = WriteBatch(self.counters.relay_seconds)
        return self.batch

    def close_batch(self) -> None:
        """Write what was collected."""
        batch, self.batch = self.batch, None
        if batch is not None:
            batch.flush()
