"""Sends messages to other nodes within bounds, and keeps them until their senders know the result.

A message costs little, because most work is done once per run of signals (`runs.py`) or per batch (`outbox.py`). The
answer to a batch travels with the next batch to its node. It is sent sooner if a sender waits for it or an item was not
delivered.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from typing import assert_never

import structlog

from signal_manager.bus.base import Delivery, Outcome, Sender
from signal_manager.bus.nats import wire
from signal_manager.bus.nats.link import NatsLink
from signal_manager.bus.nats.outbox import Announcement, Outboxes, Sent
from signal_manager.bus.nats.routes import KNOWN, Ask, Dispatch, Envelope, Routes, Step, Tell
from signal_manager.bus.nats.runs import Run, alone
from signal_manager.bus.nats.subjects import Subjects
from signal_manager.errors import InvalidRequestError, SignalManagerError, TooLargeError, UnavailableError
from signal_manager.model import is_valid_name
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.framing import HEAD

__all__ = ["AWAY", "Batches"]

log = structlog.get_logger(__name__)

# Seconds after which a room's news are no longer repeated to a node that does not take them.
_NEWS_PATIENCE = 60.0
# The most bytes of a run, unless a single signal is larger. The receiving node joins no more in one write either.
_RUN_BYTES = 65536

AWAY = "the other nodes cannot be reached at present"
# The answer to a batch whose items were all delivered.
_NONE: dict[int, wire.Unsettled] = {}
# Reasons for an unknown result, as labels in metrics and as texts for senders.
_LOST = {"cut off": AWAY, "gone": "the other node is gone", "no answer": "another node does not answer"}


class Batches:
    """Sends entries to other nodes and tells their senders the results.

    Args:
        link: carries the batches.
        ask: called with a client whose node must be found; `routes` gets the answer, and `take` the resulting steps.
        timeout: seconds that a node has to answer a batch.
        max_buffered: the most bytes that are on their way or wait.
    """

    def __init__(
        self,
        link: NatsLink,
        subjects: Subjects,
        *,
        ask: Callable[[str], None],
        timeout: float,
        max_buffered: int,
        metrics: Metrics,
    ) -> None:
        self._link = link
        self._ask = ask
        self._timeout = timeout
        self._max_buffered = max_buffered
        self.routes = Routes()
        self.outboxes = Outboxes(link, subjects, metrics, on_unsent=lambda number: self._lose(number, "cut off"))
        self._sent: dict[int, Sent] = self.outboxes.sent
        self.buffered = 0  # bytes of messages
        self._news = 0  # bytes of news
        self._run: Run | None = None  # the run put into an outbox last, if it may take more signals
        self._metrics = metrics
        self._round_trip = metrics.bus_round_trip_seconds.labelled()
        metrics.bus_waiting_bytes.read_from(lambda: self.buffered + self._news)

    @property
    def is_waiting(self) -> bool:
        """Whether the result of a message is still open."""
        return self.buffered > 0

    # -- sending -------------------------------------------------------------------------------------------------

    def send(self, target: str, entry: wire.Signals | wire.Content, size: int, outcome: Outcome | None) -> None:
        """Send an entry of `size` bytes to a client of another node.

        Args:
            target: a valid client id.
            entry: the same object for several clients travels once to each node.

        Raises:
            TooLargeError, UnavailableError: as `Messaging.send`.
        """
        if not self._link.is_up or size > self._largest() or self.buffered + size > self._max_buffered:
            raise self._refusal(size)
        self.buffered += size
        step = self.routes.send(Envelope(target, entry, size, outcome))
        if step is not None:
            self.take((step,))

    def forward(
        self, sender: Sender, target: str, frame: bytes, body: bytes, *, wants_ack: bool, is_alone: bool = False
    ) -> None:
        """Forward a signal without decoding it (`Forwarder.forward`)."""
        # `bytes(body)` below, because msgspec would write a `Raw` of the relay path as MessagePack.
        run = self._run
        size = wire.SIGNAL_HEAD + len(body)
        if (
            run is not None
            and run.sender is sender
            and run.entry.target == target
            and run.wants_ack is wants_ack
            and run.room >= size
            and run.route.stage is KNOWN
        ):
            run.entry.signals.append((frame[:HEAD], bytes(body)))
            run.room -= size
            run.size += size
            self.buffered += size
            return
        route = self.routes.straight(target)
        if route is None:
            if not is_valid_name(target):  # the id was never checked, and must not become a subject
                raise InvalidRequestError("target_client_id is no name that a client can have")
            envelope = alone(sender, target, frame[:HEAD], bytes(body), wants_ack=wants_ack)
            self.send(target, envelope.entry, envelope.size, envelope.outcome)
            return
        head = wire.SIGNALS_HEAD + len(target) + len(sender.client_id)
        buffered = self.buffered
        room = min(self._link.max_payload - wire.OVERHEAD, self._max_buffered - buffered) - head - size
        if room < 0 or not self._link.is_up:
            raise self._refusal(head + size)
        entry = wire.Signals(target, sender.client_id, [(frame[:HEAD], bytes(body))])
        run = Run(sender, entry, wants_ack, route, head + size, min(room, _RUN_BYTES - size))
        route.out += 1
        self.buffered = buffered + head + size
        is_awaited = wants_ack or buffered > self._max_buffered // 2
        may_take_more = self.outboxes.put_run(route.node_id, run, is_alone=is_alone, is_awaited=is_awaited)
        self._run = run if may_take_more else None

    def announce(self, nodes: Iterable[str], news: wire.News) -> None:
        """Send news to these nodes."""
        until = asyncio.get_running_loop().time() + _NEWS_PATIENCE
        size = wire.size_of(news)
        for node_id in nodes:
            self._news += size
            self._put(node_id, Announcement(node_id, news, size, until))

    def take(self, steps: Iterable[Step]) -> None:
        """Perform the steps that the routes returned."""
        for step in steps:
            match step:
                case Dispatch():
                    self._put(step.node_id, step.envelope)
                case Tell():
                    self.settle(step.envelope, step.result)
                case Ask():
                    self._ask(step.target)
                case _:
                    assert_never(step)

    def settle(self, envelope: Envelope, result: Delivery | SignalManagerError) -> None:
        """Tell the sender the result of its message."""
        self.buffered -= envelope.size
        self._tell(envelope, result)

    def _tell(self, envelope: Envelope, result: Delivery | SignalManagerError) -> None:
        if envelope.outcome is not None:
            try:
                envelope.outcome(result)
            except Exception:
                log.exception("outcome of a message not delivered to its sender", target=envelope.target)

    def _tell_all(self, run: Run) -> None:
        try:
            run.arrived()
        except Exception:
            log.exception("outcome of a message not delivered to its sender", target=run.target)

    def _put(self, node_id: str, item: Envelope | Announcement) -> None:
        self._run = None  # later signals must not overtake this one
        self.outboxes.put(node_id, item)

    def _largest(self) -> int:
        """Return the most bytes of an entry that NATS takes."""
        return self._link.max_payload - wire.OVERHEAD

    def _refusal(self, size: int) -> SignalManagerError:
        """Return the error for `size` bytes that cannot be sent, and count it."""
        largest = self._largest()
        error: SignalManagerError
        if not self._link.is_up:
            reason, error = "cut off", UnavailableError(AWAY)
        elif size > largest:
            reason = "too large"
            error = TooLargeError(f"message is {size} bytes, expected at most {largest} to a client of another node")
        else:
            reason, error = "too much waits", UnavailableError("too much waits for the other nodes")
        self._metrics.bus_refused.labelled(reason).add()
        return error

    # -- outcomes ------------------------------------------------------------------------------------------------

    def answered(self, answer: wire.Answer) -> None:
        """Handle a node's answer to a batch."""
        sent = self._sent.pop(answer.number, None)
        if sent is None:
            return  # too late: the senders were told that the result is unknown
        if sent.is_awaited:
            self._round_trip.observe(asyncio.get_running_loop().time() - sent.at)
        unsettled = {each.place: each for each in answer.unsettled} if answer.unsettled else _NONE
        place = 0
        for item in sent.items:
            count = item.count
            if isinstance(item, Announcement):
                self._news -= item.size
            elif (
                item.route is not None
                and item.route.stage is KNOWN
                and not (unsettled and any(each in unsettled for each in range(place, place + count)))
            ):
                # Nothing else depends on it.
                item.route.out -= 1
                if isinstance(item, Envelope):
                    self.settle(item, Delivery.DELIVERED)
                else:
                    self.buffered -= item.size
                    if item.wants_ack:
                        self._tell_all(item)
            else:
                for index, envelope in enumerate(self._apart(item), place):
                    if index in unsettled:
                        self._not_delivered(envelope, unsettled[index])
                    else:
                        self.take(self.routes.delivered(envelope))
            place += count

    def unheard(self, number: int) -> None:
        """Handle a batch that found no receiver: its node is gone, and earlier batches to it are lost too."""
        sent = self._sent.get(number)
        if sent is None:
            return
        earlier = [other for other, each in self._sent.items() if each.node_id == sent.node_id and other < number]
        for other in earlier:
            self._lose(other, "gone")
        del self._sent[number]
        self.outboxes.forget(sent.node_id)
        for item in sent.items:
            if isinstance(item, Announcement):
                self._news -= item.size
                continue
            for envelope in self._apart(item):
                self.take(self.routes.refused(envelope))

    def give_up_late(self, now: float) -> None:
        """Give up batches whose answer has not come in time."""
        end = now - self._timeout
        late = [number for number, sent in itertools.takewhile(lambda each: each[1].at < end, self._sent.items())]
        for number in late:
            self._lose(number, "no answer", again=True)

    def cut_off(self) -> None:
        """Tell all waiting senders that the other nodes cannot be reached."""
        self.outboxes.flush()
        for number in tuple(self._sent):
            self._lose(number, "cut off")

    def _apart(self, item: Run | Envelope) -> list[Envelope]:
        """Return the signals of a run one by one, to settle them separately."""
        if isinstance(item, Envelope):
            return [item]
        envelopes = item.envelopes()
        self.buffered += sum(envelope.size for envelope in envelopes) - item.size
        return envelopes

    def _not_delivered(self, envelope: Envelope, exception: wire.Unsettled) -> None:
        if exception.verdict is wire.Verdict.QUEUED:
            self.take(self.routes.delivered(envelope, Delivery.QUEUED))
        elif exception.verdict is wire.Verdict.ABSENT:
            self.take(self.routes.refused(envelope))
        else:
            error = wire.as_error(exception.verdict, exception.reason)
            self.take(self.routes.delivered(envelope, error))

    def _lose(self, number: int, reason: str, *, again: bool = False) -> None:
        """Handle a batch whose result is unknown."""
        error = UnavailableError(_LOST[reason])
        sent = self._sent.pop(number, None)
        if sent is None:
            return
        now = asyncio.get_running_loop().time()
        lost = self._metrics.bus_lost.labelled(reason)
        for item in sent.items:
            if not isinstance(item, Announcement):
                for envelope in self._apart(item):
                    lost.value += 1
                    self.take(self.routes.lost(envelope, error))
            elif again and now < item.until:
                self._put(item.target, item)
            else:
                self._news -= item.size
