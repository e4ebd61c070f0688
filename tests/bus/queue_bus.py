"""A bus of several nodes in one process, written from `bus/base.py` alone, as a package from outside would be.

A broker (Redis or a database could be one) keeps one queue of messages for each client and knows which nodes hold the
client; the newest of these empties the queue. Nodes meet only there and in each other's `asyncio.Queue` of work.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self

from signal_manager.bus.base import (
    Claimed,
    Delivery,
    GoneHandler,
    HandOver,
    NewsHandler,
    Outcome,
    QuestionHandler,
    ReunionHandler,
    S,
    Sender,
    Subscriber,
)
from signal_manager.errors import ConfigurationError, InvalidRequestError, SignalManagerError, UnavailableError
from signal_manager.model import ClientId, NodeId, RoomId, is_valid_name
from signal_manager.protocol.framing import HEAD
from signal_manager.protocol.messages import Message

__all__ = ["Broker", "QueueBus"]

# Messages that may wait for one client.
MOST = 10_000
# How long (s) the other nodes have to answer a question, and what waits to be sent when a node leaves.
PATIENCE = 2.0

AWAY = "the other nodes cannot be reached"

Result = Delivery | SignalManagerError


class Envelope(NamedTuple):
    """A message in a client's queue."""

    origin: NodeId
    deliver: Callable[[Subscriber], Result]
    tell: Callable[[Result], None]


class Broker:
    """What the nodes share; `cut` and `heal` are for tests."""

    def __init__(self) -> None:
        self.is_up = True
        self.numbers = itertools.count(1)  # orders claims and presences over all nodes
        self.nodes: dict[NodeId, QueueBus[Any]] = {}
        self.homes: dict[str, list[QueueBus[Any]]] = {}  # nodes that hold a client, the newest last
        self.claims: dict[str, tuple[int, NodeId]] = {}  # the newest claim of each client that is coming
        self.queues: defaultdict[str, deque[Envelope]] = defaultdict(deque)
        self._questions: set[asyncio.Future[Any]] = set()

    async def ask(self, node: QueueBus[Any], answer: Callable[[], Any]) -> Any:
        """Return what a node answers; None if it is cut off, gone or slow."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._questions.add(future)
        node.work.put_nowait(lambda: None if future.done() else future.set_result(answer()))
        try:
            async with asyncio.timeout(PATIENCE):
                return await future
        except TimeoutError:
            return None
        finally:
            self._questions.discard(future)

    def wake(self, target: str) -> None:
        """Have the node that holds a client deliver what waits for it; without node or claim, tell the senders."""
        if target in self.homes:
            node = self.homes[target][-1]
            node.work.put_nowait(partial(node.deliver_queue, target))
        elif target not in self.claims:
            self.drop(target, Delivery.OFFLINE)

    def drop(self, target: str, result: Result, *, origin: NodeId | None = None) -> None:
        """Tell the senders of what waits for a client, or one node's share of it, that it was not delivered."""
        queue = self.queues.pop(target, deque())
        kept = deque(each for each in queue if origin is not None and each.origin != origin)
        if kept:
            self.queues[target] = kept
        for envelope in queue:
            if origin is None or envelope.origin == origin:
                envelope.tell(result)

    def leave(self, target: str, node: QueueBus[Any]) -> None:
        """Take note that a node does not hold a client any more."""
        homes = [each for each in self.homes.pop(target, []) if each is not node]
        if homes:
            self.homes[target] = homes
        self.wake(target)

    def cut(self) -> None:
        """Cut all nodes off from each other."""
        self.is_up = False
        self.claims.clear()
        self.homes.clear()
        for target in tuple(self.queues):
            self.drop(target, UnavailableError(AWAY))
        for question in self._questions:
            if not question.done():
                question.set_result(None)

    def heal(self) -> None:
        """Let the nodes reach each other again; of two presences of a client the newer stays."""
        self.is_up = True
        for node in self.nodes.values():
            for client_id in node.subscribers:
                self.homes.setdefault(client_id, []).append(node)
        for client_id, homes in self.homes.items():
            homes.sort(key=lambda node: node.since[client_id])
            newest = homes[-1].subscribers[client_id].instance_id
            for older in homes[:-1]:
                older.work.put_nowait(partial(older.let_go, ClientId(client_id), newest))
        for node in self.nodes.values():
            node.work.put_nowait(partial(node.reunited))


class QueueBus(Generic[S]):
    """One node's side of it (`bus.base.Bus`)."""

    def __init__(self, broker: Broker, *, node_id: NodeId, has_forwarder: bool = True) -> None:
        self._broker = broker
        self._node_id = node_id
        self._has_forwarder = has_forwarder
        self._subscribers: dict[str, S] = {}
        self.since: dict[str, int] = {}
        self.work: asyncio.Queue[Callable[[], None]] = asyncio.Queue()
        self._coming: dict[str, int] = {}  # claims under way
        self._unsettled = 0
        self._worker: asyncio.Task[None]
        self._on_news: NewsHandler = lambda room_id, news: None
        self._on_reunion: ReunionHandler = lambda node_id: None
        self._on_gone: GoneHandler = lambda node_id: None
        self._on_question: QuestionHandler = lambda question: b""
        self._hand_over: HandOver = lambda client_id, wants: None
        self._join: Callable[[], None] = lambda: None
        self._flush: Callable[[], None] = lambda: None

    # -- Bus -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._node_id in self._broker.nodes:
            raise ConfigurationError(f"bus.node_id {self._node_id} is in use by another node, expected one of its own")
        self._broker.nodes[self._node_id] = self
        self._worker = asyncio.create_task(self._run(), name="queue bus")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while self.is_waiting:  # noqa: ASYNC110 - each outcome is an event; all of them are not
                    await asyncio.sleep(0.001)
        self._worker.cancel()
        del self._broker.nodes[self._node_id]
        for client_id in tuple(self._subscribers):
            self._broker.leave(client_id, self)
        for target in tuple(self._broker.queues):
            self._broker.drop(target, UnavailableError("this node stops"), origin=self._node_id)
        for node in self._others():
            node.work.put_nowait(partial(node.miss, self._node_id))

    @property
    def is_connected(self) -> bool:
        return self._broker.is_up

    @property
    def is_waiting(self) -> bool:
        return self._unsettled > 0

    @property
    def forwarder(self) -> Self | None:
        return self if self._has_forwarder else None

    def serve_others(self, *, hand_over: HandOver, join: Callable[[], None], flush: Callable[[], None]) -> None:
        self._hand_over, self._join, self._flush = hand_over, join, flush

    # -- Presence ------------------------------------------------------------------------------------------------

    @property
    def subscribers(self) -> Mapping[str, S]:
        return self._subscribers

    async def claim(
        self,
        client_id: ClientId,
        instance_id: str | None,
        *,
        wants: bytes | None = None,
        yields: bool = False,
        taken_up_at: int = 0,
    ) -> Claimed:
        # One that comes by itself yields to nobody.
        rank = taken_up_at if yields else None
        if self._is_taken_over(client_id, instance_id, rank):
            return Claimed(is_won=False)
        broker, number = self._broker, next(self._broker.numbers)
        self._coming[client_id] = self._coming.get(client_id, 0) + 1
        if broker.is_up:
            broker.claims[client_id] = (number, self._node_id)
        is_won, handed_over = True, None
        try:
            for node in [each for each in broker.homes.get(client_id, ()) if each is not self]:
                is_given, state = await broker.ask(
                    node, partial(node.give_away, client_id, instance_id, wants, rank)
                ) or (True, None)
                is_won, handed_over = is_won and is_given, state or handed_over
        except asyncio.CancelledError:
            self.release(client_id)
            raise
        newest, claimant = broker.claims.get(client_id, (number, self._node_id))
        if not is_won or (newest > number and claimant != self._node_id):
            self.release(client_id)
            return Claimed(is_won=False)
        return Claimed(is_won=True, handed_over=handed_over)

    def release(self, client_id: ClientId) -> None:
        self._arrived(client_id)
        self._broker.wake(client_id)

    def attach(self, client_id: ClientId, subscriber: S) -> None:
        previous = self._subscribers.get(client_id)
        self._subscribers[client_id] = subscriber
        self.since[client_id] = next(self._broker.numbers)
        if previous is not None:
            previous.replaced(same_instance=_is_same(previous.instance_id, subscriber.instance_id))
        self._arrived(client_id)
        if self._broker.is_up:
            homes = self._broker.homes.setdefault(client_id, [])
            homes[:] = [*(each for each in homes if each is not self), self]
        self.deliver_queue(client_id)

    def swap(self, client_id: ClientId, present: S, successor: S) -> bool:
        if self._subscribers.get(client_id) is not present:
            return False
        self._subscribers[client_id] = successor
        return True

    def detach(self, client_id: ClientId, subscriber: S) -> None:
        if self._subscribers.get(client_id) is subscriber:
            del self._subscribers[client_id], self.since[client_id]
            self._broker.leave(client_id, self)

    # -- Messaging -----------------------------------------------------------------------------------------------

    def send(
        self, target: ClientId, message: Message, message_id: bytes | None = None, *, outcome: Outcome | None = None
    ) -> Delivery:
        subscriber = self._subscribers.get(target)
        if subscriber is not None:
            return subscriber.deliver(message, message_id)
        return self._post(target, lambda subscriber: subscriber.deliver(message, message_id), outcome or _ignore)

    def announce(self, nodes: Iterable[NodeId], room_id: RoomId, news: bytes) -> None:
        if self._broker.is_up:
            for node in [self._broker.nodes[each] for each in nodes if each in self._broker.nodes]:
                node.work.put_nowait(partial(node.hear, room_id, news))

    def listen(
        self, *, on_news: NewsHandler, on_reunion: ReunionHandler, on_gone: GoneHandler = lambda node_id: None
    ) -> None:
        self._on_news, self._on_reunion, self._on_gone = on_news, on_reunion, on_gone

    def respond(self, on_question: QuestionHandler) -> None:
        self._on_question = on_question

    async def ask_others(self, question: bytes) -> list[bytes]:
        others = self._others() if self._broker.is_up else []
        answers = await asyncio.gather(*(self._broker.ask(node, partial(node.answer, question)) for node in others))
        return [answer for answer in answers if answer is not None]

    # -- Forwarder -----------------------------------------------------------------------------------------------

    def forward(
        self, sender: Sender, target: str, frame: bytes, body: bytes, *, wants_ack: bool, is_alone: bool = False
    ) -> None:
        if not is_valid_name(target):
            raise InvalidRequestError("target_client_id is no name that a client can have")
        head, data = frame[:HEAD], bytes(body)

        def deliver(subscriber: Subscriber) -> Result:
            exceptional: Sequence[tuple[int, Result]] = subscriber.relay(sender.client_id, [(head, data)])
            return exceptional[0][1] if exceptional else Delivery.DELIVERED

        tell = partial(sender.told, head, target, wants_ack)
        if self._post(target, deliver, tell) is Delivery.OFFLINE:
            tell(Delivery.OFFLINE)

    # -- what other nodes and the broker have a node do ------------------------------------------------------------

    def deliver_queue(self, target: str) -> None:
        """Deliver what waits for a client of this node, in order."""
        queue, homes = self._broker.queues[target], self._broker.homes.get(target)
        self._join()
        while queue and homes and homes[-1] is self and target in self._subscribers:
            envelope = queue.popleft()
            try:
                result = envelope.deliver(self._subscribers[target])
            except SignalManagerError as error:
                result = error
            envelope.tell(result)
        self._flush()
        if not queue:
            self._broker.queues.pop(target, None)

    def give_away(
        self, client_id: ClientId, instance_id: str | None, wants: bytes | None, rank: int | None
    ) -> tuple[bool, bytes | None]:
        """Let a client go to the node that claims it; return whether it goes, and its session."""
        if self._is_taken_over(client_id, instance_id, rank):
            return False, None
        state = self._hand_over(client_id, wants) if wants is not None and client_id in self._subscribers else None
        if state is None:
            self.let_go(client_id, instance_id)
        return True, state

    def let_go(self, client_id: ClientId, instance_id: str | None) -> None:
        """End the presence of a client that is on another node now."""
        subscriber = self._subscribers.get(client_id)
        if subscriber is not None:
            self.detach(client_id, subscriber)
            subscriber.replaced(same_instance=_is_same(subscriber.instance_id, instance_id))

    def hear(self, room_id: RoomId, news: bytes) -> None:
        """Take an announcement."""
        self._on_news(room_id, news)

    def answer(self, question: bytes) -> bytes:
        """Answer a question to all."""
        return self._on_question(question)

    def miss(self, node_id: NodeId) -> None:
        """Take note that a node is gone."""
        self._on_gone(node_id)

    def reunited(self) -> None:
        """Take note that the others can be reached again."""
        self._on_reunion(None)

    # ------------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            (await self.work.get())()

    def _others(self) -> list[QueueBus[Any]]:
        return [node for node in self._broker.nodes.values() if node is not self]

    def _post(self, target: str, deliver: Callable[[Subscriber], Result], tell: Callable[[Result], None]) -> Delivery:
        broker = self._broker
        if not broker.is_up:
            raise UnavailableError(AWAY)
        if target not in broker.homes and target not in broker.claims:
            return Delivery.OFFLINE
        if len(broker.queues[target]) >= MOST:
            raise UnavailableError("too much waits for the client")

        def settle(result: Result) -> None:
            self._unsettled -= 1
            tell(result)

        self._unsettled += 1
        broker.queues[target].append(Envelope(self._node_id, deliver, settle))
        broker.wake(target)
        return Delivery.PENDING

    def _arrived(self, client_id: str) -> None:
        """Take note that a claim has ended, by `attach` or by `release`."""
        count = self._coming.get(client_id, 0) - 1
        if count > 0:
            self._coming[client_id] = count
            return
        self._coming.pop(client_id, None)
        if self._broker.claims.get(client_id, (0, None))[1] == self._node_id:
            del self._broker.claims[client_id]

    def _is_taken_over(self, client_id: str, instance_id: str | None, rank: int | None) -> bool:
        """Tell whether a client is here as another instance, which its user took up later."""
        present = self._subscribers.get(client_id)
        if present is None or rank is None or present.instance_id == instance_id:
            return False
        return present.taken_up_at > rank


def _is_same(instance: str | None, other: str | None) -> bool:
    return instance is not None and instance == other


def _ignore(result: Result) -> None:
    pass
