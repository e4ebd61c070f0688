"""Delivers batches of other nodes to this node's clients, and answers with what was not delivered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import structlog

from signal_manager.bus.base import Delivery, Exceptional, NewsHandler, Subscriber
from signal_manager.bus.nats import wire
from signal_manager.bus.nats.batches import Batches
from signal_manager.bus.nats.link import Arrival
from signal_manager.bus.nats.routes import Envelope
from signal_manager.bus.nats.traffic import traffic_of
from signal_manager.errors import MalformedMessageError, SignalManagerError, UnavailableError
from signal_manager.model import RoomId
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.codec import decode_payload
from signal_manager.protocol.messages import MessageType, PayloadType, Peer

__all__ = ["Deliveries"]

log = structlog.get_logger(__name__)

_FAILED = "the other node could not deliver this"


class Deliveries:
    """Delivers what other nodes send.

    Args:
        subscribers: this node's clients.
        batches: gets the answers of other nodes, and sends this node's answers.
        metrics: counts deliveries.
    """

    def __init__(self, subscribers: Mapping[str, Subscriber], batches: Batches, metrics: Metrics) -> None:
        self._subscribers = subscribers
        self._batches = batches
        self._traffic = traffic_of(metrics, "in")
        self.on_news: NewsHandler = lambda room_id, news: None
        # Called before and after a batch of several messages, so that each client gets its messages in one write.
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None

    def take(self, message: Arrival) -> None:
        """Handle a batch of another node."""
        try:
            batch = wire.read_batch(message.data)
        except MalformedMessageError as error:
            log.error("batch from another node not understood", reason=error.message)
            return
        entries = batch.entries
        only = entries[0] if len(entries) == 1 else None
        is_alone = isinstance(only, wire.Signals) and len(only.signals) == 1
        unsettled: list[wire.Unsettled] = []
        places = 0
        if not is_alone:
            self.before()
        try:
            for entry in entries:
                exceptional: Sequence[Exceptional] = ()
                count = 1
                if isinstance(entry, wire.Signals):
                    exceptional, count = self._relay(entry), len(entry.signals)
                elif isinstance(entry, wire.Message):
                    exceptional, count = self._deliver_to_all(entry), len(entry.targets)
                else:
                    self.on_news(RoomId(entry.room_id), entry.data)
                if exceptional:
                    unsettled += [_unsettled(places + index, result) for index, result in exceptional]
                places += count
        finally:
            if not is_alone:
                self.after()
        # Answers and news are less urgent than messages to clients.
        for answer in batch.answers:
            self._batches.answered(answer)
        self._traffic.batches.value += 1
        self._traffic.bytes.value += len(message.data)
        if places:
            self._traffic.entries.value += places
            is_awaited = batch.is_awaited or bool(unsettled)
            answer = wire.Answer(batch.number, unsettled)
            self._batches.outboxes.owe(batch.node_id, answer, is_awaited=is_awaited)

    def _relay(self, entry: wire.Signals) -> Sequence[Exceptional]:
        """Deliver signals and return those that were not simply delivered, with their indices."""
        subscriber = self._subscribers.get(entry.target)
        if subscriber is None:
            return [(index, Delivery.OFFLINE) for index in range(len(entry.signals))]
        try:
            return subscriber.relay(entry.sender, entry.signals)
        except Exception:
            log.exception("signals from another node not delivered", client_id=entry.target)
            return [(index, UnavailableError(_FAILED)) for index in range(len(entry.signals))]

    def _deliver_to_all(self, message: wire.Message) -> Sequence[Exceptional]:
        results = [self._deliver(target, message.content) for target in message.targets]
        return [(index, result) for index, result in enumerate(results) if result is not Delivery.DELIVERED]

    def _deliver(self, target: str, content: wire.Content) -> Delivery | SignalManagerError:
        subscriber = self._subscribers.get(target)
        if subscriber is None:
            return Delivery.OFFLINE
        try:
            message_type = MessageType(content.message_type)
            payload_type = PayloadType(content.payload_type)
            message = decode_payload(message_type, payload_type, content.payload, sent_by=Peer.SERVICE).message
            return subscriber.deliver(message, content.message_id)
        except SignalManagerError as error:
            return error
        except Exception:
            log.exception("message from another node not delivered", client_id=target)
            return UnavailableError(_FAILED)

    def deliver_parcel(self, envelope: Envelope) -> Delivery | SignalManagerError:
        """Deliver a message for another node to its client, which has come to this node."""
        if isinstance(envelope.entry, wire.Content):
            return self._deliver(envelope.target, envelope.entry)
        exceptional = self._relay(envelope.entry)  # of one signal
        return exceptional[0][1] if exceptional else Delivery.DELIVERED


def _unsettled(place: int, result: Delivery | SignalManagerError) -> wire.Unsettled:
    if isinstance(result, SignalManagerError):
        return wire.failure(place, result)
    return wire.Unsettled(place, wire.Verdict.QUEUED if result is Delivery.QUEUED else wire.Verdict.ABSENT)
