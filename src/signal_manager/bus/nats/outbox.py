"""Gathers what goes to other nodes, and sends each node few batches.

A single signal leaves at once. Several signals wait for the end of a turn of the event loop, or of the next one.
Answers wait a short time for the next batch to their node.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable
from typing import ClassVar

import msgspec

from signal_manager.bus.nats import wire
from signal_manager.bus.nats.link import NatsLink
from signal_manager.bus.nats.routes import Envelope
from signal_manager.bus.nats.runs import Run
from signal_manager.bus.nats.subjects import Subjects
from signal_manager.bus.nats.traffic import traffic_of
from signal_manager.observe.metrics import Metrics

__all__ = ["Announcement", "Item", "Outboxes", "Sent"]

# The most signals per millisecond that are sent at once instead of at the end of the turn.
_MOST_LONE = 4
# Seconds that the answer to a batch waits for other entries: a message of its own costs as much as the batch.
_ANSWER_SOON = 0.001
_ANSWER_LATER = 0.05


class Announcement(msgspec.Struct, eq=False):
    """A room's news on their way to a node."""

    target: str  # the node
    entry: wire.News
    size: int
    until: float
    count: ClassVar[int] = 1


Item = Run | Envelope | Announcement


class Sent(msgspec.Struct, eq=False):
    """A batch without an answer yet."""

    node_id: str
    items: list[Item]
    at: float
    is_awaited: bool


class _Outbox:
    """The items that wait for one node."""

    __slots__ = ("answers", "answers_size", "is_awaited", "items", "node_id", "subject")

    def __init__(self, node_id: str, subject: bytes) -> None:
        self.node_id = node_id
        self.subject = subject
        self.items: list[Item] = []
        self.answers: list[wire.Answer] = []
        self.answers_size = 0  # bytes
        self.is_awaited = False


class Outboxes:
    """Gathers the items for each node, sends them, and remembers the sent batches.

    Args:
        link: carries the batches.
        on_unsent: called with the number of a batch that the link refused.
    """

    def __init__(
        self, link: NatsLink, subjects: Subjects, metrics: Metrics, *, on_unsent: Callable[[int], None]
    ) -> None:
        self._link = link
        self._subjects = subjects
        # nats-server answers to this subject if no node listens to the batch's subject any more.
        self._reply_to = subjects.reply_to("b").encode()
        self._on_unsent = on_unsent
        self._boxes: dict[str, _Outbox] = {}  # by node
        self._full: list[_Outbox] = []  # those that are not empty
        self._is_flush_due = False
        self._is_busy = False  # whether there is much to send
        self._is_held = False  # whether items wait for a second turn of the loop
        self._lone = 0  # signals that were sent at once
        self._lone_since = 0  # in this millisecond
        self._answer_timer: asyncio.TimerHandle | None = None
        # Numbers are never reused, even after a restart: a late answer must not confirm another batch.
        self._numbers = itertools.count(secrets.randbits(48))
        self.sent: dict[int, Sent] = {}  # batches without an answer, by number
        self._traffic = traffic_of(metrics, "out")

    def put(self, node_id: str, item: Item) -> None:
        """Send an item to a node soon."""
        self._put(self._box(node_id), item, is_awaited=True)

    def put_run(self, node_id: str, run: Run, *, is_alone: bool, is_awaited: bool) -> bool:
        """Send a run to a node soon, or at once if it is alone; return whether it may take more signals."""
        box = self._box(node_id)
        if (
            not is_alone
            or self._is_flush_due
            or self._is_busy
            or run.size + box.answers_size + wire.OVERHEAD > self._link.max_payload
        ):
            self._put(box, run, is_awaited=is_awaited)
            return True
        answers = box.answers
        if answers:
            box.answers, box.answers_size = [], 0
            self._full.remove(box)
        self._send(box, [run], 1, answers, [run.entry], is_awaited=is_awaited)
        self._link.write_out()
        now = int(asyncio.get_running_loop().time() * 1000)
        if now != self._lone_since:
            self._lone_since, self._lone = now, 0
        self._lone += 1
        self._is_busy = self._lone > _MOST_LONE
        return False

    def owe(self, node_id: str, answer: wire.Answer, *, is_awaited: bool) -> None:
        """Send an answer with the next batch to that node, or by itself after a while."""
        box = self._box(node_id)
        if not (box.items or box.answers):
            self._full.append(box)
        box.answers.append(answer)
        box.answers_size += answer.size
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

    def flush(self) -> None:
        """Send everything that waits."""
        self._is_flush_due = False
        full, self._full = self._full, []
        for box in full:
            self._empty(box)
        self._link.write_out()

    def forget(self, node_id: str) -> None:
        """Drop the outbox of a node that is gone."""
        self._boxes.pop(node_id, None)

    def close(self) -> None:
        """Stop sending answers by themselves."""
        if self._answer_timer is not None:
            self._answer_timer.cancel()

    def _box(self, node_id: str) -> _Outbox:
        """Return a node's outbox."""
        box = self._boxes.get(node_id)
        if box is None:
            box = self._boxes[node_id] = _Outbox(node_id, self._subjects.batches(node_id).encode())
        return box

    def _put(self, box: _Outbox, item: Item, *, is_awaited: bool) -> None:
        if not (box.items or box.answers):
            self._full.append(box)
        box.items.append(item)
        box.is_awaited |= is_awaited
        if not self._is_flush_due:
            self._flush_soon()

    def _flush_soon(self) -> None:
        """Flush at the end of this turn of the loop, or of the next one if there is much to send."""
        self._is_flush_due = True
        asyncio.get_running_loop().call_soon(self._end_turn)

    def _end_turn(self) -> None:
        if self._is_busy and not self._is_held:
            self._is_held = True  # a second turn makes larger batches; more turns would delay more than they save
            asyncio.get_running_loop().call_soon(self._end_turn)
            return
        self._is_held = False
        self._is_busy = len(self._full) > 1 or any(len(box.items) > 1 for box in self._full)
        self.flush()

    def _answer(self) -> None:
        self._answer_timer = None
        self.flush()

    def _empty(self, box: _Outbox) -> None:
        """Send the items of an outbox in as few batches as NATS allows."""
        largest = self._link.max_payload - wire.OVERHEAD
        items, answers, size, is_awaited = box.items, box.answers, box.answers_size, box.is_awaited
        box.items, box.answers, box.answers_size, box.is_awaited = [], [], 0, False
        begin, places = 0, 0
        entries: list[wire.Entry] = []
        last: wire.Signals | wire.Content | wire.News | None = None
        targets: list[str] = []  # the targets of the last entry, if that is a message
        for index, item in enumerate(items):
            entry = item.entry
            length = item.size if entry is not last else wire.TARGET_HEAD + len(item.target)
            if size + length > largest:
                self._send(box, items[begin:index], places, answers, entries, is_awaited=is_awaited)
                answers, entries, size, begin, places, last = [], [], 0, index, 0, None
                length = item.size
            size += length
            places += item.count
            if entry is last:  # the same message for another client
                targets.append(item.target)
                continue
            last = entry
            if isinstance(item, Run):
                item.room = -1
            if isinstance(entry, wire.Content):
                targets = [item.target]
                entries.append(wire.Message(targets, entry))
            else:
                entries.append(entry)
        self._send(box, items[begin:] if begin else items, places, answers, entries, is_awaited=is_awaited)

    def _send(
        self,
        box: _Outbox,
        items: list[Item],
        places: int,
        answers: list[wire.Answer],
        entries: list[wire.Entry],
        *,
        is_awaited: bool,
    ) -> None:
        if not (entries or answers):
            return
        number = next(self._numbers)
        batch = wire.encode(wire.Batch(wire.VERSION, number, is_awaited, self._subjects.node_id, answers, entries))
        reply_to = b""
        if items:
            self.sent[number] = Sent(box.node_id, items, asyncio.get_running_loop().time(), is_awaited)
            reply_to = b"%b%d" % (self._reply_to, number)
        traffic = self._traffic
        traffic.entries.value += places
        traffic.batches.value += 1
        traffic.bytes.value += len(batch)
        if not self._link.put(box.subject, reply_to, batch):
            self._on_unsent(number)
