"""What comes from other nodes: handed to this node's clients, and answered with what could not be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import structlog

from signal_manager.bus import wire
from signal_manager.bus.base import Delivery, Exceptional, NewsHandler, Subscriber
from signal_manager.bus.batches import Batches
from signal_manager.bus.nats_link import Arrival
from signal_manager.bus.routes import Parcel
from signal_manager.errors import MalformedMessageError, SignalManagerError, UnavailableError
from signal_manager.metrics import Metrics
from signal_manager.model import RoomId
from signal_manager.protocol.codec import decode_payload
from signal_manager.protocol.messages import MessageType, PayloadType, Peer

__all__ = ["Deliveries"]

log = structlog.get_logger(__name__)

_FAILED = "the other node could not deliver this"


class Deliveries:
    """Deliver what other nodes send.

    Args:
        subscribers: this node's clients.
        batches: takes the answers, those that come and those that are owed.
        metrics: where what comes is counted.
    """

    def __init__(self, subscribers: Mapping[str, Subscriber], batches: Batches, metrics: Metrics) -> None:
        self._subscribers = subscribers
        self._batches = batches
        self._received_entries = metrics.bus_messages.labelled("in")
        self._received_batches = metrics.bus_batches.labelled("in")
        self._received_bytes = metrics.bus_bytes.labelled("in")
        self.on_news: NewsHandler = lambda room_id, news: None
        # Called around each batch, so that what it brings for one client can be written in one go.
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None

    def take(self, message: Arrival) -> None:
        """Take a batch of another node."""
        try:
            batch = wire.read_batch(message.data)
        except MalformedMessageError as error:
            log.error("batch from another node not understood", reason=error.message)
            return
        unsettled: list[wire.Unsettled] = []
        answers: list[wire.Answer] = []
        place = 0
        self.before()
        try:
            for entry in batch.entries:
                if isinstance(entry, wire.RelayedSignals):
                    exceptional = self._relay(entry)
                    if exceptional:
                        unsettled += [_unsettled(place + index, result) for index, result in exceptional]
                    place += len(entry.signals)
                elif isinstance(entry, wire.Answer):
                    answers.append(entry)
                else:
                    result = self._deliver(entry)
                    if result is not Delivery.DELIVERED:
                        unsettled.append(_unsettled(place, result))
                    place += 1
        finally:
            self.after()
        # For the rest nobody waits as clients wait for messages.
        for answer in answers:
            self._batches.answered(answer)
        self._received_batches.value += 1
        self._received_bytes.value += len(message.data)
        if place:
            self._received_entries.value += place
            is_awaited = batch.is_awaited or bool(unsettled)
            self._batches.owe(batch.node_id, wire.encode_answer(batch.number, unsettled), is_awaited=is_awaited)

    def _relay(self, entry: wire.RelayedSignals) -> Sequence[Exceptional]:
        """Deliver signals and return those that were not, by their place among them."""
        subscriber = self._subscribers.get(entry.target)
        if subscriber is None:
            return [(index, Delivery.OFFLINE) for index in range(len(entry.signals))]
        try:
            return subscriber.relay(entry.sender, entry.signals)
        except Exception:
            log.exception("signals from another node not delivered", client_id=entry.target)
            return [(index, UnavailableError(_FAILED)) for index in range(len(entry.signals))]

    def _deliver(self, entry: wire.RelayedMessage | wire.News) -> Delivery | SignalManagerError:
        if isinstance(entry, wire.News):
            self.on_news(RoomId(entry.room_id), entry.data)
            return Delivery.DELIVERED
        subscriber = self._subscribers.get(entry.target)
        if subscriber is None:
            return Delivery.OFFLINE
        try:
            message_type = MessageType(entry.message_type)
            payload_type = PayloadType(entry.payload_type)
            message = decode_payload(message_type, payload_type, entry.payload, sent_by=Peer.SERVICE).message
            return subscriber.deliver(message, entry.message_id)
        except SignalManagerError as error:
            return error
        except Exception:
            log.exception("message from another node not delivered", client_id=entry.target)
            return UnavailableError(_FAILED)

    def deliver_parcel(self, parcel: Parcel) -> Delivery | SignalManagerError:
        """Deliver what was meant for another node to a client that has come here."""
        data = parcel.data if parcel.content is None else parcel.data + parcel.content
        (entry,) = wire.read_batch(wire.encode_batch(0, "", [data])).entries
        if isinstance(entry, wire.RelayedSignals):
            exceptional = self._relay(entry)  # of one signal
            return exceptional[0][1] if exceptional else Delivery.DELIVERED
        return Delivery.OFFLINE if isinstance(entry, wire.Answer) else self._deliver(entry)


def _unsettled(index: int, result: Delivery | SignalManagerError) -> wire.Unsettled:
    if isinstance(result, SignalManagerError):
        return wire.Unsettled(index, wire.verdict_of(result), result.message)
    return wire.Unsettled(index, wire.Verdict.QUEUED if result is Delivery.QUEUED else wire.Verdict.ABSENT)
