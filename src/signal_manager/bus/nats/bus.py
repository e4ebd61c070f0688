"""The bus of several nodes over NATS, which finds a client's node and carries messages between nodes.

The node of a client listens to the client's subject, so nats-server answers "no responders" at once for a client that
no node has. Messages go to one subject per node; `batches.py` sends them. `questions.py` has the questions of nodes.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Self

import structlog

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
)
from signal_manager.bus.local import LocalBus
from signal_manager.bus.nats import wire
from signal_manager.bus.nats.answers import Answers
from signal_manager.bus.nats.batches import AWAY, Batches
from signal_manager.bus.nats.claims import Claims
from signal_manager.bus.nats.deliveries import Deliveries
from signal_manager.bus.nats.link import Arrival, NatsLink, NatsSecurity
from signal_manager.bus.nats.peers import SWEEP, Peers
from signal_manager.bus.nats.questions import ASK_AGAIN, ASKED, Claim, Gone, Here, Newer, Questions, Where
from signal_manager.bus.nats.reunion import Reunion
from signal_manager.bus.nats.subjects import Subjects
from signal_manager.errors import (
    ConfigurationError,
    UnavailableError,
)
from signal_manager.model import ClientId, NodeId, RoomId, is_valid_name
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.catalogue import spec_of
from signal_manager.protocol.codec import encode_payload
from signal_manager.protocol.messages import Message, PayloadType, Peer, Shape, Signal

__all__ = ["NatsBus"]

log = structlog.get_logger(__name__)

# Seconds that other nodes have to answer a question and a batch. A busy node takes its time; after the limit the
# sender gets 503.
QUESTION_TIMEOUT = 2.0
BATCH_TIMEOUT = 5.0
# The most bytes that are on their way to other nodes or wait.
MAX_BUFFERED = 64 * 1024 * 1024


class NatsBus(LocalBus[S]):
    """Presence and delivery over all nodes that share a NATS; an async context manager.

    Args:
        node_id: the name of this node, unique among running nodes.
        url, security: the address of nats-server and the credentials.
        prefix: the prefix of all subjects; services with different prefixes can share a NATS.
        max_subscribers: must be 1, because connections are not counted over nodes.
        batch_timeout, question_timeout: seconds that other nodes have to answer.
        max_buffered: the most bytes that are on their way or wait.
        clock: seconds since the epoch; nodes compare it only after they could not reach each other.
        metrics: counts messages, bytes and losses.
    """

    def __init__(
        self,
        *,
        node_id: NodeId,
        url: str,
        security: NatsSecurity | None = None,
        prefix: str = "signal-manager",
        batch_timeout: float = BATCH_TIMEOUT,
        question_timeout: float = QUESTION_TIMEOUT,
        max_buffered: int = MAX_BUFFERED,
        clock: Callable[[], float] = time.time,
        metrics: Metrics | None = None,
    ) -> None:
        metrics = Metrics() if metrics is None else metrics
        super().__init__(max_subscribers=1)
        self._subjects = subjects = Subjects(prefix, node_id)
        self._link = NatsLink(url, name=f"{prefix} {node_id}", security=security, on_down=self._cut_off)
        self._claims = Claims(node_id, self.subscribers, clock=clock, is_taken_over=self._is_taken_over)
        self._peers = Peers(self._link, subjects)
        self._batches = Batches(
            self._link,
            subjects,
            ask=self._ask_where,
            timeout=batch_timeout,
            max_buffered=max_buffered,
            metrics=metrics,
        )
        self._routes, self._outboxes = self._batches.routes, self._batches.outboxes
        self._questions = Questions(self._link, subjects.reply_to, timeout=question_timeout, away=AWAY)
        self._deliveries = Deliveries(self.subscribers, self._batches, metrics)
        metrics.bus_connected.read_from(lambda: float(self._link.is_up))
        metrics.bus_nodes.read_from(lambda: len(self._peers))
        self._answers: Answers[S] = Answers(
            node_id, self.subscribers, self._claims, self._link, flush=self._outboxes.flush, detach=self.detach
        )
        self._reunion = Reunion(
            self._peers, self.subscribers, self._claims, self._questions, subjects, let_go=self._answers.let_go
        )
        self._link.on_up = self._reunion.begin
        # The last message and its encoding, because the next call may send the same message to another client.
        self._content: tuple[Message, bytes, wire.Content] | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        await self._link.__aenter__()
        subjects, node_id = self._subjects, self._subjects.node_id
        self._link.subscribe(subjects.reply_to("*"), self._on_reply)
        # An earlier run of this node that is cut off cannot answer, and does not prevent the start.
        if isinstance(await self._questions.answer_to(subjects.identity(node_id), Where()), Here):
            await self._link.__aexit__(None, None, None)
            raise ConfigurationError(f"bus.node_id {node_id} is in use by another node, expected one of its own")
        self._link.subscribe(subjects.identity(node_id), self._answers.identify)
        self._link.subscribe(subjects.batches(node_id), self._deliveries.take)
        self._link.subscribe(subjects.all_nodes, self._peers.take)
        self._peers.hello(is_new=True)
        await self._link.flush()
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._outboxes.flush()
        await self._link.drain(but=self._subjects.reply_to("*"))
        self._outboxes.flush()  # the answers to the last messages from other nodes
        await self._link.__aexit__(kind, error, traceback)
        self._outboxes.close()
        while self._claims.coming:  # messages wait for clients that can no longer come
            self.release(ClientId(next(iter(self._claims.coming))))
        self._cut_off()
        await self._reunion.stop()

    @property
    def forwarder(self) -> Batches:
        """The fast path to clients of other nodes."""
        return self._batches

    @property
    def is_waiting(self) -> bool:
        """Whether the delivery of a message is still open."""
        return self._batches.is_waiting

    def serve_others(self, *, hand_over: HandOver, join: Callable[[], None], flush: Callable[[], None]) -> None:
        """Use these functions for claims and messages of other nodes (`Bus.serve_others`)."""
        self._answers.hand_over = hand_over
        self._deliveries.before, self._deliveries.after = join, flush

    @property
    def is_connected(self) -> bool:
        """Whether the other nodes can be reached."""
        return self._link.is_up

    # -- presence ------------------------------------------------------------------------------------------------

    async def claim(
        self,
        client_id: ClientId,
        instance_id: str | None,
        *,
        wants: bytes | None = None,
        yields: bool = False,
        taken_up_at: int = 0,
    ) -> Claimed:
        """Make all other nodes detach a client that is about to be attached here (`Presence.claim`)."""
        if yields and self._is_taken_over(client_id, instance_id, taken_up_at):
            return Claimed(is_won=False)
        if self._claims.is_settled(client_id):
            return Claimed(is_won=True)
        coming = self._claims.begin(client_id, instance_id, taken_up_at)
        subject = self._subjects.client(client_id)
        self._link.subscribe(subject, partial(self._answers.take, client_id))
        if client_id not in self.subscribers:
            self._routes.hold(client_id)
        if not self._link.is_up:
            return Claimed(is_won=True)
        self._outboxes.flush()  # messages to the client's former node must arrive there before the claim
        claim = Claim(self._subjects.node_id, instance_id, coming.since, wants, yields, taken_up_at)
        try:
            reply = await self._questions.insist(subject, claim)
        except asyncio.CancelledError:
            self.release(client_id)
            raise
        if isinstance(reply, Newer) or coming.is_superseded:
            self.release(client_id)
            return Claimed(is_won=False)
        return Claimed(is_won=True, handed_over=reply.handed_over if isinstance(reply, Gone) else None)

    def release(self, client_id: ClientId) -> None:
        """Give up a claim that no `attach` follows."""
        over = self._claims.end(client_id)
        if over is None:
            return
        self._answers.answer_where(client_id, over.questions)
        if client_id not in self.subscribers:
            self._link.unsubscribe(self._subjects.client(client_id))
            self._batches.take(self._routes.stayed_away(client_id))

    def attach(self, client_id: ClientId, subscriber: S) -> None:
        """Make `subscriber` the newest connection of a client, for all nodes (`Presence.attach`)."""
        super().attach(client_id, subscriber)
        questions = self._claims.attached(client_id)
        self._link.subscribe(self._subjects.client(client_id), partial(self._answers.take, client_id))
        self._answers.answer_where(client_id, questions)
        for envelope in self._routes.arrived(client_id):
            self._batches.settle(envelope, self._deliveries.deliver_parcel(envelope))

    def detach(self, client_id: ClientId, subscriber: S) -> None:
        """Remove a connection that has ended."""
        super().detach(client_id, subscriber)
        if self._claims.detached(client_id) and client_id not in self._claims.coming:
            self._link.unsubscribe(self._subjects.client(client_id))

    def respond(self, on_question: QuestionHandler) -> None:
        """Answer the questions of other nodes with this function from now on."""
        self._peers.on_question = on_question

    async def ask_others(self, question: bytes) -> list[bytes]:
        """Return the answers of the other nodes that arrive in time."""
        return await self._questions.collect(self._subjects.all_nodes, question, self._peers.names)

    def listen(
        self, *, on_news: NewsHandler, on_reunion: ReunionHandler, on_gone: GoneHandler = lambda node_id: None
    ) -> None:
        """Call these functions for news, for a reunion, and for a node that is gone."""
        self._deliveries.on_news = on_news
        self._peers.on_reunion, self._peers.on_gone = on_reunion, on_gone

    # -- sending -------------------------------------------------------------------------------------------------

    def send(
        self, target: ClientId, message: Message, message_id: bytes | None = None, *, outcome: Outcome | None = None
    ) -> Delivery:
        """Deliver `message` to the newest connection of `target`, on whichever node that is (`Messaging.send`)."""
        if target in self.subscribers:
            return super().send(target, message, message_id)
        if not is_valid_name(target):
            return Delivery.OFFLINE  # such a text must not become a NATS subject
        data = message.signal_data if isinstance(message, Signal) else None
        payload_type = PayloadType.CBOR if isinstance(data, bytes) else PayloadType.JSON
        message_id = message_id or secrets.token_bytes(16)
        content = self._content
        if content is None or content[0] is not message or content[1] != message_id:
            payload_type, payload = encode_payload(message, payload_type, Shape.PLAIN, sent_by=Peer.SERVICE)
            message_type = spec_of(message).message_type
            encoded = wire.Content(message_type, payload_type, message_id, payload)
            content = self._content = (message, message_id, encoded)
        size = wire.size_of(content[2]) + wire.TARGET_HEAD + len(target)
        self._batches.send(target, content[2], size, outcome)
        return Delivery.PENDING

    def announce(self, nodes: Iterable[NodeId], room_id: RoomId, news: bytes) -> None:
        """Hand `news` of a room to these other nodes."""
        if not self._link.is_up:
            return  # nodes that miss it check their rooms at the reunion
        self._batches.announce(nodes, wire.News(room_id, news))

    # -- questions -----------------------------------------------------------------------------------------------

    def _ask_where(self, target: str, attempt: int = 1) -> None:
        """Ask all nodes for a client."""

        def answered(reply: Any) -> None:
            if isinstance(reply, Here):
                self._batches.take(self._routes.found(target, reply.node_id))
            elif isinstance(reply, UnavailableError):
                self._batches.take(self._routes.unknown(target, reply))
            elif reply is None or attempt >= ASKED:
                self._batches.take(self._routes.absent(target))
            else:  # a node has just detached the client
                pause = ASK_AGAIN * 2 ** (attempt - 1)
                asyncio.get_running_loop().call_later(pause, self._ask_where, target, attempt + 1)

        self._questions.ask(self._subjects.client(target), Where(), answered)

    def _on_reply(self, message: Arrival) -> None:
        token = message.subject.rpartition(".")[2]
        if message.is_unheard and token.startswith("b"):
            self._batches.unheard(int(token[1:]))
        else:
            self._questions.on_reply(token, message)

    # -- time and loss ------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(SWEEP, self._sweep)
        now = loop.time()
        self._peers.tick(now)
        self._batches.give_up_late(now)

    def _cut_off(self) -> None:
        """Tell all waiting senders and askers that the other nodes cannot be reached."""
        self._batches.cut_off()
        self._questions.cut_off()
