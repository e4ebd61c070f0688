"""What is on its way to other nodes: gathered for a turn of the event loop, sent as batches, and kept until answered.

One message costs little here because work is done once for a run of signals (`runs.py`) or for a batch: counting, the
bytes that wait, the write. A batch is answered with whatever goes to its node next; only where a sender waits, or
something was not delivered, does the answer hurry.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Iterable
from typing import ClassVar, NamedTuple, assert_never

import msgspec
import structlog

from signal_manager.bus import wire
from signal_manager.bus.base import Delivery, Outcome, Sender
from signal_manager.bus.nats_link import NatsLink
from signal_manager.bus.routes import KNOWN, Ask, Dispatch, Parcel, Routes, Step, Tell
from signal_manager.bus.runs import Run, alone
from signal_manager.errors import InvalidRequestError, SignalManagerError, TooLargeError, UnavailableError
from signal_manager.metrics import Metrics
from signal_manager.model import is_valid_name
from signal_manager.protocol.relay import HEAD

__all__ = ["AWAY", "Addresses", "Batches"]

log = structlog.get_logger(__name__)

# Signals of one millisecond that are sent by themselves, and not with the others of their turn of the loop.
_MOST_LONE = 4
# How long (s) the answer to a batch waits for company: a message of its own costs as much as the batch.
_ANSWER_SOON = 0.001
_ANSWER_LATER = 0.05
# After so long (s) a node that does not take a room's news is left to find out by itself.
_NEWS_PATIENCE = 60.0
# A run takes no more bytes than that, unless one signal does: its client's node joins no more either.
_RUN_BYTES = 65536
# What a run takes beside its signals, with the longest names (bytes).
_RUN_HEAD = 5 + 2 * 255

AWAY = "the other nodes cannot be reached at present"
# Of a batch of which all was delivered.
_NONE: dict[int, wire.Unsettled] = {}
# Why nobody knows what became of a message, as metrics have it and as its sender is told.
_LOST = {"cut off": AWAY, "gone": "the other node is gone", "no answer": "another node does not answer"}


class Addresses(NamedTuple):
    """Where a node's batches go, and how it calls itself."""

    node_id: str
    inbox: Callable[[str], str]  # of another node
    reply_to: Callable[[str], str]  # this node's subject for replies, by token


class _Letter(msgspec.Struct, eq=False):
    """News on its way to a node."""

    node_id: str
    data: bytes
    until: float
    content: ClassVar[None] = None
    count: ClassVar[int] = 1


_Item = Run | Parcel | _Letter


class _Outbox:
    """What waits for the end of this turn, for one node."""

    __slots__ = ("answers", "is_awaited", "items", "node_id", "subject")

    def __init__(self, node_id: str, subject: bytes) -> None:
        self.node_id = node_id
        self.subject = subject
        self.items: list[_Item] = []
        self.answers: list[bytes] = []
        self.is_awaited = False


class _Sent(msgspec.Struct, eq=False):
    """A batch that has no answer yet."""

    node_id: str
    items: list[_Item]
    at: float
    is_awaited: bool


class Batches:
    """Send entries to other nodes and tell their senders what became of them.

    Args:
        link: carries the batches.
        ask: called with a client whose node must be found; `routes` takes the answer, `take` what follows from it.
        timeout: seconds that a node has to answer a batch.
        max_buffered: bytes that may be on their way or wait.
    """

    def __init__(
        self,
        link: NatsLink,
        addresses: Addresses,
        *,
        ask: Callable[[str], None],
        timeout: float,
        max_buffered: int,
        metrics: Metrics,
    ) -> None:
        self._link = link
        self._inbox = addresses.inbox
        self._name = addresses.node_id.encode()
        # nats-server tells where the reply goes when nobody listens to a node's subject any more.
        self._reply_to = addresses.reply_to("b").encode()
        self._ask = ask
        self._timeout = timeout
        self._max_buffered = max_buffered
        self.routes = Routes()
        self.buffered = 0  # bytes of messages
        self._news = 0  # and of news
        self._outboxes: dict[str, _Outbox] = {}  # by node
        self._full: list[_Outbox] = []  # those that something waits in
        self._run: Run | None = None  # what was put into one last, and may take more
        self._is_flush_due = False
        self._is_busy = False  # whether what is sent to other nodes has company
        self._is_held = False  # for a second turn of the loop
        self._lone = 0  # signals that were sent by themselves
        self._lone_since = 0  # in this millisecond
        self._answer_timer: asyncio.TimerHandle | None = None
        self._sent: dict[int, _Sent] = {}
        # Numbers are never used again, not even by this node's next life: a late answer must not confirm another batch.
        self._numbers = itertools.count(secrets.randbits(48))
        self._metrics = metrics
        self._sent_entries = metrics.bus_messages.labelled("out")
        self._sent_batches = metrics.bus_batches.labelled("out")
        self._sent_bytes = metrics.bus_bytes.labelled("out")
        self._round_trip = metrics.bus_round_trip_seconds.labelled()
        metrics.bus_waiting_bytes.read_from(lambda: self.buffered + self._news)

    @property
    def is_waiting(self) -> bool:
        """Whether a sender is still to be told what became of a message."""
        return self._run is not None or self.buffered > 0

    # -- sending -------------------------------------------------------------------------------------------------

    def send(
        self,
        target: str,
        data: bytes,
        outcome: Outcome | None,
        *,
        content: bytes | None = None,
    ) -> None:
        """Send an entry to a client of another node.

        Args:
            target: a name that a client can have.
            content: follows `data`; the same object for several clients travels once to each node.

        Raises:
            TooLargeError, UnavailableError: as `Bus.send`.
        """
        size = len(data) if content is None else len(data) + len(content)
        self._admit(size)
        self.buffered += size
        step = self.routes.send(Parcel(target, data, outcome, content))
        if step is not None:
            self.take((step,))

    def forward(
        self, sender: Sender, target: str, frame: bytes, body: bytes, *, wants_ack: bool, is_alone: bool = False
    ) -> None:
        """Send a signal in the bytes in which it came (`Forwarder.forward`)."""
        run = self._run
        size = wire.SIGNAL_HEAD + len(body)
        if (
            run is None
            or run.sender is not sender
            or run.target != target
            or run.wants_ack is not wants_ack
            or run.room < size
            or run.route.stage is not KNOWN
        ):
            run = self._begin_run(sender, target, size, wants_ack=wants_ack)
            if run is None:
                parcel = alone(sender, target, frame[:HEAD], body, wants_ack=wants_ack)
                self.send(target, parcel.data, parcel.outcome)
                return
        run.parts += (wire.signal_head(frame, len(body)), body)
        run.count += 1
        run.room -= size
        if not self._is_flush_due:
            if is_alone and not self._is_busy:
                self._flush_now()
            else:
                self._flush_soon()

    def announce(self, nodes: Iterable[str], news: bytes) -> None:
        """Send news to these nodes."""
        until = asyncio.get_running_loop().time() + _NEWS_PATIENCE
        for node_id in nodes:
            self._news += len(news)
            self._put(node_id, _Letter(node_id, news, until))

    def owe(self, node_id: str, answer: bytes, *, is_awaited: bool) -> None:
        """Answer a batch with what goes to that node anyway, or by itself after a while."""
        self._box(node_id).answers.append(answer)
        timer = self._answer_timer
        if self._is_flush_due or (timer is not None and not is_awaited):
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + (_ANSWER_SOON if is_awaited else _ANSWER_LATER)
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._answer_timer = loop.call_at(due, self._answer)

    def take(self, steps: Iterable[Step]) -> None:
        """Do what the routes decide."""
        for step in steps:
            match step:
                case Dispatch():
                    self._put(step.node_id, step.parcel)
                case Tell():
                    self.settle(step.parcel, step.result)
                case Ask():
                    self._ask(step.target)
                case _:
                    assert_never(step)

    def settle(self, parcel: Parcel, result: Delivery | SignalManagerError) -> None:
        """Tell the sender what became of its message."""
        self.buffered -= parcel.size
        self._tell(parcel, result)

    def flush(self) -> None:
        """Send what this turn of the loop has brought, as few batches as NATS allows."""
        self._is_flush_due = False
        if self._run is not None:
            self._seal(self._run)
        full, self._full = self._full, []
        for box in full:
            self._empty(box)
        self._link.write_out()

    def _tell(self, parcel: Parcel, result: Delivery | SignalManagerError) -> None:
        if parcel.outcome is not None:
            try:
                parcel.outcome(result)
            except Exception:
                log.exception("sender could not be told what became of a message", target=parcel.target)

    def _tell_all(self, run: Run) -> None:
        try:
            run.arrived()
        except Exception:
            log.exception("sender could not be told what became of a message", target=run.target)

    def _begin_run(self, sender: Sender, target: str, size: int, *, wants_ack: bool) -> Run | None:
        """Let signals to a client go straight to its node; None where it is not known."""
        if self._run is not None:
            self._seal(self._run)  # so that its bytes count
        largest = self._admit(_RUN_HEAD + size)
        route = self.routes.straight(target)
        if route is None:
            if not is_valid_name(target):  # it was never decoded, and must not become a subject
                raise InvalidRequestError("target_client_id is no name that a client can have")
            return None
        room = min(largest - _RUN_HEAD, self._max_buffered - self.buffered, max(size, _RUN_BYTES))
        run = self._run = Run(sender, target, wants_ack, route, room)
        route.out += 1
        box = self._box(route.node_id)
        box.items.append(run)
        box.is_awaited |= wants_ack
        return run

    def _seal(self, run: Run) -> None:
        """Let no more signals into the run that was put into an outbox last, since something else follows it."""
        self._run = None
        run.data = wire.encode_signals(run.target, run.sender.client_id, run.count, run.parts)
        run.parts = []
        self.buffered += len(run.data)

    def _admit(self, size: int) -> int:
        """Return how many bytes may be sent in one go, or raise the error that stands against sending so many."""
        largest = self._link.max_payload - wire.OVERHEAD
        if not self._link.is_up or size > largest or self.buffered + size > self._max_buffered:
            raise self._refusal(size)
        return largest

    def _refusal(self, size: int) -> SignalManagerError:
        largest = self._link.max_payload - wire.OVERHEAD
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

    def _box(self, node_id: str) -> _Outbox:
        """Return a node's outbox, into which something is about to be put."""
        box = self._outboxes.get(node_id)
        if box is None:
            box = self._outboxes[node_id] = _Outbox(node_id, self._inbox(node_id).encode())
        if not box.items and not box.answers:
            self._full.append(box)
        return box

    def _put(self, node_id: str, item: _Item) -> None:
        if self._run is not None:
            self._seal(self._run)
        box = self._box(node_id)
        box.items.append(item)
        box.is_awaited = True
        if not self._is_flush_due:
            self._flush_soon()

    def _flush_soon(self) -> None:
        """Flush at the end of this turn of the loop, or of the next one where there is company to be had."""
        self._is_flush_due = True
        asyncio.get_running_loop().call_soon(self._end_turn)

    def _end_turn(self) -> None:
        if self._is_busy and not self._is_held:
            self._is_held = True  # makes larger batches; more turns hold up more than they save
            asyncio.get_running_loop().call_soon(self._end_turn)
            return
        self._is_held = False
        self._is_busy = len(self._full) > 1 or any(len(box.items) > 1 for box in self._full)
        self.flush()

    def _flush_now(self) -> None:
        """Send a signal at once that has no company, unless so many do that there is company to be had."""
        self.flush()
        now = int(asyncio.get_running_loop().time() * 1000)
        if now != self._lone_since:
            self._lone_since, self._lone = now, 0
        self._lone += 1
        self._is_busy = self._lone > _MOST_LONE

    def _answer(self) -> None:
        self._answer_timer = None
        self.flush()

    def _empty(self, box: _Outbox) -> None:
        largest, shared = self._link.max_payload - wire.OVERHEAD, None
        is_awaited = box.is_awaited or self.buffered > self._max_buffered // 2
        items, entries = box.items, box.answers
        box.items, box.answers, box.is_awaited = [], [], False
        size, begin, places = sum(map(len, entries)), 0, 0
        for index, item in enumerate(items):
            data, content, count = item.data, item.content, item.count
            length = len(data) if content is None else len(data) + len(content)
            if size + length > largest or places + count > wire.MOST_PLACES:
                self._send_batch(box, items[begin:index], places, entries, size, is_awaited=is_awaited)
                entries, size, begin, places, shared = [], 0, index, 0, None
            places += count
            if content is None:
                entries.append(data)
            elif content is shared and isinstance(item, Parcel):
                data = wire.encode_repeated(item.target)
                length = len(data)
                entries.append(data)
            else:
                shared = content
                entries += (data, content)
            size += length
        self._send_batch(box, items[begin:] if begin else items, places, entries, size, is_awaited=is_awaited)

    def _send_batch(
        self, box: _Outbox, items: list[_Item], places: int, entries: list[bytes], size: int, *, is_awaited: bool
    ) -> None:
        if not entries:
            return
        number = next(self._numbers)
        head = wire.batch_head(number, self._name, is_awaited=is_awaited)
        reply_to = b""
        if items:
            self._sent[number] = _Sent(box.node_id, items, asyncio.get_running_loop().time(), is_awaited)
            reply_to = b"%b%d" % (self._reply_to, number)
        size += len(head)
        self._sent_entries.value += places
        self._sent_batches.value += 1
        self._sent_bytes.value += size
        if not self._link.put(box.subject, reply_to, (head, *entries), size):
            self._lose(number, "cut off")

    # -- what became of it ---------------------------------------------------------------------------------------

    def answered(self, answer: wire.Answer) -> None:
        """Take a node's answer to a batch."""
        sent = self._sent.pop(answer.number, None)
        if sent is None:
            return  # too late, and everybody was told so
        if sent.is_awaited:
            self._round_trip.observe(asyncio.get_running_loop().time() - sent.at)
        unsettled = {each.place: each for each in answer.unsettled} if answer.unsettled else _NONE
        place = 0
        for item in sent.items:
            count = item.count
            if isinstance(item, _Letter):
                self._news -= len(item.data)
            elif (
                item.route is not None
                and item.route.stage is KNOWN
                and not (unsettled and any(each in unsettled for each in range(place, place + count)))
            ):
                # Nothing else depends on it.
                item.route.out -= 1
                if isinstance(item, Parcel):
                    self.settle(item, Delivery.DELIVERED)
                else:
                    self.buffered -= len(item.data)
                    if item.wants_ack:
                        self._tell_all(item)
            else:
                for index, parcel in enumerate(self._apart(item), place):
                    if index in unsettled:
                        self._not_delivered(parcel, unsettled[index])
                    else:
                        self.take(self.routes.delivered(parcel))
            place += count

    def unheard(self, number: int) -> None:
        """Take note that a batch reached nobody, since its node is gone, and with it whatever it was sent before."""
        sent = self._sent.get(number)
        if sent is None:
            return
        earlier = [other for other, each in self._sent.items() if each.node_id == sent.node_id and other < number]
        for other in earlier:
            self._lose(other, "gone")
        del self._sent[number]
        self._outboxes.pop(sent.node_id, None)  # it is as unlikely to come back as another node is to come
        for item in sent.items:
            if isinstance(item, _Letter):
                self._news -= len(item.data)
                continue
            for parcel in self._apart(item):
                self.take(self.routes.refused(parcel))

    def give_up_late(self, now: float) -> None:
        """Take note of batches whose answer has not come in time."""
        end = now - self._timeout
        late = [number for number, sent in itertools.takewhile(lambda each: each[1].at < end, self._sent.items())]
        for number in late:
            self._lose(number, "no answer", again=True)

    def cut_off(self) -> None:
        """Tell everybody who waits that the other nodes are out of reach."""
        self.flush()
        for number in tuple(self._sent):
            self._lose(number, "cut off")

    def close(self) -> None:
        """Send no more answers by themselves."""
        if self._answer_timer is not None:
            self._answer_timer.cancel()

    def _apart(self, item: Run | Parcel) -> list[Parcel]:
        """Return the signals of a run one by one, where they cannot be settled all alike."""
        if isinstance(item, Parcel):
            return [item]
        parcels = item.parcels()
        self.buffered += sum(parcel.size for parcel in parcels) - len(item.data)
        return parcels

    def _not_delivered(self, parcel: Parcel, exception: wire.Unsettled) -> None:
        if exception.verdict is wire.Verdict.QUEUED:
            self.take(self.routes.delivered(parcel, Delivery.QUEUED))
        elif exception.verdict is wire.Verdict.ABSENT:
            self.take(self.routes.refused(parcel))
        else:
            error = wire.as_error(exception.verdict, exception.reason)
            self.take(self.routes.delivered(parcel, error))

    def _lose(self, number: int, reason: str, *, again: bool = False) -> None:
        """Take note that nobody knows what became of a batch."""
        error = UnavailableError(_LOST[reason])
        sent = self._sent.pop(number, None)
        if sent is None:
            return
        now = asyncio.get_running_loop().time()
        lost = self._metrics.bus_lost.labelled(reason)
        for item in sent.items:
            if not isinstance(item, _Letter):
                for parcel in self._apart(item):
                    lost.value += 1
                    self.take(self.routes.lost(parcel, error))
            elif again and now < item.until:
                self._put(item.node_id, item)
            else:
                self._news -= len(item.data)
